//! Methods, headers and targets of whole files.

use std::collections::BTreeMap;

use spdy_tests::http::Response;

use super::site::{BIG, Site, site};

/// Headers that are the same for GET and HEAD.
fn of_the_file(answer: &Response) -> BTreeMap<String, String> {
    let mut headers = answer.headers.clone();
    // One length is not known before the page is made.
    headers.retain(|name, _| !["date", "x-request-id", "transfer-encoding"].contains(&&**name));
    headers
}

#[test]
fn g01_file_comes_whole_with_its_headers() {
    let answer = site().get("/ten.txt");
    assert_eq!((answer.status, answer.text().as_str()), (200, "0123456789"));
    for (name, value) in [
        ("content-length", "10"),
        ("content-type", "text/plain; charset=utf-8"),
        ("accept-ranges", "bytes"),
        ("last-modified", "Sun, 09 Sep 2001 01:46:40 GMT"),
    ] {
        assert_eq!(answer.headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(answer.headers["date"].ends_with(" GMT"));
    // Several people may sit behind one proxy.
    let cache = &answer.headers["cache-control"];
    assert!(cache.contains("private") && !cache.contains("public"), "{cache}");
}

#[test]
fn g02_entity_tag_is_strong() {
    let tag = &site().validators().0;
    assert!(tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"'), "{tag}");
}

#[test]
fn g03_head_says_what_get_would() {
    let site = site();
    let _settled = (site.validators(), site.tag("/index-dir/index.html"));
    // Not the top: other tests change a folder that it shows.
    for target in [
        "/broken/",
        "/dir",
        "/dir/",
        "/index-dir/",
        "/ten.txt",
        "/big.txt",
        "/mime/x.mp4",
        "/none",
        "/%zz",
    ] {
        let [get, head] = ["GET", "HEAD"].map(|method| site.ask(method, target, &[]));
        assert_eq!((head.status, head.len), (get.status, 0), "{target}");
        assert_eq!(of_the_file(&head), of_the_file(&get), "{target}");
    }
}

#[test]
fn g04_empty_file_is_empty() {
    let answer = site().get("/empty.txt");
    assert_eq!((answer.status, answer.len), (200, 0));
    assert_eq!(answer.headers["content-length"], "0");
}

#[test]
fn g05_what_is_not_there_is_404() {
    let answer = site().get("/nope");
    assert_eq!(answer.status, 404);
    assert!(answer.len < 1_000, "{}", answer.len);
}

#[test]
fn g06_file_with_a_slash_is_404() {
    let answer = site().get("/ten.txt/");
    assert_eq!(answer.status, 404);
    assert!(!answer.text().contains("0123"));
}

cases! { refused:
    g07_post_on_a_file_is_405_and_names_what_is_allowed("POST", 405);
    g08_unknown_method_is_501("BREW", 501);
    g10_trace_is_405("TRACE", 405);
}

fn refused(method: &str, status: u16) {
    let answer = site().ask(method, "/ten.txt", &[]);
    assert_eq!(answer.status, status);
    assert!(!answer.text().contains("0123"));
    if status == 405 {
        allows(&answer);
    }
}

#[track_caller]
fn allows(answer: &Response) {
    let allow: Vec<_> = answer.headers["allow"].split(", ").collect();
    assert!(["GET", "HEAD", "OPTIONS"].iter().all(|method| allow.contains(method)), "{allow:?}");
}

#[test]
fn g09_options_names_the_methods() {
    for target in ["/ten.txt", "/dir/", "*"] {
        let answer = site().ask("OPTIONS", target, &[]);
        assert!(matches!(answer.status, 200 | 204), "{target}: {}", answer.status);
        allows(&answer);
    }
}

#[test]
fn g10_connect_is_refused() {
    let status = site().status_of("CONNECT nas1:80 HTTP/1.1\r\nHost: nas1:80\r\n\r\n");
    assert!(matches!(status, 405 | 501), "{status}");
}

#[test]
fn g11_request_without_host_is_400() {
    assert_eq!(site().status_of("GET /ten.txt HTTP/1.1\r\n\r\n"), 400);
}

#[test]
fn g12_absolute_form_is_as_good_as_a_path() {
    let mut visitor = site().visitor();
    visitor.send("GET http://nas1/ten.txt HTTP/1.1\r\nHost: nas1\r\n\r\n");
    let answer = Response::read(&mut visitor, "GET").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "0123456789"));
}

#[test]
fn g13_refusals_have_a_date_too() {
    for (target, header, status) in [
        ("/ten.txt", ("If-None-Match", "{E}"), 304),
        ("/ten.txt", ("If-Match", "\"zz\""), 412),
        ("/ten.txt", ("Range", "bytes=10-"), 416),
        ("/nope", ("X-Nothing", "0"), 404),
    ] {
        let answer = site().ask("GET", target, &[header]);
        assert_eq!((answer.status, answer.all("date").len()), (status, 1), "{status}");
    }
}

#[test]
fn g14_unknown_query_of_a_file_is_ignored() {
    for target in ["/ten.txt?", "/ten.txt?x=1&t=%20&sort", "/ten.txt?a/b?c"] {
        let answer = site().get(target);
        assert_eq!((answer.status, answer.text().as_str()), (200, "0123456789"), "{target}");
    }
}

#[test]
fn g15_body_is_asked_for_only_when_it_is_wanted() {
    let site: &Site = super::site::writable();
    let put = |host: &str| {
        let head = "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        format!("PUT /expected HTTP/1.1\r\nHost: {host}\r\n{head}")
    };
    let mut visitor = site.visitor();
    visitor.send(put("nas1"));
    assert_eq!(Response::read(&mut visitor, "PUT").unwrap().status, 100);
    visitor.send("hello");
    assert_eq!(Response::read(&mut visitor, "PUT").unwrap().status, 201);
    assert_eq!(std::fs::read(site.root.join("expected")).unwrap(), b"hello");
    // Nobody has this name here: that is the answer, without 100.
    let _ = site.pair.proxy.pair("nas2");
    visitor.send(put("nas2"));
    assert_eq!(Response::read(&mut visitor, "PUT").unwrap().status, 503);
}

#[test]
fn large_file_comes_whole() {
    let answer = site().get("/big.txt");
    assert_eq!((answer.status, answer.len), (200, BIG as u64));
    assert_eq!(answer.sha256, spdy_tests::fixture::Sha256::of(&super::site::numbered(BIG)));
}
