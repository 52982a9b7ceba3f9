//! What files and folders can do to an agent that is not in any list of requests: a folder without
//! measure beside many streams, filesystems that make numbers up.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use rustix::process::geteuid;
use spdy_tests::{
    fixture::{Agent, Builds, Pair, TempRoot, wait_until},
    http::Request,
    observe::{forget_peak, memory, memory_peak},
    visitor::Visitor,
};

use super::{
    site::{MANY, is_emulated, site, traced, unprivileged, works},
    time::words,
};

/// The words before a program that mount an empty filesystem of a size on a folder, for that
/// program alone; `None`, and why, where that is forbidden.
pub(crate) fn mounted(folder: &Path, size: &str) -> Option<Vec<String>> {
    let flags = if geteuid().is_root() { "-m" } else { "-rm" };
    let mount = format!("mount -t tmpfs -o size={size} none \"$0\" && exec \"$@\"");
    let words = ["unshare", flags, "sh", "-c", &mount, folder.to_str().unwrap()];
    works(&words).then(|| words.map(str::to_owned).to_vec())
}

/// What may be added to an idle agent by 64 streams and a folder of 100,000 names: entries, blocks
/// and the tunnel's output. `tests/tests/bounds.rs` has the absolute figure.
const GROWTH: u64 = 8 << 20;

#[test]
fn large_folder_is_listed_beside_64_streams_in_bounded_memory() {
    let pair = Pair::under(&unprivileged(), &site().root, &[]);
    let http = pair.proxy.http;
    assert_eq!(Request::get("/").send(http).unwrap().status, 200);
    let id = pair.agent.program().id();
    let idle = memory(id);
    forget_peak(id);
    let mut visitors: Vec<_> = (0..64).map(|_| Visitor::get(http, "/huge.bin")).collect();
    for visitor in &mut visitors {
        assert_eq!(visitor.head().status, 200);
    }
    let mut listing = Visitor::connect(http);
    listing.send("GET /many/ HTTP/1.0\r\nHost: nas1\r\n\r\n");
    assert_eq!(listing.head().status, 200);
    for visitor in &mut visitors {
        visitor.read(65_536);
    }
    let page = String::from_utf8(listing.rest().0).unwrap();
    assert_eq!(page.matches("href=\"./n").count(), MANY);
    let grown = memory_peak(id).saturating_sub(idle);
    println!("agent: {} KiB idle, {} KiB more at most", idle >> 10, grown >> 10);
    assert!(grown <= GROWTH || is_emulated("memory"), "{grown}");
}

/// Watches an agent that nobody asks for anything: each system call that names a path, or reads
/// or looks at what a disk may hold, would keep that disk from sleeping.
fn agent_leaves_disks_alone(time: Duration) {
    const CALLS: [&str; 7] =
        ["%file", "getdents64", "pread64", "preadv2", "fstat", "fsync", "fdatasync"];
    let (root, traces) = (TempRoot::new(), TempRoot::new());
    root.write("film.mkv", b"film");
    let trace = traces.join("calls");
    let Some(before) = traced(&trace, &CALLS, &[]) else { return };
    let before: Vec<_> = before.iter().map(String::as_str).collect();
    let pair = Pair::under(&before, root.path(), &[]);
    let calls = || fs::read_to_string(&trace).unwrap().lines().count();
    assert_eq!(Request::get("/film.mkv").send(pair.proxy.http).unwrap().status, 200);
    wait_until("the request is in the trace", || {
        fs::read_to_string(&trace).unwrap().contains("film.mkv")
    });
    // Threads of the pool end by themselves after half a second without work.
    thread::sleep(Duration::from_secs(1));
    let asked = calls();
    thread::sleep(time);
    assert_eq!(calls(), asked, "{}", fs::read_to_string(&trace).unwrap());
    // It was not idle because it was gone.
    assert_eq!(Request::get("/film.mkv").send(pair.proxy.http).unwrap().status, 200);
    wait_until("the second request is in the trace", || calls() > asked);
}

