//! Several ranges of a file.

use spdy_tests::visitor::Head;

use super::{
    ranges::part,
    site::{BIG, numbered, site},
};

/// Type, range and octets of each part.
type Parts = Vec<(String, String, Vec<u8>)>;

/// Takes a body of several parts apart; strictly.
fn parts(head: &Head, body: &[u8]) -> (String, Parts) {
    assert_eq!((head.status, head.header("content-range")), (206, None));
    assert_eq!(head.header("content-length"), Some(body.len().to_string().as_str()));
    let media_type = head.header("content-type").unwrap();
    let boundary = media_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let boundary = boundary.trim_matches('"').to_owned();
    let mut found = Vec::new();
    let mut rest = body.strip_prefix(b"\r\n").unwrap_or(body);
    let (delimiter, between) = (format!("--{boundary}"), format!("\r\n--{boundary}"));
    loop {
        rest = rest.strip_prefix(delimiter.as_bytes()).unwrap();
        if let Some(end) = rest.strip_prefix(b"--") {
            assert!(matches!(end, b"" | b"\r\n"), "{}", end.escape_ascii());
            return (boundary, found);
        }
        let at = |what: &[u8], from: &[u8]| from.windows(what.len()).position(|some| some == what);
        let head = at(b"\r\n\r\n", rest).unwrap();
        let lines = String::from_utf8(rest[2..head].to_vec()).unwrap();
        let line = |name: &str| {
            let mut pairs = lines.lines().filter_map(|line| line.split_once(": "));
            pairs.find(|pair| pair.0.eq_ignore_ascii_case(name)).unwrap().1.to_owned()
        };
        let octets = &rest[head + 4..];
        let len = at(between.as_bytes(), octets).unwrap();
        found.push((line("content-type"), line("content-range"), octets[..len].to_vec()));
        rest = &octets[len + 2..];
    }
}

cases! { several:
    m01_two_ranges_are_two_parts("bytes=0-0,9-9", &[("0-0", "0"), ("9-9", "9")]);
    m02_parts_come_in_the_order_asked_for("bytes=8-9,0-1", &[("8-9", "89"), ("0-1", "01")]);
    m09_ranges_with_a_gap_are_not_merged("bytes=0-1,5-8", &[("0-1", "01"), ("5-8", "5678")]);
}

fn several(asked: &str, wanted: &[(&str, &str)]) {
    let (head, body) = site().whole("/ten.txt", &[("Range", asked)]);
    let found = parts(&head, &body).1;
    let wanted: Parts = wanted
        .iter()
        .map(|(range, octets)| {
            let media_type = "text/plain; charset=utf-8".to_owned();
            (media_type, format!("bytes {range}/10"), octets.as_bytes().to_vec())
        })
        .collect();
    assert_eq!(found, wanted);
}

cases! { part:
    m03_one_range_that_exists_is_a_plain_part("bytes=0-1,50-60", "0-1", "01");
    m07_overlapping_ranges_are_merged("bytes=0-5,3-8", "0-8", "012345678");
    m08_adjacent_ranges_are_merged("bytes=0-4,5-9", "0-9", "0123456789");
}

#[test]
fn m04_ranges_that_do_not_exist_are_416() {
    let answer = site().ask("GET", "/ten.txt", &[("Range", "bytes=20-30,50-60")]);
    assert_eq!((answer.status, answer.headers["content-range"].as_str()), (416, "bytes */10"));
}

#[test]
fn m05_the_same_range_200_times_costs_the_file_once() {
    let asked = format!("bytes={}", ["0-"; 200].join(","));
    let answer = site().ask("GET", "/big.txt", &[("Range", &asked)]);
    assert!(matches!(answer.status, 200 | 206), "{}", answer.status);
    assert!(answer.len <= BIG as u64 * 105 / 100, "{}", answer.len);
}

#[test]
fn m06_a_thousand_tiny_ranges_cost_half_a_file_more_at_most() {
    let ranges: Vec<_> = (0..1_000).map(|at| format!("{0}-{0}", 2 * at)).collect();
    let asked = format!("bytes={}", ranges.join(","));
    let answer = site().ask("GET", "/big.txt", &[("Range", &asked)]);
    assert!(matches!(answer.status, 200 | 206 | 416), "{}", answer.status);
    assert!(answer.len <= BIG as u64 * 3 / 2, "{}", answer.len);
}

#[test]
fn m10_boundary_is_random_and_not_in_the_file() {
    let content = numbered(BIG);
    let boundaries = [(); 2].map(|()| {
        let (head, body) = site().whole("/big.txt", &[("Range", "bytes=0-999,50000-60000")]);
        let (boundary, found) = parts(&head, &body);
        let octets: Vec<_> = found.into_iter().map(|part| part.2).collect();
        assert_eq!(octets, [&content[..1_000], &content[50_000..=60_000]]);
        // 128 bits take 22 characters at least, and RFC 2046 allows 70.
        assert!((22..=70).contains(&boundary.len()), "{boundary}");
        boundary
    });
    assert_ne!(boundaries[0], boundaries[1]);
}
