//! Offsets that need 64 bits, in a sparse file of 5 GiB.

use std::{fs, os::unix::fs::MetadataExt};

use spdy_tests::observe::{memory, octets_read};

use super::site::{HUGE, site};

#[test]
fn l01_head_says_the_whole_length() {
    assert_eq!(site().ask("HEAD", "/huge.bin", &[]).headers["content-length"], "5368709120");
}

cases! { part:
    l02_open_range_at_the_end_is_exact("bytes=5368709116-", 5_368_709_116, "TAIL");
    l03_suffix_is_exact("bytes=-4", 5_368_709_116, "TAIL");
    l04_range_across_32_bits_is_exact("bytes=4294967290-4294967300", 4_294_967_290, "the middle.");
}

fn part(asked: &str, first: u64, body: &str) {
    let answer = site().ask("GET", "/huge.bin", &[("Range", asked)]);
    assert_eq!((answer.status, answer.text().as_str()), (206, body));
    let last = first + body.len() as u64 - 1;
    assert_eq!(answer.headers["content-range"], format!("bytes {first}-{last}/{HUGE}"));
}

/// Neither memory nor disk: the file stays sparse, and the agent reads no more than it sends.
#[test]
fn l05_reading_holes_allocates_nothing() {
    const LEN: u64 = 64 << 20;
    let blocks = || fs::metadata(site().root.join("huge.bin")).unwrap().blocks();
    let before = blocks();
    let id = site().pair.agent.program().id();
    let (held, read) = (memory(id), octets_read(id));
    let range = format!("bytes=1073741824-{}", (1 << 30) + LEN - 1);
    let answer = site().ask("GET", "/huge.bin", &[("Range", &range)]);
    assert_eq!((answer.status, answer.len), (206, LEN));
    assert_eq!(blocks(), before);
    assert!(memory(id).saturating_sub(held) < 16 << 20);
    assert!(octets_read(id) - read >= LEN);
}