#[test]
fn idle_agent_leaves_disks_alone() {
    agent_leaves_disks_alone(Duration::from_secs(4));
}

#[test]
#[ignore = "takes more than a minute: stage long"]
fn idle_agent_leaves_disks_alone_while_it_keeps_its_tunnel() {
    // Two PINGs long.
    agent_leaves_disks_alone(Duration::from_secs(60));
}

/// Numbers of inodes may be made up anew at each mount: where they are, the tag does not depend on
/// them; where they are kept, it does. On the device's it never does.
#[test]
fn tag_depends_on_inode_numbers_only_where_they_are_kept() {
    const FAT: u64 = 0x4d44;
    const EXT: u64 = 0xef53;
    const TRACED: [&str; 5] = ["statfs", "fstatfs", "fstat", "newfstatat", "statx"];
    if !cfg!(target_arch = "x86_64") {
        spdy_tests::skip::skipped("its kernel lays out files in another way");
        return;
    }
    let root = TempRoot::new();
    root.write("film.mkv", b"0123456789");
    let mut pair = Pair::start(root.path());
    let config = pair.config();
    let trace = root.join("trace");
    // What the kernel says is overwritten: the type of the filesystem, device and inode of the file.
    let mut tag = |kind: u64, device: u64, inode: u64| {
        let hex = |number: u64| number.to_le_bytes().map(|octet| format!("{octet:02x}")).concat();
        let (kind, file) = (hex(kind), hex(device) + &hex(inode));
        // struct statx of a directory: the number at 32, the device (below 256: its minor number)
        // at 136.
        let minor = u32::try_from(device).unwrap().swap_bytes();
        let directory = format!("ff070000{:048}ed410000", 0);
        let extended = format!("{directory}{}{:0192}{:08}{minor:08x}", hex(inode), 0, 0);
        let injected = [
            format!("statfs,fstatfs:poke_exit=@arg2={kind}"),
            format!("fstat:poke_exit=@arg2={file}"),
            format!("newfstatat:poke_exit=@arg3={file}"),
            format!("statx:poke_exit=@arg5={extended}"),
        ];
        let injected = injected.each_ref().map(String::as_str);
        let mut before = traced(&trace, &TRACED, &injected)?;
        // The linker of libraries must not take them all for one.
        for path in [root.path().to_owned(), root.join("film.mkv")] {
            before.extend(["-P".to_owned(), path.to_str().unwrap().to_owned()]);
        }
        pair.agent.program_mut().kill();
        let builds = Builds::beside();
        pair.agent = Agent::under(&words(&before), &builds, root.path(), &config, &[]);
        let tag = || {
            let answer = Request::get("/film.mkv").send(pair.proxy.http).ok()?;
            answer.headers.get("etag").cloned()
        };
        wait_until("the file has an entity tag", || tag().is_some());
        let said = std::fs::read_to_string(&trace).unwrap();
        assert!(said.lines().any(|line| line.contains("fstat") && line.contains("(INJECTED")));
        tag()
    };
    let Some(made_up) = tag(FAT, 1, 10) else { return };
    assert_eq!(tag(FAT, 2, 20).unwrap(), made_up, "made up, and changed");
    let kept = tag(EXT, 1, 10).unwrap();
    assert_eq!(tag(EXT, 2, 10).unwrap(), kept, "another device");
    assert_ne!(tag(EXT, 1, 20).unwrap(), kept, "another file");
}

#[test]
fn words_before_a_program_are_run() {
    let folder = TempRoot::new();
    let Some(before) = mounted(folder.path(), "1m") else { return };
    let touch = "touch \"$0/file\" && test -f \"$0/file\"";
    let mut command = Command::new(&before[0]);
    let status = command.args(&before[1..]).args(["sh", "-c", touch]).arg(folder.path()).status();
    assert!(status.unwrap().success());
    // Nobody else sees what is there.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
