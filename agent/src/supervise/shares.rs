//! What requests are given to: the origin, made anew when a share comes, goes or changes.
//!
//! It owns which shares are there. A disk may be mounted long after the start of the agent, or
//! sleep, so nothing looks at the directories but requests. Each request checks that the path of
//! its share still leads to the directory that is open: on local filesystems by one `stat` of what
//! the kernel has at hand, elsewhere on the threads of the share. If it does not, all are looked at
//! and the request waits for that; so no request is served by a directory that is no longer the
//! share's. Shares that are not there are looked for at most every [`Shares::pause`]. What is served
//! and how is [`crate::origin`]'s.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    path::PathBuf,
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use async_channel::Receiver;
use async_io::Timer;
use futures_lite::future::or;
use percent_encoding::percent_decode;
use rustix::fs::{Access, access, statvfs};
use spdy_protocol::{
    head::{RequestHead, ResponseHead},
    tunnel::Stream,
};

use crate::{
    log::{Log, Quoted},
    origin::{Context, Opened, Options, Origin, ShareOptions, check_root},
    pool::Pool,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Shares {
    log: Log,
    /// Shortest time between two looks for what is not there.
    pause: Duration,
    /// For reports, which look at all disks.
    pool: Pool,
    context: Rc<Context>,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    options: Options,
    /// Grows with each change of the options: what was found under others is not taken.
    generation: u64,
    /// By share; `None` before the first look.
    found: Vec<Option<Found>>,
    /// Whether the origin is made of these options.
    is_current: bool,
    origin: Option<Rc<Origin>>,
    looked: Instant,
    /// Open while somebody looks.
    looking: Option<Receiver<()>>,
}

/// The directory of one share as it was when somebody looked, or why it is not there.
type Found = Result<Opened, String>;

/// What is known of the share that a request is for.
enum Standing {
    /// Its directory is the one at its path, or it is for no share.
    Ready,
    /// Only its disk can tell.
    Unknown(usize, Opened),
    /// Its path leads elsewhere now.
    Replaced,
    /// It was not there.
    Absent,
}

/// One share as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareReport {
    /// Its path in URLs: `/` or `/NAME/`.
    pub path: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Why it cannot be read, if so.
    pub problem: Option<String>,
    /// Whether visitors may change it by its options.
    pub writable: bool,
    /// Why it cannot be written although visitors may, if so.
    pub read_only: Option<String>,
    /// Octets free for the user we are; `None` where the system does not say.
    pub free: Option<u64>,
    /// Octets that the file system has in all.
    pub size: Option<u64>,
}

