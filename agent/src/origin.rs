//! One request to one response, from a folder, over a stream.
//!
//! It owns which place a request names, the date of the answer and its line in the log. Shares are
//! read and changed by the modules below, which stand in order like those of the crate. What the
//! answers must be is docs/design.md and RFC 9110.

mod context;

pub mod forward;

mod body;

mod write;

mod share;

mod pages;

mod archive;

mod subtitle;

mod gzip;

mod listing;

mod content;

mod reply;

mod conditional;

mod file;

mod walk;

mod range;

mod path;

mod mime;

mod token;

mod date;

mod quota;

use std::{
    cell::RefCell,
    fmt,
    future::poll_fn,
    hash::{DefaultHasher, Hasher as _},
    io,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use async_io::Timer;
use futures_lite::future::or;
use spdy_protocol::{frame::Status, head::RequestHead, tunnel::Stream};

use crate::{
    log::{Level, Log, Quoted},
    pool::{self, Pool},
};
use body::BodyError;
pub use context::Context;
use file::{Neighbour, Root};
use forward::Forwards;
use path::{PathError, Target};
use quota::Quota;
use reply::{Body, Reply};
use share::{Share, Tools};
use write::{Change, Changes};

/// What is served, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folders; their names differ.
    pub shares: Vec<ShareOptions>,
    /// Services that requests are passed to; they come before shares. Default none.
    pub forwards: Vec<forward::Service>,
    /// Whether names that begin with a dot are served and listed. Default no.
    pub show_hidden: bool,
    /// Whether index.html is shown instead of the list of its folder. Default yes.
    pub index: bool,
    /// Absolute paths of folders that links in the shares may lead into. Default none.
    pub follow_into: Vec<PathBuf>,
    /// Whether `openat2` may be used where the kernel has it. Default yes.
    pub use_openat2: bool,
    /// Threads that read and write the files of one share. Default [`pool::THREADS`].
    pub threads: usize,
    /// Octets of the largest file that is taken. Default as the disk has room.
    pub max_upload: Option<u64>,
    /// User and group that uploads are given to; only root can. Default who runs this.
    pub owner: Option<(u32, u32)>,
    /// Longest wait for the rest of a request whose answer did not need it. Default 5 s.
    pub linger: Duration,
    /// Makes the entity tags of one NAS differ from those of another.
    pub instance: [u8; 16],
}

impl Options {
    /// The defaults for one folder at `/`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = ShareOptions { name: String::new(), path: root.into(), writable: false };
        Self {
            shares: vec![root],
            forwards: Vec::new(),
            show_hidden: false,
            index: true,
            follow_into: Vec::new(),
            use_openat2: true,
            threads: pool::THREADS,
            max_upload: None,
            owner: None,
            linger: Duration::from_secs(5),
            instance: [0; 16],
        }
    }
}

/// One folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareOptions {
    /// Its first segment in paths, [`is_share_name`]; empty for the one at `/`.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Whether visitors may change what is in it.
    pub writable: bool,
}

/// Whether a word can name a share: 1 to 63 of `A-Z a-z 0-9 . _ -`, the first no dot.
#[must_use]
pub fn is_share_name(name: &str) -> bool {
    let good = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'_' | b'-');
    (1..=63).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(good)
}

/// Serves shares to any number of streams; on one thread.
#[derive(Debug)]
pub struct Origin {
    forwards: Forwards,
    shares: Vec<Share>,
    tools: Tools,
    changes: Rc<Changes>,
    /// Bytes of the largest file that is taken.
    max_upload: Option<u64>,
    linger: Duration,
    blocks: Quota,
    date: RefCell<(i64, String)>,
    log: Log,
}

/// The directory of a share, opened. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Opened {
    root: Arc<Root>,
}

impl Opened {
    /// Opens the directory of a share and removes what interrupted uploads of former processes
    /// left in it. `known`: what was opened before; what is among it is not looked through again.
    /// Blocks.
    ///
    /// # Errors
    /// It does not exist, is no directory or may not be read.
    pub fn open(
        options: &Options,
        share: &ShareOptions,
        known: &[Self],
        log: &Log,
    ) -> io::Result<Self> {
        let root = Root::open(&share.path, options.use_openat2, &options.follow_into)?;
        let root = Arc::new(root.with_owner(options.owner));
        if share.writable && known.iter().all(|known| known.id() != root.id()) {
            write::sweep(&root, date::seconds(SystemTime::now()), log);
        }
        Ok(Self { root })
    }

    /// Device and number of the directory.
    #[must_use]
    pub fn id(&self) -> (u64, u64) {
        self.root.id()
    }

    /// Whether the share's path still leads to this directory. Blocks.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.root.is_current()
    }

    /// The same where no disk has to be asked, else `None`.
    #[must_use]
    pub fn is_current_cached(&self) -> Option<bool> {
        self.root.is_current_cached()
    }
}

