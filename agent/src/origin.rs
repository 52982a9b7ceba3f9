//! One request to one response, from a folder, over a stream.
//!
//! It owns which place a request names, the date of the answer and its line in the log. Shares are
//! read and changed by the modules below, which stand in order like those of the crate. What the
//! answers must be is docs/design.md and RFC 9110.

pub mod forward;

mod body;

mod write;

mod share;

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
    pool,
};
use body::BodyError;
use file::Root;
use forward::Forwards;
use path::{PathError, Target};
use quota::Quota;
use reply::{Body, Reply};
use share::{Share, Tools};

/// What is served, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folders; their names differ.
    pub shares: Vec<ShareOptions>,
    /// Services that requests are passed to; they come before shares. Default none.
    pub forwards: Vec<forward::Service>,
    /// Whether names that begin with a dot are served and listed. Default no.
    pub show_hidden: bool,
    /// Absolute paths of folders that links in the shares may lead into. Default none.
    pub follow_into: Vec<PathBuf>,
    /// Whether `openat2` may be used where the kernel has it. Default yes.
    pub use_openat2: bool,
    /// Threads that read and write files. Default [`pool::THREADS`].
    pub threads: usize,
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
            follow_into: Vec::new(),
            use_openat2: true,
            threads: pool::THREADS,
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
    linger: Duration,
    blocks: Quota,
    date: RefCell<(i64, String)>,
    log: Log,
}

impl Origin {
    /// Opens the folders.
    ///
    /// # Errors
    /// One does not exist, is no folder or may not be read.
    pub fn new(options: &Options, log: Log) -> io::Result<Self> {
        let mut hasher = DefaultHasher::new();
        hasher.write(&options.instance);
        let shares = options.shares.iter().map(|share| {
            Ok(Share {
                name: share.name.as_bytes().into(),
                root: Arc::new(Root::open(&share.path, options.use_openat2, &options.follow_into)?),
                writable: share.writable,
            })
        });
        Ok(Self {
            forwards: Forwards::new(options.forwards.clone(), log.clone()),
            shares: shares.collect::<io::Result<_>>()?,
            tools: Tools::new(hasher.finish(), options.threads, options.show_hidden),
            linger: options.linger,
            blocks: Quota::new(body::BLOCKS),
            date: RefCell::new((0, String::new())),
            log,
        })
    }

    /// Time that requests have waited for the disk, in sum.
    #[must_use]
    pub fn disk_wait(&self) -> Duration {
        self.tools.pool.time_waited()
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
        let mut reply = self.reply(request, stream, now).await?;
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
                let (pool, blocks) = (&self.tools.pool, &self.blocks);
                body::send_file(stream, file, &pieces, &tail, pool, blocks, sent).await?;
            }
            Body::Made(made) => {
                stream.reply(&reply.head, false).await?;
                body::send_made(stream, made, &self.tools.pool, sent).await?;
            }
        }
        self.linger(stream).await;
        Ok(status)
    }

    async fn reply(
        &self,
        request: &RequestHead,
        stream: &Stream,
        now: i64,
    ) -> Result<Reply, BodyError> {
        let method = request.method.as_str();
        if !METHODS.contains(&method) {
            return Ok(Reply::status(501));
        }
        if method == "OPTIONS" && request.path == b"*" {
            return Ok(with_allow(Reply::empty(204), self.shares.iter().any(|one| one.writable)));
        }
        let (raw, query) = path::split_query(&request.path);
        let target = match Target::parse(raw, self.tools.hidden) {
            Ok(target) => target,
            Err(PathError::Malformed) => return Ok(Reply::status(400)),
            Err(PathError::NotFound) => return Ok(Reply::status(404)),
            Err(PathError::TooLong) => return Ok(Reply::status(414)),
            Err(PathError::Elsewhere(location)) => return Ok(share::redirect(location, query)),
        };
        let Some((share, target)) = self.place(target) else { return Ok(Reply::status(404)) };
        match method {
            "GET" => Ok(share.read(&self.tools, request, &target, query, now).await),
            "HEAD" => {
                let reply = share.read(&self.tools, request, &target, query, now).await;
                Ok(reply.without_body())
            }
            "OPTIONS" => Ok(with_allow(Reply::empty(204), share.writable)),
            method if share.writable && write::METHODS.contains(&method) => {
                write::answer(share, &self.tools, request, &target, query, now, stream)
                    .await
                    .map_err(BodyError::from)
            }
            _ => Ok(with_allow(Reply::status(405), share.writable)),
        }
    }

    /// The share that a path lies in, and the place there. A share by name comes before what the
    /// one at `/` holds under that name.
    fn place(&self, target: Target) -> Option<(&Share, Target)> {
        let named = target.first().and_then(|first| {
            self.shares.iter().find(|share| !share.name.is_empty() && *share.name == *first)
        });
        match named {
            Some(share) => Some((share, target.in_share())),
            None => self.shares.iter().find(|share| share.name.is_empty()).map(|top| (top, target)),
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

fn with_allow(reply: Reply, writable: bool) -> Reply {
    let methods: Vec<_> =
        READS.iter().chain(write::METHODS.iter().filter(|_| writable)).copied().collect();
    reply.with("allow", &methods.join(", "))
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
