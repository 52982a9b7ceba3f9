//! Folders as archives, subtitles as browsers read them, and gzip, through both programs with real
//! TLS; read back by other people's programs.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    net::SocketAddr,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{PermissionsExt as _, symlink},
    },
    path::Path,
    process::{Command, Stdio},
};

use smol::block_on;
use spdy_tests::{
    fixture::{Builds, Pair, Program, Proxy, Sha256, TempRoot, finished, tool, wait_until},
    h1::{Answer, Client, Method},
    http::{Request, wait_for_agent},
    observe::{descriptors, forget_peak, memory, memory_peak},
    visitor::{End, Visitor},
};

const MIB: u64 = 1 << 20;

/// Paths and what stands there: the digest of a file, nothing for a folder.
type Tree = BTreeMap<Vec<u8>, Option<String>>;

/// What is below a folder, each path behind `prefix`; links and the like are left out.
fn tree(folder: &Path, prefix: &[u8]) -> Tree {
    let mut found = Tree::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = [prefix, b"/", &entry.file_name().into_vec()].concat();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(tree(&entry.path(), &path));
            found.insert(path, None);
        } else if kind.is_file() {
            found.insert(path, Some(Sha256::of_file(&entry.path())));
        }
    }
    found
}

/// What Python's own modules find in an archive; they check its checksums.
fn listed(archive: &Path, form: &str) -> Tree {
    const SCRIPT: &str = r"
import hashlib, sys, tarfile, zipfile
path, form = sys.argv[1:]
def show(name, folder, content):
    digest = '-' if folder else hashlib.sha256(content()).hexdigest()
    print(name.rstrip(b'/').hex(), digest)
if form == 'zip':
    archive = zipfile.ZipFile(path)
    assert archive.testzip() is None
    for entry in archive.infolist():
        name = entry.filename.encode('utf-8' if entry.flag_bits & 0x800 else 'cp437')
        assert (entry.external_attr >> 16) & 0o777 in (0o644, 0o755), entry
        show(name, entry.is_dir(), lambda: archive.read(entry))
else:
    archive = tarfile.open(path, 'r:', encoding='utf-8', errors='surrogateescape')
    for entry in archive:
        assert entry.isfile() or entry.isdir(), entry
        assert entry.mode in (0o644, 0o755) and entry.uid == 0, entry
        name = entry.name.encode('utf-8', 'surrogateescape')
        show(name, entry.isdir(), lambda: archive.extractfile(entry).read())
";
    let mut python = Command::new(tool("python3"));
    let output = finished(python.args(["-c", SCRIPT]).arg(archive).arg(form), "");
    let lines = output.lines().map(|line| {
        let (name, digest) = line.split_once(' ').unwrap();
        let octets = name.as_bytes().chunks(2);
        let octets = octets.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16));
        (octets.map(Result::unwrap).collect(), (digest != "-").then(|| digest.to_owned()))
    });
    let lines: Vec<_> = lines.collect();
    let count = lines.len();
    let tree: Tree = lines.into_iter().collect();
    assert_eq!(tree.len(), count, "a name stands twice in the archive");
    tree
}

fn download(http: SocketAddr, target: &str, to: &Path) {
    let mut curl = Command::new(tool("curl"));
    curl.args(["-sSf", "-o"]).arg(to).arg(format!("http://{http}{target}"));
    finished(&mut curl, "");
}

