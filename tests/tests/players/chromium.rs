//! A browser plays films, seeks in them, and asks again only for what it lacks.

use spdy_tests::{browser::Browser, media, recorder::Exchange};

use super::{pair, strong_tag, watched};

#[test]
fn chromium_plays_and_seeks() {
    let pair = pair(media::long_folder().unwrap(), &[]);
    let films = [
        (
            "long.mp4",
            "video/mp4; codecs=\"avc1.42c01e, mp4a.40.2\"",
            40.0,
            [30.5, 5.5, 20.5, 38.5, 12.5],
            2,
        ),
        ("long.webm", "video/webm; codecs=\"vp8, opus\"", 20.0, [15.5, 3.5, 10.5, 18.5, 6.5], 0),
    ];
    for (name, kind, seconds, seeks, least) in films {
        let tag = strong_tag(&pair, name);
        let (recorder, address) = watched(&pair, name);
        let mut browser = Browser::start();
        if !can_play(&mut browser, name, kind) {
            continue;
        }
        browser.go(&address);
        let played = browser.run(PLAY);
        assert_eq!((&played["width"], &played["height"]), (&640.into(), &360.into()), "{name}");
        assert!((played["duration"].as_f64().unwrap() - seconds).abs() < 0.1, "{name}: {played}");
        for at in seeks {
            let seen = browser.run(&SEEK.replace("SECOND", &at.to_string()));
            assert!((seen["at"].as_f64().unwrap() - at).abs() < 0.05, "{name}: {seen}");
            assert_eq!(seen["second"], at.floor(), "{name}: {seen}");
        }
        browser.run(PLAY);
        assert_eq!(browser.complaints(), [""; 0], "{name}");
        let exchanges = recorder.exchanges();
        // What lies at the end is asked for apart, and what lies between later, if at all; the
        // WebM may have come whole before.
        let resumed = parts_by_tag(&exchanges, &tag);
        assert!(resumed >= least, "{name}: {exchanges:?}");
    }
}

/// Whether this Chromium was built with the decoders for a type.
pub fn can_play(browser: &mut Browser, name: &str, kind: &str) -> bool {
    let asked = format!("document.createElement('video').canPlayType('{kind}')");
    let can = browser.run(&asked) != "";
    if !can {
        spdy_tests::skip::skipped_part(format_args!(
            "{name}: this Chromium was built without {kind}"
        ));
    }
    can
}

/// Counts the parts that were asked for with If-Range. A browser that has a strong tag puts together
/// what it has and asks for the rest: from where it has nothing to where it has something, as long
/// as the file is the same.
fn parts_by_tag(exchanges: &[Exchange], tag: &str) -> usize {
    let mut parts = 0;
    for one in exchanges {
        let (part, known) = (one.header("if-range"), one.header("if-none-match"));
        // Without either it passes by its cache, which it does while that is still busy with a
        // request just given up.
        let Some(sent) = part.or(known) else { continue };
        assert_eq!(sent, tag, "{one:?}");
        let (first, last) = one.range().unwrap();
        assert!(last.is_some_and(|last| last >= first), "{one:?}");
        // With If-None-Match it asks whether it may show what it has.
        let wanted = if part.is_some() { 206 } else { 304 };
        assert!(one.status().is_none_or(|status| status == wanted), "{one:?}");
        parts += usize::from(part.is_some());
    }
    parts
}

/// Plays half a second and tells the picture's size.
pub const PLAY: &str = "(async () => {
    const video = document.querySelector('video, audio');
    const failed = new Promise((_, no) => video.addEventListener('error', () => no(video.error)));
    await Promise.race([video.play(), failed]);
    const from = video.currentTime;
    const on = new Promise(done => video.addEventListener('timeupdate',
        () => video.currentTime > from + 0.5 && done()));
    await Promise.race([on, failed]);
    return { width: video.videoWidth, height: video.videoHeight, duration: video.duration };
})()";

/// Seeks, pauses, and reads from the picture in which second it stands.
const SEEK: &str = "(async () => {
    const video = document.querySelector('video');
    video.pause();
    const there = new Promise(done => video.addEventListener('seeked', done, { once: true }));
    // The old picture may still be the one that is shown then.
    const shown = new Promise(done => {
        const look = (_, { mediaTime }) => Math.abs(mediaTime - SECOND) < 0.2
            ? done() : video.requestVideoFrameCallback(look);
        video.requestVideoFrameCallback(look);
    });
    video.currentTime = SECOND;
    await Promise.all([there, shown]);
    const canvas = new OffscreenCanvas(240, 40);
    const context = canvas.getContext('2d', { willReadFrequently: true });
    context.drawImage(video, 0, 0);
    let second = 0;
    for (let bit = 0; bit < 6; bit += 1) {
        const [red] = context.getImageData(20 + 40 * bit, 20, 1, 1).data;
        second += (red > 127) << bit;
    }
    return { second, at: video.currentTime, error: video.error };
})()";
