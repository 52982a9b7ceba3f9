//! A response that goes on on another tunnel after its own was lost.
//!
//! It owns which responses can, and that what goes on is the same: the same strong ETag, type and
//! extent, or nothing. It does not own the body that the octets go into ([`super::body`]).

use std::{
    fmt,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use async_io::Timer;
use futures_lite::future;
use spdy_protocol::{
    error::StreamError,
    head::{RequestHead, ResponseHead},
    tunnel::{OpenError, Stream},
};

use super::{
    LOSSES, Visit, head,
    wait::{self, Stopped},
};
use crate::{
    access::Access,
    hold::place,
    registry::{Route, Upstream},
};

/// What it takes to ask again for the rest of a response.
#[derive(Debug)]
pub(super) struct Repeat {
    head: RequestHead,
    reply: ResponseHead,
    priority: u8,
    /// The rule under which the visitor came in.
    access: Access,
    /// How many times it may still be asked for.
    left: u32,
}

/// The way to the rest of a response. Dropping it gives it up.
pub(super) struct Splice(Pin<Box<dyn Future<Output = Result<Spliced, Broken>>>>);

/// The rest of a response.
#[derive(Debug)]
pub(super) struct Spliced {
    pub(super) upstream: Arc<Upstream>,
    pub(super) stream: Stream,
    pub(super) repeat: Box<Repeat>,
}

/// Why a response whose tunnel was lost does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// It has no strong ETag, is coded, or has no extent.
    Unfit,
    /// It was lost too often.
    Often,
    /// Too many others wait.
    Full,
    /// The origin did not come back in time.
    Late,
    /// The origin came back with an agent that cannot.
    Agent,
    /// What is there now is not what was there.
    Changed,
    /// The visitor has gone.
    Gone,
    /// The visitor may not come in any more.
    Access,
    /// No origin has the name any more.
    Unknown,
    /// The agent of the origin was revoked.
    Revoked,
    /// The proxy ends.
    Ending,
}

/// A part of a representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    first: u64,
    last: u64,
    total: u64,
}

/// What came of asking.
enum Asked {
    Here(Stream),
    Broken(Broken),
    /// That tunnel took no request or was lost, too.
    Again,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unfit => "it cannot be continued",
            Self::Often => "lost too often",
            Self::Full => "too many others wait",
            Self::Late => "the origin did not come back in time",
            Self::Agent => "the new agent cannot continue it",
            Self::Changed => "it has changed meanwhile",
            Self::Gone => "the visitor has gone",
            Self::Access => "the rule of access has changed",
            Self::Unknown => "the origin is known no more",
            Self::Revoked => "the agent of the origin was revoked",
            Self::Ending => "the proxy ends",
        })
    }
}

impl fmt::Debug for Splice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Splice").finish_non_exhaustive()
    }
}

impl From<Stopped> for Broken {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Gone => Self::Gone,
            Stopped::Access => Self::Access,
            Stopped::Unknown => Self::Unknown,
            Stopped::Revoked => Self::Revoked,
            Stopped::Ending => Self::Ending,
        }
    }
}

impl Repeat {
    /// Keeps both heads, if they are no larger than 16 KiB together. Whether the response can be
    /// continued is looked at when it has to be.
    pub(super) fn new(
        head: RequestHead,
        reply: ResponseHead,
        priority: u8,
        access: Access,
    ) -> Option<Box<Self>> {
        let len = head.path.len() + head.headers.encoded_len() + reply.headers.encoded_len();
        let is_fit = head.method == "GET" && matches!(reply.status, 200 | 206) && len <= HEADS;
        is_fit.then(|| Box::new(Self { head, reply, priority, access, left: LOSSES }))
    }

    /// The request for the octets of `extent`.
    fn request(&self, extent: Extent) -> RequestHead {
        let mut head = self.head.clone();
        let range = format!("bytes={}-{}", extent.first, extent.last);
        let tag = strong_tag(&self.reply).unwrap_or_default();
        for (name, value) in [("range", range.as_bytes()), ("if-range", tag)] {
            head.headers.remove(name);
            // It fits: these are shorter than what the limits of a list leave beside 16 KiB.
            let _ = head.headers.push(name, value);
        }
        head
    }

    /// Whether `reply` has the octets of `extent` and nothing else.
    fn is_continued_by(&self, reply: &ResponseHead, extent: Extent) -> bool {
        reply.status == 206
            && strong_tag(reply).is_some()
            && strong_tag(reply) == strong_tag(&self.reply)
            && single(reply, "content-type") == single(&self.reply, "content-type")
            && Extent::of(reply) == Some(extent)
    }
}

impl Splice {
    /// Begins to look for the rest of what `repeat` asked for, behind `delivered` octets.
    pub(super) fn new(visit: Rc<Visit>, repeat: Box<Repeat>, delivered: u64) -> Self {
        Self(Box::pin(splice(visit, repeat, delivered)))
    }

