//! Preconditions, in the order of RFC 9110 13.2.2. `/ten.txt` was changed in September 2001.

use std::{fs, time::Duration};

use super::site::{set_modified, site};

const INM: &str = "If-None-Match";
const IMS: &str = "If-Modified-Since";
const IUS: &str = "If-Unmodified-Since";
const OLD: &str = "Sat, 01 Jan 2000 00:00:00 GMT";
const LATER: &str = "Tue, 01 Jan 2019 00:00:00 GMT";
const FUTURE: &str = "Fri, 01 Jan 2038 00:00:00 GMT";

cases! { get:
    p01_listed_tag_is_304(&[(INM, "{E}")], 304);
    p02_any_tag_is_304(&[(INM, "*")], 304);
    p03_weak_form_of_the_tag_is_304(&[(INM, "W/{E}")], 304);
    p04_tag_in_a_list_is_304(&[(INM, "\"a\", {E} ,\"b\"")], 304);
    p05_other_tag_makes_the_date_void(&[(INM, "\"zz\""), (IMS, FUTURE)], 200);
    p06_listed_tag_beats_an_old_date(&[(INM, "{E}"), (IMS, OLD)], 304);
    p07_same_date_is_304(&[(IMS, "{LM}")], 304);
    p08_older_date_is_200(&[(IMS, OLD)], 200);
    p09_garbage_for_a_date_is_200(&[(IMS, "yesterday")], 200);
    p10_later_date_is_304(&[(IMS, LATER)], 304);
    p11_date_of_rfc_850_is_understood(&[(IMS, "Sunday, 09-Sep-01 01:46:40 GMT")], 304);
    p11_date_of_asctime_is_understood(&[(IMS, "Sun Sep  9 01:46:40 2001")], 304);
    p12_same_tag_is_200(&[("If-Match", "{E}")], 200);
    p13_other_tag_is_412(&[("If-Match", "\"zz\"")], 412);
    p14_weak_form_of_the_tag_is_412(&[("If-Match", "W/{E}")], 412);
    p15_anything_there_is_200(&[("If-Match", "*")], 200);
    p16_changed_since_is_412(&[(IUS, OLD)], 412);
    p17_not_changed_since_is_200(&[(IUS, "{LM}")], 200);
    p18_match_makes_the_date_void(&[("If-Match", "*"), (IUS, OLD)], 200);
    p19_if_match_comes_first(&[("If-Match", "\"zz\""), (INM, "*")], 412);
    p22_not_modified_comes_before_range(&[("Range", "bytes=0-4"), (INM, "{E}")], 304);
    p23_if_match_comes_before_range(&[("Range", "bytes=0-4"), ("If-Match", "\"zz\"")], 412);
}

fn get(headers: &[(&str, &str)], status: u16) {
    // Before anything else: a file that was just made has no tag yet.
    let (tag, modified) = site().validators();
    let answer = site().ask("GET", "/ten.txt", headers);
    assert_eq!(answer.status, status);
    match status {
        200 => assert_eq!(answer.text(), "0123456789"),
        304 => {
            assert_eq!((&answer.headers["etag"], answer.len), (tag, 0));
            assert!(answer.headers.contains_key("cache-control"));
            let said = answer.headers.get("last-modified");
            assert!(said.is_none_or(|said| said == modified), "{said:?}");
            let len = answer.headers.get("content-length");
            assert!(len.is_none_or(|len| len == "10"), "{len:?}");
        }
        _ => assert!(!answer.text().contains("0123")),
    }
}

#[test]
fn p20_condition_on_nothing_is_404() {
    assert_eq!(site().ask("GET", "/nope", &[("If-Match", "*")]).status, 404);
}

#[test]
fn p21_head_has_conditions_too() {
    assert_eq!(site().ask("HEAD", "/ten.txt", &[(IMS, "{LM}")]).status, 304);
}

#[test]
fn p24_not_modified_repeats_date_and_vary() {
    let tag = site().tag("/big.txt");
    for coding in ["identity", "gzip"] {
        let (whole, _) = site().coded("/big.txt", coding, &[]);
        let tag = if coding == "gzip" { whole.header("etag").unwrap() } else { &tag };
        let (answer, _) = site().coded("/big.txt", coding, &[(INM, tag)]);
        assert_eq!((answer.status, answer.all("date").len()), (304, 1));
        assert!(whole.header("vary").is_some(), "{coding}: {:?}", whole.headers);
        assert_eq!(answer.all("vary"), whole.all("vary"));
    }
}

#[test]
fn p25_listing_has_a_tag_and_is_304() {
    let listing = site().get("/dir/");
    let tag = listing.headers.get("etag").expect("a listing has an entity tag");
    let answer = site().ask("GET", "/dir/", &[(INM, tag)]);
    assert_eq!((answer.status, answer.len), (304, 0));
}

#[test]
fn p26_tag_changes_within_a_second_at_the_same_size() {
    let site = site();
    let path = site.root.join("changing/p26.bin");
    let modified = std::time::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    let mut tags = Vec::new();
    for (content, nanoseconds) in [("one", 1_000_000), ("two", 2_000_000), ("six", 2_000_000)] {
        fs::write(&path, content).unwrap();
        set_modified(&path, modified + Duration::from_nanos(nanoseconds));
        tags.push(site.tag("/changing/p26.bin"));
        let answer = site.ask("GET", "/changing/p26.bin", &[(INM, &tags[0])]);
        assert_eq!(answer.status, if tags.len() == 1 { 304 } else { 200 });
    }
    tags.dedup();
    assert_eq!(tags.len(), 3, "{tags:?}");
}
