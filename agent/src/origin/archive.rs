//! A folder as one download: tar, or zip without compression.
//!
//! It owns the order of an archive and its bounds. Nothing is prepared: what is sent is read while
//! it is sent, a file by the length it has when its turn comes. A file that becomes shorter ends
//! the body, because its length was written already; what cannot be read is named in a last entry.

mod tar;

mod zip;

mod walk;

use std::{
    fmt,
    os::fd::OwnedFd,
    time::{Duration, SystemTime},
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rustix::io::Errno;

use super::{
    content::{BLOCK, Content},
    date,
    file::Meta,
    path::{self, Target},
    reply::Source,
};
use tar::Tar;
use walk::{Found, Walk};
pub(crate) use zip::FULL;
use zip::Zip;

/// The kinds of archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Any number of entries, any names.
    Tar,
    /// What Windows opens.
    Zip,
}

impl Form {
    /// What a query asks for.
    pub(crate) fn asked(query: Option<&[u8]>) -> Option<Self> {
        match path::query_value(query, b"format")? {
            b"tar" => Some(Self::Tar),
            b"zip" => Some(Self::Zip),
            _ => None,
        }
    }

    /// Its media type.
    pub(crate) const fn media_type(self) -> &'static str {
        match self {
            Self::Tar => "application/x-tar",
            Self::Zip => "application/zip",
        }
    }

    /// What its names end with.
    pub(crate) const fn extension(self) -> &'static str {
        match self {
            Self::Tar => ".tar",
            Self::Zip => ".zip",
        }
    }
}

/// The Content-Disposition of what is to be saved (RFC 6266, RFC 8187).
pub(crate) fn disposition(name: &[u8], extension: &str) -> String {
    let name = String::from_utf8_lossy(name);
    // For who does not read the second one: nothing that needs to be escaped.
    let plain = |c: char| c == ' ' || (c.is_ascii_graphic() && !"\"%\\/;".contains(c));
    let fallback: String = name.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    let name = percent_encode(name.as_bytes(), ATTRIBUTE);
    format!("attachment; filename=\"{fallback}{extension}\"; filename*=UTF-8''{name}{extension}")
}

/// What the folder of a target is called in its archive: one segment that is safe everywhere.
pub(crate) fn top_name(target: &Target) -> Vec<u8> {
    let name = match target.split() {
        Some((_, name)) => name,
        None if target.share.is_empty() => b"files",
        None => &target.share,
    };
    let unsafe_octet = |octet: u8| matches!(octet, b'\\' | b':' | b'/' | 0..0x20 | 0x7f);
    name.iter().map(|octet| if unsafe_octet(*octet) { b'_' } else { *octet }).collect()
}

/// An archive under way.
pub(crate) struct Archive {
    walk: Walk,
    writer: Box<dyn Writer>,
    stage: Stage,
}

impl Archive {
    /// Blocks. Begins an archive of an open folder. `hidden`: names with a dot too.
    ///
    /// # Errors
    /// [`FULL`] if a zip archive could not list all entries, and those of the disk.
    pub(crate) fn open(
        folder: &OwnedFd,
        top: &[u8],
        form: Form,
        hidden: bool,
    ) -> Result<Self, Errno> {
        let walk = Walk::open(folder, top, hidden)?;
        let writer: Box<dyn Writer> = match form {
            Form::Tar => Box::new(Tar::default()),
            Form::Zip if zip::fits(Walk::open(folder, top, hidden)?, COUNTING) => {
                Box::new(Zip::default())
            }
            Form::Zip => return Err(FULL),
        };
        Ok(Self { walk, writer, stage: Stage::Top(Meta::of(folder)?) })
    }

