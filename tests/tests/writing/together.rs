//! Several uploads at once, and what the system refuses.

use std::{fs, thread};

use rustix::fs::statvfs;
use spdy_tests::{
    fixture::{Agent, Builds, Random, wait_until},
    http::{Request, wait_for_agent},
    visitor::Visitor,
};

use crate::{Disk, Share};

const NEW: (&str, &str) = ("upload-complete", "?0");

#[test]
fn uploads_that_begin_together_are_all_there() {
    let share = Share::new();
    fs::create_dir(share.root.join("in")).unwrap();
    let begin = |client: usize| {
        let http = share.http();
        move || {
            (0..40)
                .map(|number| {
                    let target = format!("/in/{client}-{number}");
                    let put =
                        Request { headers: &[NEW], ..Request::with_body("PUT", &target, b"x") };
                    let answer = put.send(http).unwrap();
                    assert_eq!(answer.status, 201);
                    let upload = answer.headers["location"].clone();
                    let head =
                        Request { method: "HEAD", ..Request::get(&upload) }.send(http).unwrap();
                    assert_eq!((head.status, head.headers["upload-offset"].as_str()), (204, "1"));
                    let gone = Request { method: "DELETE", ..Request::get(&upload) };
                    assert_eq!(gone.send(http).unwrap().status, 204);
                })
                .count()
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|client| scope.spawn(begin(client))).collect();
        assert_eq!(clients.into_iter().map(|client| client.join().unwrap()).sum::<usize>(), 320);
    });
    assert_eq!(share.names(), ["in"]);
}

