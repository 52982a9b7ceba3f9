//! The page of one film, song or picture (`view=play`).
//!
//! It owns the player's markup, the neighbours' links and how subtitles are named. It asks no file
//! what is in it: whether a browser plays it shows when it tries.

use maud::{Markup, html};

use super::{
    super::{
        listing::{Class, Listing, subtitle_tag},
        mime,
        path::{Target, encode_segment},
    },
    html::{END, begin, is_seen, letter, segments, way},
    text,
};

/// What a media page shows.
#[derive(Debug)]
pub(crate) struct Media<'a> {
    pub(crate) target: &'a Target,
    pub(crate) class: Class,
    pub(crate) size: u64,
    pub(crate) modified: i64,
    /// The one of the same class before it in its folder, if there is one.
    pub(crate) previous: Option<&'a [u8]>,
    /// The one behind it.
    pub(crate) next: Option<&'a [u8]>,
    /// Subtitles of this film.
    pub(crate) subtitles: &'a Listing,
}

impl Media<'_> {
    /// The whole page.
    pub(crate) fn page(&self) -> String {
        let segments = segments(self.target);
        let (name, above) = match segments.split_last() {
            Some((name, above)) => (*name, above),
            None => (&b""[..], &segments[..]),
        };
        let (shown, link) = (text::shown(name), format!("./{}", encode_segment(name)));
        let is_played = is_played(mime::media_type(name));
        // A picture that is not shown needs no room.
        let class =
            if self.class == Class::Picture && !is_played { Class::Music } else { self.class };
        let content = html! {
            header { (way(above, false, false)) }
            main.one {
                div class={ "play " (letter(class)) } { (self.player(name, &link, &shown)) }
                @if self.previous.is_some() || self.next.is_some() {
                    nav.ends aria-label="Neighbours" {
                        @if let Some(name) = self.previous { (end("prev", "Previous", name)) }
                        @if let Some(name) = self.next { (end("next", "Next", name)) }
                    }
                }
                h1 { bdi { (shown) } }
                p.note { (text::size(self.size)) " \u{b7} " (text::time(self.modified)) " UTC" }
                @if !is_played {
                    p.note {
                        @if self.class == Class::Picture {
                            "Few browsers show this type of picture. Download it instead."
                        } @else {
                            "Few browsers play this type. Open it in VLC or another player instead."
                        }
                    }
                }
                nav.bar aria-label="This file" {
                    @if self.class.is_media() { a href={ (link) "?format=m3u" } { "Open in VLC" } }
                    a href=(link) download { "Download" }
                    @if self.class == Class::Picture { a href="./?view=grid" { "All pictures" } }
                }
            }
        };
        begin(&shown, false) + &content.into_string() + END + "\n"
    }

    fn player(&self, name: &[u8], link: &str, shown: &str) -> Markup {
        html! {
            @match self.class {
                Class::Film => {
                    video controls playsinline preload="metadata" src=(link) aria-label=(shown) {
                        @for (at, track) in self.tracks(name).iter().enumerate() {
                            track kind="subtitles" src=(track.link) srclang=(track.language)
                                label=(track.label) default[at == 0];
                        }
                    }
                }
                Class::Music => {
                    audio controls preload="metadata" src=(link) aria-label=(shown) {}
                }
                _ => { a href=(link) { img src=(link) alt=(shown); } }
            }
        }
    }

    /// The subtitles, first those that name no language.
    fn tracks(&self, name: &[u8]) -> Vec<Track> {
        let stem = stem(name);
        let mut tagged: Vec<_> = self
            .subtitles
            .iter()
            .filter_map(|(_, name)| Some((subtitle_tag(name, stem)?, name)))
            .collect();
        tagged.sort_by_key(|(tag, _)| !tag.is_empty());
        tagged.into_iter().map(|(tag, name)| Track::of(tag, name)).collect()
    }
}

/// What stands before the extension of a name.
pub(crate) fn stem(name: &[u8]) -> &[u8] {
    name.iter().rposition(|octet| *octet == b'.').map_or(name, |dot| &name[..dot])
}

#[derive(Debug, PartialEq, Eq)]
struct Track {
    link: String,
    language: String,
    label: String,
}

impl Track {
    /// A track by what its name says besides the film: `en`, `eng.forced`, nothing.
    fn of(tag: &[u8], name: &[u8]) -> Self {
        let tag = text::shown(tag);
        let (code, rest) = tag.split_once('.').unwrap_or((&tag, ""));
        let lower = code.to_ascii_lowercase();
        let main = lower.split(['-', '_']).next().unwrap_or_default();
        let is_code = matches!(main.len(), 2 | 3) && main.bytes().all(|c| c.is_ascii_lowercase());
        let known = LANGUAGES.iter().find(|(codes, _)| codes.split(' ').any(|code| code == main));
        let mut label = match known {
            _ if tag.is_empty() => "Subtitles".to_owned(),
            Some((_, name)) => (*name).to_owned(),
            None => code.to_owned(),
        };
        if !rest.is_empty() {
            label.push_str(&format!(" ({rest})"));
        }
        Self {
            link: format!("./{}?format=vtt", encode_segment(name)),
            language: if is_code { main.to_owned() } else { "und".to_owned() },
            label,
        }
    }
}

fn end(rel: &str, word: &str, name: &[u8]) -> Markup {
    html! {
        a rel=(rel) href={ "./" (encode_segment(name)) "?view=play" } {
            small { (word) } bdi { (text::shown(name)) }
        }
    }
}