/// 3,000 files and what is hard about names and kinds.
fn large_tree() -> TempRoot {
    let root = TempRoot::new();
    for number in 0..3_000_usize {
        let name = format!("big/folder {}/file {number}.txt", number % 50);
        root.write(&name, format!("{number} ").repeat(number % 400).as_bytes());
    }
    root.random_file("big/film.mkv", 20 * MIB + 17, 1);
    root.write("big/empty file", b"");
    fs::create_dir(root.join("big/empty folder")).unwrap();
    // What a reader who looks for the end of an entry could fall for.
    root.write("big/marks", b"PK\x07\x08PK\x03\x04PK\x01\x02PK\x05\x06".repeat(9_000).as_slice());
    let long = format!("big/{}/{}", "long folder ".repeat(15), "long name ".repeat(20));
    root.write(&long, b"long");
    let deep = format!("big/{}deep", "level/".repeat(31));
    root.write(&deep, b"deep");
    let program = root.write("big/program", b"#!/bin/sh\n");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    for name in [&b"caf\xc3\xa9 \xe2\x82\xac"[..], b"not utf-8 \xff\xfe", b"new\nline", b"<&\"'>"] {
        fs::write(root.join("big").join(OsStr::from_bytes(name)), name).unwrap();
    }
    let old = File::open(root.join("big/empty file")).unwrap();
    old.set_modified(std::time::UNIX_EPOCH - std::time::Duration::from_secs(300_000_000)).unwrap();
    root
}

#[test]
fn folder_arrives_whole_in_either_form() {
    let root = large_tree();
    let mut wanted = tree(&root.join("big"), b"big");
    wanted.insert(b"big".to_vec(), None);
    assert!(wanted.len() > 3_050);
    root.write("big/.hidden/file", b"hidden");
    root.write("big/folder 1/.hidden", b"hidden");
    symlink("folder 1", root.join("big/folder link")).unwrap();
    symlink("/etc/passwd", root.join("big/file link")).unwrap();
    finished(Command::new("mkfifo").arg(root.join("big/fifo")), "");

    let pair = Pair::start(root.path());
    let agent = pair.agent.program().id();
    assert_eq!(Request::get("/big/").send(pair.proxy.http).unwrap().status, 200);
    let (idle, open) = (memory(agent), descriptors(agent));
    forget_peak(agent);
    let here = TempRoot::new();
    for form in ["tar", "zip"] {
        let archive = here.join(form);
        download(pair.proxy.http, &format!("/big/?format={form}"), &archive);
        let mut found = listed(&archive, form);
        assert!(found.remove(&b"NOT-INCLUDED.txt"[..]).unwrap().is_some());
        assert_eq!(found.len(), wanted.len());
        assert!(found == wanted, "{form}: other content");
    }
    let grown = memory_peak(agent).saturating_sub(idle);
    println!("the agent grew by {} KiB for archives of {} entries", grown >> 10, wanted.len());
    assert!(grown < 4 * MIB, "{grown}");
    wait_until("all files are closed", || descriptors(agent) <= open);

    // What others make of it. Python cannot tell whether names survive on a disk.
    let archive = |form| here.join(form).into_os_string().into_string().unwrap();
    let (tar, zip) = (archive("tar"), archive("zip"));
    for (name, args) in [
        ("tar", &["-xf", &tar, "-C"][..]),
        ("bsdtar", &["-xf", &tar, "-C"]),
        ("bsdtar", &["-xf", &zip, "-C"]),
        ("unzip", &["-q", &zip, "-d"]),
    ] {
        let to = TempRoot::new();
        let mut command = Command::new(tool(name));
        finished(command.args(args).arg(to.path()).env("LC_ALL", "C.UTF-8"), "");
        let note = fs::read_to_string(to.join("NOT-INCLUDED.txt")).unwrap();
        assert!(note.ends_with("not followed: 2\n"), "{note}");
        let mut found = tree(&to.join("big"), b"big");
        found.insert(b"big".to_vec(), None);
        let mut wanted = wanted.clone();
        if name == "unzip" {
            // It takes out of names what no terminal can show.
            for tree in [&mut found, &mut wanted] {
                tree.retain(|path, _| !path.starts_with(b"big/n"));
            }
        }
        assert!(found == wanted, "{name} {args:?}: {:?}", difference(&found, &wanted));
        let mode = fs::metadata(to.join("big/program")).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{name}");
    }
}

/// The first paths that are not the same.
fn difference(found: &Tree, wanted: &Tree) -> Vec<String> {
    let only = |a: &Tree, b: &Tree| {
        let names = a.iter().filter(|one| b.get(one.0) != Some(one.1));
        names.map(|one| String::from_utf8_lossy(one.0).into_owned()).take(5).collect::<Vec<_>>()
    };
    [only(found, wanted), only(wanted, found)].concat()
}

