//! Media types by extension, and that no browser makes more of them.

use super::site::site;

/// Extensions, and the types that are right for them.
pub(crate) const EXTENSIONS: &[(&[&str], &[&str])] = &[
    (&["mkv", "MKV"], &["video/matroska", "video/x-matroska"]),
    (&["mp4", "m4v"], &["video/mp4"]),
    (&["webm"], &["video/webm"]),
    (&["avi"], &["video/x-msvideo", "video/vnd.avi"]),
    (&["mov"], &["video/quicktime"]),
    (&["ts", "m2ts"], &["video/mp2t"]),
    (&["m3u8"], &["application/vnd.apple.mpegurl"]),
    (&["mpd"], &["application/dash+xml"]),
    (&["m4s"], &["video/iso.segment", "video/mp4"]),
    (&["mp3"], &["audio/mpeg"]),
    (&["m4a"], &["audio/mp4"]),
    (&["flac"], &["audio/flac"]),
    (&["opus", "ogg"], &["audio/ogg"]),
    (&["wav"], &["audio/wav", "audio/vnd.wave"]),
    (&["vtt"], &["text/vtt; charset=utf-8"]),
    (&["srt"], &["application/x-subrip", "text/plain; charset=utf-8"]),
    (&["heic"], &["image/heic"]),
    (&["avif"], &["image/avif"]),
    (&["webp"], &["image/webp"]),
    (&["jxl"], &["image/jxl"]),
    (&["svg"], &["image/svg+xml", "image/svg+xml; charset=utf-8"]),
    (&["epub"], &["application/epub+zip"]),
    (&["cbz"], &["application/vnd.comicbook+zip"]),
    (&["txt", "log", "nfo"], &["text/plain; charset=utf-8"]),
    (&["html", "htm"], &["text/html; charset=utf-8"]),
    (&["css"], &["text/css; charset=utf-8"]),
    (&["jpg", "jpeg", "JPG"], &["image/jpeg"]),
    (&["png"], &["image/png"]),
    (&["gif"], &["image/gif"]),
    (&["pdf"], &["application/pdf"]),
    (&["zip"], &["application/zip"]),
];

cases! { typed:
    y_mkv("mkv"); y_mkv_in_capitals("MKV"); y_mp4("mp4"); y_m4v("m4v"); y_webm("webm");
    y_avi("avi"); y_mov("mov"); y_ts("ts"); y_m2ts("m2ts"); y_m3u8("m3u8"); y_mpd("mpd"); y_m4s("m4s");
    y_mp3("mp3"); y_m4a("m4a"); y_flac("flac"); y_opus("opus"); y_ogg("ogg"); y_wav("wav");
    y_vtt("vtt"); y_srt("srt"); y_heic("heic"); y_avif("avif"); y_webp("webp"); y_jxl("jxl");
    y_svg("svg"); y_epub("epub"); y_cbz("cbz"); y_txt("txt"); y_html("html"); y_css("css");
    y_jpg("jpg"); y_jpg_in_capitals("JPG"); y_png("png"); y_gif("gif"); y_pdf("pdf"); y_zip("zip");
}

fn typed(extension: &str) {
    let row = EXTENSIONS.iter().find(|row| row.0.contains(&extension)).unwrap();
    let answer = site().ask("HEAD", &format!("/mime/x.{extension}"), &[]);
    let media_type = &answer.headers["content-type"];
    assert!(answer.status == 200 && row.1.contains(&media_type.as_str()), "{media_type}");
}

#[test]
fn y01_nothing_is_sniffed() {
    let targets = ["/mime/x.mp4", "/mime/x", "/mime/x.html", "/dir/", "/nope", "/ten.txt"];
    for target in targets {
        let answer = site().get(target);
        let said = answer.headers.get("x-content-type-options").map(String::as_str);
        assert_eq!(said, Some("nosniff"), "{target}");
    }
    let part = site().ask("GET", "/ten.txt", &[("Range", "bytes=0-4")]);
    assert_eq!(part.headers["x-content-type-options"], "nosniff");
}

#[test]
fn y02_unknown_extension_is_octets() {
    for name in ["x", "x.", "x.unheard-of", "x.html.unheard-of"] {
        let answer = site().get(&format!("/mime/{name}"));
        assert_eq!(answer.headers["content-type"], "application/octet-stream", "{name}");
    }
}

#[test]
fn y03_text_is_utf8() {
    for (extensions, _) in EXTENSIONS {
        let target = format!("/mime/x.{}", extensions[0]);
        let media_type = site().ask("HEAD", &target, &[]).headers.remove("content-type").unwrap();
        let is_text = media_type.starts_with("text/");
        assert!(!is_text || media_type.ends_with("; charset=utf-8"), "{target}: {media_type}");
    }
}

#[test]
fn y04_pages_of_users_run_nothing() {
    for extension in ["html", "htm", "svg"] {
        let target = format!("/mime/x.{extension}");
        for headers in [&[][..], &[("Range", "bytes=0-4")]] {
            let policy = site().ask("GET", &target, headers).headers;
            let policy = &policy["content-security-policy"];
            let rules: Vec<_> = policy.split(';').map(str::trim).collect();
            assert!(rules.contains(&"sandbox"), "{target}: {policy}");
        }
    }
}