#[test]
fn uploads_side_by_side_leave_the_disk_its_reserve() {
    const DISK: u64 = 256 << 20;
    let share = Share::new();
    let Some(disk) = Disk::mount(share.root.path().to_owned(), "256m") else { return };
    // 20 uploads of 16 MiB each do not fit; a hundredth of the disk must be left, at any moment.
    let piece = Random::octets(1 << 20, 9);
    let free = || {
        let stat = statvfs(&disk.0).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    let upload = |number: usize| {
        let mut client =
            share.begin("PUT", &format!("/{number}"), "Transfer-Encoding: chunked\r\n", b"");
        let piece = &piece;
        move || {
            for _ in 0..16 {
                let sent = client
                    .try_send(b"100000\r\n")
                    .and_then(|()| client.try_send(piece))
                    .and_then(|()| client.try_send(b"\r\n"));
                if sent.is_err() {
                    break;
                }
            }
            let _ = client.try_send(b"0\r\n\r\n");
            client.try_head("PUT").map_or(0, |head| head.status)
        }
    };
    let mut least = u64::MAX;
    let statuses: Vec<u16> = thread::scope(|scope| {
        let running: Vec<_> = (0..16).map(|number| scope.spawn(upload(number))).collect();
        while running.iter().any(|upload| !upload.is_finished()) {
            least = least.min(free());
            thread::yield_now();
        }
        running.into_iter().map(|upload| upload.join().unwrap()).collect()
    });
    println!("{statuses:?}, least free {least}");
    assert!(least >= DISK / 100, "{least}");
    assert!(
        statuses.contains(&201) && statuses.iter().all(|status| matches!(status, 201 | 507 | 0))
    );
    for (number, status) in statuses.iter().enumerate() {
        let len = fs::metadata(share.root.join(&number.to_string())).map(|meta| meta.len()).ok();
        assert_eq!(len, (*status == 201).then_some(16 << 20), "{number}");
    }
}

#[test]
fn upload_that_only_lacks_its_name_gets_it_on_a_full_disk() {
    let share = Share::new();
    let Some(disk) = Disk::mount(share.root.path().to_owned(), "8m") else { return };
    let new = share.send("PUT", "/film", &[NEW, ("upload-length", "5")], b"whole");
    let upload = new.headers["location"].clone();
    // The rest of the disk, but for what a record takes.
    let stat = statvfs(&disk.0).unwrap();
    let free = usize::try_from(stat.f_bavail * stat.f_frsize).unwrap();
    fs::write(disk.0.join("other"), vec![0; free]).unwrap();
    let headers = [
        ("content-type", "application/partial-upload"),
        ("upload-offset", "5"),
        ("upload-complete", "?1"),
    ];
    assert_eq!(share.send("PATCH", &upload, &headers, b"").status, 201);
    assert_eq!(share.read("film"), b"whole");
    assert_eq!(share.put("/more", &[], b"x"), 507);
}

#[test]
fn state_of_an_upload_is_503_while_the_agent_has_no_descriptors() {
    let mut share = Share::new();
    share.root.write("large", &vec![7; 8 << 20]);
    let upload = share.send("PUT", "/film", &[NEW], b"half").headers["location"].clone();
    share.pair.agent.program_mut().kill();
    let (builds, root) = (Builds::beside(), share.root.path());
    let before = ["prlimit", "--nofile=40:40"];
    let config = share.pair.config();
    share.pair.agent = Agent::under(&before, &builds, root, &config, &["--allow-write"]);
    wait_for_agent(share.http());
    let mut paused = Vec::new();
    let mut seen = Vec::new();
    for _ in 0..60 {
        let mut client = Visitor::get(share.http(), "/large");
        if client.head().status != 200 {
            break;
        }
        paused.push(client);
        seen.push(share.status("HEAD", &upload, &[]));
    }
    println!("{seen:?}");
    assert!(
        seen.contains(&503) && seen.iter().all(|status| matches!(status, 204 | 503)),
        "{seen:?}"
    );
    drop(paused);
    wait_until("it is there", || share.status("HEAD", &upload, &[]) == 204);
}

#[test]
fn limit_for_files_refuses_an_upload_and_nothing_else() {
    let mut share = Share::new();
    share.root.write("old", b"old");
    share.pair.agent.program_mut().kill();
    let (builds, root) = (Builds::beside(), share.root.path());
    let before = ["prlimit", "--fsize=1000000:1000000"];
    let config = share.pair.config();
    share.pair.agent = Agent::under(&before, &builds, root, &config, &["--allow-write"]);
    wait_for_agent(share.http());
    for _ in 0..3 {
        assert_eq!(share.put("/old", &[], &vec![1; 3_000_000]), 413);
    }
    assert_eq!(share.put("/new", &[], b"new"), 201);
    assert_eq!(
        (share.read("old"), share.names()),
        (b"old".into(), vec!["new".into(), "old".into()])
    );
}

#[test]
fn put_that_lost_its_body_on_the_way_is_refused() {
    let share = Share::new();
    share.root.write("old", b"old");
    assert_eq!(share.status("PUT", "/old", &[]), 411);
    assert_eq!(share.status("PUT", "/new", &[]), 411);
    assert_eq!(share.read("old"), b"old");
    // Who says that it is empty is believed.
    assert_eq!(share.put("/empty", &[], b""), 201);
    let mut chunked =
        share.begin("PUT", "/chunked", "Transfer-Encoding: chunked\r\n", b"0\r\n\r\n");
    assert_eq!(chunked.head().status, 201);
    // An upload begins without content, and ends so where all of it has come.
    let new = share.ask("PUT", "/film", &[NEW, ("upload-length", "0")]);
    assert_eq!(new.status, 201);
    let append = [
        ("content-type", "application/partial-upload"),
        ("upload-offset", "0"),
        ("upload-complete", "?1"),
    ];
    assert_eq!(share.status("PATCH", &new.headers["location"], &append), 201);
    let open = share.ask("PUT", "/open", &[NEW]).headers["location"].clone();
    assert_eq!(share.status("PATCH", &open, &append), 411);
    assert_eq!(share.ask("HEAD", &open, &[]).headers["upload-offset"], "0");
}
