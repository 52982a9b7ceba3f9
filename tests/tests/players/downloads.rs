//! Downloads, whole, in parts and resumed, and uploads: curl, wget, aria2.

use std::{
    fs,
    process::{Command, Output},
    thread,
    time::Duration,
};

use spdy_tests::{
    fixture::{Pair, Program, Sha256, TempRoot, finished, tool, wait_until},
    http::Request,
    recorder::Exchange,
};

use super::{pair, run, watched};

#[test]
fn curl_and_wget_go_on_where_a_download_ended() {
    const LEN: usize = 8 << 20;
    let root = TempRoot::new();
    let digest = root.random_file("film.mkv", LEN as u64, 1);
    let content = fs::read(root.join("film.mkv")).unwrap();
    let pair = Pair::start(root.path());
    let url = format!("http://{}/film.mkv", pair.proxy.http);
    let here = TempRoot::new();
    let file = here.join("film.mkv");
    let path = file.to_str().unwrap();

    fs::write(&file, &content[..LEN / 2]).unwrap();
    let report = ["-w", "%{http_code} %{size_download}"];
    let said = run("curl", &[&["-sSf", "-C", "-", "-o", path][..], &report, &[&url]].concat());
    assert_eq!(said, format!("206 {}", LEN / 2));
    assert_eq!(Sha256::of_file(&file), digest);
    // One that is complete is left alone: there is nothing above its end.
    let said = run("curl", &[&["-sS", "-C", "-", "-o", path][..], &report, &[&url]].concat());
    assert!(said.starts_with("416 "), "{said}");
    assert_eq!(Sha256::of_file(&file), digest);

    fs::write(&file, &content[..1_000_001]).unwrap();
    run("wget", &["-q", "-c", "-O", path, &url]);
    assert_eq!(Sha256::of_file(&file), digest);
    run("wget", &["-q", "-c", "-O", path, &url]);
    assert_eq!(Sha256::of_file(&file), digest);
}

#[test]
fn aria2_fetches_in_four_parts_and_goes_on_after_an_end() {
    const LEN: u64 = 32 << 20;
    let root = TempRoot::new();
    let digest = root.random_file("film.mkv", LEN, 6);
    let pair = pair(root.path(), &[]);
    let here = TempRoot::new();
    let folder = format!("--dir={}", here.path().display());
    let aria2 = |more: &[&str]| {
        let mut command = Command::new(tool("aria2c"));
        command.args(["--no-conf", "--quiet", "-c", "-x4", "-s4", "-k1M", &folder]);
        command.args(["--file-allocation=none", "--dht-file-path=none"]).args(more);
        command
    };

    let (recorder, address) = watched(&pair, "film.mkv");
    let slowly = ["--max-overall-download-limit=4M", &address];
    let mut program = Program::start("aria2c", &mut aria2(&slowly));
    let taken = || recorder.exchanges().iter().map(|one| one.octets).sum::<u64>();
    wait_until("a third has come", || taken() > LEN / 3);
    program.terminate();
    program.wait_exit(Duration::from_secs(20));
    // One asks for all and leaves after its part, the others know where theirs end.
    let exchanges = recorder.exchanges();
    let closed = |exchanges: &[Exchange]| {
        let ranges = exchanges.iter().filter_map(Exchange::range);
        ranges.filter(|range| range.1.is_some()).count()
    };
    assert!(closed(&exchanges) >= 3, "{exchanges:?}");
    assert!(here.join("film.mkv.aria2").exists(), "it had all: {}", taken());

    let (recorder, address) = watched(&pair, "film.mkv");
    finished(&mut aria2(&[&address]), "");
    assert_eq!(Sha256::of_file(&here.join("film.mkv")), digest);
    let exchanges = recorder.exchanges();
    // All four go on where they were; the one that asks how long the file is, leaves.
    let resumed: u64 = exchanges.iter().map(|one| one.octets).sum();
    assert!(resumed < LEN * 9 / 10, "{resumed} octets, those of before among them");
    assert!(closed(&exchanges) >= 4, "{exchanges:?}");
}

#[test]
fn curl_fetches_parts_and_old_versions() {
    let root = TempRoot::new();
    root.random_file("film.mkv", 1 << 20, 2);
    let content = fs::read(root.join("film.mkv")).unwrap();
    let pair = Pair::start(root.path());
    let url = format!("http://{}/film.mkv", pair.proxy.http);
    for (range, wanted) in [
        ("512-2047", &content[512..2_048]),
        ("-100000", &content[(1 << 20) - 100_000..]),
        ("1000000-", &content[1_000_000..]),
    ] {
        let output = curl(&["-sSf", "-r", range, &url]);
        assert!(output.status.success() && output.stdout == wanted, "{range}");
    }
    for more in [&["--http1.0"][..], &["--compressed"], &["--http2"], &["--raw"]] {
        let output = curl(&[more, &["-sSf", &url]].concat());
        assert!(output.status.success() && output.stdout == content, "{more:?}");
    }
    let head = String::from_utf8(curl(&["-sSfI", &url]).stdout).unwrap();
    assert!(head.to_ascii_lowercase().contains("\r\ncontent-length: 1048576\r\n"), "{head}");
}

