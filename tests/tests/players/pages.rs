//! Our own pages as a browser shows them: on a phone and a desktop, in light and dark; what can be
//! done on them.
//!
//! The pictures of the pages go to the folder that `SCREENSHOTS` names, to be looked at.

use std::{env, fs, path::PathBuf};

use serde_json::Value;
use spdy_tests::{
    browser::{Browser, View},
    fixture::{Agent, Builds, Proxy, Sha256, TempRoot, join},
    media,
    recorder::Recorder,
};

use super::{
    chromium::{PLAY, can_play},
    films::Home,
};

/// A NAS with one share to look at and one to change.
struct Nas {
    proxy: Proxy,
    inbox: TempRoot,
    _agent: Agent,
    _held: [TempRoot; 2],
}

impl Nas {
    fn start() -> Self {
        let (films, inbox) = (TempRoot::new(), TempRoot::new());
        media::copy(films.path()).unwrap();
        let german = b"1\r\n00:00:00,000 --> 00:00:19,000\r\nGr\xfc\xdfe aus dem Fr\xfchling\r\n";
        films.write("film.srt", german);
        films
            .write("A folder with a long name, as those have that come from elsewhere/x.txt", b"x");
        films.write("2024/Summer/one.txt", b"1");
        films.write(&format!("{}.txt", "nospaces".repeat(24)), b"long");
        films.write("archive.zip", b"PK");
        for number in 1..=12 {
            fs::copy(films.join("picture.png"), films.join(&format!("Photo {number}.png")))
                .unwrap();
        }
        inbox.write("there already.txt", b"old");
        let share = |name: &str, root: &TempRoot| format!("{name}={}", root.path().display());
        let proxy = Proxy::start(&[]);
        let config = TempRoot::new();
        let path = config.join("agent.conf");
        join(&Builds::beside(), &proxy.pair("nas1"), &path);
        let (read, write) = (share("films", &films), share("inbox", &inbox));
        let shares = ["--share", &read, "--share-rw", &write];
        let args = [&["--config", path.to_str().unwrap()], &shares[..]].concat();
        let agent = Agent::start(&args);
        proxy.wait_for_tunnel("nas1");
        Self { proxy, inbox, _agent: agent, _held: [films, config] }
    }

    fn address(&self, target: &str) -> String {
        format!("http://{}{target}", self.proxy.http)
    }
}

/// Name of the picture and target of each page.
const PAGES: [(&str, &str); 8] = [
    ("shares", "/"),
    ("listing", "/films/"),
    ("empty", "/films/2024/"),
    ("grid", "/films/?view=grid"),
    ("film", "/films/film.mp4?view=play"),
    ("song", "/films/song.mp3?view=play"),
    ("picture", "/films/Photo%201.png?view=play"),
    ("upload", "/inbox/"),
];

#[test]
fn pages_suit_phones_and_desktops_in_light_and_dark() {
    let nas = Nas::start();
    let held = TempRoot::new();
    let folder = env::var_os("SCREENSHOTS").map_or_else(|| held.path().to_owned(), PathBuf::from);
    fs::create_dir_all(&folder).unwrap();
    let mut browser = Browser::start();
    for (name, target) in PAGES {
        for view in View::ALL {
            let name = format!("{name}-{}", view.name());
            browser.show(view);
            browser.go(&nas.address(target));
            let look = browser.run(LOOK);
            fs::write(folder.join(format!("{name}.png")), browser.screenshot()).unwrap();
            assert_eq!(browser.complaints(), [""; 0], "{name}");
            assert!(look["width"].as_u64().unwrap() <= view.width.into(), "{name}: {look}");
            for fault in ["missing", "small"] {
                assert_eq!(look[fault], Value::Array(Vec::new()), "{name}: {fault}");
            }
            let texts = look["texts"].as_array().unwrap();
            assert!(!texts.is_empty(), "{name}: no text");
            for text in texts {
                let (front, back) = (luminance(&text["front"]), luminance(&text["back"]));
                let contrast = (front.max(back) + 0.05) / (front.min(back) + 0.05);
                assert!(contrast >= 4.5, "{name}: contrast {contrast:.1}: {text}");
            }
            // The edge of the window is the page's own background.
            let edge = browser.colour(0, view.height - 1).map(f64::from);
            let is_dark = edge.iter().sum::<f64>() < 3.0 * 128.0;
            assert_eq!(is_dark, view.dark, "{name}: {edge:?}");
        }
    }
}

