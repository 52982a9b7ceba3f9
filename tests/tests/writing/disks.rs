//! Disks that come, go and are exchanged while the agent runs.

use std::{fs, process::Command};

use spdy_tests::{fixture::wait_until, visitor::Visitor};

use crate::{
    Disk, Share,
    form::{Field, post, token},
    names,
};

fn lazily_unmount(at: &std::path::Path) {
    assert!(Command::new("umount").arg("-l").arg(at).status().unwrap().success());
}

#[test]
fn first_request_after_a_disk_was_mounted_is_for_that_disk() {
    for (method, target) in [("PUT", "/photo"), ("MKCOL", "/new/"), ("GET", "/film"), ("GET", "/")]
    {
        let share = Share::new();
        share.root.write("beneath", b"beneath");
        assert_eq!(share.status("GET", "/beneath", &[]), 200);
        let Some(disk) = Disk::mount(share.root.path().to_owned(), "8m") else { return };
        fs::write(disk.0.join("film"), b"film").unwrap();
        let answer = match method {
            "PUT" => share.send("PUT", target, &[], b"photo"),
            _ => share.ask(method, target, &[("accept", "application/json")]),
        };
        assert!(matches!(answer.status, 200 | 201), "{method} {target}: {}", answer.status);
        if target == "/" {
            let page = String::from_utf8_lossy(&answer.start).into_owned();
            assert!(page.contains("film") && !page.contains("beneath"), "{page}");
        }
        drop(disk);
        assert_eq!(share.names(), ["beneath"], "{method} {target}");
    }
}

#[test]
fn request_after_a_disk_was_exchanged_is_for_the_new_one() {
    let share = Share::new();
    let Some(first) = Disk::mount(share.root.path().to_owned(), "8m") else { return };
    assert_eq!(share.put("/a", &[], b"first"), 201);
    lazily_unmount(&first.0);
    let second = Disk::mount(share.root.path().to_owned(), "8m").unwrap();
    assert_eq!(share.status("GET", "/a", &[]), 404);
    assert_eq!(share.put("/b", &[], b"second"), 201);
    assert_eq!(names(&second.0), ["b"]);
}

#[test]
fn request_after_the_folder_was_renamed_is_for_the_one_in_its_place() {
    let share = Share::new();
    share.root.write("a", b"old");
    assert_eq!(share.status("GET", "/a", &[]), 200);
    let aside = share.root.path().with_extension("aside");
    fs::rename(share.root.path(), &aside).unwrap();
    assert_eq!(share.status("GET", "/a", &[]), 503);
    assert_eq!(share.put("/a", &[], b"nowhere"), 503);
    fs::create_dir(share.root.path()).unwrap();
    wait_until("the share is there", || share.put("/b", &[], b"new") != 503);
    assert_eq!((share.names(), names(&aside)), (vec!["b".to_owned()], vec!["a".to_owned()]));
    fs::remove_dir_all(&aside).unwrap();
}

#[test]
fn upload_that_was_under_way_when_its_directory_was_exchanged_is_refused() {
    // A disk comes over the share, over a directory in it, and a directory gets another name.
    for (target, over) in [("/film", Some("")), ("/in/film", Some("in")), ("/in/film", None)] {
        let share = Share::new();
        fs::create_dir(share.root.join("in")).unwrap();
        share.root.write(&target[1..], b"old");
        let mut uploads: Vec<Visitor> = ["Content-Length: 8\r\n", "Transfer-Encoding: chunked\r\n"]
            .into_iter()
            .map(|framing| share.begin("PUT", target, framing, b""))
            .collect();
        uploads[0].send(b"half");
        uploads[1].send(b"4\r\nhalf\r\n");
        let is_temporary = |name: &&String| name.contains(".spdy-put-");
        wait_until("both have begun", || share.names().iter().filter(is_temporary).count() == 2);
        let disk = match over {
            Some(over) => {
                let Some(disk) = Disk::mount(share.root.join(over), "8m") else { return };
                Some(disk)
            }
            None => {
                fs::rename(share.root.join("in"), share.root.join("aside")).unwrap();
                None
            }
        };
        uploads[0].send(b"done");
        uploads[1].send(b"4\r\ndone\r\n0\r\n\r\n");
        for upload in &mut uploads {
            let head = upload.head();
            assert_eq!(head.status, 503, "{target} {over:?}");
            assert!(head.header("retry-after").is_some());
        }
        assert!(disk.as_ref().is_none_or(|disk| names(&disk.0).is_empty()));
        drop(disk);
        if over.is_none() {
            fs::rename(share.root.join("aside"), share.root.join("in")).unwrap();
        }
        let is_ours = |name: &String| name.contains(".spdy-");
        wait_until("nothing is left of them", || !share.names().iter().any(is_ours));
        assert_eq!(share.read(&target[1..]), b"old");
    }
}

#[test]
fn form_that_was_open_while_a_disk_came_is_still_taken() {
    let share = Share::new();
    let other = share.root.join("other");
    let Some(_disk) = Disk::mount(share.root.path().to_owned(), "8m") else { return };
    let token = token(&share, "/");
    let _again = Disk::mount(share.root.path().to_owned(), "8m").unwrap();
    let fields: [Field<'_>; 2] = [("token", None, token.as_bytes()), ("file", Some("a.txt"), b"x")];
    assert_eq!(post(&share, "/", &fields).status, 303);
    assert!(!other.exists() && share.root.join("a.txt").exists());
}
