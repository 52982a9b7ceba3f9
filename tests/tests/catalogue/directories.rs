//! Folders: redirects, index pages, listings.

use spdy_tests::fixture::wait_until;

use super::site::{MANY, STRANGE, Site, site};

cases! { redirected:
    d01_folder_without_a_slash_is_sent_to_it("/dir", "/dir/");
    d02_query_is_kept("/dir?x=1&y=%20", "/dir/?x=1&y=%20");
}

fn redirected(target: &str, location: &str) {
    let answer = site().get(target);
    assert!(matches!(answer.status, 301 | 308), "{}", answer.status);
    assert_eq!(answer.headers["location"], location);
}

#[test]
fn d03_location_never_names_a_host() {
    for target in [
        "//dir",
        "//evil.example",
        "//evil.example/%2e%2e",
        "/%2F%2Fevil.example",
        "/%2Fevil.example/",
        "///evil.example//",
        "/\\evil.example",
        "/dir//..//evil.example/",
        "/http:%2f%2fevil.example",
        "//dir//",
    ] {
        let answer = site().get(target);
        let location = answer.headers.get("location").map_or("/", String::as_str);
        assert!(location.starts_with('/'), "{target}: {location}");
        assert!(!location[1..].starts_with(['/', '\\']), "{target}: {location}");
        assert!(matches!(answer.status, 301 | 308 | 400 | 404), "{target}: {}", answer.status);
    }
}

#[test]
fn d04_index_page_is_the_folder() {
    let answer = site().get("/index-dir/");
    assert_eq!((answer.status, answer.text().as_str()), (200, "<p>index"));
    assert_eq!(answer.headers["content-type"], "text/html; charset=utf-8");
    // It is somebody's page like any other.
    assert!(answer.headers["content-security-policy"].contains("sandbox"));
}

#[test]
fn d05_listing_is_html_that_names_what_is_there() {
    let (head, body) = site().whole("/dir/", &[]);
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let page = String::from_utf8(body).unwrap();
    for link in ["sub/", "file1.txt", "file2.txt", "file10.txt"] {
        assert_eq!(page.matches(&format!("href=\"./{link}\"")).count(), 1, "{link}: {page}");
    }
}

#[test]
fn d06_names_are_escaped_in_html() {
    let page = site().page("/names/");
    assert!(page.contains("&lt;b&gt;.txt") && !page.contains("<b>"), "{page}");
    assert!(page.contains("amp&amp;lt;.txt") && !page.contains("amp&lt;.txt"), "{page}");
}

/// Links of a page to entries of its folder: those with a query lead to other forms of it.
fn links(page: &str) -> Vec<String> {
    let links = page.split("href=\"").skip(1).map(|part| part.split('"').next().unwrap());
    let links = links.map(|link| link.replace("&amp;", "&"));
    let names = links.filter_map(|link| link.strip_prefix("./").map(str::to_owned));
    names.filter(|name| !name.is_empty() && !name.contains('?')).collect()
}

fn every_name_round_trips(site: &Site) {
    let links = links(&site.page("/names/"));
    assert_eq!(links.len(), STRANGE.len(), "{links:?}");
    let mut found: Vec<_> = links
        .iter()
        .map(|link| {
            assert!(link.bytes().all(|octet| octet.is_ascii_graphic()), "{link}");
            assert!(!link.contains(['#', '?', '<', '>', ':']), "{link}");
            site.whole(&format!("/names/{link}"), &[]).1
        })
        .collect();
    found.sort();
    let mut names = STRANGE.map(<[u8]>::to_vec);
    names.sort();
    assert_eq!(found, names);
}

#[test]
fn d07_every_link_leads_to_its_file() {
    every_name_round_trips(site());
}

#[test]
fn d08_colon_in_a_name_is_no_scheme() {
    let page = site().page("/names/");
    let is_safe = |link: &&str| page.contains(&format!("href=\"{link}\""));
    assert!(["./a:b.txt", "./a%3Ab.txt", "a%3Ab.txt"].iter().any(is_safe), "{page}");
}

#[test]
fn d09_name_that_is_no_utf8_is_listed_and_fetched() {
    assert!(links(&site().page("/names/")).iter().any(|link| link == "not%20utf-8%20%FF.txt"));
    let (head, body) = site().whole("/names/not%20utf-8%20%FF.txt", &[]);
    assert_eq!((head.status, &*body), (200, &b"not utf-8 \xff.txt"[..]));
}