#[test]
fn curl_uploads_with_and_without_a_length() {
    let root = TempRoot::new();
    let digest = root.random_file("source.bin", 5_000_000, 3);
    let pair = Pair::with(root.path(), &[], &["--allow-write"]);
    let source = root.join("source.bin");
    let source = source.to_str().unwrap();
    // curl asks for 100 (Continue) before a body of this size.
    run("curl", &["-sSf", "-T", source, &format!("http://{}/known.bin", pair.proxy.http)]);
    assert_eq!(Sha256::of_file(&root.join("known.bin")), digest);
    let mut chunked = Command::new(tool("sh"));
    let line = "curl -sSf -T - \"$1\" <\"$2\"";
    let url = format!("http://{}/unknown.bin", pair.proxy.http);
    finished(chunked.args(["-c", line, "sh", &url, source]), "");
    assert_eq!(Sha256::of_file(&root.join("unknown.bin")), digest);
}

#[test]
fn large_file_arrives_whole() {
    let root = TempRoot::new();
    let digest = root.random_file("film.mkv", 200 << 20, 4);
    let pair = Pair::start(root.path());
    let answer = Request::get("/film.mkv").send(pair.proxy.http).unwrap();
    assert_eq!((answer.status, answer.len, answer.sha256), (200, 200 << 20, digest));
}

#[test]
fn sixteen_downloads_at_once_arrive_whole() {
    const LEN: u64 = 32 << 20;
    let root = TempRoot::new();
    let name = |number: u64| format!("film {number}.mkv");
    let digests: Vec<_> =
        (0..16).map(|number| root.random_file(&name(number), LEN, 100 + number)).collect();
    let pair = Pair::start(root.path());
    let http = pair.proxy.http;
    thread::scope(|scope| {
        for (number, digest) in digests.iter().enumerate() {
            scope.spawn(move || {
                let target = format!("/film%20{number}.mkv");
                let answer = Request::get(&target).send(http).unwrap();
                assert_eq!((answer.status, answer.len, &answer.sha256), (200, LEN, digest));
            });
        }
    });
}

#[test]
fn http_port_speaks_tls_when_told_to() {
    let root = TempRoot::new();
    let digest = root.random_file("film.mkv", 20 << 20, 5);
    let pair = Pair::with(root.path(), &["-t"], &["--allow-write"]);
    let certificate = pair.proxy.state_dir().join("http-cert.pem");
    let trust = ["--cacert", certificate.to_str().unwrap()];
    let file = root.join("fetched.mkv");
    let port = pair.proxy.http.port();
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("https://{host}:{port}/film.mkv");
        let report = ["-o", file.to_str().unwrap(), "-w", "%{http_version} %{ssl_verify_result}"];
        for trust in [&trust[..], &["-k"]] {
            let said = run("curl", &[trust, &["-sSf"], &report, &[&url]].concat());
            assert!(said.starts_with("1.1 "), "{said}");
            assert_eq!(Sha256::of_file(&file), digest, "{url}");
        }
        // Nobody else vouches for it.
        let untrusted = curl(&["-sS", &url]);
        assert_eq!(untrusted.status.code(), Some(60), "{untrusted:?}");
    }
    for version in ["1.2", "1.3"] {
        let only = ["-sSf", "-I", &format!("--tlsv{version}"), "--tls-max", version];
        let url = format!("https://localhost:{port}/film.mkv");
        let output = curl(&[&trust, &only[..], &[&url]].concat());
        assert!(output.status.success(), "TLS {version}: {output:?}");
    }
    let old = ["-sS", "-k", "--tls-max", "1.1", &format!("https://localhost:{port}/")];
    assert!(!curl(&old).status.success());
    // Upload over TLS, and who speaks plain HTTP to a TLS port gets no file.
    let put = format!("https://localhost:{port}/put.mkv");
    run("curl", &[&trust, &["-sSf", "-T", file.to_str().unwrap(), &put][..]].concat());
    assert_eq!(Sha256::of_file(&root.join("put.mkv")), digest);
    let plain = curl(&["-sS", "-m", "20", &format!("http://localhost:{port}/")]);
    assert!(!plain.status.success() && plain.stdout.is_empty(), "{plain:?}");
}

fn curl(args: &[&str]) -> Output {
    Command::new(tool("curl")).args(args).output().unwrap()
}
