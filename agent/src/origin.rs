//! One request to one response, from a folder, over a stream.
//!
//! It owns methods, statuses and headers. Files are opened, read and written by the modules below,
//! which stand in order like those of the crate. What the answers must be is docs/design.md and
//! RFC 9110.

pub mod forward;

mod put;

mod body;

mod reply;

mod listing;

mod conditional;

mod file;

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
    os::fd::OwnedFd,
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
use conditional::{Validators, Verdict};
use file::{Kind, Meta, Root};
use forward::Forwards;
use listing::{Listing, Page};
use path::{PathError, Target};
use quota::Quota;
use range::Part;
use reply::{Body, PRIVATE, Reply};

/// What is served, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder.
    pub root: PathBuf,
    /// Services on this machine or its network that requests are passed to. Default none.
    pub forwards: Vec<forward::Service>,
    /// Whether files may be put. Default no.
    pub allow_write: bool,
    /// Whether `openat2` may be used where the kernel has it. Without it no link below the root is
    /// followed. Default yes.
    pub use_openat2: bool,
    /// Threads that read and write files. Default [`pool::THREADS`].
    pub threads: usize,
    /// Longest wait for the rest of a request whose answer did not need it. Default 5 s.
    pub linger: Duration,
    /// Makes the entity tags of one NAS differ from those of another.
    pub instance: [u8; 16],
}

impl Options {
    /// The defaults for a folder.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            forwards: Vec::new(),
            allow_write: false,
            use_openat2: true,
            threads: pool::THREADS,
            linger: Duration::from_secs(5),
            instance: [0; 16],
        }
    }
}

/// Serves one folder to any number of streams; on one thread.
#[derive(Debug)]
pub struct Origin {
    forwards: Forwards,
    root: Arc<Root>,
    pool: Pool,
    allow_write: bool,
    linger: Duration,
    tag_key: u64,
    policy: String,
    blocks: Quota,
    entries: Quota,
    date: RefCell<(i64, String)>,
    log: Log,
}

impl Origin {
    /// Opens the folder.
    ///
    /// # Errors
    /// It does not exist, is no folder or may not be read.
    pub fn new(options: &Options, log: Log) -> io::Result<Self> {
        let mut hasher = DefaultHasher::new();
        hasher.write(&options.instance);
        Ok(Self {
            forwards: Forwards::new(options.forwards.clone(), log.clone()),
            root: Arc::new(Root::open(&options.root, options.use_openat2)?),
            pool: Pool::new(options.threads),
            allow_write: options.allow_write,
            linger: options.linger,
            tag_key: hasher.finish(),
            policy: listing::policy(),
            blocks: Quota::new(body::BLOCKS),
            entries: Quota::new(listing::ENTRIES_HELD),
            date: RefCell::new((0, String::new())),
            log,
        })
    }