#[test]
fn d10_hidden_files_are_not_there() {
    assert!(!links(&site().page("/dir/")).iter().any(|link| link.contains("hidden")));
    for target in ["/dir/.hidden", "/dir/%2ehidden", "/.hidden/x"] {
        assert_eq!(site().get(target).status, 404, "{target}");
    }
}

#[test]
fn d11_numbers_in_names_are_ordered_as_numbers() {
    let links = links(&site().page("/dir/"));
    let at = |name| links.iter().position(|link| link == name).unwrap();
    assert!(at("file1.txt") < at("file2.txt") && at("file2.txt") < at("file10.txt"), "{links:?}");
    // Folders come first.
    assert!(at("sub/") < at("file1.txt"), "{links:?}");
}

#[test]
fn d12_listing_is_json_for_who_asks() {
    let site = site();
    for (target, headers) in
        [("/dir/", &[("Accept", "application/json")][..]), ("/dir/?format=json", &[])]
    {
        let (head, body) = site.whole(target, headers);
        let media_type = head.header("content-type").unwrap_or_default();
        assert!(media_type.starts_with("application/json"), "{target}: {media_type}");
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let text = value.to_string();
        assert!(text.contains("\"file10.txt\"") && !text.contains("hidden"), "{text}");
    }
    // Both twins say that they are twins.
    for accepted in ["application/json", "text/html"] {
        let vary = site.ask("GET", "/dir/", &[("Accept", accepted)]).headers.remove("vary");
        let vary = vary.unwrap_or_default().to_ascii_lowercase();
        assert!(vary.split(", ").any(|name| name == "accept"), "{accepted}: {vary}");
    }
}

#[test]
fn d13_head_of_a_folder_is_200_without_a_body() {
    let answer = site().ask("HEAD", "/dir/", &[]);
    assert_eq!((answer.status, answer.len), (200, 0));
}

#[test]
fn d14_bad_entries_do_not_cost_the_listing() {
    let links = links(&site().page("/broken/"));
    assert!(links.iter().any(|link| link == "good.txt"), "{links:?}");
    for bad in ["dangling", "loop", "fifo", "socket", "character", "block"] {
        assert!(!links.iter().any(|link| link.starts_with(bad)), "{links:?}");
    }
}

#[test]
fn d15_large_folder_is_listed_to_its_end() {
    let page = site().page("/many/");
    assert_eq!(page.matches("href=\"./n").count(), MANY);
    assert!(page.ends_with("</html>\n"));
    // Others are served meanwhile, and a visitor who leaves costs nothing.
    let mut gone: Vec<_> = (0..4).map(|_| site().visitor()).collect();
    for visitor in &mut gone {
        visitor.send("GET /many/ HTTP/1.1\r\nHost: nas1\r\n\r\n");
    }
    assert_eq!(site().get("/ten.txt").status, 200);
    drop(gone);
    wait_until("the folder can be listed again", || site().get("/many/").status == 200);
}

#[test]
fn d16_new_line_in_a_name_survives() {
    assert!(links(&site().page("/names/")).iter().any(|link| link == "new%0Aline.txt"));
    let (head, body) = site().whole("/names/new%0Aline.txt", &[]);
    assert_eq!((head.status, &*body), (200, &b"new\nline.txt"[..]));
}

#[test]
fn d17_listing_knows_no_ranges() {
    let answer = site().ask("GET", "/dir/", &[("Range", "bytes=0-4")]);
    assert_eq!(answer.status, 200);
    assert!(answer.len > 100);
    let ranges = answer.headers.get("accept-ranges");
    assert!(ranges.is_none_or(|ranges| ranges == "none"), "{ranges:?}");
}

#[test]
fn s20_d09_names_round_trip_without_openat2() {
    if let Some((site, _)) = super::site::without_openat2() {
        every_name_round_trips(site);
    }
}

#[test]
fn s20_d14_listing_is_the_same_without_openat2() {
    let Some((without, _)) = super::site::without_openat2() else { return };
    for target in ["/", "/broken/", "/dir/", "/dir-inside/"] {
        assert_eq!(links(&without.page(target)), links(&site().page(target)), "{target}");
    }
}
