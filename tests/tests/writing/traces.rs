//! What is left on the disk when an agent ends in the middle, and who removes it.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, SystemTime},
};

use spdy_tests::{
    fixture::{Agent, Builds, TempRoot, wait_until},
    http::wait_for_agent,
    observe::descriptors,
};

use crate::{Disk, Share, names};

/// The agent again, with its share as it lies.
fn restart(share: &mut Share) {
    share.pair.agent.program_mut().kill();
    let (builds, root) = (Builds::beside(), share.root.path());
    share.pair.agent = Agent::joined(&builds, root, &share.pair.config(), &["--allow-write"]);
    wait_for_agent(share.http());
}

fn begin(share: &Share, target: &str) -> spdy_tests::visitor::Visitor {
    let before = share.names().len();
    let visitor = share.begin("PUT", target, "Content-Length: 1000000\r\n", &[7; 100_000]);
    // A temporary file and its record.
    wait_until("the upload has begun", || {
        let is_ours = |name: &&String| name.contains(".spdy-put-");
        share.names().len() > before && share.names().iter().filter(is_ours).count() > 0
    });
    visitor
}

#[test]
fn agent_that_is_killed_in_a_put_leaves_nothing_after_its_next_start() {
    let mut share = Share::new();
    share.root.write("dir/old", b"old");
    for target in ["/dir/old", "/new"] {
        let _visitor = begin(&share, target);
        share.pair.agent.program_mut().kill();
        let left = share.names();
        // As a power cut would: the file and what tells where it is.
        assert!(left.iter().any(|name| name.starts_with(".spdy-uploads/put-")), "{left:?}");
        assert!(left.iter().any(|name| name.contains(".spdy-put-")), "{left:?}");
        restart(&mut share);
        assert_eq!(share.names(), ["dir", "dir/old"]);
        assert_eq!(share.read("dir/old"), b"old");
    }
}

#[test]
fn records_that_cannot_be_read_are_kept_and_told() {
    let mut share = Share::new();
    share.root.write(".spdy-uploads/put-empty", b"");
    share.root.write(".spdy-uploads/put-gone", b".\0gone\0");
    share.root.write(".spdy-uploads/put-long-gone", b".\0gone\0");
    share.root.write(".spdy-uploads/part-broken", b"\xff\0");
    share.root.write(".spdy-uploads/put-out", b"../outside\0x\0");
    share.root.write(".spdy-uploads/put-later", b"not mounted yet\0x\0");
    share.root.write(".spdy-uploads/put-old", b"never mounted again\0x\0");
    share.root.write("dir/film", b"film");
    share.root.write("dir/.spdy-put-x", b"half");
    share.root.write(".spdy-uploads/put-x", b"dir\0film\0");
    share.root.write("dir/.spdy-put-stranger", b"of somebody else");
    let old = SystemTime::now() - Duration::from_secs(8 * 86_400);
    for name in ["put-old", "put-long-gone"] {
        let path = share.root.join(&format!(".spdy-uploads/{name}"));
        fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    }
    restart(&mut share);
    assert_eq!(
        share.names(),
        [
            ".spdy-uploads",
            ".spdy-uploads/part-broken",
            ".spdy-uploads/put-empty",
            ".spdy-uploads/put-gone",
            ".spdy-uploads/put-later",
            ".spdy-uploads/put-out",
            "dir",
            "dir/.spdy-put-stranger",
            "dir/film"
        ]
    );
    for record in ["part-broken", "put-empty"] {
        let line = format!("event=upload_record_unreadable record=.spdy-uploads/{record} ");
        let agent = share.pair.agent.program();
        agent.wait_for("the record", |said| said.contains(&line).then_some(()));
    }
    // Uploads work beside what was left.
    assert_eq!(share.put("/a", &[], b"x"), 201);
}

#[test]
fn change_of_a_name_that_was_cut_is_finished_by_the_next_start() {
    let mut share = Share::new();
    // The file had lost its old name and not got the new one; once something else has it already.
    for (id, folder, name) in [("0a", "dir", "Film"), ("0b", ".", "taken"), ("0c", ".", "done")] {
        share
            .root
            .write(&format!(".spdy-uploads/move-{id}"), format!("{folder}\0{name}\0").as_bytes());
        if id != "0c" {
            share.root.write(&format!("{folder}/.spdy-move-{id}"), id.as_bytes());
        }
    }
    share.root.write("taken", b"of somebody else");
    // Records that were not whole, or had no name yet, when the power went.
    share.root.write(".spdy-uploads/new-part-1", b"di");
    share.root.write(".spdy-uploads/new-put-2", b"dir\0Song\0");
    share.root.write("dir/.spdy-put-2", b"half");
    restart(&mut share);
    assert_eq!(share.names(), ["dir", "dir/Film", "taken", "taken0b"]);
    assert_eq!((share.read("dir/Film"), share.read("taken0b")), (b"0a".into(), b"0b".into()));
    assert_eq!(share.read("taken"), b"of somebody else");
}

