//! gzip: for text, and never in the way of ranges.

use spdy_tests::visitor::Head;

use super::site::{BIG, numbered, site, unzipped};

/// What comes of these codings: its head, its octets decoded, and whether they had to be.
fn get(target: &str, codings: &str) -> (Head, Vec<u8>, bool) {
    let (head, body) = site().coded(target, codings, &[]);
    let coding = head.header("content-encoding").map(str::to_owned);
    assert!(coding.is_none() || coding.as_deref() == Some("gzip"), "{coding:?}");
    let body = if coding.is_some() { unzipped(&body) } else { body };
    (head, body, coding.is_some())
}

#[track_caller]
fn varies(head: &Head) {
    let vary = head.all("vary").join(", ").to_ascii_lowercase();
    assert!(vary.split(", ").any(|name| name == "accept-encoding"), "vary: {vary}");
}

#[test]
fn z01_gzip_has_vary_and_a_tag_of_its_own() {
    let tag = site().tag("/big.txt");
    let (plain, body, is_zipped) = get("/big.txt", "identity");
    assert!(!is_zipped && body == numbered(BIG));
    varies(&plain);
    let (zipped, body, is_zipped) = get("/big.txt", "br, gzip");
    assert!(is_zipped && body == numbered(BIG));
    varies(&zipped);
    let other = zipped.header("etag").unwrap_or_default();
    assert!(!other.is_empty() && other != tag, "{other}");
    // Octets count in the form that is sent, which is not the file's.
    assert_ne!(zipped.header("content-length"), Some(BIG.to_string().as_str()));
    let (again, _) = site().coded("/big.txt", "gzip", &[("If-None-Match", other)]);
    assert_eq!((again.status, again.header("etag")), (304, Some(other)));
}

#[test]
fn z01_pages_and_json_are_compressed_too() {
    for target in ["/mime/", "/mime/?format=json"] {
        let (zipped, body, is_zipped) = get(target, "gzip");
        assert!(is_zipped, "{target}");
        varies(&zipped);
        assert_eq!(body, get(target, "identity").1, "{target}");
    }
}

#[test]
fn z02_media_are_never_compressed() {
    for extension in ["mp4", "mkv", "ts", "mp3", "flac", "jpg", "webp", "zip", "epub", "cbz", "pdf"]
    {
        let (head, body, is_zipped) = get(&format!("/mime/x.{extension}"), "gzip");
        assert!(!is_zipped && body == [b'x'; 2_048], "{extension}");
        assert_eq!(head.header("content-length"), Some("2048"));
    }
}

#[test]
fn z02_what_is_small_is_not_compressed() {
    assert!(!get("/ten.txt", "gzip").2);
}

#[test]
fn z03_range_is_of_the_file_itself() {
    let headers = [("Range", "bytes=1000-1999"), ("Accept-Encoding", "gzip")];
    let answer = site().ask("GET", "/big.txt", &headers);
    assert_eq!((answer.status, answer.headers.get("content-encoding")), (206, None));
    assert_eq!(answer.headers["content-range"], format!("bytes 1000-1999/{BIG}"));
    assert_eq!(answer.start, &numbered(BIG)[1_000..2_000]);
}

#[test]
fn z04_codings_that_are_refused_are_not_used() {
    for codings in
        ["gzip;q=0", "gzip;q=0.000, *", "br", "", "identity, gzip;q=0", "*;q=0.5, gzip;q=0"]
    {
        let (head, body, is_zipped) = get("/big.txt", codings);
        assert!(head.status == 200 && !is_zipped && body == numbered(BIG), "{codings}");
    }
    for codings in ["gzip, identity;q=0", "identity;q=0, *", "GZIP", "x-gzip", "gzip;q=0.5"] {
        assert!(get("/big.txt", codings).2, "{codings}");
    }
}
