//! Whole folders by their listings, with names that are awkward in HTML, URLs or shells: rclone,
//! lftp.

use std::{collections::BTreeMap, fs, path::Path};

use spdy_tests::fixture::{Sha256, TempRoot};

use super::{pair, run, watched};

const NAMES: [&str; 17] = [
    "a:b.txt",
    "plain.txt",
    "with space.txt",
    " space before.txt",
    "umläut ä.txt",
    "100%.txt",
    "%41.txt",
    "a#b.txt",
    "why?.txt",
    "semi;colon & amp&amp;.txt",
    "plus+minus-.txt",
    "quo\"te's.txt",
    "<angle>[1].txt",
    "back\\slash.txt",
    "folder #1 (100%)/in it?.txt",
    "folder/deeper/日本 語.txt",
    "folder/deeper/x=1&y.txt",
];

/// Files with [`NAMES`] and a large one.
fn tree() -> TempRoot {
    let root = TempRoot::new();
    for name in NAMES {
        root.write(name, name.as_bytes());
    }
    root.random_file("folder/large.bin", 5_000_000, 7);
    root
}

/// Path and digest of every file below a folder.
fn digests(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(below) = folders.pop() {
        for path in fs::read_dir(below).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, Sha256::of_file(&path));
            }
        }
    }
    found
}

#[test]
fn rclone_copies_a_tree_by_its_listings() {
    let root = tree();
    let pair = pair(root.path(), &[]);
    let here = TempRoot::new();
    let (address, folder) =
        (format!("http://{}/", pair.proxy.http), here.path().to_str().unwrap().to_owned());
    let rclone = |command: &str, more: &[&str]| {
        let from = ["--config=", "--http-url", &address, command, ":http:", &folder];
        run("rclone", &[&from[..], more].concat())
    };
    rclone("copy", &[]);
    assert_eq!(digests(here.path()), digests(root.path()));
    // Octet for octet, both ways.
    rclone("check", &["--download"]);
    // What is there already is not fetched again.
    let said = rclone("copy", &["--stats-one-line", "-v", "--stats=1h"]);
    assert_eq!(said, "");
}

#[test]
fn lftp_mirrors_a_tree_by_its_listings() {
    let root = tree();
    let pair = pair(root.path(), &[]);
    let here = TempRoot::new();
    let script = format!(
        "set net:max-retries 2; mirror --parallel=4 http://{}/ {}",
        pair.proxy.http,
        here.path().display()
    );
    run("lftp", &["--norc", "-c", &script]);
    assert_eq!(digests(here.path()), digests(root.path()));
}

#[test]
fn lftp_goes_on_where_a_download_ended() {
    const LEN: u64 = 8 << 20;
    let root = TempRoot::new();
    let digest = root.random_file("film.mkv", LEN, 8);
    let pair = pair(root.path(), &[]);
    let here = TempRoot::new();
    let file = here.join("film.mkv");
    fs::write(&file, &fs::read(root.join("film.mkv")).unwrap()[..3_000_001]).unwrap();
    let (recorder, address) = watched(&pair, "film.mkv");
    let script = format!("set net:max-retries 2; get -c {address} -o {}", file.display());
    run("lftp", &["--norc", "-c", &script]);
    assert_eq!(Sha256::of_file(&file), digest);
    let exchanges = recorder.exchanges();
    assert!(exchanges.iter().any(|one| one.range() == Some((3_000_001, None))), "{exchanges:?}");
    let taken: u64 = exchanges.iter().map(|one| one.octets).sum();
    assert!(taken < LEN - 3_000_001 + 10_000, "{taken}");
}
