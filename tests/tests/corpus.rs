//! Every file of the fuzz corpora through the same functions as the fuzz targets.

use std::{fs, panic};

use spdy_tests::{fuzz, source::workspace};

/// Replays `fuzz/corpus/TARGET`; names the file that fails.
fn replay(target: &str, body: fn(&[u8])) {
    let folder = workspace().join("fuzz/corpus").join(target);
    let mut files = 0;
    let entries = fs::read_dir(&folder).expect("the corpus is committed");
    for path in entries.map(|entry| entry.expect("a folder can be listed").path()) {
        let octets = fs::read(&path).expect("a file of the corpus can be read");
        // Every shorter input too, up to a bound: it costs little and finds what a cut leaves open.
        let step = (octets.len() / 64).max(1);
        let cuts = (0..octets.len()).step_by(step).chain([octets.len()]);
        for end in cuts {
            let result = panic::catch_unwind(|| body(&octets[..end]));
            assert!(result.is_ok(), "{} cut at {end}", path.display());
        }
        files += 1;
    }
    assert!(files > 2, "{} has no seeds", folder.display());
}

#[test]
fn frame_corpus_holds() {
    replay("frame", fuzz::frame);
}

#[test]
fn headers_corpus_holds() {
    replay("headers", fuzz::headers);
}

#[test]
fn handshake_corpus_holds() {
    replay("handshake", fuzz::handshake);
}

#[test]
fn session_corpus_holds() {
    replay("session", fuzz::session);
}

#[test]
fn every_target_has_a_corpus_and_a_replay() {
    let targets = fs::read_dir(workspace().join("fuzz/fuzz_targets")).unwrap();
    let own = fs::read_to_string(workspace().join("tests/tests/corpus.rs")).unwrap();
    let mut names = Vec::new();
    for entry in targets {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(workspace().join("fuzz/corpus").join(&name).is_dir(), "{name}");
        assert!(own.contains(&format!("replay(\"{name}\", fuzz::{name})")), "{name}");
        names.push(name);
    }
    assert!(names.len() >= 4, "{names:?}");
}
