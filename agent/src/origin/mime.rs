//! Media types by the extension of a name.
//!
//! A table of our own: the usual crate is wrong for the types that players care for, and 30 times
//! larger. It never looks into files; what it does not know is `application/octet-stream`.

/// The media type of a name, with its charset if it is text.
pub(crate) fn media_type(name: &[u8]) -> &'static str {
    let extension = name.iter().rposition(|octet| *octet == b'.').map(|at| &name[at + 1..]);
    let Some(extension) = extension.filter(|found| (1..=EXTENSION_MAX).contains(&found.len()))
    else {
        return UNKNOWN;
    };
    let mut lower = [0; EXTENSION_MAX];
    let lower = &mut lower[..extension.len()];
    lower.copy_from_slice(extension);
    lower.make_ascii_lowercase();
    let found = TYPES.binary_search_by(|(known, _)| known.as_bytes().cmp(lower));
    found.map_or(UNKNOWN, |at| TYPES[at].1)
}

/// Whether a browser would run what is inside: it must not, because the NAS shares its origin with
/// everything else behind the proxy.
pub(crate) fn is_active(media_type: &str) -> bool {
    let bare = media_type.split(';').next().unwrap_or_default();
    matches!(bare, "text/html" | "application/xhtml+xml" | "image/svg+xml" | "text/xml")
}

const UNKNOWN: &str = "application/octet-stream";
const EXTENSION_MAX: usize = 8;

/// Sorted by extension.
const TYPES: &[(&str, &str)] = &[
    ("3g2", "video/3gpp2"),
    ("3gp", "video/3gpp"),
    ("7z", "application/x-7z-compressed"),
    ("aac", "audio/aac"),
    ("ac3", "audio/ac3"),
    ("aif", "audio/aiff"),
    ("aiff", "audio/aiff"),
    ("ape", "audio/x-ape"),
    ("apk", "application/vnd.android.package-archive"),
    ("ass", "text/x-ssa; charset=utf-8"),
    ("avi", "video/x-msvideo"),
    ("avif", "image/avif"),
    ("bmp", "image/bmp"),
    ("bz2", "application/x-bzip2"),
    ("cbr", "application/vnd.comicbook-rar"),
    ("cbz", "application/vnd.comicbook+zip"),
    ("cr2", "image/x-canon-cr2"),
    ("css", "text/css; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("cue", "text/plain; charset=utf-8"),
    ("deb", "application/vnd.debian.binary-package"),
    ("dff", "audio/x-dff"),
    ("divx", "video/x-msvideo"),
    ("dng", "image/x-adobe-dng"),
    ("doc", "application/msword"),
    ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("dsf", "audio/x-dsf"),
    ("dts", "audio/vnd.dts"),
    ("eac3", "audio/eac3"),
    ("epub", "application/epub+zip"),
    ("flac", "audio/flac"),
    ("flv", "video/x-flv"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("heic", "image/heic"),
    ("heif", "image/heif"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/vnd.microsoft.icon"),
    ("ics", "text/calendar; charset=utf-8"),
    ("iso", "application/x-iso9660-image"),
    ("jpe", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("jxl", "image/jxl"),
    ("log", "text/plain; charset=utf-8"),
    ("m2t", "video/mp2t"),
    ("m2ts", "video/mp2t"),
    ("m2v", "video/mpeg"),
    ("m3u", "audio/mpegurl"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("m4a", "audio/mp4"),
    ("m4b", "audio/mp4"),
    ("m4s", "video/iso.segment"),
    ("m4v", "video/mp4"),
    ("md", "text/markdown; charset=utf-8"),
    ("mid", "audio/midi"),
    ("midi", "audio/midi"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mka", "audio/matroska"),
    ("mkv", "video/matroska"),
    ("mobi", "application/x-mobipocket-ebook"),
    ("mov", "video/quicktime"),
    ("mp2", "audio/mpeg"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("mpd", "application/dash+xml"),
    ("mpe", "video/mpeg"),
    ("mpeg", "video/mpeg"),
    ("mpg", "video/mpeg"),
    ("mts", "video/mp2t"),
    ("nef", "image/x-nikon-nef"),
    ("nfo", "text/plain; charset=utf-8"),
    ("odp", "application/vnd.oasis.opendocument.presentation"),
    ("ods", "application/vnd.oasis.opendocument.spreadsheet"),
    ("odt", "application/vnd.oasis.opendocument.text"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("ogm", "video/ogg"),
    ("ogv", "video/ogg"),
    ("opus", "audio/ogg"),
    ("otf", "font/otf"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("ppt", "application/vnd.ms-powerpoint"),
    ("pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    ("rar", "application/vnd.rar"),
    ("rtf", "application/rtf"),
    ("srt", "application/x-subrip"),
    ("ssa", "text/x-ssa; charset=utf-8"),
    ("sub", "text/plain; charset=utf-8"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("torrent", "application/x-bittorrent"),
    ("ts", "video/mp2t"),
    ("ttf", "font/ttf"),
    ("txt", "text/plain; charset=utf-8"),
    ("vob", "video/mpeg"),
    ("vtt", "text/vtt; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("wav", "audio/wav"),
    ("weba", "audio/webm"),
    ("webm", "video/webm"),
    ("webp", "image/webp"),
    ("wma", "audio/x-ms-wma"),
    ("wmv", "video/x-ms-wmv"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("wv", "audio/x-wavpack"),
    ("xht", "application/xhtml+xml"),
    ("xhtml", "application/xhtml+xml"),
    ("xls", "application/vnd.ms-excel"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ("xml", "text/xml; charset=utf-8"),
    ("xz", "application/x-xz"),
    ("zip", "application/zip"),
    ("zst", "application/zstd"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_and_every_entry_is_found() {
        assert!(TYPES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(TYPES.len() >= 60);
        for (extension, media) in TYPES {
            assert!(extension.len() <= EXTENSION_MAX);
            assert_eq!(media_type(format!("a.b.{extension}").as_bytes()), *media);
            assert_eq!(media_type(format!("X.{}", extension.to_uppercase()).as_bytes()), *media);
            assert_eq!(media.starts_with("text/"), media.ends_with("; charset=utf-8"), "{media}");
        }
    }

    #[test]
    fn types_that_players_care_for() {
        for (name, media) in [
            ("film.MKV", "video/matroska"),
            ("a.ts", "video/mp2t"),
            ("a.m2ts", "video/mp2t"),
            ("a.m3u8", "application/vnd.apple.mpegurl"),
            ("a.m4a", "audio/mp4"),
            ("a.opus", "audio/ogg"),
            ("a.vtt", "text/vtt; charset=utf-8"),
            ("a.svg", "image/svg+xml"),
        ] {
            assert_eq!(media_type(name.as_bytes()), media);
        }
    }

    #[test]
    fn unknown_names_are_octets() {
        for name in ["", "README", "a.", ".mkv.", "a.unknown", "a.verylongextension", "a.\u{fc}"] {
            assert_eq!(media_type(name.as_bytes()), UNKNOWN, "{name}");
        }
    }

    #[test]
    fn active_types_are_known() {
        let active: Vec<_> =
            TYPES.iter().filter(|entry| is_active(entry.1)).map(|entry| entry.0).collect();
        assert_eq!(active, ["htm", "html", "svg", "xht", "xhtml", "xml"]);
    }
}
