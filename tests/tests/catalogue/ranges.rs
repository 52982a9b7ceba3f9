//! One range of a file.

use std::collections::BTreeMap;

use super::site::site;

cases! { part:
    r01_first_octets_are_206("bytes=0-4", "0-4", "01234");
    r02_suffix_is_the_end("bytes=-3", "7-9", "789");
    r03_open_range_goes_to_the_end("bytes=9-", "9-9", "9");
    r04_end_beyond_the_file_is_clamped("bytes=5-999", "5-9", "56789");
    r05_suffix_longer_than_the_file_is_all_of_it("bytes=-999", "0-9", "0123456789");
    r10_unit_is_known_in_any_case("Bytes=0-4", "0-4", "01234");
    r13_empty_elements_are_nothing("bytes=,0-4,", "0-4", "01234");
    r14_end_that_fits_no_number_is_clamped("bytes=0-99999999999999999999999", "0-9", "0123456789");
    r21_all_of_the_file_as_a_range_is_206("bytes=0-", "0-9", "0123456789");
}

pub(crate) fn part(asked: &str, range: &str, body: &str) {
    let answer = site().ask("GET", "/ten.txt", &[("Range", asked)]);
    assert_eq!((answer.status, answer.text().as_str()), (206, body));
    assert_eq!(answer.headers["content-range"], format!("bytes {range}/10"));
    assert_eq!(answer.headers["content-length"], body.len().to_string());
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
}

cases! { unsatisfiable:
    r06_range_behind_the_end_is_416("bytes=10-");
    r07_suffix_of_nothing_is_416("bytes=-0");
    r08_range_that_ends_before_it_begins_is_416("bytes=5-2");
    r11_letters_are_416("bytes=abc");
    r11_two_dashes_are_416("bytes=--6");
    r11_dashes_on_both_sides_are_416("bytes=-6-");
    r11_number_without_a_dash_is_416("bytes=10");
    r15_start_that_fits_no_number_is_416("bytes=18446744073709551616-");
}

fn unsatisfiable(asked: &str) {
    let answer = site().ask("GET", "/ten.txt", &[("Range", asked)]);
    assert_eq!((answer.status, answer.headers["content-range"].as_str()), (416, "bytes */10"));
    assert!(!answer.text().contains("0123"));
}

cases! { whole:
    r09_unknown_unit_is_ignored("GET", "/ten.txt", &["items=0-4"]);
    r16_head_knows_no_ranges("HEAD", "/ten.txt", &["bytes=0-4"]);
    r18_range_of_an_empty_file_is_200("GET", "/empty.txt", &["bytes=0-"]);
    r18b_suffix_of_an_empty_file_is_200("GET", "/empty.txt", &["bytes=-5"]);
    r22_two_range_headers_are_ignored("GET", "/ten.txt", &["bytes=0-0", "bytes=9-9"]);
}

fn whole(method: &str, target: &str, asked: &[&str]) {
    let ranges: Vec<_> = asked.iter().map(|value| ("Range", *value)).collect();
    let [with, without] = [&ranges[..], &[]].map(|headers| site().ask(method, target, headers));
    assert_eq!((with.status, with.headers.get("content-range")), (200, None));
    assert_eq!(with.headers["content-length"], without.headers["content-length"]);
    assert_eq!(with.sha256, without.sha256);
}

#[test]
fn r12_space_after_the_comma_separates_two_ranges() {
    let answer = site().ask("GET", "/ten.txt", &[("Range", "bytes=0-0, 9-9")]);
    let media_type = &answer.headers["content-type"];
    assert_eq!(answer.status, 206);
    assert!(media_type.starts_with("multipart/byteranges"), "{media_type}");
}

#[test]
fn r17_post_with_a_range_is_405() {
    assert_eq!(site().ask("POST", "/ten.txt", &[("Range", "bytes=0-4")]).status, 405);
}

#[test]
fn r19_part_has_the_headers_of_the_whole() {
    let _settled = site().validators();
    let [part, whole] = [&[("Range", "bytes=0-4")][..], &[]].map(|headers| {
        let headers = site().ask("GET", "/ten.txt", headers).headers;
        let names = ["etag", "last-modified", "cache-control", "vary", "x-content-type-options"];
        let kept = headers.into_iter().filter(|(name, _)| names.contains(&name.as_str()));
        kept.collect::<BTreeMap<_, _>>()
    });
    assert_eq!(part, whole);
    assert!(part.len() >= 4, "{part:?}");
    let answer = site().ask("GET", "/ten.txt", &[("Range", "bytes=0-4")]);
    assert_eq!(answer.all("date").len(), 1);
}

/// Safari asks for two octets first and plays nothing unless it gets exactly those.
#[test]
fn r20_safari_gets_what_it_probes_for() {
    part("bytes=0-1", "0-1", "01");
    part("bytes=0-9", "0-9", "0123456789");
}