impl Shares {
    /// Opens what there is. May block: for a start, and not beside running tunnels.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(super) fn open(options: Options, pause: Duration, log: Log) -> io::Result<Self> {
        let open = |share| open_share(&options, share, &[], &log);
        let found = options.shares.iter().map(open).collect();
        let shares = Self {
            pause,
            pool: Pool::new(1),
            context: Rc::new(Context::new()?),
            state: RefCell::new(State {
                options,
                generation: 0,
                found: Vec::new(),
                is_current: false,
                origin: None,
                looked: Instant::now(),
                looking: None,
            }),
            log,
        };
        shares.take(found);
        Ok(shares)
    }

    /// Serves others from now on. Requests that run finish as they began.
    pub(super) async fn replace(&self, options: Options) {
        let found = self.look(&options).await;
        {
            let mut state = self.state.borrow_mut();
            let old = state.options.shares.iter().zip(&state.found);
            let kept = options.shares.iter().map(|share| {
                let before = old.clone().find(|(old, _)| *old == share);
                before.and_then(|(_, found)| found.clone())
            });
            state.found = kept.collect();
            state.options = options;
            state.generation += 1;
            // Whatever was found: the options are others.
            state.is_current = false;
        }
        self.take(found);
    }

    /// If it is time to look for what is not there, the future that does so; it must be run.
    pub(super) fn look_again(self: &Rc<Self>) -> Option<impl Future<Output = ()> + use<>> {
        let is_due = {
            let state = self.state.borrow();
            state.looking.is_none()
                && state.looked.elapsed() >= self.pause
                && state.found.iter().any(|found| matches!(found, Some(Err(_))))
        };
        is_due.then(|| self.clone().look_now())
    }

    /// Looks at all directories, or waits for who looks already.
    async fn look_now(self: Rc<Self>) {
        let looking = self.state.borrow().looking.clone();
        if let Some(looking) = looking {
            // Nothing is sent: it closes.
            let _ = looking.recv().await;
            return;
        }
        let (done, looking) = async_channel::bounded::<()>(1);
        let (options, generation) = {
            let mut state = self.state.borrow_mut();
            state.looking = Some(looking);
            (state.options.clone(), state.generation)
        };
        let found = self.look(&options).await;
        let is_current = {
            let mut state = self.state.borrow_mut();
            state.looked = Instant::now();
            state.looking = None;
            state.generation == generation
        };
        if is_current {
            self.take(found);
        }
        drop(done);
    }

    /// Opens all directories side by side, each on the threads of its share.
    async fn look(&self, options: &Options) -> Vec<Found> {
        let known: Vec<Opened> = {
            let state = self.state.borrow();
            state.found.iter().flatten().filter_map(|found| found.clone().ok()).collect()
        };
        let open = |share: &ShareOptions| {
            let pool = self.context.pool(&share.path, options.threads);
            let (options, share) = (options.clone(), share.clone());
            let (known, log) = (known.clone(), self.log.clone());
            let opened =
                async move { pool.run(move || open_share(&options, &share, &known, &log)).await };
            let silent = async {
                Timer::after(LOOK_MAX).await;
                Err(SILENT.to_owned())
            };
            Box::pin(or(opened, silent)) as Pin<Box<dyn Future<Output = Found>>>
        };
        all(options.shares.iter().map(open).collect()).await
    }

    /// Answers one request.
    pub(super) async fn serve(self: Rc<Self>, head: RequestHead, stream: Stream) {
        if !self.is_ready(&head.path).await {
            return self.refuse(&head, &stream).await;
        }
        let origin = self.state.borrow().origin.clone();
        match origin {
            Some(origin) => origin.serve(head, stream).await,
            None => self.refuse(&head, &stream).await,
        }
    }

    /// Whether the share of a path is there, after a look if need be.
    async fn is_ready(self: &Rc<Self>, path: &[u8]) -> bool {
        for _ in 0..LOOKS_MAX {
            match self.standing(path) {
                Standing::Ready => return true,
                Standing::Unknown(at, opened) => {
                    if self.is_current_on_disk(at, opened).await {
                        return true;
                    }
                }
                Standing::Replaced => {}
                // Who comes while somebody looks waits for that; no disk is woken for it.
                Standing::Absent if self.state.borrow().looking.is_none() => return false,
                Standing::Absent => {}
            }
            self.clone().look_now().await;
        }
        matches!(self.standing(path), Standing::Ready)
    }

    /// Asks the disk of a share whether its path leads to what is open.
    async fn is_current_on_disk(&self, at: usize, opened: Opened) -> bool {
        let pool = {
            let options = &self.state.borrow().options;
            let Some(share) = options.shares.get(at) else { return false };
            self.context.pool(&share.path, options.threads)
        };
        or(pool.run(move || opened.is_current()), after(LOOK_MAX)).await
    }

    /// Time that requests have waited for the disks, in sum.
    pub(super) fn disk_wait(&self) -> Duration {
        self.context.disk_wait()
    }

    /// All shares as they are now, asked on the pool. May wake a disk.
    pub(super) async fn report(&self) -> Vec<ShareReport> {
        let shares = self.state.borrow().options.shares.clone();
        let silent = shares
            .iter()
            .map(|share| ShareReport { problem: Some(SILENT.to_owned()), ..named(share) });
        let silent: Vec<_> = silent.collect();
        let asked = self.pool.run(move || shares.iter().map(examine_share).collect());
        or(asked, async {
            Timer::after(REPORT_MAX).await;
            silent
        })
        .await
    }

    /// Makes the origin of what was found, if anything is new. Asks no disk.
    fn take(&self, found: Vec<Found>) {
        let mut state = self.state.borrow_mut();
        let is_same = |at: usize, now: &Found| match (state.found.get(at), now) {
            (Some(Some(Ok(before))), Ok(now)) => before.id() == now.id(),
            (Some(Some(Err(before))), Err(now)) => before == now,
            _ => false,
        };
        if state.is_current && found.iter().enumerate().all(|(at, now)| is_same(at, now)) {
            return;
        }
        let opened: Vec<_> = found.iter().map(|found| found.as_ref().ok().cloned()).collect();
        let origin = Origin::of(&self.context, &state.options, &opened, self.log.clone());
        state.origin = Some(Rc::new(origin));
        for (at, (share, now)) in state.options.shares.iter().zip(&found).enumerate() {
            self.tell(share, state.found.get(at).and_then(Option::as_ref), now);
        }
        state.found = found.into_iter().map(Some).collect();
        state.is_current = true;
    }

    /// Logs what changed.
    fn tell(&self, share: &ShareOptions, before: Option<&Found>, now: &Found) {
        let folder = share.path.to_string_lossy();
        let share = format_args!("path=/{} folder={}", share.name, Quoted(&folder));
        match (before, now) {
            (Some(Err(_)), Ok(_)) => self.log.info(format_args!("event=share_present {share}")),
            (Some(Ok(before)), Ok(now)) if before.id() != now.id() => {
                self.log.info(format_args!("event=share_changed {share}"));
            }
            (None | Some(Ok(_)), Err(reason)) => self.log.warn(format_args!(
                "event=share_absent {share} reason={} action=waiting",
                Quoted(reason)
            )),
            _ => {}
        }
    }

    /// What is known of the share that a path lies in.
    fn standing(&self, path: &[u8]) -> Standing {
        let state = self.state.borrow();
        let Some(at) = share_of(&state.options, path) else { return Standing::Ready };
        match state.found.get(at) {
            Some(Some(Ok(opened))) => match opened.is_current_cached() {
                Some(true) => Standing::Ready,
                Some(false) => Standing::Replaced,
                None => Standing::Unknown(at, opened.clone()),
            },
            _ => Standing::Absent,
        }
    }

    async fn refuse(&self, request: &RequestHead, stream: &Stream) {
        const TEXT: &str = "The disk of this folder is not there at the moment.\n";
        let mut head = ResponseHead::new(503);
        let retry = self.pause.as_secs().max(1).to_string();
        for (name, value) in [
            ("content-type", "text/plain; charset=utf-8"),
            ("content-length", &TEXT.len().to_string()),
            ("cache-control", "no-store"),
            ("retry-after", &retry),
        ] {
            // These are names and values of our own.
            let _ = head.headers.push(name, value.as_bytes());
        }
        // Who went away needs no answer.
        if request.method == "HEAD" {
            let _ = stream.reply(&head, true).await;
        } else if stream.reply(&head, false).await.is_ok() {
            let mut rest = TEXT.as_bytes();
            while !rest.is_empty() {
                let sent = std::future::poll_fn(|cx| stream.poll_write(cx, rest, true)).await;
                let Ok(sent) = sent else { return };
                rest = &rest[sent..];
            }
            // A reset because of a body that nobody reads could overtake the answer.
            let drain = async {
                let mut seen = 0;
                while let Ok(Some(chunk)) =
                    std::future::poll_fn(|cx| stream.poll_read_chunk(cx)).await
                {
                    seen += chunk.len();
                    if seen > LINGER_MAX {
                        break;
                    }
                }
                true
            };
            or(drain, after(LOOK_MAX)).await;
        }
    }
}

