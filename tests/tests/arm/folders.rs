//! Folders: listings, times, compression, archives.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    process::Command,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use spdy_tests::fixture::{Random, Sha256, finished, tool};

use super::{Nas, Running, set_modified};

fn json(running: &Running, target: &str) -> Value {
    serde_json::from_slice(&running.whole(target, &[]).1).unwrap()
}

pub(super) fn names_that_are_no_text_come_back(nas: &Nas) {
    let names: [&[u8]; 7] = [
        b"not utf-8 \xff\xfe.txt",
        b"caf\xe9 latin-1.txt",
        b"\xc3\xbcmlaut \xe2\x82\xac.txt",
        b"new\nline.txt",
        b"100% #1?.txt",
        b"<b>&quot;.txt",
        b"%2e%2e",
    ];
    fs::create_dir(nas.share().join("names")).unwrap();
    for name in names {
        fs::write(nas.share().join("names").join(OsStr::from_bytes(name)), name).unwrap();
    }
    let running = nas.serve(&[]);
    let listed = json(&running, "/names/?format=json");
    let entries = listed["entries"].as_array().unwrap();
    assert_eq!(entries.len(), names.len());
    let page = String::from_utf8(running.whole("/names/", &[]).1).unwrap();
    let mut found: Vec<_> = entries
        .iter()
        .map(|entry| {
            let link = entry["href"].as_str().unwrap();
            assert!(
                page.contains(&format!("href=\"{}\"", link.replace('&', "&amp;"))),
                "{link}: {page}"
            );
            let answer = running.get(&format!("/names/{}", link.strip_prefix("./").unwrap()));
            assert_eq!((answer.status, entry["size"].as_u64()), (200, Some(answer.len)), "{link}");
            answer.start
        })
        .collect();
    found.sort();
    let mut wanted = names.map(<[u8]>::to_vec);
    wanted.sort();
    assert_eq!(found, wanted);
}

/// What fits no 32-bit time, in either direction.
pub(super) fn times_before_1970_and_after_2038_are_right(nas: &Nas) {
    for (name, seconds) in TIMES {
        let path = nas.write(&format!("times/{name}"), b"0123456789");
        let time = if let Ok(after) = u64::try_from(seconds) {
            SystemTime::UNIX_EPOCH + Duration::from_secs(after)
        } else {
            SystemTime::UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs())
        };
        set_modified(&path, time);
        assert_eq!(fs::metadata(path).unwrap().mtime(), seconds, "the filesystem cannot keep it");
    }
    let running = nas.serve(&[]);
    let listed = json(&running, "/times/?format=json&sort=time");
    let entries = listed["entries"].as_array().unwrap();
    let page = String::from_utf8(running.whole("/times/", &[]).1).unwrap();
    for (entry, (name, modified)) in entries.iter().zip([
        ("2045", "2045-06-15T12:00:00Z"),
        ("2038", "2038-01-19T03:14:08Z"),
        ("2037", "2037-12-31T23:59:59Z"),
        ("1960", "1960-01-01T00:00:00Z"),
    ]) {
        assert_eq!(
            (&entry["name"], &entry["modified"]),
            (&name.into(), &modified.into()),
            "{listed}"
        );
        let (date, minute) = (&modified[..10], &modified[11..16]);
        assert!(page.contains(&format!("{date} {minute}")), "{name}: {page}");
    }
    for (name, _) in TIMES {
        let target = format!("/times/{name}");
        let tag = running.tag(&target);
        // None of these may be said, and none may be a condition.
        let headers = [("If-Modified-Since", "Fri, 01 Jan 2100 00:00:00 GMT")];
        let answer = running.ask("GET", &target, &headers);
        assert_eq!(
            (answer.status, answer.len, answer.headers.get("last-modified")),
            (200, 10, None)
        );
        let headers = [("If-Unmodified-Since", "Fri, 01 Jan 1971 00:00:00 GMT")];
        assert_eq!(running.ask("GET", &target, &headers).status, 200, "{name}");
        assert_eq!(running.ask("GET", &target, &[("If-None-Match", &tag)]).status, 304, "{name}");
        let headers = [("Range", "bytes=2-4"), ("If-Range", &*tag)];
        let answer = running.ask("GET", &target, &headers);
        assert_eq!((answer.status, answer.text().as_str()), (206, "234"), "{name}");
    }
}

pub(super) fn text_is_compressed(nas: &Nas) {
    let text: Vec<u8> =
        (0..20_000).flat_map(|line| format!("line {line}\n").into_bytes()).collect();
    nas.write("text.txt", &text);
    let running = nas.serve(&[]);
    let (head, body) = running.whole("/text.txt", &[("Accept-Encoding", "gzip")]);
    assert_eq!((head.status, head.header("content-encoding")), (200, Some("gzip")));
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&*body).read_to_end(&mut plain).unwrap();
    assert!(plain == text && body.len() < text.len() / 2, "{} {}", plain.len(), body.len());
    assert!(running.whole("/text.txt", &[]).1 == text);
}

pub(super) fn folder_arrives_as_an_archive(nas: &Nas) {
    let film = nas.home.random_file("share/films/series/film.mkv", 700_001, 1);
    for number in 0..40_u32 {
        let octets = Random::octets(1_000 * number as usize, u64::from(number));
        nas.write(&format!("films/folder {}/file {number}", number % 5), &octets);
    }
    let path = nas.write("films/2037", b"then");
    set_modified(&path, SystemTime::UNIX_EPOCH + Duration::from_secs(YEAR_2037));
    let running = nas.serve(&[]);
    for form in ["tar", "zip"] {
        let (head, body) = running.whole(&format!("/films/?format={form}"), &[]);
        assert_eq!(head.status, 200);
        let archive = nas.home.write(&format!("films.{form}"), &body);
        let here = nas.home.join(form);
        fs::create_dir(&here).unwrap();
        finished(Command::new(tool("bsdtar")).arg("-xf").arg(archive).arg("-C").arg(&here), "");
        assert_eq!(Sha256::of_file(&here.join("films/series/film.mkv")), film, "{form}");
        for number in 0..40 {
            let name = format!("films/folder {}/file {number}", number % 5);
            let read = |folder| fs::read(nas.home.join(folder).join(&name)).unwrap();
            assert!(read(form) == read("share"), "{form}: {name}");
        }
        let modified = fs::metadata(here.join("films/2037")).unwrap().mtime();
        assert_eq!(modified.unsigned_abs(), YEAR_2037, "{form}");
    }
    // 5 GiB and a file from later than 2038: tar has more than 32 bits for both.
    let huge = File::create(nas.write("huge/a", b"")).unwrap();
    huge.set_len(5 << 30).unwrap();
    set_modified(
        &nas.share().join("huge/a"),
        SystemTime::UNIX_EPOCH + Duration::from_secs(YEAR_2045),
    );
    let mut tar = spdy_tests::visitor::Visitor::connect(running.http());
    tar.send("GET /huge/?format=tar HTTP/1.1\r\nHost: nas1\r\n\r\n");
    assert_eq!(tar.head().status, 200);
    tar.read(16 << 10);
    drop(tar);
}

/// The last second but some of what 32 bits can say, the first that they cannot, and others.
const TIMES: [(&str, i64); 4] = [
    ("1960", -315_619_200),
    ("2037", 2_145_916_799),
    ("2038", 2_147_483_648),
    ("2045", 2_381_140_800),
];
const YEAR_2037: u64 = 2_145_916_799;
const YEAR_2045: u64 = 2_381_140_800;
