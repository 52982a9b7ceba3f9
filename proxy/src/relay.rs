//! One exchange: a request of a visitor goes into a stream, its response comes back.
//!
//! It owns the exchange from the parsed request head to the response body. It does not own the
//! connection ([`crate::downstream`]) nor the way to the origin ([`crate::registry`]) nor who may
//! come in ([`crate::access`]).

mod admit;
mod body;
mod client;
mod coding;
mod failure;
mod head;
mod host;
mod page;
mod priority;
mod splice;
mod upgrade;
mod upload;
mod wait;

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts,
};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use spdy_protocol::{
    head::{RequestHead, ResponseHead},
    tunnel::{OpenError, Stream},
};

pub(crate) use body::Body;
pub(crate) use failure::Failure;

use crate::{
    access::Access,
    gate::Pass,
    lobby::Ticket,
    log::Level,
    registry::{Upstream, Way},
    request_line::Claim,
    socket::Socket,
    watch::{Wait, Watch},
    worker::{Shared, Worker},
};
use splice::Repeat;
use upload::{Progress, Upload, UploadError};

/// One downstream connection, as its exchanges see it.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) worker: Rc<Worker>,
    pub(crate) peer: SocketAddr,
    pub(crate) socket: Socket,
    pub(crate) is_secure: bool,
    /// Whether others may listen in, so that no password is asked for.
    pub(crate) is_exposed: bool,
    pub(crate) watch: Arc<Watch>,
    /// Whether a body that is cut now would look complete if the connection ended by FIN.
    pub(crate) must_reset: Cell<bool>,
    /// Whether the visitor may still be sending a body that nobody reads.
    pub(crate) has_unread: Cell<bool>,
    /// Our place among the connections.
    pub(crate) _pass: Pass,
    /// Its place among those who have not asked for anything yet.
    pub(crate) ticket: Ticket,
}

/// A request under way.
struct Asked {
    parts: Parts,
    on_upgrade: Option<OnUpgrade>,
    request_id: String,
    /// Tick of the worker at which it came.
    begun: u32,
    /// The tunnel that was asked last.
    upstream: Option<Arc<Upstream>>,
}

impl Visit {
    pub(crate) fn shared(&self) -> &Shared {
        &self.worker.shared
    }

    /// Whole seconds since `begun`, a tick of this worker.
    fn seconds_since(&self, begun: u32) -> u64 {
        let ticks = self.worker.watches.now().wrapping_sub(begun);
        (self.worker.watches.tick() * ticks).as_secs()
    }
}

/// Serves one request. Dropping the future resets the stream.
pub(crate) async fn exchange(visit: &Rc<Visit>, request: Request<Incoming>) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let mut upload = Upload::new(body, Arc::clone(&visit.shared().replay));
    let mut asked = Asked {
        on_upgrade: parts.extensions.remove::<OnUpgrade>(),
        parts,
        request_id: visit.shared().request_id(),
        begun: visit.worker.watches.now(),
        upstream: None,
    };
    let begun = forward(visit, &mut asked, &mut upload).await;
    let is_unread = upload.progress().is_unread();
    let response = begun.and_then(|begun| respond(visit, &mut asked, upload, begun));
    let mut response = response.unwrap_or_else(|failure| refuse(visit, &asked, &failure));
    // What is left of the body, or comes behind a CONNECT, would be taken for the next request. Of
    // one that claims a version which we do not know we cannot read that of the next.
    let is_other = asked.parts.method == Method::CONNECT || !visit.watch.has_claimed(Claim::Known);
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        if is_unread || is_other {
            visit.has_unread.set(true);
        }
        if visit.has_unread.get() || visit.watch.is_closing() {
            response.headers_mut().insert(header::CONNECTION, CLOSE);
        }
    }
    visit.shared().registry.totals.count(response.status().as_u16());
    response
}

