//! The agent as NAS boxes run it, built for this machine: what it needs when idle, and that a
//! kernel of 2012 is enough.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
    process::Command,
};

use spdy_tests::{
    fixture::{Agent, Builds, Pair, Proxy, Sha256, TempRoot, finished, wait_until},
    http::Request,
    observe::memory,
};

use super::{I686, X86_64};

/// Threads of a process.
fn threads(id: u32) -> usize {
    fs::read_dir(format!("/proc/{id}/task")).unwrap().count()
}

/// The builds of a target, if they run on this machine; says so if not.
fn builds(target: &str) -> Option<Builds> {
    let builds = Builds::crossed(target);
    let ran = Command::new(&builds.agent).arg("--version").output();
    let ran = ran.is_ok_and(|output| output.status.success());
    // On the machines that the programs are for, they must.
    assert!(ran || !cfg!(target_arch = "x86_64") || target != X86_64);
    if !ran {
        spdy_tests::skip::skipped(format_args!("the programs for {target} do not run here"));
    }
    ran.then_some(builds)
}

/// Both programs, joined, with the tunnel up.
fn pair(builds: &Builds, root: &TempRoot) -> Pair {
    let proxy = Proxy::of(builds, &[]);
    let address = proxy.tunnel;
    Pair::join(proxy, address, root.path(), &[])
}

#[test]
fn an_idle_agent_needs_little() {
    let Some(builds) = builds(X86_64) else { return };
    let root = TempRoot::new();
    let film = root.random_file("film", 8 << 20, 1);
    let pair = pair(&builds, &root);
    let id = pair.agent.program().id();
    let fresh = memory(id);
    println!("idle: {fresh} octets, {} threads", threads(id));
    assert!(fresh <= IDLE, "{fresh} octets, {} too many", fresh - IDLE);
    assert!(threads(id) <= THREADS, "{} threads", threads(id));
    // Threads that read files go again when nothing is left to read.
    let answer = Request::get("/film").send(pair.proxy.http).unwrap();
    assert_eq!((answer.status, answer.sha256), (200, film));
    wait_until("no more than two threads are left", || threads(id) <= THREADS);
    println!("after a download: {} octets", memory(id));
}

#[test]
#[ignore = "wants the proxy as shipped"]
fn the_proxy_without_libc_serves() {
    let Some(mut builds) = builds(X86_64) else { return };
    builds.proxy = builds.agent.with_file_name("spdy-proxy");
    let root = TempRoot::new();
    let film = root.random_file("film", 8 << 20, 1);
    let pair = pair(&builds, &root);
    let answer = Request::get("/film").send(pair.proxy.http).unwrap();
    assert_eq!((answer.status, answer.sha256), (200, film));
}

#[test]
fn a_kernel_of_2012_is_enough() {
    let later = (312..=334).chain(424..=450).map(|number| format!("{number}@64"));
    works_without(later, X86_64, &["openat2", "getrandom", "preadv2"]);
}

/// With 32 bits more is tried first: `statx`, and all that has 64-bit times.
#[test]
fn a_kernel_of_2012_is_enough_with_32_bits() {
    let later = (349..=386).chain(393..=414).chain(416..=450);
    let later = later.map(|number| format!("{number}@32"));
    works_without(later, I686, &["openat2", "getrandom", "preadv2", "statx"]);
}

/// The agent joins and serves where the system calls that Linux 3.2 did not have (those numbered
/// above `process_vm_writev`, as far as strace knows them) are missing. `asked`: some that it must
/// have missed, or nothing was tested.
fn works_without(later: impl Iterator<Item = String>, target: &str, asked: &[&str]) {
    let Some(builds) = builds(target) else { return };
    let folder = TempRoot::new();
    let trace = folder.join("trace");
    let words = without(&later.collect::<Vec<_>>().join(","), &trace);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let probe = Command::new(words[0]).args(&words[1..]).arg("true").output().unwrap();
    if !probe.status.success() {
        spdy_tests::skip::skipped(String::from_utf8_lossy(&probe.stderr));
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
    let refused: BTreeSet<_> = refused.collect();
    println!("asked for and not there: {refused:?}");
    assert!(asked.iter().all(|call| refused.contains(call)), "{asked:?} {refused:?}");
    assert_eq!(asked_by_fstat(&trace), None, "fstat refuses what O_PATH opened before Linux 3.6");
}

/// The words before a program that take these system calls from it and write down what it asks.
fn without(calls: &str, trace: &Path) -> Vec<String> {
    // As a grandchild, so that the process that is started becomes the program.
    let mut words =
        ["strace", "-D", "-f", "-qq", "--seccomp-bpf", "-A", "-e"].map(str::to_owned).to_vec();
    words.push(format!("trace={calls},open,openat,fstat,?fstat64,close"));
    words.push(format!("--inject={calls}:error=ENOSYS"));
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
            Some("fstat" | "fstat64") => {
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
