//! The folder of the catalogue, and the pairs of programs that serve it.
//!
//! It owns what all tests of this program share: two pairs that only read, one of them with an agent
//! to which the kernel refuses `openat2`, and one that may write. They are started when first asked
//! for and end with this process.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{LazyLock, Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    process::geteuid,
};
use spdy_tests::{
    fixture::{Builds, Pair, TempRoot, finished, wait_until},
    http::{Request, Response},
    visitor::{Head, Visitor},
};

/// Programs and the folder that they serve.
pub(crate) struct Site {
    pub(crate) pair: Pair,
    /// What is served.
    pub(crate) root: PathBuf,
    validators: OnceLock<(String, String)>,
    _keeper: Keeper,
}

impl Site {
    fn new(pair: Pair, root: PathBuf) -> Self {
        let ids = [pair.proxy.program().id(), pair.agent.program().id()];
        let config = pair.config();
        let folders = [pair.proxy.state_dir(), config.parent().unwrap()];
        let keeper = Keeper::new(&ids, &folders);
        Self { pair, root, validators: OnceLock::new(), _keeper: keeper }
    }

    /// A request on a connection of its own. `{E}` and `{LM}` in a header are the validators of
    /// `/ten.txt`.
    #[track_caller]
    pub(crate) fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
        let filled: Vec<_> =
            headers.iter().map(|(name, value)| (*name, self.filled(value))).collect();
        let headers: Vec<_> = filled.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let request = Request { method, headers: &headers, ..Request::get(target) };
        let answer = request.send(self.pair.proxy.http);
        answer.unwrap_or_else(|error| panic!("{method} {target} {headers:?}: {error}"))
    }

    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> Response {
        self.ask("GET", target, &[])
    }

    #[track_caller]
    pub(crate) fn put(&self, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let request = Request { headers, ..Request::with_body("PUT", target, body) };
        request.send(self.pair.proxy.http).unwrap()
    }

    /// A GET with the whole body as it is sent: by HTTP/1.0, which knows no chunks.
    pub(crate) fn whole(&self, target: &str, headers: &[(&str, &str)]) -> (Head, Vec<u8>) {
        let mut visitor = self.visitor();
        let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let lines: String = lines.collect();
        visitor.send(format!("GET {target} HTTP/1.0\r\nHost: nas1\r\n{lines}\r\n"));
        let head = visitor.head();
        (head, visitor.rest().0)
    }

    /// The same with `Accept-Encoding`. One at a time: the agent compresses for two, and sends to a
    /// third what is not compressed.
    pub(crate) fn coded(
        &self,
        target: &str,
        codings: &str,
        more: &[(&str, &str)],
    ) -> (Head, Vec<u8>) {
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        self.whole(target, &[&[("Accept-Encoding", codings)], more].concat())
    }

    /// A page as text.
    pub(crate) fn page(&self, target: &str) -> String {
        let (head, body) = self.whole(target, &[]);
        assert_eq!(head.status, 200, "{target}");
        String::from_utf8(body).unwrap()
    }

    pub(crate) fn visitor(&self) -> Visitor {
        Visitor::connect(self.pair.proxy.http)
    }

    /// The status of a request that is sent octet by octet as given.
    pub(crate) fn status_of(&self, request: &str) -> u16 {
        let mut visitor = self.visitor();
        visitor.send(request);
        Response::read(&mut visitor, request.split(' ').next().unwrap()).unwrap().status
    }

    /// Waits for the strong tag of a file, which a file has that was not changed for a while.
    pub(crate) fn tag(&self, target: &str) -> String {
        let tag = || self.ask("HEAD", target, &[]).headers.remove("etag");
        wait_until("the file has an entity tag", || tag().is_some());
        tag().unwrap()
    }

    /// Entity tag and date of `/ten.txt`.
    pub(crate) fn validators(&self) -> &(String, String) {
        self.validators.get_or_init(|| {
            let tag = self.tag("/ten.txt");
            (tag, self.ask("HEAD", "/ten.txt", &[]).headers["last-modified"].clone())
        })
    }

    fn filled(&self, value: &str) -> String {
        if !value.contains('{') {
            return value.to_owned();
        }
        let (tag, modified) = self.validators();
        value.replace("{E}", tag).replace("{LM}", modified)
    }
}

/// The pair that only reads.
pub(crate) fn site() -> &'static Site {
    static SITE: LazyLock<Site> = LazyLock::new(|| {
        let root = tree().join("root");
        Site::new(Pair::under(&unprivileged(), &root, &[]), root)
    });
    &SITE
}

