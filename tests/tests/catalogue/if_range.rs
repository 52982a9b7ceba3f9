//! `If-Range`: a part only of the file that the visitor has the rest of.

use std::fs;

use super::site::site;

const LATER: &str = "Tue, 01 Jan 2019 00:00:00 GMT";

cases! { get:
    i01_same_tag_is_206("bytes=0-4", "{E}", 206);
    i02_other_tag_is_200("bytes=0-4", "\"zz\"", 200);
    i03_weak_form_of_the_tag_is_200("bytes=0-4", "W/{E}", 200);
    i04_same_date_of_an_old_file_is_206("bytes=0-4", "{LM}", 206);
    i05_later_date_is_200("bytes=0-4", LATER, 200);
    i07_mismatch_beats_a_range_that_does_not_exist("bytes=50-", "\"zz\"", 200);
}

fn get(range: &str, value: &str, status: u16) {
    let answer = site().ask("GET", "/ten.txt", &[("Range", range), ("If-Range", value)]);
    let body = if status == 206 { "01234" } else { "0123456789" };
    assert_eq!((answer.status, answer.text().as_str()), (status, body));
}

#[test]
fn i06_without_range_it_means_nothing() {
    let answer = site().ask("GET", "/ten.txt", &[("If-Range", "\"zz\"")]);
    assert_eq!((answer.status, answer.len), (200, 10));
}

#[test]
fn i08_date_younger_than_a_second_is_weak() {
    let site = site();
    let path = site.root.join("changing/i08.txt");
    // Until file, date and answer fall into one second.
    for _ in 0..100 {
        fs::write(&path, "0123456789").unwrap();
        let head = site.ask("HEAD", "/changing/i08.txt", &[]);
        let Some(modified) = head.headers.get("last-modified") else { continue };
        let headers = [("Range", "bytes=0-4"), ("If-Range", modified.as_str())];
        let answer = site.ask("GET", "/changing/i08.txt", &headers);
        if answer.headers["date"] == *modified {
            assert_eq!((answer.status, answer.len), (200, 10));
            return;
        }
    }
    panic!("file, date and answer never fell into one second");
}