#[test]
fn agent_that_starts_beside_another_leaves_its_uploads_alone() {
    let share = Share::new();
    let mut visitor = begin(&share, "/a");
    let mut other = Agent::serve(share.root.path(), share.pair.proxy.tunnel);
    // It says so once it has looked at the folder.
    let line = |line: &str| line.contains("event=connect").then_some(());
    other.program().wait_for("its first try", line);
    assert!(share.names().iter().any(|name| name.starts_with(".spdy-put-")));
    visitor.send(vec![7; 900_000]);
    let answer = spdy_tests::http::Response::read(&mut visitor, "PUT").unwrap();
    assert_eq!((answer.status, share.names()), (201, vec!["a".to_owned()]));
    other.program_mut().kill();
}

#[test]
fn uploads_go_on_while_other_agents_start_on_the_same_folder() {
    let share = Share::new();
    let is_over = AtomicBool::new(false);
    let put = |client: usize| {
        let (share, is_over) = (&share, &is_over);
        move || {
            let mut uploads = 0;
            while !is_over.load(Relaxed) {
                let status = share.put(&format!("/{client}-{uploads}"), &[], b"content");
                assert_eq!(status, 201, "{client}-{uploads}");
                uploads += 1;
            }
            uploads
        }
    };
    let uploads: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..6).map(|client| scope.spawn(put(client))).collect();
        for _ in 0..150 {
            let mut other = Agent::serve(share.root.path(), share.pair.proxy.tunnel);
            let line = |line: &str| line.contains("event=connect").then_some(());
            other.program().wait_for("its first try", line);
            other.program_mut().kill();
        }
        is_over.store(true, Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    println!("{uploads} uploads");
    assert_eq!(share.names().len(), uploads);
}

#[test]
fn what_is_not_whole_is_seen_by_nobody() {
    let share = Share::with(&["--show-hidden"]);
    share.root.write(".seen", b"x");
    assert_eq!(share.put("/.new", &[], b"x"), 201);
    let _visitor = begin(&share, "/a");
    let page = share.ask("GET", "/", &[]).text();
    assert!(!page.contains("spdy-"), "{page}");
    for name in share.names().iter().filter(|name| name.contains(".spdy-")) {
        for method in ["GET", "DELETE", "PUT"] {
            assert_eq!(share.send(method, &format!("/{name}"), &[], b"").status, 404, "{name}");
        }
    }
    assert_eq!(share.put("/.spdy-x", &[], b"x"), 404);
    assert_eq!(share.status("GET", "/.seen", &[]), 200);
}

#[test]
fn root_that_the_agent_may_not_write_to_does_not_forbid_its_folders() {
    let root = TempRoot::new();
    // Who may do everything still cannot write to a disk that takes nothing.
    let Some(outer) = Disk::mount(root.path().to_owned(), "1m") else { return };
    let Some(inner) = Disk::mount(root.join("dir"), "1m") else { return };
    outer.make_read_only();
    let share = Share::of(root, &[]);
    assert_eq!(share.put("/dir/a", &[], b"x"), 201);
    assert_eq!(share.put("/a", &[], b"x"), 403);
    assert_eq!(share.put("/dir/b", &[("upload-complete", "?0")], b"x"), 403);
    assert_eq!(share.names(), ["dir", "dir/a"]);
    drop((inner, outer));
}

#[test]
fn disk_without_room_for_another_file_keeps_what_is_there_and_nothing_else() {
    // The root, a file, and what an upload makes one after the other: the directory of records, a
    // record, the temporary file.
    for (inodes, status) in [(2, 507), (3, 507), (4, 507), (5, 204)] {
        let share = Share::new();
        let options = format!("size=4m,nr_inodes={inodes}");
        let Some(disk) = Disk::with_options(share.root.path().to_owned(), &options) else { return };
        share.root.write("old", b"old");
        assert_eq!(share.put("/old", &[], b"new"), status, "{inodes}");
        assert_eq!(share.names(), ["old"], "{inodes}");
        assert_eq!(share.read("old"), if status == 204 { b"new" } else { b"old" }, "{inodes}");
        drop(disk);
    }
}

#[test]
fn file_in_the_place_of_the_records_forbids_only_uploads_that_need_one() {
    let share = Share::new();
    share.root.write(".spdy-uploads", b"of somebody else");
    assert_eq!(share.put("/a", &[], b"x"), 201);
    assert_eq!(share.put("/b", &[("upload-complete", "?0")], b"x"), 403);
    assert_eq!(share.read(".spdy-uploads"), b"of somebody else");
    assert_eq!(share.names(), [".spdy-uploads", "a"]);
}

#[test]
fn uploads_of_all_kinds_give_their_descriptors_back() {
    let share = Share::new();
    let id = share.pair.agent.program().id();
    let round = |share: &Share| {
        assert_eq!(share.put("/a", &[], b"x"), 201);
        let upload = share.send("PUT", "/b", &[("upload-complete", "?0")], b"x");
        let upload = upload.headers["location"].clone();
        assert_eq!(share.put("/none/a", &[], b"x"), 409);
        assert_eq!(share.put("/a", &[("if-match", "\"x\"")], b"x"), 412);
        drop(begin(share, "/c"));
        assert_eq!(share.status("DELETE", &upload, &[]), 204);
        assert_eq!(share.status("DELETE", "/a", &[]), 204);
        wait_until("nothing is left", || names(share.root.path()).is_empty());
    };
    round(&share);
    let before = descriptors(id);
    for _ in 0..20 {
        round(&share);
    }
    wait_until("all files are closed", || descriptors(id) <= before);
}
