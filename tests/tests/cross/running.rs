//! The agent as NAS boxes run it, built for this machine: what it needs when idle, and that a
//! kernel of 2012 is enough.

use std::{collections::HashMap, fs, path::Path, process::Command};

use spdy_tests::{
    fixture::{Agent, Builds, Proxy, Sha256, TempRoot, finished, join, wait_until},
    http::Request,
    observe::memory,
};

use super::X86_64;

/// Threads of a process.
fn threads(id: u32) -> usize {
    fs::read_dir(format!("/proc/{id}/task")).unwrap().count()
}

/// The builds of this machine's target; `None`, and why, on another machine.
fn builds() -> Option<Builds> {
    if !cfg!(target_arch = "x86_64") {
        println!("not tested on this machine: the programs for {X86_64} do not run here");
        return None;
    }
    Some(Builds::crossed(X86_64))
}

#[test]
fn an_idle_agent_needs_little() {
    let Some(builds) = builds() else { return };
    let root = TempRoot::new();
    let film = root.random_file("film", 8 << 20, 1);
    let proxy = Proxy::of(&builds, &[]);
    let config = TempRoot::new();
    let config = config.join("agent.conf");
    join(&builds, &proxy.pair("nas1"), &config);
    let agent = Agent::joined(&builds, root.path(), &config, &[]);
    proxy.wait_for_tunnel("nas1");
    let id = agent.program().id();
    let fresh = memory(id);
    println!("idle: {fresh} octets, {} threads", threads(id));
    assert!(fresh <= IDLE, "{fresh} octets, {} too many", fresh - IDLE);
    assert!(threads(id) <= THREADS, "{} threads", threads(id));
    // Threads that read files go again when nothing is left to read.
    let answer = Request::get("/film").send(proxy.http).unwrap();
    assert_eq!((answer.status, answer.sha256), (200, film));
    wait_until("no more than two threads are left", || threads(id) <= THREADS);
    println!("after a download: {} octets", memory(id));
}

/// Everything that came after Linux 3.2 is missing, and the agent pairs, joins and serves.
#[test]
fn a_kernel_of_2012_is_enough() {
    let Some(builds) = builds() else { return };
    let folder = TempRoot::new();
    let trace = folder.join("trace");
    let words = without_later_calls(&trace);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let probe = Command::new(words[0]).args(&words[1..]).arg("true").output().unwrap();
    if !probe.status.success() {
        println!(
            "not tested on this machine: {}",
            String::from_utf8_lossy(&probe.stderr).trim_end()
        );
        return;
    }
    let root = TempRoot::new();
    let film = root.random_file("film", 3 << 20, 1);
    root.write("folder/name", b"content");
    std::os::unix::fs::symlink("folder/name", root.join("link")).unwrap();
    let proxy = Proxy::of(&builds, &[]);
    let config = folder.join("agent.conf");
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(&builds.agent).args(["join", "--config"]).arg(&config);
    finished(&mut command, &format!("{}\n", proxy.pair("nas1")));
    let args = ["--allow-write"];
    let agent = Agent::under(&words, &builds, root.path(), &config, &args);
    proxy.wait_for_tunnel("nas1");

    let send = |request: Request<'_>| request.send(proxy.http).unwrap();
    let whole = send(Request::get("/film"));
    assert_eq!((whole.status, whole.sha256), (200, film));
    let headers = &[("Range", "bytes=1000000-1999999")];
    let part = send(Request { headers, ..Request::get("/film") });
    assert_eq!((part.status, part.len), (206, 1_000_000));
    let listing = send(Request::get("/"));
    assert_eq!(listing.status, 200);
    for name in ["film", "folder/", "link"] {
        assert!(listing.text().contains(&format!("href=\"./{name}\"")), "{}", listing.text());
    }
    let zip = send(Request::get("/folder/?format=zip"));
    assert_eq!((zip.status, &zip.start[..4]), (200, &b"PK\x03\x04"[..]));
    let new = send(Request::with_body("PUT", "/folder/new", b"first"));
    let old = send(Request::with_body("PUT", "/folder/new", b"second"));
    assert_eq!((new.status, old.status), (201, 204), "{}{}", new.text(), old.text());
    let again = send(Request::get("/folder/new"));
    assert_eq!((again.status, again.sha256), (200, Sha256::of(b"second")));
    let gone = send(Request { method: "DELETE", ..Request::get("/folder/new") });
    assert_eq!((gone.status, root.join("folder/new").exists()), (204, false));

    drop(agent);
    let trace = fs::read_to_string(&trace).unwrap();
    let refused = trace.lines().filter(|line| line.contains("ENOSYS")).filter_map(name);
    let refused: std::collections::BTreeSet<_> = refused.collect();
    println!("asked for and not there: {refused:?}");
    // If these were not refused, nothing was tested.
    for call in ["openat2", "getrandom", "preadv2"] {
        assert!(refused.contains(call), "{call} is not among {refused:?}");
    }
    assert_eq!(asked_by_fstat(&trace), None, "fstat refuses what O_PATH opened before Linux 3.6");
}

/// The words before a program that take every system call from it that Linux 3.2 did not have: on
/// x86-64 those numbered above `process_vm_writev`, as far as strace knows them.
fn without_later_calls(trace: &Path) -> Vec<String> {
    let later = (312..=334).chain(424..=450).map(|number| number.to_string());
    let later = later.collect::<Vec<_>>().join(",");
    // As a grandchild, so that the process that is started becomes the program.
    let mut words =
        ["strace", "-D", "-f", "-qq", "--seccomp-bpf", "-A", "-e"].map(str::to_owned).to_vec();
    words.push(format!("trace={later},open,openat,fstat,close"));
    words.push(format!("--inject={later}:error=ENOSYS"));
    words.extend(["-o".to_owned(), trace.to_str().unwrap().to_owned()]);
    words
}

/// The system call of a line of the trace.
fn name(line: &str) -> Option<&str> {
    let call = line.split_whitespace().nth(1)?;
    call.split_once('(').map(|split| split.0)
}

/// The first line of a trace that asks `fstat` about what was opened with `O_PATH`.
fn asked_by_fstat(trace: &str) -> Option<&str> {
    // All threads share their descriptors, and only one process is traced at a time.
    let mut opened = HashMap::new();
    trace.lines().find(|line| {
        let argument = line.split_once('(').map_or("", |split| split.1);
        match name(line) {
            Some("open" | "openat") => {
                if let Some(descriptor) = line.rsplit_once("= ").map(|split| split.1.trim()) {
                    opened.insert(descriptor.to_owned(), line.contains("O_PATH"));
                }
                false
            }
            Some("close") => {
                opened.remove(argument.split(')').next().unwrap_or_default());
                false
            }
            Some("fstat") => {
                let descriptor = argument.split(',').next().unwrap_or_default();
                opened.get(descriptor).is_some_and(|is_path| *is_path)
            }
            _ => false,
        }
    })
}

#[test]
fn a_descriptor_asked_by_fstat_is_found() {
    let opened = "7 openat(3, \"a\", O_RDONLY|O_PATH) = 12\n";
    let asked = "7 fstat(12, {st_mode=S_IFREG}) = 0\n";
    assert_eq!(asked_by_fstat(&format!("{opened}{asked}")), Some(asked.trim_end()));
    let other = "8 openat(3, \"b\", O_RDONLY) = 12\n";
    assert_eq!(asked_by_fstat(&format!("{opened}{other}{asked}")), None);
}

/// Resident memory of an agent that does nothing, in octets.
const IDLE: u64 = 2_500_000;
const THREADS: usize = 2;
