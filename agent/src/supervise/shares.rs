//! What requests are given to: the origin, made anew when a share comes, goes or changes.
//!
//! It owns which shares are there. A disk may be mounted long after the start of the agent, or
//! sleep; so nobody asks for it but a request, and then at most every [`Shares::pause`]. What is
//! served and how is [`crate::origin`]'s.

use std::{
    cell::RefCell,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    rc::Rc,
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
    origin::{Options, Origin, ShareOptions, check_root},
    pool::Pool,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Shares {
    log: Log,
    /// Shortest time between two looks.
    pause: Duration,
    pool: Pool,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    options: Options,
    /// By share; `None` before the first look.
    found: Vec<Option<Found>>,
    /// Whether the origin is made of these options.
    is_current: bool,
    origin: Option<Rc<Origin>>,
    /// What requests waited for the disk under origins before this one.
    disk_wait: Duration,
    looked: Instant,
    /// Open while somebody looks.
    looking: Option<Receiver<()>>,
}

/// What one share's folder was when somebody looked: device and number, or why it is not there.
type Found = Result<(u64, u64), String>;

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
    pub(super) fn open(options: Options, pause: Duration, log: Log) -> Self {
        let found = look(&options.shares);
        let shares = Self {
            log,
            pause,
            pool: Pool::new(1),
            state: RefCell::new(State {
                options,
                found: Vec::new(),
                is_current: false,
                origin: None,
                disk_wait: Duration::ZERO,
                looked: Instant::now(),
                looking: None,
            }),
        };
        shares.take(found);
        shares
    }

    /// Serves others from now on. Requests that run finish as they began.
    pub(super) async fn replace(&self, options: Options) {
        let shares = options.shares.clone();
        let silent = vec![Err(SILENT.to_owned()); shares.len()];
        let looked = self.pool.run(move || look(&shares));
        let found = or(looked, async {
            Timer::after(LOOK_MAX).await;
            silent
        })
        .await;
        {
            let mut state = self.state.borrow_mut();
            let old = state.options.shares.iter().zip(&state.found);
            let kept = options.shares.iter().map(|share| {
                let before = old.clone().find(|(old, _)| *old == share);
                before.and_then(|(_, found)| found.clone())
            });
            state.found = kept.collect();
            state.options = options;
            // Whatever was found: the options are others.
            state.is_current = false;
        }
        self.take(found);
    }

    /// If it is time to look at the folders again, the future that does so; it must be run.
    pub(super) fn look_again(self: &Rc<Self>) -> Option<impl Future<Output = ()> + use<>> {
        let mut state = self.state.borrow_mut();
        if state.looking.is_some() || state.looked.elapsed() < self.pause {
            return None;
        }
        let (done, looking) = async_channel::bounded::<()>(1);
        state.looking = Some(looking);
        let (this, shares) = (self.clone(), state.options.shares.clone());
        Some(async move {
            let wanted = shares.clone();
            let found = this.pool.run(move || look(&shares)).await;
            let is_current = {
                let mut state = this.state.borrow_mut();
                state.looked = Instant::now();
                state.looking = None;
                state.options.shares == wanted
            };
            if is_current {
                this.take(found);
            }
            drop(done);
        })
    }

    /// Answers one request.
    pub(super) async fn serve(self: Rc<Self>, head: RequestHead, stream: Stream) {
        let looking = self.state.borrow().looking.clone();
        if let Some(looking) = looking.filter(|_| self.is_absent(&head.path)) {
            // Nothing is sent: it closes.
            let looked = async { looking.recv().await.is_ok() };
            or(looked, after(LOOK_MAX)).await;
        }
        let origin = self.state.borrow().origin.clone();
        match origin.filter(|_| !self.is_absent(&head.path)) {
            Some(origin) => origin.serve(head, stream).await,
            None => self.refuse(&head, &stream).await,
        }
    }

    /// Time that requests have waited for the disks, in sum.
    pub(super) fn disk_wait(&self) -> Duration {
        let state = self.state.borrow();
        let now = state.origin.as_ref().map_or(Duration::ZERO, |origin| origin.disk_wait());
        state.disk_wait + now
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

    /// Makes the origin of what was found, if anything is new.
    fn take(&self, found: Vec<Found>) {
        let mut state = self.state.borrow_mut();
        let found: Vec<_> = found.into_iter().map(Some).collect();
        if state.is_current && state.found == found {
            return;
        }
        let mut options = state.options.clone();
        let mut there = found.iter();
        options.shares.retain(|_| matches!(there.next(), Some(Some(Ok(_)))));
        match Origin::new(&options, self.log.clone()) {
            Ok(origin) => {
                let old = state.origin.replace(Rc::new(origin));
                state.disk_wait += old.map_or(Duration::ZERO, |old| old.disk_wait());
            }
            // It went between two looks; the next one will tell.
            Err(_) => return,
        }
        for (at, share) in state.options.shares.iter().enumerate() {
            let before = state.found.get(at).and_then(Option::as_ref);
            if let Some(now) = &found[at] {
                self.tell(share, before, now);
            }
        }
        (state.found, state.is_current) = (found, true);
    }

    /// Logs what changed.
    fn tell(&self, share: &ShareOptions, before: Option<&Found>, now: &Found) {
        let folder = share.path.to_string_lossy();
        let share = format_args!("path=/{} folder={}", share.name, Quoted(&folder));
        match (before, now) {
            (Some(Err(_)), Ok(_)) => self.log.info(format_args!("event=share_present {share}")),
            (Some(Ok(before)), Ok(now)) if before != now => {
                self.log.info(format_args!("event=share_changed {share}"));
            }
            (None | Some(Ok(_)), Err(reason)) => self.log.warn(format_args!(
                "event=share_absent {share} reason={} action=waiting",
                Quoted(reason)
            )),
            _ => {}
        }
    }

    /// Whether a path lies in a share that is not there.
    fn is_absent(&self, path: &[u8]) -> bool {
        let state = self.state.borrow();
        if !state.found.iter().flatten().any(Result::is_err) {
            return false;
        }
        // Services come before shares.
        let is_forwarded = state.options.forwards.iter().any(|service| {
            let prefix = service.prefix().trim_end_matches('/').as_bytes();
            let rest = path.strip_prefix(prefix);
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/' | b'?')))
        });
        if is_forwarded {
            return false;
        }
        let first = path.split(|octet| matches!(octet, b'/' | b'?')).find(|part| !part.is_empty());
        let first: Vec<u8> = first.map(|part| percent_decode(part).collect()).unwrap_or_default();
        let shares = || state.options.shares.iter().zip(&state.found);
        let named = |name: &[u8]| shares().find(|(share, _)| share.name.as_bytes() == name);
        named(&first).or_else(|| named(b"")).is_some_and(|(_, found)| matches!(found, Some(Err(_))))
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

/// Looks at each folder. Blocks.
fn look(shares: &[ShareOptions]) -> Vec<Found> {
    let one = |share: &ShareOptions| -> io::Result<(u64, u64)> {
        check_root(&share.path)?;
        let meta = fs::metadata(&share.path)?;
        Ok((meta.dev(), meta.ino()))
    };
    shares.iter().map(|share| one(share).map_err(|error| error.to_string())).collect()
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
/// Longest wait of a report for the disks.
const REPORT_MAX: Duration = Duration::from_secs(3);
/// Octets of a refused request's body that are let pass.
const LINGER_MAX: usize = 256 << 10;