impl Origin {
    /// Opens the directories and removes what is left there of uploads of a former process.
    ///
    /// # Errors
    /// One does not exist, is no directory or may not be read; the system has no random numbers.
    pub fn new(options: &Options, log: Log) -> io::Result<Self> {
        let open = |share| Opened::open(options, share, &[], &log).map(Some);
        let opened = options.shares.iter().map(open).collect::<io::Result<Vec<_>>>()?;
        Ok(Self::of(&Rc::new(Context::new()?), options, &opened, log))
    }

    /// Serves the shares whose directories are open. Asks no disk.
    #[must_use]
    pub fn of(
        context: &Rc<Context>,
        options: &Options,
        opened: &[Option<Opened>],
        log: Log,
    ) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(&options.instance);
        let there = || {
            let shares = options.shares.iter().zip(opened);
            shares.filter_map(|(share, opened)| Some((share, &opened.as_ref()?.root)))
        };
        let neighbours = options.shares.iter().zip(opened).map(|(share, opened)| match opened {
            Some(opened) => opened.root.neighbour(share.writable),
            None => Neighbour { id: None, path: share.path.clone(), writable: share.writable },
        });
        let neighbours: Arc<[_]> = neighbours.collect();
        let shares = there().map(|(share, root)| {
            let root = Arc::new(root.among(neighbours.clone()));
            Share {
                root,
                name: share.name.as_bytes().into(),
                pool: context.pool(&share.path, options.threads),
                writable: share.writable,
            }
        });
        let shares: Vec<_> = shares.collect();
        let names = shares.iter().filter(|share| !share.name.is_empty());
        let names = names.map(|share| share.name.clone()).collect();
        Self {
            forwards: Forwards::new(
                options.forwards.clone(),
                context.resolver.clone(),
                log.clone(),
            ),
            shares,
            tools: Tools {
                index: options.index,
                shares: names,
                ..Tools::new(context.shared.clone(), hasher.finish(), options.show_hidden)
            },
            changes: context.changes.clone(),
            max_upload: options.max_upload,
            linger: options.linger,
            blocks: context.blocks.clone(),
            date: RefCell::new((0, String::new())),
            log,
        }
    }

    /// Answers one request. Safe to drop: the stream is reset, an upload leaves nothing behind.
    pub async fn serve(self: Rc<Self>, request: RequestHead, stream: Stream) {
        let begun = self.log.is_on(Level::Debug).then(Instant::now);
        let mut sent = 0;
        let outcome = self.answer(&request, &stream, &mut sent).await;
        match &outcome {
            Err(BodyError::Stream(_)) | Ok(_) => {}
            Err(error @ (BodyError::Read(_) | BodyError::Short | BodyError::Full)) => {
                // The length was announced: only a reset tells that this is not all.
                stream.reset(Status::InternalError);
                self.log.warn(format_args!(
                    "event=request_failed {} sent={sent} error={}",
                    Exchange(&request),
                    Quoted(&error.to_string())
                ));
            }
        }
        if let Some(begun) = begun {
            let ms = begun.elapsed().as_millis();
            match &outcome {
                Ok(status) => self.log.debug(format_args!(
                    "event=request stream={} {} status={status} sent={sent} ms={ms}",
                    stream.id(),
                    Exchange(&request)
                )),
                Err(error) => self.log.debug(format_args!(
                    "event=request stream={} {} sent={sent} ms={ms} error={}",
                    stream.id(),
                    Exchange(&request),
                    Quoted(&error.to_string())
                )),
            }
        }
    }

    async fn answer(
        &self,
        request: &RequestHead,
        stream: &Stream,
        sent: &mut u64,
    ) -> Result<u16, BodyError> {
        if let Some(service) = self.forwards.find(&request.path) {
            let status = self.forwards.serve(service, request, stream, sent).await?;
            self.linger(stream).await;
            return Ok(status);
        }
        let now = date::seconds(SystemTime::now());
        let mut pool = &*self.tools.shared.pool;
        let mut reply = self.reply(request, stream, now, &mut pool).await?;
        if date::is_plausible(now) {
            reply = self.with_date(reply, now);
        }
        let status = reply.head.status;
        match reply.body {
            Body::Empty => stream.reply(&reply.head, true).await?,
            Body::Text(text) => {
                stream.reply(&reply.head, false).await?;
                body::send_octets(stream, text.as_bytes(), true).await?;
                *sent = text.len() as u64;
            }
            Body::File { file, pieces, tail } => {
                stream.reply(&reply.head, false).await?;
                body::send_file(stream, file, &pieces, &tail, pool, &self.blocks, sent).await?;
            }
            Body::Made(made) => {
                stream.reply(&reply.head, false).await?;
                body::send_made(stream, made, pool, sent).await?;
            }
        }
        self.linger(stream).await;
        Ok(status)
    }

    /// `pool` becomes the one by which the body is to be read.
    async fn reply<'o>(
        &'o self,
        request: &RequestHead,
        stream: &Stream,
        now: i64,
        pool: &mut &'o Pool,
    ) -> Result<Reply, BodyError> {
        let method = request.method.as_str();
        if !METHODS.contains(&method) {
            return Ok(Reply::status(501));
        }
        if method == "OPTIONS" && request.path == b"*" {
            let is_writable = self.shares.iter().any(|share| share.writable);
            let writes = if is_writable { write::METHODS } else { &[] };
            return Ok(Reply::empty(204).with("allow", &allowed(writes)));
        }
        let (raw, query) = path::split_query(&request.path);
        let target = match Target::parse(raw, self.tools.hidden) {
            Ok(target) => target,
            Err(PathError::Malformed) => return Ok(Reply::status(400)),
            Err(PathError::NotFound) => return Ok(Reply::status(404)),
            Err(PathError::TooLong) => return Ok(Reply::status(414)),
            Err(PathError::Elsewhere(location)) => return Ok(share::redirect(location, query)),
        };
        if target.first().is_none() && !self.shares.iter().any(|share| share.name.is_empty()) {
            let answer = match method {
                "GET" => share::shares(&self.tools, request, &target, query).await,
                "HEAD" => share::shares(&self.tools, request, &target, query).await.without_body(),
                "OPTIONS" => Reply::empty(204).with("allow", &allowed(&[])),
                _ => Reply::status(405).with("allow", &allowed(&[])),
            };
            return Ok(answer);
        }
        let Some((share, target)) = share::place(&self.shares, target) else {
            return Ok(Reply::status(404));
        };
        *pool = &share.pool;
        let writes = if share.writable { write::methods(&target, query) } else { &[] };
        match method {
            method if writes.contains(&method) => {
                let change = Change {
                    share,
                    shares: &self.shares,
                    tools: &self.tools,
                    changes: &self.changes,
                    max_upload: self.max_upload,
                    request,
                    target: &target,
                    query,
                    stream,
                };
                change.answer().await.map_err(BodyError::from)
            }
            "GET" => Ok(share.read(&self.tools, request, &target, query, now).await),
            "HEAD" => {
                let reply = share.read(&self.tools, request, &target, query, now).await;
                Ok(reply.without_body())
            }
            "OPTIONS" => {
                let reply = Reply::empty(204).with("allow", &allowed(writes));
                let is_writable = share.writable;
                Ok(if is_writable { write::with_uploads(reply, self.max_upload) } else { reply })
            }
            _ => Ok(Reply::status(405).with("allow", &allowed(writes))),
        }
    }

    /// Adds the date, which is made anew once a second.
    fn with_date(&self, reply: Reply, now: i64) -> Reply {
        let mut date = self.date.borrow_mut();
        if date.0 != now {
            *date = (now, date::format(now).unwrap_or_default());
        }
        reply.with("date", &date.1)
    }

    /// Lets the rest of a request's body pass, within bounds: a stream that is dropped before is
    /// reset, and the reset could overtake the answer on the proxy.
    async fn linger(&self, stream: &Stream) {
        let drain = async {
            let mut seen = 0;
            while seen < LINGER_MAX {
                match poll_fn(|cx| stream.poll_read_chunk(cx)).await {
                    Ok(Some(chunk)) => seen += chunk.len(),
                    Ok(None) | Err(_) => break,
                }
            }
        };
        or(drain, async {
            Timer::after(self.linger).await;
        })
        .await;
    }
}