/// Relative luminance, as WCAG has it.
fn luminance(colour: &Value) -> f64 {
    let part = |at: usize| {
        let part = colour[at].as_f64().unwrap() / 255.0;
        if part <= 0.03928 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * part(0) + 0.7152 * part(1) + 0.0722 * part(2)
}

#[test]
fn media_page_plays_with_subtitles() {
    let nas = Nas::start();
    let mut browser = Browser::start();
    for (name, kind) in [("clip.webm", "video/webm"), ("song.mp3", "audio/mpeg"), FILM] {
        browser.go(&nas.address(&format!("/films/{name}?view=play")));
        if can_play(&mut browser, name, kind) {
            browser.run(PLAY);
        }
        assert_eq!(browser.complaints(), [""; 0], "{name}");
    }
    // Written by an old program, in windows-1252.
    assert_eq!(browser.run(CUE), "Gr\u{fc}\u{df}e aus dem Fr\u{fc}hling");
    browser.follow("a[rel=prev], a[rel=next]");
    assert_eq!(browser.run("document.querySelector('video') != null"), true);
    assert_ne!(browser.run("location.pathname"), "/films/film.mp4");
}

#[test]
fn files_are_uploaded_by_the_form_of_the_page() {
    let nas = Nas::start();
    let source = TempRoot::new();
    let name = "Gr\u{fc}\u{df}e & 100% #1.bin";
    let digest = source.random_file(name, 5_000_000, 9);
    let mut browser = Browser::start();
    browser.go(&nas.address("/films/"));
    assert_eq!(browser.run("document.querySelector('input[type=file]')"), Value::Null);
    browser.go(&nas.address("/inbox/"));
    browser.choose_file("input[type=file]", &source.join(name));
    browser.submit("form:has(input[type=file])");
    assert_eq!(browser.complaints(), [""; 0]);
    assert_eq!(Sha256::of_file(&nas.inbox.join(name)), digest);
    browser.go(&nas.address("/inbox/"));
    let listed = format!("document.body.innerText.includes({})", Value::from(name));
    assert_eq!(browser.run(&listed), true);
    browser.run("document.querySelector('input[name=folder]').value = 'New one'");
    browser.submit("form:has(input[name=folder])");
    assert!(nas.inbox.join("New one").is_dir());
}

#[test]
fn players_take_a_folder_as_playlist() {
    let nas = Nas::start();
    for player in ["mpv", "vlc"] {
        let recorder = Recorder::start(nas.proxy.http);
        let list = format!("http://{}/films/?format=m3u", recorder.address);
        // A moment of each.
        if player == "mpv" {
            super::run("mpv", &[QUIET_MPV, &[&format!("--playlist={list}")]].concat());
        } else {
            Home::new().vlc(&["--vout=dummy", "--aout=dummy", "--run-time=1", &list]);
        }
        let exchanges = recorder.exchanges();
        for name in ["clip.webm", "film.avi", "film.mkv", "film.mp4", "film.ts", "song.mp3"] {
            let target = format!("/films/{name}");
            assert!(exchanges.iter().any(|one| one.target == target), "{player}: {name}");
        }
    }
}

const FILM: (&str, &str) = ("film.mp4", "video/mp4; codecs=\"avc1.42c01e, mp4a.40.2\"");
const QUIET_MPV: &[&str] =
    &["--no-config", "--really-quiet", "--vo=null", "--ao=null", "--length=0.2"];

/// What can be measured of a page: its width, pictures that are not there, what is too small for a
/// finger, the colours of texts and of what is behind them.
const LOOK: &str = "(async () => {
    const pen = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
    const rgba = colour => {
        pen.clearRect(0, 0, 1, 1);
        pen.fillStyle = colour;
        pen.fillRect(0, 0, 1, 1);
        return [...pen.getImageData(0, 0, 1, 1).data];
    };
    const behind = element => {
        for (let at = element; at; at = at.parentElement) {
            const colour = rgba(getComputedStyle(at).backgroundColor);
            if (colour[3] == 255) return colour;
        }
        return null;
    };
    const missing = [];
    for (const image of document.images) {
        image.loading = 'eager';
        await image.decode().catch(() => missing.push(image.src));
    }
    const video = document.querySelector('video');
    if (video) {
        // A picture that is seen, so that there is one in the screenshot.
        const seen = new Promise(done => video.requestVideoFrameCallback(done));
        video.currentTime = 1;
        await seen;
    }
    const texts = [], small = [];
    for (const element of document.body.querySelectorAll('*')) {
        const box = element.getBoundingClientRect();
        if (!element.checkVisibility() || box.width == 0) continue;
        if (element.matches('a, button') && box.height < 24) small.push(element.outerHTML);
        const words = [...element.childNodes].filter(node => node.nodeType == Node.TEXT_NODE);
        const text = words.map(node => node.data.trim()).join('');
        if (text == '') continue;
        texts.push({ text, front: rgba(getComputedStyle(element).color), back: behind(element) });
    }
    return { width: document.documentElement.scrollWidth, missing, small, texts };
})()";

/// The first line of the first subtitles, once they are there.
const CUE: &str = "new Promise((done, failed) => {
    const element = document.querySelector('track');
    const look = () => {
        if (element.readyState == element.LOADED) done(element.track.cues[0].text);
        if (element.readyState == element.ERROR) failed(new Error('none in ' + element.src));
    };
    element.track.mode = 'showing';
    element.addEventListener('load', look);
    element.addEventListener('error', look);
    look();
})";
