//! DELETE, MKCOL and MOVE.

use std::{fs, os::unix::fs::symlink};

use spdy_tests::fixture::TempRoot;

use crate::{Disk, Share, names};

#[test]
fn delete_removes_a_file_a_link_or_an_empty_folder() {
    let outside = TempRoot::new();
    outside.write("secret", b"x");
    let share = Share::new();
    share.root.write("a b.txt", b"x");
    share.root.write("full/x", b"x");
    share.root.write("hides/.x", b"x");
    fs::create_dir(share.root.join("empty")).unwrap();
    fs::create_dir(share.root.join("empty2")).unwrap();
    symlink(outside.path(), share.root.join("out")).unwrap();
    symlink("full", share.root.join("in")).unwrap();
    for (target, status) in [
        ("/none", 404),
        ("/none/x", 404),
        ("/a%20b.txt/", 404),
        ("/a%20b.txt", 204),
        ("/a%20b.txt", 404),
        ("/full/", 409),
        ("/full", 409),
        ("/hides/", 409),
        ("/hides/.x", 404),
        ("/empty/", 204),
        ("/empty2", 204),
        ("/out/secret", 404),
        ("/out/", 404),
        ("/out", 204),
        ("/in", 204),
        ("/", 403),
    ] {
        assert_eq!(share.status("DELETE", target, &[]), status, "{target}");
    }
    let recursive = [("depth", "infinity")];
    assert_eq!(share.status("DELETE", "/full/", &recursive), 409);
    assert_eq!(share.names(), ["full", "full/x", "hides", "hides/.x"]);
    assert_eq!(names(outside.path()), ["secret"]);
}

#[test]
fn mkcol_makes_one_folder() {
    let share = Share::new();
    share.root.write("file", b"x");
    for (target, status) in [
        ("/a", 201),
        ("/a/", 405),
        ("/a/b%20c/", 201),
        ("/file", 405),
        ("/none/x", 409),
        ("/file/x", 409),
        ("/.a", 404),
        ("/a%0a", 400),
        ("/", 405),
    ] {
        let answer = share.ask("MKCOL", target, &[]);
        assert_eq!(answer.status, status, "{target}");
        assert_eq!(answer.headers.contains_key("allow"), status == 405, "{target}");
    }
    assert_eq!(share.send("MKCOL", "/d", &[], b"body").status, 415);
    assert_eq!(share.status("MKCOL", "/d", &[("if-match", "*")]), 412);
    assert_eq!(share.names(), ["a", "a/b c", "file"]);
}

#[test]
fn move_onto_another_name_of_the_same_file_leaves_one() {
    let share = Share::new();
    share.root.write("a", b"a");
    fs::hard_link(share.root.join("a"), share.root.join("b")).unwrap();
    assert_eq!(share.status("MOVE", "/a", &[("destination", "/b")]), 204);
    assert_eq!(share.names(), ["b"]);
    assert_eq!(fs::read(share.root.join("b")).unwrap(), b"a");
}

#[test]
fn move_gives_another_name_in_the_same_share() {
    let share = Share::new();
    share.root.write("a", b"a");
    share.root.write("b", b"b");
    share.root.write("dir/x", b"x");
    share.root.write("full/x", b"x");
    fs::create_dir(share.root.join("empty")).unwrap();
    symlink("a", share.root.join("link")).unwrap();
    let http = share.http();
    let to = |path: &str| format!("http://{http}{path}");
    let rename = |from: &str, to: &str, more: &[(&str, &str)]| {
        share.status("MOVE", from, &[&[("destination", to)], more].concat())
    };
    let no = [("overwrite", "F")];
    for (from, to, more, status) in [
        ("/none", to("/x"), &[][..], 404),
        ("/a", to("/none/x"), &[], 409),
        ("/a", to("/b"), &no, 412),
        ("/a", to("/full"), &no, 412),
        ("/a", to("/a"), &[], 403),
        ("/a", to("/full/"), &[], 409),
        ("/a", to("/link"), &[], 409),
        ("/dir/", to("/b"), &[], 409),
        ("/dir/", to("/full"), &[], 409),
        ("/dir/", to("/dir/y"), &[], 409),
        ("/dir/", to("/dir/y"), &no, 409),
        ("/", to("/x"), &[], 403),
        ("/a", to("/"), &[], 403),
        ("/a", to("/.hidden"), &[], 400),
        ("/a", to("/x%0a"), &[], 400),
        ("/a", to("/../x"), &[], 400),
        ("/a", to("/x?y"), &[], 400),
        ("/a", "x".to_owned(), &[], 400),
        ("/a", "http://elsewhere.example/x".to_owned(), &[], 502),
        ("/a", format!("http://{http}1/x"), &[], 502),
        ("/a/", to("/x"), &[], 404),
        ("/a", to("/x"), &[("if-match", "\"stale\"")], 412),
    ] {
        assert_eq!(rename(from, &to, more), status, "{from} to {to} {more:?}");
    }
    assert_eq!(share.status("MOVE", "/a", &[]), 400);
    assert_eq!(share.names(), ["a", "b", "dir", "dir/x", "empty", "full", "full/x", "link"]);

    assert_eq!(rename("/a", "/new%20name", &no), 201);
    assert_eq!(rename("/new%20name", &to("/b"), &[]), 204);
    assert_eq!(rename("/b", &to("/dir/b"), &[]), 201);
    assert_eq!(rename("/dir/", &to("/moved/"), &no), 201);
    assert_eq!(rename("/moved", &to("/empty"), &[]), 204);
    assert_eq!(rename("/link", &to("/empty/link"), &[]), 201);
    assert_eq!(share.names(), ["empty", "empty/b", "empty/link", "empty/x", "full", "full/x"]);
    assert_eq!(share.read("empty/b"), b"a");
    assert_eq!(fs::read_link(share.root.join("empty/link")).unwrap().to_str(), Some("a"));
    let tag = share.tag("/empty/b");
    assert_eq!(rename("/empty/b", "/b", &[("if-match", &tag)]), 201);
}