    /// Answers one request. Safe to drop: the stream is reset, an upload leaves nothing behind.
    pub async fn serve(self: Rc<Self>, request: RequestHead, stream: Stream) {
        let begun = self.log.is_on(Level::Debug).then(Instant::now);
        let mut sent = 0;
        let outcome = self.answer(&request, &stream, &mut sent).await;
        match &outcome {
            Err(BodyError::Stream(_)) | Ok(_) => {}
            Err(error @ (BodyError::Read(_) | BodyError::Short)) => {
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
            Body::File { file, offset, len } => {
                stream.reply(&reply.head, false).await?;
                body::send_file(stream, file, offset, len, &self.pool, &self.blocks, sent).await?;
            }
            Body::Page(page) => {
                let Some(_held) = self.entries.lease(page.len()) else {
                    let busy = Reply::status(503);
                    stream.reply(&busy.head, true).await?;
                    return Ok(503);
                };
                stream.reply(&reply.head, false).await?;
                body::send_page(stream, page, sent).await?;
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
        let read = match request.method.as_str() {
            "GET" | "HEAD" => true,
            "PUT" if self.allow_write => false,
            "OPTIONS" => return Ok(self.with_allow(Reply::empty(204))),
            "POST" | "PUT" | "DELETE" | "PATCH" | "TRACE" | "CONNECT" => {
                return Ok(self.with_allow(Reply::status(405)));
            }
            _ => return Ok(Reply::status(501)),
        };
        let (raw, query) = path::split_query(&request.path);
        let target = match Target::parse(raw) {
            Ok(target) => target,
            Err(PathError::Malformed) => return Ok(Reply::status(400)),
            Err(PathError::NotFound) => return Ok(Reply::status(404)),
            Err(PathError::TooLong) => return Ok(Reply::status(414)),
            Err(PathError::Elsewhere(location)) => return Ok(redirect(location, query)),
        };
        if !read {
            let key = self.tag_key;
            return put::receive(&self.root, &self.pool, request, &target, key, now, stream)
                .await
                .map_err(BodyError::from);
        }
        let reply = self.read(request, &target, query, now).await;
        Ok(if request.method == "HEAD" { reply.without_body() } else { reply })
    }

    async fn read(
        &self,
        request: &RequestHead,
        target: &Target,
        query: Option<&[u8]>,
        now: i64,
    ) -> Reply {
        let opened = match self.root.open_cached(&target.name) {
            Some(opened) => Ok(opened),
            None => {
                let (root, name) = (self.root.clone(), target.name.clone());
                self.pool.run(move || root.open_file(&name)).await
            }
        };
        let opened = opened.and_then(|opened| Meta::of(&opened).map(|meta| (opened, meta)));
        match opened {
            Err(error) => Reply::status(file::status_of(error)),
            Ok((_, meta)) if meta.kind == Kind::Other => Reply::status(404),
            Ok((_, meta)) if meta.kind == Kind::File && target.folder => Reply::status(404),
            Ok((opened, meta)) if meta.kind == Kind::File => {
                self.file(request, target, opened, &meta, now)
            }
            Ok(_) if !target.folder => redirect(target.as_folder(), query),
            Ok((opened, _)) => self.folder(request, target, opened).await,
        }
    }

    fn file(
        &self,
        request: &RequestHead,
        target: &Target,
        opened: OwnedFd,
        meta: &Meta,
        now: i64,
    ) -> Reply {
        let validators = Validators::of(meta, now, self.tag_key);
        let verdict = conditional::evaluate(&request.headers, true, Some(&validators), now);
        let ranges = match verdict {
            Verdict::Failed => return Reply::status(412),
            Verdict::NotModified => {
                return with_validators(Reply::empty(304), &validators)
                    .with("cache-control", PRIVATE);
            }
            // Range is defined for GET alone (RFC 9110 14.2).
            Verdict::Proceed { ranges } => ranges && request.method == "GET",
        };
        // Two Range headers are no set of ranges that anybody meant.
        let mut asked = request.headers.get_all("range").filter(|_| ranges);
        let part = match (asked.next(), asked.next()) {
            (Some(value), None) => Part::parse(value, meta.len),
            _ => Part::Whole,
        };
        let (status, offset, len) = match part {
            Part::Whole => (200, 0, meta.len),
            Part::Range { first, last } => (206, first, last - first + 1),
            Part::Unsatisfiable => {
                return Reply::status(416)
                    .with("content-range", &format!("bytes */{}", meta.len))
                    .with("accept-ranges", "bytes");
            }
        };
        let media_type = mime::media_type(&target.name);
        let mut reply = with_validators(Reply::empty(status), &validators)
            .with("content-type", media_type)
            .with("content-length", &len.to_string())
            .with("accept-ranges", "bytes")
            .with("cache-control", PRIVATE)
            .with("x-content-type-options", "nosniff");
        if let Part::Range { first, last } = part {
            let range = format!("bytes {first}-{last}/{}", meta.len);
            reply = reply.with("content-range", &range);
        }
        if mime::is_active(media_type) {
            reply = reply.with("content-security-policy", "sandbox");
        }
        if len > 0 {
            reply.body = Body::File { file: opened, offset, len };
        }
        reply
    }

    async fn folder(&self, request: &RequestHead, target: &Target, opened: OwnedFd) -> Reply {
        let head = Reply::empty(200)
            .with("content-type", "text/html; charset=utf-8")
            .with("cache-control", PRIVATE)
            .with("x-content-type-options", "nosniff")
            .with("content-security-policy", &self.policy);
        if request.method == "HEAD" {
            return head;
        }
        let (root, name) = (self.root.clone(), target.name.clone());
        match self.pool.run(move || Listing::read(&root, &name, &opened)).await {
            Ok(listing) => Reply { body: Body::Page(Page::new(target, listing)), ..head },
            Err(error) => Reply::status(file::status_of(error)),
        }
    }

    fn with_allow(&self, reply: Reply) -> Reply {
        let methods =
            if self.allow_write { "GET, HEAD, OPTIONS, PUT" } else { "GET, HEAD, OPTIONS" };
        reply.with("allow", methods)
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

fn redirect(mut location: Vec<u8>, query: Option<&[u8]>) -> Reply {
    path::push_query(&mut location, query);
    if location.len() > LOCATION_MAX {
        return Reply::status(414);
    }
    Reply::status(301).with_octets("location", &location)
}

fn with_validators(mut reply: Reply, validators: &Validators) -> Reply {
    if let Some(etag) = &validators.etag {
        reply = reply.with("etag", etag);
    }
    match validators.modified.and_then(date::format) {
        Some(modified) => reply.with("last-modified", &modified),
        None => reply,
    }
}

/// Longest Location, in octets; a query may be long and grows by being encoded.
const LOCATION_MAX: usize = 30_000;
/// Octets of a request's body that are let pass after its answer.
const LINGER_MAX: usize = 256 << 10;
