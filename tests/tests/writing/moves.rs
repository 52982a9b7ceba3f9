//! MOVE and DELETE of what has several names: links, hard links, disks that ignore case, shares in
//! shares.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
    process::Command,
};

use spdy_tests::{
    fixture::{Agent, Builds, TempRoot, tool},
    skip::skipped,
};

use crate::{Share, names};

pub(crate) fn move_to(share: &Share, from: &str, to: &str, more: &[(&str, &str)]) -> u16 {
    share.status("MOVE", from, &[&[("destination", to)], more].concat())
}

#[test]
fn file_moved_onto_itself_by_another_path_stays() {
    let share = Share::new();
    share.root.write("dir/film.mkv", b"film");
    share.root.write("dir/sub/song", b"song");
    symlink("dir", share.root.join("link")).unwrap();
    symlink("link", share.root.join("chain")).unwrap();
    symlink("..", share.root.join("dir/up")).unwrap();
    let before = share.names();
    for (from, to) in [
        ("/dir/film.mkv", "/link/film.mkv"),
        ("/link/film.mkv", "/dir/film.mkv"),
        ("/chain/film.mkv", "/link/film.mkv"),
        ("/dir/film.mkv", "/dir/up/dir/film.mkv"),
        ("/dir/sub/", "/link/sub/"),
        ("/link/sub/song", "/chain/sub/song"),
        ("/dir/film.mkv", "/dir/film.mkv"),
    ] {
        for overwrite in ["T", "F"] {
            let status = move_to(&share, from, to, &[("overwrite", overwrite)]);
            assert_eq!(status, 403, "{from} {to} {overwrite}");
            assert_eq!(share.names(), before, "{from} {to} {overwrite}");
        }
    }
    assert_eq!(
        (share.read("dir/film.mkv"), share.read("dir/sub/song")),
        (b"film".into(), b"song".into())
    );
}

#[test]
fn hard_links_are_moved_onto_each_other_and_one_name_is_left() {
    let share = Share::new();
    share.root.write("a/one", b"x");
    fs::create_dir(share.root.join("b")).unwrap();
    symlink("a", share.root.join("link")).unwrap();
    for name in ["a/two", "b/three", "a/four"] {
        fs::hard_link(share.root.join("a/one"), share.root.join(name)).unwrap();
    }
    // The same entry by two paths is not two links, however many others there are.
    assert_eq!(move_to(&share, "/a/one", "/link/one", &[]), 403);
    assert_eq!(move_to(&share, "/a/one", "/a/two", &[("overwrite", "F")]), 412);
    assert_eq!(move_to(&share, "/a/one", "/a/two", &[]), 204);
    assert_eq!(move_to(&share, "/link/two", "/b/three", &[]), 204);
    assert_eq!(share.names(), ["a", "a/four", "b", "b/three", "link"]);
    assert_eq!(share.read("b/three"), b"x");
    assert_eq!(fs::metadata(share.root.join("b/three")).unwrap().nlink(), 2);
}

#[test]
fn folder_with_an_unfinished_upload_keeps_its_name_until_that_has_ended() {
    let share = Share::new();
    fs::create_dir_all(share.root.join("a/b")).unwrap();
    fs::create_dir(share.root.join("c")).unwrap();
    symlink("a", share.root.join("link")).unwrap();
    let new = share.send("PUT", "/link/b/film", &[("upload-complete", "?0")], b"half");
    assert_eq!(new.status, 201);
    for from in ["/a/", "/a/b/", "/link/b/"] {
        assert_eq!(move_to(&share, from, "/c/x/", &[]), 409, "{from}");
    }
    // What is beside it moves.
    assert_eq!(move_to(&share, "/c/", "/d/", &[]), 201);
    let upload = new.headers["location"].clone();
    assert_eq!(share.ask("HEAD", &upload, &[]).headers["upload-offset"], "4");
    assert_eq!(share.status("DELETE", &upload, &[]), 204);
    assert_eq!(move_to(&share, "/a/b/", "/d/x/", &[]), 201);
    assert_eq!(share.names(), ["a", "d", "d/x", "link"]);
}