/// The pair that only reads, its agent without `openat2`; `None`, and why, where nothing may be
/// traced. Also what the kernel was asked for.
pub(crate) fn without_openat2() -> Option<(&'static Site, &'static Path)> {
    static SITE: LazyLock<Option<(Site, PathBuf)>> = LazyLock::new(|| {
        let trace = tree().join("openat2.trace");
        let root = tree().join("root");
        let before = traced(&trace, &["openat2"], &["openat2:error=ENOSYS"])?;
        let mut before: Vec<_> = before.iter().map(String::as_str).collect();
        before.extend(unprivileged());
        Some((Site::new(Pair::under(&before, &root, &[]), root), trace))
    });
    if SITE.is_none() {
        // Each test that wanted it, not only the one that tried first.
        spdy_tests::skip::skipped("openat2 cannot be refused here");
    }
    SITE.as_ref().map(|(site, trace)| (site, trace.as_path()))
}

/// The pair that may write, for tests with a folder each.
pub(crate) fn writable() -> &'static Site {
    static SITE: LazyLock<Site> = LazyLock::new(|| {
        let root = tree().join("writable");
        fs::create_dir(&root).unwrap();
        Site::new(Pair::under(&[], &root, &["--allow-write"]), root)
    });
    &SITE
}

/// The words before a program that have system calls shown in a file, and changed on the way; `None`,
/// and why, where that is forbidden.
pub(crate) fn traced(trace: &Path, calls: &[&str], injected: &[&str]) -> Option<Vec<String>> {
    let calls = calls.join(",");
    if is_emulated("system calls") {
        return None;
    }
    // As a grandchild, so that the process that is started becomes the agent.
    let mut words =
        ["strace", "-D", "-f", "-qq", "--seccomp-bpf", "-e"].map(str::to_owned).to_vec();
    words.push(format!("trace={calls}"));
    words.extend(injected.iter().map(|what| format!("--inject={what}")));
    words.extend(["-o".to_owned(), trace.to_str().unwrap().to_owned()]);
    let works = works(&words);
    works.then_some(words)
}

/// Whether the agent runs in an emulator; then it says what cannot be seen of it there.
pub(crate) fn is_emulated(unseen: &str) -> bool {
    let is_emulated = Builds::beside().is_emulated();
    if is_emulated {
        spdy_tests::skip::skipped(format_args!("the emulator's own {unseen} would be seen"));
    }
    is_emulated
}

/// Whether something can be run behind these words; says so if not.
pub(crate) fn works<S: AsRef<OsStr>>(words: &[S]) -> bool {
    let output = Command::new(&words[0]).args(&words[1..]).arg("true").output();
    let output = output.unwrap_or_else(|error| panic!("run scripts/setup.sh test: {error}"));
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        spdy_tests::skip::skipped(said);
    }
    output.status.success()
}

/// The words before a program that take the powers of root from it: nothing is forbidden to those.
pub(crate) fn unprivileged() -> Vec<&'static str> {
    if geteuid().is_root() { vec!["setpriv", "--bounding-set", "-all"] } else { Vec::new() }
}

/// Sets when a file was changed last.
pub(crate) fn set_modified(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// Octets that no compression shortens much and that say where they are.
pub(crate) fn numbered(len: usize) -> Vec<u8> {
    (0..).flat_map(|line: u32| format!("{line:08}\n").into_bytes()).take(len).collect()
}

pub(crate) fn unzipped(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(octets).read_to_end(&mut out).unwrap();
    out
}

/// The folder above all that is shared.
fn tree() -> &'static TempRoot {
    static TREE: LazyLock<(TempRoot, Keeper)> = LazyLock::new(|| {
        let top = TempRoot::new();
        let keeper = Keeper::new(&[], &[top.path()]);
        fill(&top);
        (top, keeper)
    });
    &TREE.0
}