#[test]
fn archive_can_be_unpacked_while_it_arrives() {
    let root = large_tree();
    let wanted = tree(&root.join("big"), b"big");
    let pair = Pair::start(root.path());
    for form in ["tar", "zip"] {
        let to = TempRoot::new();
        let url = format!("http://{}/big/?format={form}", pair.proxy.http);
        let mut curl = Command::new(tool("curl"));
        let mut curl = curl.args(["-sSf", &url]).stdout(Stdio::piped()).spawn().unwrap();
        let mut bsdtar = Command::new(tool("bsdtar"));
        bsdtar.args(["-xf", "-", "-C"]).arg(to.path()).env("LC_ALL", "C.UTF-8");
        let unpacked = bsdtar.stdin(curl.stdout.take().unwrap()).status().unwrap();
        assert!(unpacked.success() && curl.wait().unwrap().success(), "{form}");
        let found = tree(&to.join("big"), b"big");
        assert!(found == wanted, "{form}: {:?}", difference(&found, &wanted));
    }
}

#[test]
fn heads_say_what_is_coming_and_how_to_call_it() {
    let root = TempRoot::new();
    root.write("Caf\u{e9} \"1\"/file", b"content");
    let pair = Pair::start(root.path());
    for (form, media_type) in [("tar", "application/x-tar"), ("zip", "application/zip")] {
        let target = format!("/Caf%C3%A9%20%221%22/?format={form}");
        let get = Request::get(&target).send(pair.proxy.http).unwrap();
        let head = Request { method: "HEAD", ..Request::get(&target) }.send(pair.proxy.http);
        let mut head = head.unwrap();
        for answer in [&get, &head] {
            let header = |name: &str| answer.headers.get(name).map(String::as_str);
            assert_eq!((answer.status, header("content-type")), (200, Some(media_type)));
            let name = format!(
                "attachment; filename=\"Caf_ _1_.{form}\"; filename*=UTF-8''Caf%C3%A9%20%221%22.{form}"
            );
            assert_eq!(header("content-disposition"), Some(&*name));
            assert_eq!(header("x-content-type-options"), Some("nosniff"));
            assert_eq!(header("cache-control"), Some("private, no-cache"));
            for absent in ["etag", "content-length", "accept-ranges", "last-modified"] {
                assert_eq!(header(absent), None, "{absent}");
            }
        }
        head.headers.insert("transfer-encoding".into(), "chunked".into());
        let names = |answer: &spdy_tests::http::Response| {
            answer.headers.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(names(&head), names(&get));
    }
    // Without its slash a folder is elsewhere, and files are no folders.
    let answer = Request::get("/Caf%C3%A9%20%221%22?format=zip").send(pair.proxy.http).unwrap();
    assert_eq!(answer.status, 301);
    assert!(answer.headers["location"].ends_with("/?format=zip"));
    let answer = Request::get("/Caf%C3%A9%20%221%22/file?format=zip").send(pair.proxy.http);
    assert_eq!(answer.unwrap().start, b"content");
}

/// A file of `len` octets that takes no room.
fn sparse(root: &TempRoot, name: &str, len: u64) {
    File::create(root.write(name, b"")).unwrap().set_len(len).unwrap();
}

#[test]
fn sizes_above_32_bits_are_announced_and_leaving_closes_the_file() {
    let root = TempRoot::new();
    sparse(&root, "film/large", 5 << 30);
    sparse(&root, "huge/large", 9 << 30);
    let pair = Pair::start(root.path());
    let agent = pair.agent.program().id();
    assert_eq!(Request::get("/").send(pair.proxy.http).unwrap().status, 200);
    let open = descriptors(agent);
    let marks: [(&str, &[u8]); 3] = [
        // Sizes follow the content, in 64 bits.
        ("/film/?format=zip", b"\x01\0\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("/film/?format=tar", b"50000000000\0"),
        ("/huge/?format=tar", b"\x80\0\0\0\0\0\0\x02\x40\0\0\0"),
    ];
    for (target, mark) in marks {
        let visitor = Visitor::get(pair.proxy.http, target);
        let mut start = Vec::new();
        visitor.socket().take(8_192).read_to_end(&mut start).unwrap();
        let found = start.windows(mark.len()).any(|octets| octets == mark);
        assert!(found, "{target}: {}", start.escape_ascii());
        assert!(descriptors(agent) > open);
        drop(visitor);
        wait_until("the file is closed", || descriptors(agent) <= open);
    }
}

#[test]
#[ignore = "moves 5 GiB"]
fn zip_above_4_gib_is_read_by_others() {
    let root = TempRoot::new();
    sparse(&root, "film/large", 5 << 30);
    root.write("film/small", b"small");
    let pair = Pair::start(root.path());
    let agent = pair.agent.program().id();
    let idle = memory(agent);
    forget_peak(agent);
    let here = TempRoot::new();
    let path = here.join("film.zip");
    let url = format!("http://{}/film/?format=zip", pair.proxy.http);
    let mut curl = Command::new(tool("curl"));
    let mut curl = curl.args(["-sSf", &url]).stdout(Stdio::piped()).spawn().unwrap();
    let (mut from, mut to) = (curl.stdout.take().unwrap(), File::create(&path).unwrap());
    let mut block = vec![0; 1 << 20];
    // Zeros are skipped, so that the archive takes no more room than its folder.
    loop {
        let len = from.read(&mut block).unwrap();
        match &block[..len] {
            [] => break,
            octets if octets.iter().all(|octet| *octet == 0) => {
                to.seek(SeekFrom::Current(octets.len().try_into().unwrap())).unwrap();
            }
            octets => to.write_all(octets).unwrap(),
        }
    }
    assert!(curl.wait().unwrap().success());
    assert!(memory_peak(agent).saturating_sub(idle) < 4 * MIB);
    finished(Command::new(tool("unzip")).arg("-tq").arg(&path), "");
    let said = finished(Command::new(tool("bsdtar")).arg("-tvf").arg(&path), "");
    assert!(said.contains(" 5368709120 ") && said.contains("film/small"), "{said}");
    let script = "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); \
                  assert z.testzip() is None; print(z.getinfo('film/large').file_size)";
    let said = finished(Command::new(tool("python3")).args(["-c", script]).arg(&path), "");
    assert_eq!(said.trim(), "5368709120");
}

#[test]
fn file_that_is_cut_meanwhile_never_looks_whole() {
    let root = TempRoot::new();
    sparse(&root, "films/large", 256 * MIB);
    let pair = Pair::start(root.path());
    for form in ["tar", "zip"] {
        sparse(&root, "films/large", 256 * MIB);
        let mut visitor = Visitor::get(pair.proxy.http, &format!("/films/?format={form}"));
        assert_eq!(visitor.head().status, 200);
        visitor.read(MIB);
        sparse(&root, "films/large", 1);
        let body = visitor.finish();
        assert_ne!(body.end, End::Whole, "{form}: {} octets", body.len);
        assert!(body.len < 256 * MIB);
    }
    let text = pair.agent.program().text();
    assert!(text.contains("event=request_failed") && text.contains("became shorter"), "{text}");
}

#[test]
fn what_may_not_be_read_is_named_in_the_archive() {
    let root = TempRoot::new();
    root.write("mixed/good", b"good");
    root.write("mixed/closed folder/file", b"lost");
    let closed = root.write("mixed/closed file", b"lost");
    for path in [&closed, &root.join("mixed/closed folder")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
    }
    let proxy = Proxy::start(&["--allow-anonymous"]);
    // Root reads everything unless it is kept from it.
    let agent = Builds::beside().agent;
    let mut command = if File::open(&closed).is_ok() {
        let mut command = Command::new("setpriv");
        command.arg("--bounding-set=-dac_override,-dac_read_search").arg(agent);
        command
    } else {
        Command::new(agent)
    };
    command.arg("-r").arg(root.path()).args(["--proxy", &proxy.tunnel.to_string(), "--insecure"]);
    let _agent = Program::start("spdy-agent", &mut command);
    wait_for_agent(proxy.http);
    let here = TempRoot::new();
    for form in ["tar", "zip"] {
        let archive = here.join(form);
        download(proxy.http, &format!("/mixed/?format={form}"), &archive);
        let found = listed(&archive, form);
        let names: Vec<_> = found.keys().map(|name| String::from_utf8_lossy(name)).collect();
        assert_eq!(names, ["NOT-INCLUDED.txt", "mixed", "mixed/good"]);
        let to = TempRoot::new();
        let mut bsdtar = Command::new(tool("bsdtar"));
        finished(bsdtar.arg("-xf").arg(&archive).arg("-C").arg(to.path()), "");
        let note = fs::read_to_string(to.join("NOT-INCLUDED.txt")).unwrap();
        for name in ["file", "folder"] {
            let line = format!("\nmixed/closed {name}: may not be read\n");
            assert!(note.contains(&line), "{note}");
        }
    }
    let folder = root.join("mixed/closed folder");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn third_archive_has_to_wait() {
    let root = TempRoot::new();
    sparse(&root, "films/large", 1 << 30);
    root.write("small/file", b"x");
    let pair = Pair::start(root.path());
    let get = || Request::get("/small/?format=tar").send(pair.proxy.http).unwrap();
    let begin = || {
        let mut visitor = Visitor::get(pair.proxy.http, "/films/?format=tar");
        assert_eq!(visitor.head().status, 200);
        visitor
    };
    let first = begin();
    assert_eq!(get().status, 200);
    let second = begin();
    let refused = get();
    assert_eq!(refused.status, 503);
    assert!(refused.headers.contains_key("retry-after"));
    drop(first);
    wait_until("there is room again", || get().status == 200);
    drop(second);
}

#[test]
fn zip_that_could_not_list_its_files_is_refused_and_tar_is_not() {
    let root = TempRoot::new();
    for number in 0..5_000 {
        root.write(&format!("many/{number:0220}"), b"");
    }
    let pair = Pair::start(root.path());
    let answer = Request::get("/many/?format=zip").send(pair.proxy.http).unwrap();
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("?format=tar"), "{}", answer.text());
    let here = TempRoot::new();
    download(pair.proxy.http, "/many/?format=tar", &here.join("tar"));
    assert_eq!(listed(&here.join("tar"), "tar").len(), 5_001);
}

const SUBTITLES: &str = "1\n00:00:01,000 --> 00:00:02,500\n<i>Caf\u{e9}</i> \u{20ac}5\n{\\an8}a & b\n\n\
    2\n00:00:03,000 --> 00:00:04,000\n<font color=\"red\">red</font> --> <b>open\n";
const CONVERTED: &str = "WEBVTT\n\n\
    00:00:01.000 --> 00:00:02.500\n<i>Caf\u{e9}</i> \u{20ac}5\na &amp; b\n\n\
    00:00:03.000 --> 00:00:04.000\nred --&gt; <b>open</b>\n\n";

async fn ask(client: &Client, target: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = client.request(Method::Get, target);
    for (name, value) in headers {
        request.insert_header(*name, *value);
    }
    client.ask(request).await
}

#[test]
fn subtitles_in_three_codings_come_as_one_text() {
    let root = TempRoot::new();
    root.write("utf8.srt", format!("\u{feff}{}", SUBTITLES.replace('\n', "\r\n")).as_bytes());
    let old = SUBTITLES.chars().map(|c| match c {
        '\u{20ac}' => 0x80,
        c => u8::try_from(u32::from(c)).unwrap(),
    });
    root.write("windows.SRT", &old.collect::<Vec<_>>());
    let wide = format!("\u{feff}{SUBTITLES}");
    root.write("wide.srt", &wide.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>());
    root.write("ready.vtt", CONVERTED.as_bytes());
    let long = root.write("long.srt", SUBTITLES.repeat(40_000).as_bytes());
    let pair = Pair::start(root.path());
    block_on(async {
        let visitor = Client::connect(pair.proxy.http).await;
        for name in ["utf8.srt", "windows.SRT", "wide.srt", "ready.vtt"] {
            let answer = visitor.get(&format!("/{name}?format=vtt")).await;
            assert_eq!((answer.status, answer.text()), (200, CONVERTED), "{name}");
            assert_eq!(answer.header("content-type"), Some("text/vtt; charset=utf-8"));
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        }
        let raw = visitor.get("/utf8.srt").await;
        assert_eq!(raw.header("content-type"), Some("application/x-subrip"));
        assert!(raw.body == fs::read(root.join("utf8.srt")).unwrap());
        // No browser would show it, and a program asks for the file itself.
        let whole = visitor.get("/long.srt?format=vtt").await;
        assert_eq!(whole.header("content-type"), Some("application/x-subrip"));
        assert_eq!(whole.body.len() as u64, fs::metadata(&long).unwrap().len());
    });
    let vtt = format!("http://{}/windows.SRT?format=vtt", pair.proxy.http);
    let mut ffmpeg = Command::new(tool("ffmpeg"));
    let quiet = ["-nostdin", "-hide_banner", "-loglevel", "error", "-i"];
    let read = finished(ffmpeg.args(quiet).arg(&vtt).args(["-f", "srt", "-"]), "");
    let read = read.replace('\r', "");
    assert!(read.contains("<i>Caf\u{e9}</i> \u{20ac}5\na & b\n"), "{read}");
    assert!(read.contains("00:00:03,000 --> 00:00:04,000\nred --> <b>open</b>"), "{read}");
}

#[test]
fn subtitles_have_tags_of_their_own_plain_and_as_gzip() {
    let root = TempRoot::new();
    root.write("film.srt", SUBTITLES.repeat(500).as_bytes());
    let wanted = CONVERTED.replace("WEBVTT\n\n", "").repeat(500);
    let pair = Pair::start(root.path());
    let target = "/film.srt?format=vtt";
    wait_until("the file has settled", || {
        let answer = Request { method: "HEAD", ..Request::get("/film.srt") };
        answer.send(pair.proxy.http).unwrap().headers.contains_key("etag")
    });
    block_on(async {
        let visitor = Client::connect(pair.proxy.http).await;
        let file = visitor.get("/film.srt").await.header("etag").unwrap().to_owned();
        let file = file.trim_matches('"');
        let mut bodies = Vec::new();
        for (coding, kind) in [("identity", "vtt"), ("gzip", "vtt-gzip")] {
            let answer = ask(&visitor, target, &[("accept-encoding", coding)]).await;
            let tag = format!("\"{file}-{kind}\"");
            assert_eq!((answer.status, answer.header("etag")), (200, Some(&*tag)));
            assert_eq!(answer.header("vary"), Some("accept-encoding"));
            let gzip = (coding == "gzip").then_some("gzip");
            assert_eq!(answer.header("content-encoding"), gzip);
            let same = [("accept-encoding", coding), ("if-none-match", &*tag)];
            let again = ask(&visitor, target, &same).await;
            assert_eq!((again.status, again.header("etag")), (304, Some(&*tag)));
            let other = [("accept-encoding", coding), ("if-none-match", &*format!("\"{file}\""))];
            assert_eq!(ask(&visitor, target, &other).await.status, 200);
            assert_eq!(ask(&visitor, target, &[("if-match", "\"x\"")]).await.status, 412);
            bodies.push(answer.body);
        }
        assert!(bodies[0] == format!("WEBVTT\n\n{wanted}").as_bytes());
        assert!(bodies[1].len() < bodies[0].len() / 10);
        let coded = root.write("coded.gz", &bodies[1]);
        let script = "import gzip, hashlib, sys; \
                      print(hashlib.sha256(gzip.open(sys.argv[1]).read()).hexdigest())";
        let said = finished(Command::new(tool("python3")).args(["-c", script]).arg(coded), "");
        assert_eq!(said.trim(), Sha256::of(&bodies[0]));
    });
}