#[test]
fn links_that_leave_the_share_are_to_be_read_and_not_to_be_written() {
    let outside = TempRoot::new();
    outside.write("film.mkv", b"film");
    fs::create_dir(outside.join("empty")).unwrap();
    let root = TempRoot::new();
    root.write("own", b"own");
    symlink(outside.path(), root.join("films")).unwrap();
    let share = Share::of(root, &["--follow-into", outside.path().to_str().unwrap()]);
    assert_eq!(share.status("GET", "/films/film.mkv", &[]), 200);
    assert_eq!(share.status("DELETE", "/films/film.mkv", &[]), 403);
    assert_eq!(share.status("DELETE", "/films/empty/", &[]), 403);
    assert_eq!(share.put("/films/new", &[], b"x"), 403);
    assert_eq!(share.put("/films/new", &[("upload-complete", "?0")], b"x"), 403);
    assert_eq!(share.status("MKCOL", "/films/new/", &[]), 403);
    assert_eq!(move_to(&share, "/own", "/films/own", &[]), 403);
    assert_eq!(move_to(&share, "/films/film.mkv", "/mine", &[]), 403);
    assert_eq!(names(outside.path()), ["empty", "film.mkv"]);
    assert_eq!(share.names().first().map(String::as_str), Some("films"));
    // The link itself is the share's.
    assert_eq!(share.status("DELETE", "/films", &[]), 204);
    assert_eq!(names(outside.path()), ["empty", "film.mkv"]);
}

#[test]
fn share_in_a_share_is_changed_by_its_own_rule_whatever_leads_there() {
    let root = TempRoot::new();
    root.write("pub/film", b"film");
    root.write("deep/inner/photo", b"photo");
    fs::create_dir(root.join("deep/inner/empty")).unwrap();
    symlink("pub", root.join("alias")).unwrap();
    symlink("deep", root.join("down")).unwrap();
    let (public, inner) = (root.join("pub"), root.join("deep/inner"));
    let public = format!("pub={}", public.to_str().unwrap());
    let inner = format!("inner={}", inner.to_str().unwrap());
    let share = Share::of(root, &["--share", &public, "--share-rw", &inner]);
    for (method, target, status) in [
        ("DELETE", "/pub/film", 405),
        ("DELETE", "/alias/film", 403),
        ("MKCOL", "/alias/x/", 403),
        // The folders of shares stay where they are.
        ("DELETE", "/deep/inner/", 403),
        ("DELETE", "/down/inner/", 403),
    ] {
        assert_eq!(share.status(method, target, &[]), status, "{method} {target}");
    }
    assert_eq!(share.put("/alias/new", &[], b"x"), 403);
    assert_eq!(share.put("/alias/film", &[], b"x"), 403);
    assert_eq!(move_to(&share, "/alias/film", "/mine", &[]), 403);
    assert_eq!(move_to(&share, "/deep/", "/other/", &[]), 403);
    assert_eq!(move_to(&share, "/deep/inner/", "/deep/outer/", &[]), 403);
    // A share that may be changed may be changed by either way.
    assert_eq!(share.put("/deep/inner/new", &[], b"new"), 201);
    assert_eq!(share.put("/inner/new", &[], b"newer"), 204);
    assert_eq!(share.read("deep/inner/new"), b"newer");
    assert_eq!(share.read("pub/film"), b"film");
}

#[test]
fn read_only_share_inside_stays_so_when_its_directory_is_made_anew() {
    let root = TempRoot::new();
    root.write("pub/film", b"film");
    symlink("pub", root.join("alias")).unwrap();
    let public = format!("pub={}", root.join("pub").to_str().unwrap());
    let share = Share::of(root, &["--share", &public]);
    assert_eq!(share.status("DELETE", "/alias/film", &[]), 403);
    fs::rename(share.root.join("pub"), share.root.join("old")).unwrap();
    share.root.write("pub/film", b"film");
    // No request for the share itself has seen that yet.
    assert_eq!(share.status("DELETE", "/alias/film", &[]), 403);
    assert_eq!(share.put("/alias/film", &[], b"other"), 403);
    assert_eq!(share.read("pub/film"), b"film");
}