    /// Goes one name or one block on.
    fn step(&mut self, out: &mut Vec<u8>) -> Result<(), Errno> {
        match &mut self.stage {
            Stage::Top(meta) => {
                let meta = meta.clone();
                self.folder(&meta, out)?;
                self.stage = Stage::Walk;
            }
            Stage::Walk => match self.walk.step() {
                Found::Folder(meta) => self.folder(&meta, out)?,
                Found::File => {
                    if let Some((file, meta)) = self.walk.open_file() {
                        self.writer.begin(&Entry::of(self.walk.path(), &meta), out)?;
                        self.stage = Stage::File(Content::new(file, meta.len));
                    }
                }
                Found::Nothing => {}
                Found::End => {
                    self.omitted(out)?;
                    self.stage = Stage::End;
                }
            },
            Stage::File(content) if content.left() == 0 => {
                self.writer.end(out)?;
                self.stage = Stage::Walk;
            }
            Stage::File(content) => {
                let start = out.len();
                content.read(out)?;
                self.writer.content(&out[start..]);
            }
            Stage::End => {
                if !self.writer.finish(out) {
                    self.stage = Stage::Done;
                }
            }
            Stage::Done => {}
        }
        Ok(())
    }

    fn folder(&mut self, meta: &Meta, out: &mut Vec<u8>) -> Result<(), Errno> {
        let entry = Entry { len: 0, executable: true, ..Entry::of(self.walk.path(), meta) };
        self.writer.begin(&entry, out)?;
        self.writer.end(out)
    }

    /// The last entry says what is missing. It stands beside the folder, where no other name is.
    fn omitted(&mut self, out: &mut Vec<u8>) -> Result<(), Errno> {
        let text = self.walk.omitted();
        if text.is_empty() {
            return Ok(());
        }
        let modified = date::seconds(SystemTime::now());
        let len = text.len() as u64;
        let entry = Entry { path: b"NOT-INCLUDED.txt", len, modified, executable: false };
        self.writer.begin(&entry, out)?;
        self.writer.content(text.as_bytes());
        out.extend_from_slice(text.as_bytes());
        self.writer.end(out)
    }
}

impl Source for Archive {
    fn next_piece(&mut self) -> Result<Option<Vec<u8>>, Errno> {
        if matches!(self.stage, Stage::Done) {
            return Ok(None);
        }
        let mut out = Vec::with_capacity(BLOCK);
        for _ in 0..STEPS {
            // A header or some content must be worth another step.
            if out.len() + ROOM > BLOCK || matches!(self.stage, Stage::Done) {
                break;
            }
            self.step(&mut out)?;
        }
        Ok(Some(out))
    }
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive").field("walk", &self.walk).finish_non_exhaustive()
    }
}

/// What comes next.
enum Stage {
    Top(Meta),
    Walk,
    File(Content),
    End,
    Done,
}

/// A kind of archive: what stands around the content of entries. All octets that are appended and
/// all content make the archive, in the order of the calls.
trait Writer: Send {
    /// Appends what stands before the content of an entry.
    fn begin(&mut self, entry: &Entry<'_>, out: &mut Vec<u8>) -> Result<(), Errno>;

    /// Sees some content.
    fn content(&mut self, octets: &[u8]);

    /// Appends what stands behind the content.
    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Errno>;

    /// Appends a part of what stands at the end of the archive; whether there is more of it.
    fn finish(&mut self, out: &mut Vec<u8>) -> bool;
}

/// A file or folder in an archive.
#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    /// From the top; that of a folder ends with a slash.
    path: &'a [u8],
    /// Octets of content; none for a folder.
    len: u64,
    /// Seconds since 1970.
    modified: i64,
    executable: bool,
}

impl<'a> Entry<'a> {
    fn of(path: &'a [u8], meta: &Meta) -> Self {
        let executable = meta.mode & 0o100 != 0;
        Self { path, len: meta.len, modified: meta.modified.0, executable }
    }

    fn is_folder(&self) -> bool {
        self.path.ends_with(b"/")
    }

    /// Permissions for whoever unpacks it; those on the NAS are the NAS's own business.
    fn mode(&self) -> u32 {
        if self.executable || self.is_folder() { 0o755 } else { 0o644 }
    }
}

/// Archives under way at a time. Each holds two blocks, up to 33 descriptors with a batch of names
/// and, as zip, 1 MiB for its central directory.
pub(crate) const AT_A_TIME: usize = 2;

