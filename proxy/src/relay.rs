//! One exchange: a request of a visitor goes into a stream, its response comes back.
//!
//! It owns the exchange from the parsed request head to the response body. It does not own the
//! connection ([`crate::downstream`]) nor the way to the origin ([`crate::registry`]).

mod body;
mod failure;
mod head;
mod priority;
mod upgrade;
mod upload;

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use spdy_protocol::{
    head::ResponseHead,
    tunnel::{OpenError, Stream},
};

pub(crate) use body::Body;
pub(crate) use failure::Failure;

use crate::{
    gate::Pass,
    log::Level,
    registry::{Route, Upstream},
    watch::{Wait, Watch},
    worker::{Shared, Worker},
};
use upload::{Upload, UploadError};

/// One downstream connection, as its exchanges see it.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) worker: Rc<Worker>,
    pub(crate) peer: SocketAddr,
    pub(crate) is_secure: bool,
    pub(crate) watch: Arc<Watch>,
    /// Whether a body that is cut now would look complete if the connection ended by FIN.
    pub(crate) must_reset: Cell<bool>,
    /// Whether the visitor may still be sending a body that nobody reads.
    pub(crate) has_unread: Cell<bool>,
    /// Our place among the connections.
    pub(crate) _pass: Pass,
}

/// A request whose head is checked.
struct Asked {
    parts: Parts,
    head: spdy_protocol::head::RequestHead,
    upload: Option<Upload<Incoming>>,
    on_upgrade: Option<OnUpgrade>,
    request_id: String,
}

impl Visit {
    pub(crate) fn shared(&self) -> &Shared {
        &self.worker.shared
    }
}

/// Serves one request. Dropping the future resets the stream.
pub(crate) async fn exchange(visit: &Rc<Visit>, request: Request<Incoming>) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let request_id = visit.shared().request_id();
    let on_upgrade = parts.extensions.remove::<OnUpgrade>();
    let upload = Upload::new(body);
    let has_body = upload.is_some();
    let mut response = match ask(parts, upload, on_upgrade, request_id.clone(), visit) {
        Ok(asked) => forward(visit, asked).await,
        Err(failure) => Err(failure),
    }
    .unwrap_or_else(|failure| refuse(visit, &failure, &request_id, has_body));
    if visit.watch.is_closing() {
        response.headers_mut().insert(header::CONNECTION, CLOSE);
    }
    visit.shared().registry.totals.count(response.status().as_u16());
    response
}

fn ask(
    parts: Parts,
    upload: Option<Upload<Incoming>>,
    on_upgrade: Option<OnUpgrade>,
    request_id: String,
    visit: &Visit,
) -> Result<Asked, Failure> {
    let client =
        head::Client { address: visit.peer.ip().to_canonical(), is_secure: visit.is_secure };
    let head = head::request(&parts, head::host(&parts)?, client, &request_id)?;
    Ok(Asked { parts, head, upload, on_upgrade, request_id })
}

async fn forward(visit: &Rc<Visit>, mut asked: Asked) -> Result<Response<Body>, Failure> {
    let path = asked.parts.uri.path();
    let priority = priority::priority(&asked.parts.headers, path);
    // A request that its agent did not begin may go to the tunnel that has replaced that one.
    let mut attempts = ATTEMPTS;
    let (upstream, stream, reply) = loop {
        attempts -= 1;
        let upstream = match visit.shared().registry.route(&asked.head.host) {
            Route::Tunnel(upstream) => upstream,
            Route::Away(since) => return Err(Failure::Away(since)),
            Route::Unknown => return Err(Failure::Unknown),
        };
        asked.head.upgrade = asked.upgrade(&upstream);
        let is_whole = asked.upload.is_none() && asked.head.upgrade.is_none();
        let stream = match upstream.tunnel.open(&asked.head, priority, is_whole).await {
            Ok(stream) => stream,
            Err(OpenError::Closed) if attempts > 0 => continue,
            Err(error) => return Err(error.into()),
        };
        match reply(visit, &stream, &mut asked.upload).await {
            Ok(reply) => break (upstream, stream, reply),
            Err(Failure::Refused)
                if attempts > 0 && asked.upload.as_ref().is_none_or(Upload::is_untouched) => {}
            Err(failure) => return Err(failure),
        }
    };
    upstream.totals.count(reply.status);
    respond(visit, asked, upstream, stream, &reply)
}

