//! Real media files and what a player's library makes of them.
//!
//! The media are made once per checkout by `scripts/media` (ffmpeg) and kept below `target`; tests
//! serve that folder or a copy of it. Large files without meaning are [`crate::fixture`]'s.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use serde_json::Value;

use crate::fixture::tool;

/// The files that `scripts/media` makes, with the container that ffprobe names for them; `None`
/// for what ffprobe is not asked about.
pub const FILES: [(&str, Option<&str>); 8] = [
    ("film.mp4", Some("mov,mp4,m4a,3gp,3g2,mj2")),
    ("film.mkv", Some("matroska,webm")),
    ("film.ts", Some("mpegts")),
    ("film.avi", Some("avi")),
    ("clip.webm", Some("matroska,webm")),
    ("song.mp3", Some("mp3")),
    ("picture.png", Some("png_pipe")),
    ("notes.txt", None),
];

/// One film of 40 s that is too large to be read by chance (31 MB; the WebM has half of it), in
/// [`long_folder`]. Its index is at the end of the MP4. Each picture says in which second it stands:
/// `scripts/media` has how.
pub const LONG_FILES: [&str; 4] = ["long.mp4", "long.mkv", "long.ts", "long.webm"];

/// The folder with [`FILES`], made at the first call. Do not write into it: take a [`copy`].
///
/// # Errors
/// When the script fails; the message has what it said (ffmpeg missing, most often).
pub fn folder() -> io::Result<&'static Path> {
    static MADE: OnceLock<Made> = OnceLock::new();
    made(&MADE, "short", "target/media")
}

/// The folder with [`LONG_FILES`], made at the first call. Do not write into it.
///
/// # Errors
/// As [`folder`].
pub fn long_folder() -> io::Result<&'static Path> {
    static MADE: OnceLock<Made> = OnceLock::new();
    made(&MADE, "long", "target/media-long")
}

/// Copies [`FILES`] into `to`, which exists.
///
/// # Errors
/// As [`folder`], and when a file cannot be copied.
pub fn copy(to: &Path) -> io::Result<()> {
    for (name, _) in FILES {
        fs::copy(folder()?.join(name), to.join(name))?;
    }
    Ok(())
}

/// What ffprobe makes of the media at `address` (a path or an `http://` address): `format` and
/// `streams` with all that it found, but for where it found it.
///
/// # Errors
/// When ffprobe fails or complains; the message has what it said.
pub fn probe(address: impl AsRef<OsStr>) -> io::Result<Value> {
    let output = Command::new(tool("ffprobe"))
        .args(["-v", "error", "-of", "json", "-show_format", "-show_streams"])
        .arg(address)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || !said.is_empty() {
        return Err(io::Error::other(format!("ffprobe: {}: {said}", output.status)));
    }
    let mut found: Value = serde_json::from_slice(&output.stdout)?;
    if let Some(format) = found["format"].as_object_mut() {
        format.remove("filename");
    }
    Ok(found)
}

/// A folder of media, or why there is none.
type Made = Result<PathBuf, String>;

fn made(made: &'static OnceLock<Made>, kind: &str, folder: &str) -> io::Result<&'static Path> {
    let make = || make(kind, folder).map_err(|error| format!("scripts/media: {error}"));
    made.get_or_init(make).as_deref().map_err(|error| io::Error::other(error.clone()))
}

fn make(kind: &str, folder: &str) -> io::Result<PathBuf> {
    let workspace =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or(io::ErrorKind::NotFound)?;
    let script = workspace.join("scripts/media");
    let made = workspace.join(folder);
    let changed = |path: &Path| fs::metadata(path)?.modified();
    if changed(&made.join("notes.txt")).ok() > changed(&script).ok() {
        return Ok(made);
    }
    // Made aside and renamed: test programs of two runs may do this at once.
    let aside = workspace.join(format!("{folder}-{}", std::process::id()));
    let output = Command::new(&script).arg(&aside).arg(kind).output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let old = workspace.join(format!("{folder}-{}-old", std::process::id()));
    if fs::rename(&made, &old).is_ok() {
        fs::remove_dir_all(&old)?;
    }
    match fs::rename(&aside, &made) {
        Ok(()) => Ok(made),
        // Another one was quicker: its files are as good.
        Err(_) if made.join("notes.txt").exists() => {
            fs::remove_dir_all(&aside)?;
            Ok(made)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_media_file_is_what_its_name_says() {
        for (name, container) in FILES {
            let path = folder().unwrap().join(name);
            assert!(fs::metadata(&path).unwrap().len() > 50, "{name}");
            if let Some(container) = container {
                assert_eq!(probe(&path).unwrap()["format"]["format_name"], container, "{name}");
            }
        }
        let film = probe(folder().unwrap().join("film.mp4")).unwrap();
        assert_eq!(film["streams"].as_array().unwrap().len(), 2);
        let seconds = film["format"]["duration"].as_str().unwrap();
        let seconds: f64 = seconds.parse().unwrap();
        assert!((seconds - 20.0).abs() < 0.5, "{seconds}");
    }
}