/// Whether browsers as people have them play, or show, a type, as far as the type tells.
fn is_played(media_type: &str) -> bool {
    match media_type.split_once('/') {
        Some(("image", _)) => is_seen(media_type),
        Some((_, kind)) => !UNPLAYED.contains(&kind),
        None => false,
    }
}

/// Films and music that browsers leave to others.
const UNPLAYED: [&str; 15] = [
    "3gpp2",
    "ac3",
    "aiff",
    "eac3",
    "midi",
    "mp2t",
    "mpeg2",
    "vnd.dts",
    "x-ape",
    "x-dff",
    "x-dsf",
    "x-flv",
    "x-ms-wma",
    "x-ms-wmv",
    "x-msvideo",
];
/// Codes of ISO 639 and the languages' names in the language of the page.
const LANGUAGES: [(&str, &str); 26] = [
    ("ar ara", "Arabic"),
    ("bg bul", "Bulgarian"),
    ("cs cze ces", "Czech"),
    ("da dan", "Danish"),
    ("de ger deu", "German"),
    ("el gre ell", "Greek"),
    ("en eng", "English"),
    ("es spa", "Spanish"),
    ("fi fin", "Finnish"),
    ("fr fre fra", "French"),
    ("he heb", "Hebrew"),
    ("hi hin", "Hindi"),
    ("hu hun", "Hungarian"),
    ("it ita", "Italian"),
    ("ja jpn", "Japanese"),
    ("ko kor", "Korean"),
    ("nl dut nld", "Dutch"),
    ("no nor nb nob", "Norwegian"),
    ("pl pol", "Polish"),
    ("pt por", "Portuguese"),
    ("ro rum ron", "Romanian"),
    ("ru rus", "Russian"),
    ("sv swe", "Swedish"),
    ("tr tur", "Turkish"),
    ("uk ukr", "Ukrainian"),
    ("zh chi zho", "Chinese"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn page(path: &str, subtitles: &[&[u8]]) -> String {
        let target = Target::parse(path.as_bytes(), false).unwrap();
        let class = Class::of(&target.name);
        let subtitles = &Listing::with(subtitles);
        let (previous, next) = (Some(&b"a b.mp4"[..]), Some(&b"<c>.mp4"[..]));
        let media =
            Media { target: &target, class, size: 5, modified: 0, previous, next, subtitles };
        media.page()
    }

    #[test]
    fn film_has_a_player_with_its_subtitles() {
        let text = page("/x/film.mp4", &[b"film.de.forced.srt", b"film.eng.VTT", b"film.srt"]);
        let tracks: Vec<_> = text.split("<track ").skip(1).collect();
        assert_eq!(tracks.len(), 3, "{text}");
        for (track, parts) in tracks.iter().zip([
            ["src=\"./film.srt?format=vtt\"", "srclang=\"und\"", "label=\"Subtitles\" default"],
            ["film.de.forced.srt?", "srclang=\"de\"", "label=\"German (forced)\">"],
            ["film.eng.VTT?", "srclang=\"eng\"", "label=\"English\">"],
        ]) {
            assert!(parts.iter().all(|part| track.contains(part)), "{parts:?} in {track}");
        }
        for part in [
            "<video controls playsinline preload=\"metadata\" src=\"./film.mp4\"",
            "href=\"./film.mp4?format=m3u\"",
            "<a href=\"./film.mp4\" download>",
            "<h1><bdi>film.mp4</bdi></h1>",
            "rel=\"prev\" href=\"./a%20b.mp4?view=play\"",
            "rel=\"next\" href=\"./%3Cc%3E.mp4?view=play\"",
            "<bdi>&lt;c&gt;.mp4</bdi>",
            "<a href=\"./\"><bdi>x</bdi></a>",
            "<a href=\"../\"><bdi>Files</bdi></a>",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("<script") && !text.contains("Few browsers"));
    }

    #[test]
    fn each_class_has_its_element_and_each_doubt_its_line() {
        for (path, element, doubt) in [
            ("/a.mp3", "<audio ", false),
            ("/a.flac", "<audio ", false),
            ("/a.jpg", "<img ", false),
            ("/a.heic", "<img ", true),
            ("/a.avi", "<video ", true),
            ("/a.ts", "<video ", true),
            ("/a.wma", "<audio ", true),
        ] {
            let text = page(path, &[]);
            assert!(text.contains(element), "{path}");
            assert_eq!(text.contains("Few browsers"), doubt, "{path}");
            assert_eq!(text.contains("format=m3u"), element != "<img ", "{path}");
        }
    }

    #[test]
    fn tracks_are_named_for_people_and_for_players() {
        for (tag, language, label) in [
            ("", "und", "Subtitles"),
            ("en", "en", "English"),
            ("GER", "ger", "German"),
            ("pt-BR", "pt", "Portuguese"),
            ("xx", "xx", "xx"),
            ("Director's", "und", "Director's"),
            ("fr.sdh", "fr", "French (sdh)"),
        ] {
            let track = Track::of(tag.as_bytes(), b"x");
            assert_eq!((track.language.as_str(), track.label.as_str()), (language, label));
        }
        assert_eq!(stem(b"a.b.mkv"), b"a.b");
        assert_eq!(stem(b"a"), b"a");
    }
}
