//! A file that comes in: PUT.
//!
//! It owns the temporary file beside the target, which takes the target's name only when
//! everything arrived and is on the disk. Whatever happens before leaves the old file as it was
//! and nothing else behind.

use std::{
    future::poll_fn,
    os::fd::OwnedFd,
    sync::Arc,
    task::{Context, Poll},
};

use ring::rand::{SecureRandom, SystemRandom};
use rustix::{
    fs::{
        AtFlags, Mode, OFlags, RenameFlags, fchmod, fsync, openat, renameat, renameat_with, statat,
        unlinkat,
    },
    io::{Errno, write},
};
use spdy_protocol::{error::StreamError, head::RequestHead, tunnel::Stream};

use super::{
    conditional::{Validators, Verdict, evaluate},
    file::{Kind, Meta, Root, status_of},
    path::Target,
    reply::Reply,
    share::{Share, Tools},
};
use crate::pool::Pool;

/// Answers a request that changes a share. `Err`: the stream failed, nobody is left to answer.
pub(crate) async fn answer(
    share: &Share,
    tools: &Tools,
    request: &RequestHead,
    target: &Target,
    _query: Option<&[u8]>,
    now: i64,
    stream: &Stream,
) -> Result<Reply, StreamError> {
    let (root, pool, key) = (&share.root, &tools.pool, tools.key);
    // A part of a file cannot be put by this method (RFC 9110 14.5).
    if request.headers.get("content-range").is_some() {
        return Ok(Reply::status(400));
    }
    let Ok(announced) = content_length(request) else { return Ok(Reply::status(400)) };
    if target.folder {
        return Ok(Reply::status(409));
    }
    let Some((folder, name)) = target.split() else { return Ok(Reply::status(409)) };
    let place = Place { root: root.clone(), folder: folder.into(), name: name.into() };
    let opened = pool.run(move || Upload::open(place)).await;
    let mut upload = match opened {
        Ok(upload) => upload,
        Err(status) => return Ok(Reply::status(status)),
    };
    let current = upload.replaces.as_ref().map(|meta| Validators::of(meta, now, key));
    if evaluate(&request.headers, false, current.as_ref(), now) == Verdict::Failed {
        pool.run(move || drop(upload)).await;
        return Ok(Reply::status(412));
    }
    upload.must_be_new =
        request.headers.get("if-none-match").is_some_and(|tags| tags.trim_ascii() == b"*");
    let status = match fill(pool, &mut upload, announced, stream).await {
        Ok(()) => {
            let (kept, outcome) = pool.run(move || upload.commit()).await;
            upload = kept;
            match outcome {
                Ok(()) if upload.replaces.is_some() => 204,
                Ok(()) => 201,
                Err(Errno::EXIST) => 412,
                Err(error) => status_of(error),
            }
        }
        Err(Failure::Status(status)) => status,
        Err(Failure::Stream(error)) => {
            pool.run(move || drop(upload)).await;
            return Err(error);
        }
    };
    pool.run(move || drop(upload)).await;
    Ok(if status == 204 { Reply::empty(204) } else { Reply::status(status) })
}