    /// Ready when the rest is here. Cancel safe.
    ///
    /// # Errors
    /// [`Broken`]: the body must be cut.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Spliced, Broken>> {
        self.0.as_mut().poll(cx)
    }
}

async fn splice(
    visit: Rc<Visit>,
    mut repeat: Box<Repeat>,
    delivered: u64,
) -> Result<Spliced, Broken> {
    let shared = visit.shared();
    let whole = Extent::of(&repeat.reply).filter(|_| strong_tag(&repeat.reply).is_some());
    let extent = whole.and_then(|whole| whole.behind(delivered)).ok_or(Broken::Unfit)?;
    repeat.left = repeat.left.checked_sub(1).ok_or(Broken::Often)?;
    let way = shared.registry.way(&repeat.head.host);
    let is_known = !matches!(way.route, Route::Unknown);
    let why = if is_known { Broken::Revoked } else { Broken::Unknown };
    let hold = way.hold.ok_or(why)?;
    let _places = place(&hold.responses, &shared.held_responses).ok_or(Broken::Full)?;
    let asked = async {
        let head = repeat.request(extent);
        loop {
            let upstream = wait::arrival(&visit, &head.host, &repeat.access, &hold).await?;
            if !upstream.features.splice {
                return Err(Broken::Agent);
            }
            match ask(&upstream, &repeat, &head, extent).await {
                Asked::Here(stream) => return Ok((upstream, stream)),
                Asked::Broken(broken) => return Err(broken),
                Asked::Again => drop(Timer::after(PAUSE).await),
            }
        }
    };
    let limit = shared.settings.timings.splice;
    let late = async {
        Timer::after(limit).await;
        Err(Broken::Late)
    };
    let (upstream, stream) = future::or(asked, late).await?;
    shared.spliced.fetch_add(1, Relaxed);
    Ok(Spliced { upstream, stream, repeat })
}

async fn ask(upstream: &Upstream, repeat: &Repeat, head: &RequestHead, extent: Extent) -> Asked {
    let stream = match upstream.tunnel.open(head, repeat.priority, true).await {
        Ok(stream) => stream,
        Err(OpenError::Closed | OpenError::Busy) => return Asked::Again,
        Err(OpenError::Head) => return Asked::Broken(Broken::Unfit),
    };
    match stream.response().await {
        Ok(reply) if repeat.is_continued_by(&reply, extent) => Asked::Here(stream),
        Err(StreamError::SessionEnded | StreamError::Refused) => Asked::Again,
        _ => Asked::Broken(Broken::Changed),
    }
}

impl Extent {
    /// What a 200 or a single 206 in identity coding has; `None` where that is not said.
    fn of(reply: &ResponseHead) -> Option<Self> {
        let length = head::content_length(&reply.headers).ok()??;
        let mut codings = reply.headers.get_all("content-encoding");
        let is_plain = codings.all(|coding| coding == b"identity");
        let last = length.checked_sub(1).filter(|_| is_plain)?;
        if reply.status == 200 {
            return Some(Self { first: 0, last, total: length });
        }
        let range = std::str::from_utf8(single(reply, "content-range")?).ok()?;
        let (range, total) = range.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let extent = Self { first: number(first)?, last: number(last)?, total: number(total)? };
        let is_sound = extent.last < extent.total
            && extent.last.checked_sub(extent.first).is_some_and(|more| more + 1 == length);
        is_sound.then_some(extent)
    }

    /// The same without its first `octets`.
    fn behind(self, octets: u64) -> Option<Self> {
        let first = self.first.checked_add(octets).filter(|first| *first <= self.last)?;
        Some(Self { first, ..self })
    }
}

/// The ETag of a response, if it is one and strong.
fn strong_tag(reply: &ResponseHead) -> Option<&[u8]> {
    let tag = single(reply, "etag")?;
    (tag.len() > 2 && tag.starts_with(b"\"") && tag.ends_with(b"\"")).then_some(tag)
}

/// The value of a header that stands once.
fn single<'a>(reply: &'a ResponseHead, name: &str) -> Option<&'a [u8]> {
    let mut values = reply.headers.get_all(name);
    values.next().filter(|_| values.next().is_none())
}

