//! Films, played and sought in: ffmpeg's library as most players have it, mpv, VLC.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use rustix::process::geteuid;
use spdy_tests::{
    fixture::{Pair, Pipe, Sha256, TempRoot, finished, tool, wait_until},
    media::{self, LONG_FILES},
    recorder::Exchange,
};

use super::{pair, run, watched};

const FILMS: [&str; 6] = ["film.mp4", "tail.mp4", "film.mkv", "film.ts", "film.avi", "clip.webm"];

/// Where players seek to in the long film, in seconds, and where that is in pictures.
const SOUGHT: &str = "30";
const SOUGHT_PICTURE: usize = 30 * 25;
/// Octets of the long film, about: what lies there begins at three quarters of it.
const LONG: u64 = 30 << 20;

/// The media, and a film as cameras write it: with its index at the end.
fn media_folder() -> TempRoot {
    let root = TempRoot::new();
    media::copy(root.path()).unwrap();
    let (film, tail) = (root.join("film.mp4"), root.join("tail.mp4"));
    let quiet = ["-nostdin", "-hide_banner", "-loglevel", "error", "-i"];
    let mut remux = Command::new(tool("ffmpeg"));
    finished(remux.args(quiet).arg(&film).args(["-c", "copy"]).arg(&tail), "");
    let index = |path: &Path| {
        let content = fs::read(path).unwrap();
        content.windows(4).position(|octets| octets == b"moov").unwrap() * 2 > content.len()
    };
    assert!(index(&tail) && !index(&film), "the index is not where it was to be");
    root
}

/// The long films behind both programs.
fn long_films() -> Pair {
    pair(media::long_folder().unwrap(), &[])
}

fn local(name: &str) -> String {
    media::long_folder().unwrap().join(name).to_str().unwrap().to_owned()
}

/// Digests of pictures: `some` of them from second `seek` on, or all.
fn pictures(address: &str, seek: &str, some: &[&str]) -> Vec<String> {
    let seek = ["-nostdin", "-hide_banner", "-loglevel", "error", "-ss", seek, "-i", address];
    let listed =
        run("ffmpeg", &[&seek[..], &["-map", "0:v"], some, &["-f", "framemd5", "-"]].concat());
    let frames = listed.lines().filter(|line| !line.starts_with('#'));
    frames.map(|line| line.rsplit(", ").next().unwrap().to_owned()).collect()
}

/// The program went to where the film is at [`SOUGHT`] by a range, instead of reading up to it.
fn assert_sought(exchanges: &[Exchange], name: &str) {
    let firsts: Vec<_> = exchanges.iter().filter_map(|one| Some(one.range()?.0)).collect();
    let near = LONG * 6 / 10..LONG * 9 / 10;
    assert!(firsts.iter().any(|first| near.contains(first)), "{name}: ranges from {firsts:?}");
    let refused = exchanges.iter().find(|one| one.status().is_some_and(|status| status != 206));
    assert!(refused.is_none(), "{name}: {refused:?}");
}

/// What it asked for and gave up, ended soon, by the log of the agent, too: nothing was read from
/// the start to where it went.
fn assert_given_up(pair: &Pair, exchanges: &[Exchange], name: &str) {
    let path = format!(" path=/{name} ");
    let answered = exchanges.iter().filter(|one| one.status().is_some()).count();
    let lines = || {
        let lines = pair.agent.program().lines(Pipe::Stderr);
        lines.into_iter().filter(|line| line.contains(&path)).collect::<Vec<_>>()
    };
    wait_until("the agent has written its log", || lines().len() >= answered);
    let number = |line: &str, before: &str| -> Option<u64> {
        let rest = line.split_once(before)?.1;
        rest[..rest.find(|c: char| !c.is_ascii_digit())?].parse().ok()
    };
    for line in lines() {
        // With what was under way: in the windows and in the buffers of three connections.
        let is_near = number(&line, " range=\"bytes=").unwrap() < LONG / 2;
        assert!(!is_near || number(&line, " sent=").unwrap() < LONG * 9 / 10, "{name}: {line}");
    }
    for one in exchanges {
        let is_near = one.range().unwrap().0 < LONG / 2;
        assert!(!is_near || one.octets < LONG / 2, "{name}: {one:?}");
    }
}

#[test]
fn ffprobe_finds_in_media_what_it_finds_in_the_local_files() {
    let root = media_folder();
    let pair = Pair::start(root.path());
    for name in FILMS.iter().chain(&["song.mp3", "picture.png"]) {
        let local = media::probe(root.join(name)).unwrap();
        let remote = media::probe(format!("http://{}/{name}", pair.proxy.http)).unwrap();
        assert_eq!(remote, local, "{name}");
        if *name != "picture.png" {
            let seconds: f64 = remote["format"]["duration"].as_str().unwrap().parse().unwrap();
            assert!((4.9..21.0).contains(&seconds), "{name}: {seconds}");
        }
        let streams = if FILMS.contains(name) { 2 } else { 1 };
        assert_eq!(remote["streams"].as_array().unwrap().len(), streams, "{name}");
    }
}

