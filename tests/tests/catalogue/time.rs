//! Files from times that a header cannot say, and a machine that does not know the time.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use spdy_tests::{
    fixture::{Pair, TempRoot},
    http::{Request, Response},
};

use super::{
    files::mounted,
    site::{is_emulated, set_modified, site},
};

const YEAR: u64 = 31_556_952;

/// Makes a file of some time in the folder of the read-only pair.
fn made(name: &str, time: SystemTime) -> Response {
    let path = site().root.join("changing").join(name);
    fs::write(&path, "text").unwrap();
    if !keeps(&path, time) {
        return site().get("/ten.txt");
    }
    let answer = site().get(&format!("/changing/{name}"));
    // The folder is listed with it, and everybody is alive.
    assert!(site().page("/changing/").contains(name));
    answer
}

/// Whether a filesystem can keep such a time; says so if not.
fn keeps(path: &Path, time: SystemTime) -> bool {
    set_modified(path, time);
    let kept = fs::metadata(path).unwrap().modified().unwrap();
    if kept != time {
        spdy_tests::skip::skipped(format_args!("the filesystem makes {kept:?} of {time:?}"));
    }
    kept == time
}

#[test]
fn t01_time_in_the_future_is_not_said() {
    let answer = made("t01", UNIX_EPOCH + Duration::from_secs(75 * YEAR));
    assert_eq!(answer.status, 200);
    // It may not be later than Date, and nothing earlier is known to be true.
    let modified = answer.headers.get("last-modified");
    assert!(modified.is_none_or(|modified| *modified == answer.headers["date"]), "{modified:?}");
}

#[test]
fn t02_time_before_1970_is_omitted() {
    let answer = made("t02", UNIX_EPOCH - Duration::from_secs(10 * YEAR));
    assert_eq!((answer.status, answer.headers.get("last-modified")), (200, None));
}

#[test]
fn t03_agent_survives_a_file_from_before_1970() {
    let answer = made("t03", UNIX_EPOCH - Duration::from_secs(66 * YEAR));
    assert_eq!(answer.status, 200);
    for header in [("If-Modified-Since", "{LM}"), ("If-Unmodified-Since", "{LM}")] {
        assert!(matches!(site().ask("GET", "/changing/t03", &[header]).status, 200 | 304 | 412));
    }
    assert_eq!(site().get("/ten.txt").status, 200);
}

/// Only few filesystems keep such a time; a tmpfs does.
#[test]
fn t04_agent_survives_a_file_of_the_year_20000() {
    let folder = TempRoot::new();
    let Some(before) = mounted(folder.path(), "1m") else { return };
    let pair = Pair::under(&words(&before), folder.path(), &[]);
    let inside = format!("/proc/{}/root{}", pair.agent.program().id(), folder.path().display());
    let path = Path::new(&inside).join("t04");
    fs::write(&path, "text").unwrap();
    if !keeps(&path, UNIX_EPOCH + Duration::from_secs(18_030 * YEAR)) {
        return;
    }
    let get = |target| Request::get(target).send(pair.proxy.http).unwrap();
    let answer = get("/t04");
    let modified = answer.headers.get("last-modified");
    assert!(modified.is_none_or(|modified| *modified == answer.headers["date"]), "{modified:?}");
    assert_eq!((answer.status, get("/").status, get("/t04").len), (200, 200, 4));
}

/// A box without a battery starts in 1970, and its files are from its future.
#[test]
fn agent_serves_with_its_clock_at_1970() {
    // A static program cannot be given another clock.
    if is_emulated("clock") {
        return;
    }
    let root = TempRoot::new();
    root.write("ten.txt", b"0123456789");
    // ld.so knows where this machine has its libraries.
    let clock = "LD_PRELOAD=/usr/$LIB/faketime/libfaketimeMT.so.1";
    let before = ["env", clock, "FAKETIME=@1970-01-01 00:01:00", "DONT_FAKE_MONOTONIC=1"];
    let pair = Pair::under(&before, root.path(), &["--allow-write"]);
    let said = pair.agent.program().text();
    assert!(said.contains("1970-01-01T00:01:"), "run scripts/setup.sh test: {said}");
    let ask = |request: Request| request.send(pair.proxy.http).unwrap();
    let whole = ask(Request::get("/ten.txt"));
    assert_eq!((whole.status, whole.text().as_str()), (200, "0123456789"));
    // Date is the proxy's, who knows better, and it is said once.
    let dates = whole.all("date");
    assert!(dates.len() == 1 && !dates[0].contains("1970"), "{dates:?}");
    assert_eq!(whole.headers.get("last-modified"), None);
    let tag = &whole.headers["etag"];
    let conditions = [("Range", "bytes=0-4"), ("If-Range", tag.as_str())];
    let part = ask(Request { headers: &conditions, ..Request::get("/ten.txt") });
    assert_eq!((part.status, part.text().as_str()), (206, "01234"));
    assert_eq!(ask(Request::with_body("PUT", "/new.txt", b"new")).status, 201);
    assert_eq!((ask(Request::get("/")).status, ask(Request::get("/new.txt")).len), (200, 3));
}

pub(crate) fn words(before: &[String]) -> Vec<&str> {
    before.iter().map(String::as_str).collect()
}