fn number(text: &str) -> Option<u64> {
    let is_number = text.bytes().all(|octet| octet.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// Octets of both heads that are kept for a response.
const HEADS: usize = 16 << 10;
/// Time before a tunnel that took no request is asked again.
const PAUSE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, headers: &[(&str, &str)]) -> ResponseHead {
        let mut reply = ResponseHead::new(status);
        for (name, value) in headers {
            reply.headers.push(name, value.as_bytes()).unwrap();
        }
        reply
    }

    fn file(status: u16, more: &[(&str, &str)]) -> ResponseHead {
        let base = [("etag", "\"a\""), ("content-type", "video/mp4")];
        reply(status, &[&base[..], more].concat())
    }

    fn repeat(reply: ResponseHead) -> Option<Box<Repeat>> {
        let mut head = RequestHead::get("/film");
        head.headers.push("range", b"bytes=0-").unwrap();
        head.headers.push("cookie", b"a=b").unwrap();
        Repeat::new(head, reply, 3, Access::Open)
    }

    #[test]
    fn extents_are_those_of_the_head_or_none() {
        let of = |status, headers: &[(&str, &str)]| {
            Extent::of(&reply(status, headers)).map(|e| (e.first, e.last, e.total))
        };
        let part = |range| of(206, &[("content-length", "10"), ("content-range", range)]);
        assert_eq!(of(200, &[("content-length", "10")]), Some((0, 9, 10)));
        assert_eq!(of(200, &[]), None);
        assert_eq!(of(200, &[("content-length", "0")]), None);
        assert_eq!(of(200, &[("content-length", "10"), ("content-encoding", "gzip")]), None);
        assert_eq!(part("bytes 5-14/20"), Some((5, 14, 20)));
        for wrong in [
            "bytes 5-14/*",
            "bytes 5-14/14",
            "bytes 5-13/20",
            "bytes 14-5/20",
            "bytes */20",
            "items 5-14/20",
            "bytes +5-14/20",
            "5-14/20",
            "bytes 0-18446744073709551615/20",
        ] {
            assert_eq!(part(wrong), None, "{wrong}");
        }
        assert_eq!(of(206, &[("content-length", "10")]), None);
        let whole = Extent { first: 5, last: 14, total: 20 };
        assert_eq!(whole.behind(9), Some(Extent { first: 14, ..whole }));
        assert_eq!(whole.behind(10), None);
        assert_eq!(whole.behind(u64::MAX), None);
    }

    #[test]
    fn the_request_asks_for_the_rest_of_the_same() {
        let repeat = repeat(file(200, &[("content-length", "20")])).unwrap();
        let head = repeat.request(Extent { first: 7, last: 19, total: 20 });
        let all = |name: &str| -> Vec<_> { head.headers.get_all(name).collect() };
        assert_eq!(all("range"), [b"bytes=7-19"]);
        assert_eq!(all("if-range"), [b"\"a\""]);
        assert_eq!(all("cookie"), [b"a=b"]);
        assert_eq!((head.method.as_str(), &head.path[..]), ("GET", &b"/film"[..]));
    }

    #[test]
    fn only_the_same_goes_on() {
        let repeat = repeat(file(200, &[("content-length", "20")])).unwrap();
        let rest = Extent { first: 7, last: 19, total: 20 };
        let range = ("content-range", "bytes 7-19/20");
        let goes_on = |reply: ResponseHead| repeat.is_continued_by(&reply, rest);
        assert!(goes_on(file(206, &[("content-length", "13"), range])));
        // The file is another one: the agent sends it whole.
        assert!(!goes_on(file(200, &[("content-length", "20")])));
        assert!(!goes_on(file(206, &[("content-length", "13")])));
        assert!(!goes_on(file(206, &[("content-length", "14"), range])));
        let coded = [("content-length", "13"), range, ("content-encoding", "gzip")];
        assert!(!goes_on(file(206, &coded)));
        let other = [("content-length", "12"), ("content-range", "bytes 7-18/20")];
        assert!(!goes_on(file(206, &other)));
        for (tag, kind) in [("\"b\"", "video/mp4"), ("W/\"a\"", "video/mp4"), ("\"a\"", "text/css")]
        {
            let headers = [("etag", tag), ("content-type", kind), ("content-length", "13"), range];
            assert!(!goes_on(reply(206, &headers)), "{tag} {kind}");
        }
    }

    #[test]
    fn weak_tags_are_none() {
        let tag = |value: &str| strong_tag(&reply(200, &[("etag", value)])).is_some();
        assert!(tag("\"a\""));
        assert!(!tag("W/\"a\"") && !tag("a") && !tag("\"\"") && !tag("\""));
        assert!(strong_tag(&reply(200, &[("etag", "\"a\""), ("etag", "\"b\"")])).is_none());
    }

    #[test]
    fn what_is_kept_is_bounded_and_only_for_gets() {
        let fits = |value: usize| {
            let big = "x".repeat(value);
            repeat(file(200, &[("x-big", &big)])).is_some()
        };
        assert!(fits(15_000) && !fits(HEADS));
        assert!(repeat(file(204, &[])).is_none() && repeat(file(206, &[])).is_some());
        let mut head = RequestHead::get("/");
        head.method = "HEAD".to_owned();
        assert!(Repeat::new(head, file(200, &[]), 0, Access::Open).is_none());
    }
}