/// Whether a folder can be served: for the start of a program.
///
/// # Errors
/// It does not exist, is no folder or may not be read.
pub fn check_root(root: &Path) -> io::Result<()> {
    file::is_folder(root)
}

/// A request in one line of the log: without its query, which may be signed.
struct Exchange<'a>(&'a RequestHead);

impl fmt::Display for Exchange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, query) = path::split_query(&self.0.path);
        let path = String::from_utf8_lossy(path);
        write!(f, "method={} path={}", Quoted(&self.0.method), Quoted(&path))?;
        if query.is_some() {
            f.write_str(" query=redacted")?;
        }
        for name in ["range", "x-request-id"] {
            if let Some(value) = self.0.headers.get(name) {
                write!(f, " {name}={}", Quoted(&String::from_utf8_lossy(value)))?;
            }
        }
        Ok(())
    }
}

/// `Allow`: what can be read can be read everywhere.
fn allowed(writes: &[&str]) -> String {
    let writes = writes.iter().filter(|method| !READS.contains(method));
    READS.iter().chain(writes).copied().collect::<Vec<_>>().join(", ")
}

const READS: &[&str] = &["GET", "HEAD", "OPTIONS"];
/// Methods that we have heard of: others are 501 (RFC 9110 9.1).
const METHODS: &[&str] = &[
    "GET",
    "HEAD",
    "OPTIONS",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "TRACE",
    "CONNECT",
    "MKCOL",
    "MOVE",
    "COPY",
    "PROPFIND",
    "PROPPATCH",
    "LOCK",
    "UNLOCK",
];
/// Octets of a request's body that are let pass after its answer.
const LINGER_MAX: usize = 256 << 10;