async fn after(time: Duration) -> bool {
    Timer::after(time).await;
    false
}

/// The share that a path lies in; `None` if it is for a service or for the list of shares.
fn share_of(options: &Options, path: &[u8]) -> Option<usize> {
    // Services come before shares.
    let is_forwarded = options.forwards.iter().any(|service| {
        let prefix = service.prefix().trim_end_matches('/').as_bytes();
        let rest = path.strip_prefix(prefix);
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/' | b'?')))
    });
    if is_forwarded {
        return None;
    }
    let named = |name: &[u8]| options.shares.iter().position(|share| share.name.as_bytes() == name);
    if options.shares.len() == 1 && options.shares[0].name.is_empty() {
        return Some(0);
    }
    let first = path.split(|byte| matches!(byte, b'/' | b'?')).find(|part| !part.is_empty());
    let first: Vec<u8> = first.map(|part| percent_decode(part).collect()).unwrap_or_default();
    named(&first).or_else(|| named(b""))
}

/// Opens the directory of a share. Blocks.
fn open_share(options: &Options, share: &ShareOptions, known: &[Opened], log: &Log) -> Found {
    Opened::open(options, share, known, log).map_err(|error| error.to_string())
}

/// Runs all side by side.
async fn all<T>(mut futures: Vec<Pin<Box<dyn Future<Output = T>>>>) -> Vec<T> {
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none()
                && let Poll::Ready(ready) = future.as_mut().poll(cx)
            {
                *result = Some(ready);
            }
        }
        if results.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results.into_iter().flatten().collect()
}

fn named(share: &ShareOptions) -> ShareReport {
    let path = if share.name.is_empty() { "/".to_owned() } else { format!("/{}/", share.name) };
    ShareReport {
        path,
        folder: share.path.clone(),
        problem: None,
        writable: share.writable,
        read_only: None,
        free: None,
        size: None,
    }
}

/// What there is to say of a share. Blocks.
#[must_use]
pub fn examine_share(share: &ShareOptions) -> ShareReport {
    let mut report = named(share);
    report.problem = check_root(&share.path).err().map(|error| error.to_string());
    if report.problem.is_none() {
        let stat = statvfs(&share.path).ok();
        report.free = stat.as_ref().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        report.size = stat.as_ref().map(|stat| stat.f_blocks.saturating_mul(stat.f_frsize));
        let needs = Access::WRITE_OK | Access::EXEC_OK;
        let written = access(&share.path, needs);
        report.read_only = written.err().filter(|_| share.writable).map(|error| error.to_string());
    }
    report
}

const SILENT: &str = "the disk does not answer";
/// Longest wait for a look at the folders: a disk that spins up.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// Looks that one request waits for: the first may have begun before a disk was changed, and disks
/// may be changed while somebody looks.
const LOOKS_MAX: usize = 4;
/// Longest wait of a report for the disks.
const REPORT_MAX: Duration = Duration::from_secs(3);
/// Octets of a refused request's body that are let pass.
const LINGER_MAX: usize = 256 << 10;