#[test]
fn read_only_share_inside_is_one_also_when_it_comes_later() {
    let root = TempRoot::new();
    symlink("pub", root.join("alias")).unwrap();
    let public = format!("pub={}", root.join("pub").to_str().unwrap());
    let share = Share::of(root, &["--share", &public]);
    assert_eq!(share.put("/own", &[], b"own"), 201);
    share.root.write("pub/film", b"film");
    assert_eq!(share.status("DELETE", "/alias/film", &[]), 403);
    assert_eq!(share.read("pub/film"), b"film");
}

/// A disk that takes upper and lower case for the same; `None`, with the reason, where it cannot be.
struct IgnoresCase(TempRoot);

impl IgnoresCase {
    fn mount() -> Option<Self> {
        let root = TempRoot::new();
        let (image, at) = (root.join("image"), root.join("disk"));
        fs::create_dir(&at).unwrap();
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let run = |program: &str, args: &[&str], paths: &[&Path]| {
            let output = Command::new(tool(program)).args(args).args(paths).output().unwrap();
            let is_done = output.status.success();
            if !is_done {
                skipped(format_args!("{program}: {}", String::from_utf8_lossy(&output.stderr)));
            }
            is_done
        };
        let is_there = run("mkntfs", &["-F", "-q", "-Q"], &[&image])
            && run("lowntfs-3g", &["-o", "ignore_case"], &[&image, &at]);
        is_there.then_some(Self(root))
    }
}

impl Drop for IgnoresCase {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.join("disk")).status();
    }
}

#[test]
fn change_of_case_on_a_disk_that_ignores_case_is_a_change_of_name() {
    let Some(disk) = IgnoresCase::mount() else { return };
    let at = disk.0.join("disk");
    fs::create_dir_all(at.join("Dir/Sub")).unwrap();
    fs::create_dir(at.join("pub")).unwrap();
    fs::write(at.join("Dir/x"), b"x").unwrap();
    fs::write(at.join("pub/film"), b"film").unwrap();
    fs::write(at.join("one"), b"linked").unwrap();
    fs::hard_link(at.join("one"), at.join("two")).unwrap();
    let public = format!("pub={}", at.join("pub").to_str().unwrap());
    let mut share = Share::new();
    share.pair.agent.program_mut().kill();
    let arguments = ["--allow-write", "--show-hidden", "--share", &public];
    share.pair.agent = Agent::joined(&Builds::beside(), &at, &share.pair.config(), &arguments);
    spdy_tests::http::wait_for_agent(share.http());
    for (from, to, status) in [
        ("/Dir/x", "/Dir/X", 201),
        // All of these are one name, and some are spelled anew.
        ("/dir/X", "/DIR/x", 201),
        ("/DIR/x", "/dir/x", 403),
        ("/dir/sub/", "/Dir/SUB/", 201),
        ("/Dir/", "/dir/", 201),
        // Of two links one is spelled anew, and then only the other one is left.
        ("/one", "/ONE", 201),
        ("/ONE", "/two", 204),
    ] {
        assert_eq!(move_to(&share, from, to, &[]), status, "{from} {to}");
    }
    assert_eq!(move_to(&share, "/dir/x", "/dir/X", &[("overwrite", "F")]), 201);
    // This disk lists all names in lower case.
    assert_eq!(names(&at), ["dir", "dir/sub", "dir/x", "pub", "pub/film", "two"]);
    assert_eq!(fs::read(at.join("dir/X")).unwrap(), b"x");
    assert_eq!(fs::read(at.join("two")).unwrap(), b"linked");

    // The share inside keeps its rule, and our own files are nobody's, in every spelling.
    assert_eq!(share.status("DELETE", "/PUB/film", &[]), 403);
    assert_eq!(share.put("/Pub/new", &[], b"x"), 403);
    let upload = share.send("PUT", "/film", &[("upload-complete", "?0")], b"half");
    assert_eq!(upload.status, 201);
    let part = names(&at).into_iter().find(|name| name.starts_with(".spdy-part-")).unwrap();
    for name in [part.to_uppercase(), ".SPDY-UPLOADS/".into()] {
        assert_eq!(share.status("GET", &format!("/{name}"), &[]), 404, "{name}");
        assert_eq!(share.status("DELETE", &format!("/{name}"), &[]), 404, "{name}");
    }
    share.pair.agent.program_mut().kill();
}
