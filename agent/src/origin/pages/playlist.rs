//! Films and music as a playlist for VLC and its like (`format=m3u`): extended M3U in UTF-8.
//!
//! The addresses are whole wherever the visitor's is known: what a browser saved on a phone must
//! still lead here.

use spdy_protocol::head::RequestHead;

use super::{
    super::{
        archive,
        path::{Target, encode_segment},
    },
    media::stem,
    text::shown,
};

/// What stands before the names of a folder's entries; empty if nobody said how we are reached.
/// `target`: the folder or a file in it.
pub(crate) fn base(request: &RequestHead, target: &Target) -> String {
    let told =
        request.headers.get("x-forwarded-proto").and_then(|value| str::from_utf8(value).ok());
    let scheme = told.unwrap_or(&request.scheme);
    let good = |octet: u8| octet.is_ascii_alphanumeric() || b"-._:[]".contains(&octet);
    let host = &request.host;
    if !matches!(scheme, "http" | "https") || host.is_empty() || !host.bytes().all(good) {
        return String::new();
    }
    let mut path = target.as_folder();
    if !target.folder {
        // Without the last segment and its slash.
        path.pop();
        path.truncate(path.iter().rposition(|octet| *octet == b'/').map_or(0, |at| at + 1));
    }
    // A path of ours is ASCII.
    format!("{scheme}://{host}{}", String::from_utf8_lossy(&path))
}

/// The first line.
pub(crate) const HEAD: &str = "#EXTM3U\n";

/// An entry.
pub(crate) fn entry(base: &str, name: &[u8]) -> String {
    format!("#EXTINF:-1,{}\n{base}{}\n", shown(name), encode_segment(name))
}

/// The header that names what is saved, after the folder or file.
pub(crate) fn disposition(target: &Target) -> String {
    let name = archive::top_name(target);
    archive::disposition(if target.folder { &name } else { stem(&name) }, ".m3u8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(scheme: &str, host: &str, proto: Option<&str>) -> RequestHead {
        let mut request = RequestHead::get("/");
        (request.scheme, request.host) = (scheme.to_owned(), host.to_owned());
        if let Some(proto) = proto {
            request.headers.push("x-forwarded-proto", proto.as_bytes()).unwrap();
        }
        request
    }

    fn target(path: &str) -> Target {
        Target::parse(path.as_bytes(), false).unwrap()
    }

    #[test]
    fn addresses_are_whole_where_ours_is_known() {
        let known = request("http", "nas.example.org:1443", Some("https"));
        for (path, wanted) in [
            ("/", "https://nas.example.org:1443/"),
            ("/a%20b/", "https://nas.example.org:1443/a%20b/"),
            ("/a%20b/c%3f.mkv", "https://nas.example.org:1443/a%20b/"),
            ("/c.mkv", "https://nas.example.org:1443/"),
        ] {
            assert_eq!(base(&known, &target(path)), wanted);
        }
        let shared = target("/films/a.mkv").in_share();
        assert_eq!(base(&request("http", "[::1]:80", None), &shared), "http://[::1]:80/films/");
        for (scheme, host) in [("http", ""), ("ftp", "a"), ("http", "a/b"), ("http", "a\"b")] {
            assert_eq!(base(&request(scheme, host, None), &target("/")), "", "{scheme} {host}");
        }
    }

    #[test]
    fn names_cannot_add_lines() {
        let text = entry("", "a\r\nhttp://b,c #1.mp3".as_bytes());
        let wanted = "#EXTINF:-1,a\u{fffd}\u{fffd}http://b,c #1.mp3\n\
                      a%0D%0Ahttp%3A%2F%2Fb,c%20%231.mp3\n";
        assert_eq!(text, wanted);
    }

    #[test]
    fn saved_playlists_are_named_after_what_they_play() {
        for (path, wanted) in [("/", "files"), ("/a/b%20c/", "b c"), ("/a/film.de.mkv", "film.de")]
        {
            let start = format!("attachment; filename=\"{wanted}.m3u8\"; ");
            let found = disposition(&target(path));
            assert!(found.starts_with(&start), "{found}");
        }
    }
}