impl Asked {
    /// The protocol to change to, if this visitor wants it and that agent can.
    fn upgrade(&self, upstream: &Upstream) -> Option<String> {
        let can = upstream.features.upgrade && self.on_upgrade.is_some() && self.upload.is_none();
        can.then(|| head::upgrade(&self.parts).map(str::to_owned)).flatten()
    }
}

/// Waits for the head of the response and sends the request body meanwhile.
async fn reply(
    visit: &Visit,
    stream: &Stream,
    upload: &mut Option<Upload<Incoming>>,
) -> Result<ResponseHead, Failure> {
    let watch = &visit.watch;
    let mut response = pin!(stream.response());
    let reply = poll_fn(|cx| {
        if let Poll::Ready(reply) = response.as_mut().poll(cx) {
            return Poll::Ready(reply.map_err(Failure::from));
        }
        if let Some(body) = upload {
            match body.poll(stream, watch, cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => *upload = None,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            }
        }
        if upload.is_none() {
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
    asked: Asked,
    upstream: Arc<Upstream>,
    stream: Stream,
    reply: &ResponseHead,
) -> Result<Response<Body>, Failure> {
    let Asked { parts, head, mut upload, on_upgrade, request_id } = asked;
    let (status, headers) = head::response(reply)?;
    if status.is_informational() {
        let (StatusCode::SWITCHING_PROTOCOLS, Some(protocol), Some(on_upgrade)) =
            (status, head.upgrade, on_upgrade)
        else {
            return Err(Failure::Violation("an upgrade that nobody asked for"));
        };
        let mut response = Response::new(Body::text("", visit));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        let protocol = HeaderValue::try_from(protocol);
        let protocol = protocol.map_err(|_| Failure::Violation("a protocol without a name"))?;
        response.headers_mut().insert(header::UPGRADE, protocol);
        let held = Rc::clone(visit);
        visit.worker.spawn(async move {
            upgrade::join(on_upgrade, stream).await;
            // The connection keeps its place among the connections until here.
            drop(held);
        });
        return Ok(response);
    }
    let is_empty = parts.method == Method::HEAD
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = if is_empty { None } else { head::content_length(&reply.headers)? };
    if head.upgrade.is_some() {
        // The stream was left open for the other protocol, which the agent declined.
        finish(&stream);
    }
    let is_early = upload.is_some();
    if is_early && status.as_u16() >= 400 {
        // Nobody wants the rest of the body.
        upload = None;
    }
    visit.must_reset.set(parts.version < Version::HTTP_11 && length.is_none() && !is_empty);
    if visit.shared().settings.trace {
        visit.shared().settings.log.write(
            Level::Info,
            format_args!(
                "exchange=begun origin={} tunnel={} stream={} id={request_id} method={} status={}",
                upstream.origin,
                upstream.id,
                stream.id(),
                parts.method,
                status.as_u16(),
            ),
        );
    }
    let source = body::Source { stream, upload, length, is_empty, upstream, request_id };
    let mut response = Response::new(Body::stream(source, visit));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if is_early {
        visit.has_unread.set(true);
        response.headers_mut().insert(header::CONNECTION, CLOSE);
    }
    if status == StatusCode::NO_CONTENT {
        // It must not have one (RFC 9110 8.6).
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    Ok(response)
}

/// Sends FIN. The output has room for it but for moments; if not, the reset at the end of the
/// response does the same.
fn finish(stream: &Stream) {
    let _ = stream.poll_finish(&mut std::task::Context::from_waker(std::task::Waker::noop()));
}

/// The response that stands for a failure, and the line that tells of it.
fn refuse(
    visit: &Rc<Visit>,
    failure: &Failure,
    request_id: &str,
    has_body: bool,
) -> Response<Body> {
    let level = match failure {
        _ if failure.is_of_visitor() => Level::Debug,
        // That its tunnel is down was said when it went.
        Failure::Away(_) => Level::Debug,
        _ => Level::Warn,
    };
    if !failure.is_of_visitor() {
        visit.shared().registry.totals.count_failed();
    }
    visit.shared().settings.log.write(
        level,
        format_args!(
            "exchange=failed id={request_id} status={} cause={}",
            failure.status().as_u16(),
            failure.cause(),
        ),
    );
    let mut response = failure.response(request_id).map(|text| Body::text(text, visit));
    if has_body {
        visit.has_unread.set(true);
        response.headers_mut().insert(header::CONNECTION, CLOSE);
    }
    response
}

const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// Tunnels that are tried for one request.
const ATTEMPTS: u32 = 2;

impl From<UploadError> for Failure {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Visitor => Self::Visitor,
            UploadError::Stream(error) => error.into(),
        }
    }
}