async fn forward(
    visit: &Rc<Visit>,
    asked: &mut Asked,
    upload: &mut Upload<Incoming>,
) -> Result<Begun, Failure> {
    if visit.watch.has_claimed(Claim::OtherMajor) {
        return Err(Failure::Version);
    }
    coding::check(&asked.parts.headers)?;
    let host = head::host(&asked.parts)?;
    let mut client = client::Client {
        peer: visit.peer.ip(),
        is_secure: visit.is_secure,
        is_checked: false,
        front_ends: &visit.shared().settings.trusted_front_ends,
    };
    let mut way = admit::admit(visit, &asked.parts, host, client).await?;
    let access = way.access.clone();
    client.is_checked = access != Access::Open;
    let mut head = head::request(&asked.parts, host, client, &asked.request_id)?;
    let priority = priority::priority(&asked.parts.headers, asked.parts.uri.path());
    // A request that its agent did not begin may go to the tunnel that has replaced that one.
    let (mut refusals, mut losses) = (REFUSALS, LOSSES);
    let mut failed = None;
    // Whether a tunnel was asked and did not begin with it.
    let mut is_refused = false;
    loop {
        let may_wait = asked.is_safe(upload.progress()) || is_refused;
        let upstream = wait::tunnel(visit, &head.host, way, may_wait, failed).await?;
        asked.upstream = Some(Arc::clone(&upstream));
        head.upgrade = asked.upgrade(&upstream, upload.progress());
        let is_whole = upload.progress() == Progress::Absent && head.upgrade.is_none();
        upload.start(head.upgrade.is_none());
        let stream = match upstream.tunnel.open(&head, priority, is_whole).await {
            Ok(stream) => stream,
            Err(OpenError::Closed) if refusals > 0 => {
                refusals -= 1;
                is_refused = true;
                (way, failed) = (again(visit, &head.host, &access)?, None);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match reply(visit, &stream, upload).await {
            Ok(reply) => {
                upstream.totals.count(reply.status);
                return Ok(Begun { upstream, stream, reply, head, priority, access });
            }
            Err(failure) if asked.may_repeat(&failure, upload.progress(), &upstream, &head) => {
                let left = if failure == Failure::Lost { &mut losses } else { &mut refusals };
                let Some(fewer) = left.checked_sub(1) else { return Err(failure) };
                *left = fewer;
                is_refused = true;
                (way, failed) = (again(visit, &head.host, &access)?, Some(failure));
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// The way of now, for a visitor whom `access` let in.
fn again(visit: &Visit, host: &str, access: &Access) -> Result<Way, Failure> {
    let way = visit.shared().registry.way(host);
    if way.access == *access { Ok(way) } else { Err(Failure::Refused) }
}

/// A response whose head is here.
struct Begun {
    upstream: Arc<Upstream>,
    stream: Stream,
    reply: ResponseHead,
    head: RequestHead,
    priority: u8,
    /// The rule under which the visitor came in.
    access: Access,
}

impl Asked {
    /// Whether asking twice does what asking once does, and nothing of the request is used up.
    fn is_safe(&self, body: Progress) -> bool {
        matches!(self.parts.method, Method::GET | Method::HEAD) && body == Progress::Absent
    }

    /// Whether another tunnel may be asked after this failure. Of what was lost only our own agents
    /// are asked again.
    fn may_repeat(
        &self,
        failure: &Failure,
        body: Progress,
        upstream: &Upstream,
        head: &RequestHead,
    ) -> bool {
        let is_safe = self.is_safe(body) && head.upgrade.is_none() && upstream.features.splice;
        upload::may_repeat(failure, body, is_safe)
    }

    /// The protocol to change to, if this visitor wants it and that agent can.
    fn upgrade(&self, upstream: &Upstream, body: Progress) -> Option<String> {
        let can = upstream.features.upgrade && self.on_upgrade.is_some();
        let protocol = can.then(|| head::upgrade(&self.parts)).flatten()?;
        let may = body == Progress::Absent || upgrade::may_follow_body(&self.parts, protocol);
        may.then(|| protocol.to_owned())
    }
}

/// Waits for the head of the response and sends the request body meanwhile.
async fn reply(
    visit: &Visit,
    stream: &Stream,
    upload: &mut Upload<Incoming>,
) -> Result<ResponseHead, Failure> {
    let watch = &visit.watch;
    let mut response = pin!(stream.response());
    let mut reply: Option<ResponseHead> = None;
    let reply = poll_fn(|cx| {
        if reply.is_none()
            && let Poll::Ready(ready) = response.as_mut().poll(cx)
        {
            let ready = ready?;
            if ready.status != SWITCHING {
                return Poll::Ready(Ok(ready));
            }
            reply = Some(ready);
        }
        match upload.poll(stream, watch, cx) {
            Poll::Pending | Poll::Ready(Ok(())) => {}
            // The agent may have answered between the two looks, and then have reset the stream.
            Poll::Ready(Err(UploadError::Stream(error))) if reply.is_none() => {
                return Poll::Ready(match response.as_mut().poll(cx) {
                    Poll::Ready(Ok(reply)) => Ok(reply),
                    Poll::Ready(Err(_)) | Poll::Pending => Err(error.into()),
                });
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
        }
        // Another protocol begins behind the body (RFC 9110 7.8).
        if upload.is_sent()
            && let Some(reply) = reply.take()
        {
            return Poll::Ready(Ok(reply));
        }
        if upload.is_sent() {
            watch.waits_for_agent();
        }
        if watch.expired() == Some(Wait::Agent) {
            return Poll::Ready(Err(Failure::Silent));
        }
        Poll::Pending
    })
    .await;
    watch.heard_agent();
    reply
}

fn respond(
    visit: &Rc<Visit>,
    asked: &mut Asked,
    mut upload: Upload<Incoming>,
    begun: Begun,
) -> Result<Response<Body>, Failure> {
    upload.commit();
    let Begun { upstream, stream, reply, mut head, priority, access } = begun;
    let upgrade = head.upgrade.take();
    let (status, headers) = head::response(&reply)?;
    if status.is_informational() {
        let (StatusCode::SWITCHING_PROTOCOLS, Some(protocol), Some(on_upgrade)) =
            (status, upgrade, asked.on_upgrade.take())
        else {
            return Err(Failure::Violation("an upgrade that nobody asked for"));
        };
        return switch(visit, headers, &protocol, on_upgrade, stream);
    }
    let is_empty = asked.parts.method == Method::HEAD
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    // That of an answer without a body is looked at too: hyper would send none of its head.
    let announced = match status {
        StatusCode::NO_CONTENT => None,
        _ => head::content_length(&reply.headers)?,
    };
    let length = announced.filter(|_| !is_empty);
    if upgrade.is_some() {
        // The stream was left open for the other protocol, which the agent declined.
        upload.ends_stream();
        if upload.is_sent() {
            finish(&stream);
        }
    }
    // An early response may need the rest of the request, whatever its status: a service that says
    // what is wrong at once and reads on ends its response only behind that.
    let is_unsent = !upload.is_sent();
    let has_body = upload.progress() != Progress::Absent;
    let is_old = asked.parts.version < Version::HTTP_11;
    visit.must_reset.set(is_old && length.is_none() && !is_empty);
    let can_repeat = upstream.features.splice && upgrade.is_none() && !has_body;
    let is_on = !visit.shared().settings.timings.splice.is_zero();
    let can_repeat = can_repeat && is_on && length.is_some();
    let repeat = can_repeat.then(|| Repeat::new(head, reply, priority, access)).flatten();
    let source = body::Source {
        stream,
        repeat,
        upload: is_unsent.then_some(upload),
        length,
        is_empty,
        upstream,
        request_id: std::mem::take(&mut asked.request_id),
        begun: asked.begun,
    };
    let mut response = Response::new(Body::stream(source, visit));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if status == StatusCode::NO_CONTENT {
        // It must not have one (RFC 9110 8.6).
        response.headers_mut().remove(header::CONTENT_LENGTH);
    } else if let Some(announced) = announced {
        // One line, however many the tunnel carried.
        response.headers_mut().insert(header::CONTENT_LENGTH, announced.into());
    }
    Ok(response)
}

/// The 101, behind which the connection belongs to another protocol.
fn switch(
    visit: &Rc<Visit>,
    headers: HeaderMap,
    protocol: &str,
    on_upgrade: OnUpgrade,
    stream: Stream,
) -> Result<Response<Body>, Failure> {
    let protocol = HeaderValue::from_str(protocol)
        .map_err(|_| Failure::Violation("a protocol without a name"))?;
    let mut response = Response::new(Body::text("", visit));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, protocol);
    let held = Rc::clone(visit);
    visit.worker.spawn(async move {
        upgrade::join(on_upgrade, stream).await;
        // The connection keeps its place among the connections until here.
        drop(held);
    });
    Ok(response)
}

/// Sends FIN. The output has room for it but for moments; if not, the reset at the end of the
/// response does the same.
fn finish(stream: &Stream) {
    let _ = stream.poll_finish(&mut std::task::Context::from_waker(std::task::Waker::noop()));
}

/// The response that stands for a failure, and the line that tells of it.
fn refuse(visit: &Rc<Visit>, asked: &Asked, failure: &Failure) -> Response<Body> {
    let level = match failure {
        // That its tunnel is down was said when it went.
        Failure::Away(_) => Level::Debug,
        _ if failure.is_of_visitor() => Level::Debug,
        _ => Level::Warn,
    };
    if !failure.is_of_visitor() {
        visit.shared().registry.totals.count_failed();
        if let Some(upstream) = &asked.upstream {
            upstream.totals.count_failed();
        }
    }
    visit.shared().settings.log.write(
        level,
        format_args!(
            "exchange=failed origin={} tunnel={} id={} method={} status={} cause={} seconds={}",
            asked.upstream.as_ref().map_or("-", |upstream| &upstream.origin),
            asked.upstream.as_ref().map_or(0, |upstream| upstream.id),
            asked.request_id,
            asked.parts.method,
            failure.status().as_u16(),
            failure.cause(),
            visit.seconds_since(asked.begun),
        ),
    );
    failure
        .response(&asked.request_id, page::is_wanted(&asked.parts))
        .map(|text| Body::text(text, visit))
}

impl From<UploadError> for Failure {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Visitor => Self::Visitor,
            UploadError::Stream(error) => error.into(),
        }
    }
}

/// Status of an agreed upgrade.
const SWITCHING: u16 = StatusCode::SWITCHING_PROTOCOLS.as_u16();
const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// How many tunnels may refuse a request before it is given up with the next one.
const REFUSALS: u32 = 1;
/// How many tunnels a response may lose; before its head and after it are counted apart.
const LOSSES: u32 = 3;