enum Failure {
    Status(u16),
    Stream(StreamError),
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

/// Copies the request's body into the temporary file.
async fn fill(
    pool: &Pool,
    upload: &mut Upload,
    announced: Option<u64>,
    stream: &Stream,
) -> Result<(), Failure> {
    let mut received = 0_u64;
    let mut batch = Vec::new();
    loop {
        let more = poll_fn(|cx| poll_batch(stream, cx, &mut batch)).await?;
        received = received.saturating_add(batch.iter().map(|chunk| chunk.len() as u64).sum());
        if announced.is_some_and(|announced| received > announced) {
            return Err(Failure::Status(400));
        }
        if !batch.is_empty() {
            let chunks = std::mem::take(&mut batch);
            let file = upload.file.clone();
            pool.run(move || write_all(&file, &chunks))
                .await
                .map_err(|error| Failure::Status(status_of(error)))?;
        }
        if !more {
            break;
        }
    }
    // Fewer octets than announced: the sender gave up, or somebody cut the request.
    if announced.is_some_and(|announced| received != announced) {
        return Err(Failure::Status(400));
    }
    Ok(())
}

/// Collects what has arrived, so that a fast sender does not cost a change of threads for each
/// frame. Ready with `false` at the end of the body.
fn poll_batch(
    stream: &Stream,
    cx: &mut Context<'_>,
    batch: &mut Vec<Vec<u8>>,
) -> Poll<Result<bool, StreamError>> {
    let mut held: usize = batch.iter().map(Vec::len).sum();
    while held < BATCH {
        match stream.poll_read_chunk(cx)? {
            Poll::Ready(Some(chunk)) => {
                held += chunk.len();
                batch.push(chunk);
            }
            Poll::Ready(None) => return Poll::Ready(Ok(false)),
            Poll::Pending if batch.is_empty() => return Poll::Pending,
            Poll::Pending => break,
        }
    }
    Poll::Ready(Ok(true))
}

/// Blocks.
fn write_all(file: &OwnedFd, chunks: &[Vec<u8>]) -> Result<(), Errno> {
    for chunk in chunks {
        let mut rest = chunk.as_slice();
        while !rest.is_empty() {
            match write(file, rest) {
                Ok(0) => return Err(Errno::IO),
                Ok(len) => rest = &rest[len..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Where a file is to be.
struct Place {
    root: Arc<Root>,
    folder: Box<[u8]>,
    name: Box<[u8]>,
}

/// A file under way. Dropping it removes the temporary file unless it was committed; that blocks,
/// so it is dropped on the pool where there is still time for that.
struct Upload {
    file: Arc<OwnedFd>,
    folder: OwnedFd,
    name: Box<[u8]>,
    temporary: Option<String>,
    replaces: Option<Meta>,
    must_be_new: bool,
}

impl Upload {
    /// Blocks. Looks at the target and makes the temporary file; an error is a status.
    fn open(place: Place) -> Result<Self, u16> {
        let folder = place.root.open_folder(&place.folder).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR => 409,
            error => status_of(error),
        })?;
        let replaces = match statat(&folder, &*place.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(Meta::from_stat(&stat)),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(status_of(error)),
        };
        // A folder, and also a link or device: replacing those is not what PUT of a file means.
        if replaces.as_ref().is_some_and(|meta| meta.kind != Kind::File) {
            return Err(409);
        }
        let mut random = [0; 8];
        SystemRandom::new().fill(&mut random).map_err(|_| 500_u16)?;
        // The dot hides it from readers.
        let temporary = format!(".spdy-put-{:016x}", u64::from_ne_bytes(random));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH;
        let file = openat(&folder, &temporary, flags, mode).map_err(status_of)?;
        Ok(Self {
            file: Arc::new(file),
            folder,
            name: place.name,
            temporary: Some(temporary),
            replaces,
            must_be_new: false,
        })
    }

    /// Blocks. Gives the file its name once it is on the disk.
    fn commit(mut self) -> (Self, Result<(), Errno>) {
        let outcome = self.try_commit();
        (self, outcome)
    }

    fn try_commit(&mut self) -> Result<(), Errno> {
        let Some(temporary) = self.temporary.as_deref() else { return Err(Errno::NOENT) };
        if let Some(meta) = &self.replaces {
            // Best effort: who may write the folder need not own the old file.
            let _ = fchmod(&self.file, Mode::from_bits_truncate(meta.mode & 0o777));
        }
        fsync(&self.file)?;
        let (folder, name) = (&self.folder, &*self.name);
        let renamed = if self.must_be_new {
            match renameat_with(folder, temporary, folder, name, RenameFlags::NOREPLACE) {
                // Not on this filesystem; the check at the start must do.
                Err(Errno::INVAL | Errno::NOSYS) => renameat(folder, temporary, folder, name),
                renamed => renamed,
            }
        } else {
            renameat(folder, temporary, folder, name)
        };
        renamed?;
        self.temporary = None;
        // The file is in place; a filesystem that cannot sync folders changes nothing in that.
        let _ = fsync(&self.folder);
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = unlinkat(&self.folder, temporary, AtFlags::empty());
        }
    }
}

/// The announced length; `Err` if it is no number or there are several.
fn content_length(request: &RequestHead) -> Result<Option<u64>, ()> {
    let mut values = request.headers.get_all("content-length");
    let Some(value) = values.next() else { return Ok(None) };
    let digits = str::from_utf8(value).ok().filter(|text| text.bytes().all(|c| c.is_ascii_digit()));
    match (digits.and_then(|digits| digits.parse().ok()), values.next()) {
        (Some(len), None) => Ok(Some(len)),
        _ => Err(()),
    }
}

/// What this module answers.
pub(crate) const METHODS: &[&str] = &["PUT"];

/// Octets that are collected for one write.
const BATCH: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    struct Folder(PathBuf, Arc<Root>);

    impl Folder {
        fn new(name: &str) -> Self {
            let unique = format!("spdy-agent-put-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(unique);
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            let root = Arc::new(Root::open(&path, true, &[]).unwrap());
            Self(path, root)
        }

        fn open(&self, folder: &str, name: &str) -> Result<Upload, u16> {
            Upload::open(Place {
                root: self.1.clone(),
                folder: folder.as_bytes().into(),
                name: name.as_bytes().into(),
            })
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> = fs::read_dir(&self.0)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn committed_file_is_whole_and_alone() {
        let folder = Folder::new("commit");
        let upload = folder.open(".", "a").unwrap();
        write_all(&upload.file, &[b"one ".to_vec(), Vec::new(), b"two".to_vec()]).unwrap();
        assert_eq!(folder.names().len(), 1);
        assert!(!folder.0.join("a").exists());
        let (upload, outcome) = upload.commit();
        outcome.unwrap();
        assert!(upload.replaces.is_none());
        drop(upload);
        assert_eq!(folder.names(), ["a"]);
        assert_eq!(fs::read(folder.0.join("a")).unwrap(), b"one two");
    }

    #[test]
    fn abandoned_upload_leaves_the_old_file_alone() {
        let folder = Folder::new("abandon");
        fs::write(folder.0.join("a"), "old").unwrap();
        let upload = folder.open(".", "a").unwrap();
        write_all(&upload.file, &[b"new".to_vec()]).unwrap();
        assert!(upload.replaces.is_some());
        drop(upload);
        assert_eq!(folder.names(), ["a"]);
        assert_eq!(fs::read(folder.0.join("a")).unwrap(), b"old");
    }

    #[test]
    fn replaced_file_keeps_its_mode() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = Folder::new("mode");
        fs::write(folder.0.join("a"), "old").unwrap();
        fs::set_permissions(folder.0.join("a"), fs::Permissions::from_mode(0o640)).unwrap();
        folder.open(".", "a").unwrap().commit().1.unwrap();
        let mode = fs::metadata(folder.0.join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn file_that_appeared_meanwhile_is_not_replaced_when_it_must_be_new() {
        let folder = Folder::new("new");
        let mut upload = folder.open(".", "a").unwrap();
        upload.must_be_new = true;
        fs::write(folder.0.join("a"), "other").unwrap();
        let (upload, outcome) = upload.commit();
        assert_eq!(outcome, Err(Errno::EXIST));
        drop(upload);
        assert_eq!(folder.names(), ["a"]);
        assert_eq!(fs::read(folder.0.join("a")).unwrap(), b"other");
    }

    #[test]
    fn places_that_are_none_are_refused() {
        let folder = Folder::new("refuse");
        fs::create_dir(folder.0.join("dir")).unwrap();
        std::os::unix::fs::symlink("dir", folder.0.join("link")).unwrap();
        fs::write(folder.0.join("file"), "x").unwrap();
        let status = |folder: &Folder, parent: &str, name: &str| folder.open(parent, name).err();
        assert_eq!(status(&folder, "nope", "a"), Some(409));
        assert_eq!(status(&folder, "file", "a"), Some(409));
        assert_eq!(status(&folder, ".", "dir"), Some(409));
        assert_eq!(status(&folder, ".", "link"), Some(409));
        assert_eq!(status(&folder, ".", &"n".repeat(300)), Some(404));
        assert_eq!(folder.names(), ["dir", "file", "link"]);
    }

    #[test]
    fn lengths_are_numbers() {
        let length = |values: &[&str]| {
            let mut request = RequestHead::get("/");
            for value in values {
                request.headers.push("content-length", value.as_bytes()).unwrap();
            }
            content_length(&request)
        };
        assert_eq!(length(&[]), Ok(None));
        assert_eq!(length(&["0"]), Ok(Some(0)));
        assert_eq!(length(&["18446744073709551615"]), Ok(Some(u64::MAX)));
        for bad in [&["+1"][..], &["-1"], &["1x"], &["18446744073709551616"], &["1", "1"]] {
            assert_eq!(length(bad), Err(()), "{bad:?}");
        }
    }
}