fn fill(top: &TempRoot) {
    top.write("outside/secret", SECRET.as_bytes());
    for (name, octets) in [
        ("ten.txt", b"0123456789".as_slice()),
        ("empty.txt", b""),
        ("big.txt", &numbered(BIG)),
        ("dir/file1.txt", b"one"),
        ("dir/file2.txt", b"two"),
        ("dir/file10.txt", b"ten"),
        ("dir/sub/deep.txt", b"deep"),
        ("dir/.hidden", b"hidden"),
        ("index-dir/index.html", b"<p>index"),
        ("index-dir/other.txt", b"other"),
        ("closed.txt", b"closed"),
    ] {
        top.write(&format!("root/{name}"), octets);
    }
    let root = top.join("root");
    set_modified(&root.join("ten.txt"), UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    for name in STRANGE {
        let path = root.join("names").join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    for extension in super::types::EXTENSIONS.iter().flat_map(|(extensions, _)| *extensions) {
        top.write(&format!("root/mime/x.{extension}"), &[b'x'; 2_048]);
    }
    for name in ["x", "x.", "x.unheard-of", "x.html.unheard-of"] {
        top.write(&format!("root/mime/{name}"), b"<!doctype html><p>text");
    }
    let huge = File::create(root.join("huge.bin")).unwrap();
    huge.set_len(HUGE).unwrap();
    huge.write_all_at(b"TAIL", HUGE - 4).unwrap();
    huge.write_all_at(b"the middle.", 4_294_967_290).unwrap();
    links(&root);
    fs::create_dir(root.join("changing")).unwrap();
    fs::create_dir(root.join("many")).unwrap();
    for number in 0..MANY {
        File::create(root.join(format!("many/n{number}"))).unwrap();
    }
}

/// Links, and what is no file.
fn links(root: &Path) {
    for (to, name) in [
        ("../outside/secret", "link-out"),
        ("/etc/passwd", "link-absolute"),
        ("../outside", "dir-out"),
        ("/etc", "dir-absolute"),
        ("dir-out", "dir-out-by-link"),
        ("dir/file2.txt", "inside"),
        ("dir", "dir-inside"),
        ("../ten.txt", "dir/up"),
        ("../dir-inside", "dir/dir-up"),
        ("inside", "inside-by-link"),
        ("loop", "loop"),
        ("nothing", "dangling"),
        ("/dev/zero", "zero"),
        ("/proc/self/root", "magic"),
    ] {
        symlink(to, root.join(name)).unwrap();
    }
    for name in ["broken/dangling", "broken/loop", "broken/dir-out"] {
        fs::create_dir_all(root.join("broken")).unwrap();
        symlink("loop", root.join(name)).unwrap();
    }
    fs::write(root.join("broken/good.txt"), "good").unwrap();
    fs::write(root.join("broken/closed.txt"), "closed").unwrap();
    for closed in ["closed.txt", "broken/closed.txt"] {
        fs::set_permissions(root.join(closed), fs::Permissions::from_mode(0o000)).unwrap();
    }
    for folder in ["", "broken"] {
        let folder = root.join(folder);
        drop(UnixListener::bind(folder.join("socket")).unwrap());
        let made = |kind, name, device| {
            let made = mknodat(CWD, folder.join(name), kind, Mode::RUSR | Mode::WUSR, device);
            made.unwrap_or_else(|error| {
                spdy_tests::skip::skipped_part(format_args!("{name}: {error}"))
            });
        };
        made(FileType::Fifo, "fifo", 0);
        // /dev/zero and the first loop device.
        made(FileType::CharacterDevice, "character", makedev(1, 5));
        made(FileType::BlockDevice, "block", makedev(7, 0));
    }
}

/// Ends processes and removes folders when this process ends, however it does: what is shared is
/// never dropped.
struct Keeper {
    _child: Child,
}

impl Keeper {
    fn new(ids: &[u32], folders: &[&Path]) -> Self {
        const SCRIPT: &str = "trap '' INT TERM HUP; read -r _; kill -KILL $0; rm -rf -- \"$@\"";
        let ids: Vec<_> = ids.iter().map(u32::to_string).collect();
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, &ids.join(" ")]).args(folders);
        // Its input ends with this process.
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { _child: child.spawn().unwrap() }
    }
}

/// Octets of `/big.txt`.
pub(crate) const BIG: usize = 108_000;
/// Octets of `/huge.bin`.
pub(crate) const HUGE: u64 = 5 << 30;
/// Entries of `/many/`.
pub(crate) const MANY: usize = 100_000;
/// What nobody may read.
pub(crate) const SECRET: &str = "the secret outside";
/// Names in `/names/`; each file holds its own.
pub(crate) const STRANGE: [&[u8]; 12] = [
    b"two words.mkv",
    b"100% #1?.mp4",
    b"quote\"and'amp&lt;.txt",
    b"<b>.txt",
    b"a:b.txt",
    b"\xc3\xbcmlaut \xe2\x82\xac.txt",
    b"not utf-8 \xff.txt",
    b"plus+semi;comma,.txt",
    b"back\\slash.txt",
    b"new\nline.txt",
    b"%2e%2e",
    b"-rf ~",
];

#[test]
fn shared_programs_end_with_the_process() {
    let root = TempRoot::new();
    let folder = root.join("gone");
    fs::create_dir(&folder).unwrap();
    let mut program = Command::new("sleep").arg("1000").spawn().unwrap();
    let mut keeper = Keeper::new(&[program.id()], &[&folder]);
    drop(keeper._child.stdin.take());
    assert!(!program.wait().unwrap().success());
    assert!(keeper._child.wait().unwrap().success());
    assert!(!folder.exists());
    assert_eq!(finished(Command::new("true").arg("x"), ""), "");
}