/// Names and blocks that one piece may look at: each may cost the disk a seek, and a thread of the
/// pool waits for it.
const STEPS: usize = 16;
/// Room for the longest header of a usual name.
const ROOM: usize = 4 << 10;
/// Longest time for which the entries of a zip archive are counted before it begins.
const COUNTING: Duration = Duration::from_secs(2);

/// All but the characters of RFC 8187 that are safe in every parser.
const ATTRIBUTE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    fn tree(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("spdy-archive-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        path
    }

    fn archive(path: &PathBuf, form: Form) -> Archive {
        let folder = OwnedFd::from(fs::File::open(path).unwrap());
        Archive::open(&folder, b"top", form, false).unwrap()
    }

    #[test]
    fn file_that_becomes_shorter_ends_the_archive() {
        let path = tree("short");
        fs::write(path.join("file"), vec![1; 5 * BLOCK]).unwrap();
        for form in [Form::Tar, Form::Zip] {
            fs::write(path.join("file"), vec![1; 5 * BLOCK]).unwrap();
            let mut source = archive(&path, form);
            assert!(source.next_piece().unwrap().is_some_and(|piece| piece.len() <= BLOCK));
            let file = fs::OpenOptions::new().write(true).open(path.join("file")).unwrap();
            file.set_len(3 * BLOCK as u64).unwrap();
            let error = loop {
                match source.next_piece() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("the archive looks whole"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error, super::super::content::SHORT);
        }
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn growing_file_is_cut_at_its_length() {
        let path = tree("grow");
        let len = 3 * BLOCK;
        fs::write(path.join("file"), vec![1; len]).unwrap();
        let mut source = archive(&path, Form::Tar);
        let mut whole = source.next_piece().unwrap().unwrap();
        fs::write(path.join("file"), vec![1; 2 * len]).unwrap();
        while let Some(piece) = source.next_piece().unwrap() {
            whole.extend(piece);
        }
        assert_eq!(whole.len(), 2 * 512 + len + 1_024);
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn pieces_are_bounded_and_the_last_has_content() {
        let path = tree("pieces");
        for number in 0..300 {
            fs::create_dir(path.join(format!("{number:0200}"))).unwrap();
        }
        for form in [Form::Tar, Form::Zip] {
            let mut source = archive(&path, form);
            let mut last = None;
            while let Some(piece) = source.next_piece().unwrap() {
                assert!(piece.len() <= BLOCK + ROOM, "{}", piece.len());
                last = Some(piece);
            }
            assert!(last.is_some_and(|piece| !piece.is_empty()));
        }
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn names_of_downloads_need_no_escapes() {
        let name = "Caf\u{e9} \"1\"; 100%\\".as_bytes();
        assert_eq!(
            disposition(name, Form::Zip.extension()),
            "attachment; filename=\"Caf_ _1__ 100__.zip\"; \
             filename*=UTF-8''Caf%C3%A9%20%221%22%3B%20100%25%5C.zip"
        );
        assert!(disposition(b"\xff\n", Form::Tar.extension()).is_ascii());
    }

    #[test]
    fn top_is_the_name_of_the_folder_or_of_its_share() {
        let name = |path: &[u8], share: bool| {
            let target = Target::parse(path, false).unwrap();
            top_name(&if share { target.in_share() } else { target })
        };
        assert_eq!(name(b"/", false), b"files");
        assert_eq!(name(b"/films/", true), b"films");
        assert_eq!(name(b"/films/a%20b/", true), b"a b");
        assert_eq!(name(b"/C:%5cx/", false), b"C__x");
    }

    #[test]
    fn query_names_the_form() {
        for (query, form) in [
            (&b"format=tar"[..], Some(Form::Tar)),
            (b"sort=name&format=zip", Some(Form::Zip)),
            (b"format=rar", None),
            (b"xformat=tar", None),
            (b"format", None),
        ] {
            assert_eq!(Form::asked(Some(query)), form);
        }
        assert_eq!(Form::asked(None), None);
    }
}