#[test]
fn ffmpeg_that_seeks_sees_the_same_pictures() {
    let root = media_folder();
    let pair = Pair::start(root.path());
    for name in FILMS {
        let remote = pictures(&format!("http://{}/{name}", pair.proxy.http), "3", FIVE);
        assert_eq!(remote.len(), 5, "{name}");
        assert_eq!(remote, pictures(root.join(name).to_str().unwrap(), "3", FIVE), "{name}");
    }
}

#[test]
fn ffmpeg_seeks_by_ranges() {
    let pair = long_films();
    for name in &LONG_FILES[..3] {
        let (recorder, address) = watched(&pair, name);
        let remote = pictures(&address, SOUGHT, FIVE);
        assert_eq!(remote, pictures(&local(name), SOUGHT, FIVE), "{name}");
        let exchanges = recorder.exchanges();
        assert_sought(&exchanges, name);
        assert_given_up(&pair, &exchanges, name);
    }
}

#[test]
fn mpv_seeks_by_ranges_and_sees_the_same_pictures() {
    let pair = long_films();
    // Writes some pictures from the middle as files and takes their digests.
    let pictures = |address: &str| -> Vec<String> {
        let folder = TempRoot::new();
        let into = format!("--vo-image-outdir={}", folder.path().display());
        let picture = ["--vo=image", "--vo-image-format=png", &into, "--frames=5", "--no-audio"];
        mpv(&[&picture[..], &[address]].concat());
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names.iter().map(|path| Sha256::of_file(path)).collect()
    };
    for name in &LONG_FILES[..3] {
        let (recorder, address) = watched(&pair, name);
        let remote = pictures(&address);
        assert_eq!(remote.len(), 5, "{name}");
        assert_eq!(remote, pictures(&local(name)), "{name}");
        let exchanges = recorder.exchanges();
        assert_sought(&exchanges, name);
        assert_given_up(&pair, &exchanges, name);
    }
}

#[test]
fn mpv_plays_in_its_own_time() {
    let pair = long_films();
    for name in LONG_FILES {
        let (recorder, address) = watched(&pair, name);
        // The WebM is half as long.
        let start = if name == "long.webm" { "--start=15" } else { "--start=30" };
        mpv(&["--vo=null", "--ao=null", start, "--length=1", &address]);
        assert!(recorder.exchanges().len() > 1, "{name}");
    }
}

#[test]
fn vlc_seeks_by_ranges_and_sees_the_same_pictures() {
    let pair = long_films();
    let all = pictures(&local("long.mp4"), "0", &[]);
    // VLC seeks in a transport stream only by reading it, as in a local file.
    for name in ["long.mp4", "long.mkv"] {
        let (recorder, address) = watched(&pair, name);
        let home = Home::new();
        // Writes the piece as it is, not decoded, to a file.
        let piece = home.0.join("piece.ts");
        let to = format!("--sout=#std{{access=file,mux=ts,dst={}}}", piece.display());
        home.vlc(&["--start-time=30", "--stop-time=32", &to, &address]);
        let seen = pictures(piece.to_str().unwrap(), "0", &[]);
        // It begins with a whole picture, up to one group of 2 s before what was asked for.
        let from = all.iter().position(|picture| Some(picture) == seen.first());
        let from = from.unwrap_or_else(|| panic!("{name}: pictures that are not in the film"));
        assert!((SOUGHT_PICTURE - 50..=SOUGHT_PICTURE).contains(&from), "{name}: {from}");
        assert!(seen.len() >= 25 && all[from..].starts_with(&seen), "{name}: {}", seen.len());
        assert_sought(&recorder.exchanges(), name);
    }
}

#[test]
fn vlc_plays_in_its_own_time() {
    let pair = long_films();
    let (recorder, address) = watched(&pair, "long.mp4");
    Home::new().vlc(&[
        "--vout=dummy",
        "--aout=dummy",
        "--start-time=30",
        "--stop-time=31",
        &address,
    ]);
    assert_sought(&recorder.exchanges(), "long.mp4");
}

fn mpv(args: &[&str]) {
    let start = format!("--start={SOUGHT}");
    run("mpv", &[&["--no-config", "--really-quiet", &start][..], args].concat());
}

/// A home for VLC, which does not run as root.
pub struct Home(TempRoot);

impl Home {
    pub fn new() -> Self {
        let home = TempRoot::new();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
        Self(home)
    }

    pub fn vlc(&self, args: &[&str]) {
        let mut command = Command::new(tool("setpriv"));
        if geteuid().is_root() {
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        }
        command.arg(tool("cvlc")).args(["--quiet", "--intf=dummy"]).args(args);
        command.arg("vlc://quit").env("HOME", self.0.path()).current_dir(self.0.path());
        for name in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"] {
            command.env_remove(name);
        }
        finished(&mut command, "");
    }
}

const FIVE: &[&str] = &["-frames:v", "5"];