#[test]
fn shares_are_changed_apart() {
    let (a, b) = (TempRoot::new(), TempRoot::new());
    a.write("file", b"x");
    let args = [
        format!("--share-rw=a={}", a.path().display()),
        format!("--share={}={}", "b", b.path().display()),
    ];
    let share = Share::with(&args.each_ref().map(String::as_str));
    for (method, target, headers, status) in [
        ("MOVE", "/a/file", &[("destination", "/b/file")][..], 502),
        ("MOVE", "/a/file", &[("destination", "/file")], 502),
        ("MOVE", "/a/file", &[("destination", "/a")], 403),
        ("DELETE", "/a/", &[], 403),
        ("DELETE", "/b/", &[], 405),
        ("MKCOL", "/a", &[], 405),
        ("MKCOL", "/b/x", &[], 405),
        ("MKCOL", "/x", &[], 201),
        ("MOVE", "/x", &[("destination", "/a/x")], 502),
        ("MOVE", "/a/file", &[("destination", "/a/other")], 201),
    ] {
        assert_eq!(share.status(method, target, headers), status, "{method} {target} {headers:?}");
    }
    assert_eq!(share.put("/a", &[], b"x"), 409);
    assert_eq!(share.put("/a/new", &[], b"x"), 201);
    assert_eq!((names(a.path()), names(b.path())), (vec!["new".into(), "other".into()], vec![]));
    assert_eq!(share.names(), ["x"]);
}

#[test]
fn move_to_another_disk_is_refused() {
    let share = Share::new();
    share.root.write("a", b"a");
    let Some(disk) = Disk::mount(share.root.join("disk"), "1m") else { return };
    let answer = share.ask("MOVE", "/a", &[("destination", "/disk/a")]);
    assert_eq!((answer.status, answer.text().contains("another disk")), (502, true));
    assert_eq!(share.status("DELETE", "/disk/", &[]), 409);
    assert_eq!(share.put("/disk/a", &[], b"x"), 201);
    assert_eq!(share.names(), ["a", "disk", "disk/a"]);
    drop(disk);
}

#[test]
fn options_tell_what_can_be_done() {
    let share = Share::with(&["--max-upload", "7"]);
    for (target, methods) in [
        ("/", "GET, HEAD, OPTIONS, POST, DELETE, MKCOL, MOVE"),
        ("/x", "GET, HEAD, OPTIONS, PUT, DELETE, MKCOL, MOVE"),
        ("/x?upload=0", "GET, HEAD, OPTIONS, PATCH, DELETE"),
    ] {
        let answer = share.ask("OPTIONS", target, &[]);
        assert_eq!((answer.status, answer.headers["allow"].as_str()), (204, methods));
        assert_eq!(answer.headers["accept-patch"], "application/partial-upload");
        assert_eq!(answer.headers["upload-limit"], "max-size=7, max-age=604800");
    }
    let answer = share.ask("PATCH", "/x", &[]);
    assert_eq!(answer.status, 405);
    let answer = share.ask("POST", "/x", &[]);
    assert_eq!(answer.status, 405);
}
