//! Local HTTP services: a gateway from streams to HTTP/1.1 on the NAS or its network.
//!
//! It owns which service a path belongs to, the exchange with it as a whole and what a visitor is
//! told when that fails. The modules below it own the parts, in order: each uses only those that
//! stand below its own.
//!
//! Each request has a connection of its own: nothing of one visitor can be taken for another's, a
//! visitor who leaves closes it, and no idle connection dies under a request (docs/decisions.md).

mod exchange;

mod connect;

mod chunked;

mod head;

mod rewrite;

mod service;

use std::{
    fmt,
    future::poll_fn,
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use futures_lite::future::or;
use spdy_protocol::{error::StreamError, frame::Status, head::RequestHead, tunnel::Stream};

pub use service::Service;

use super::{
    body::{self, BodyError},
    path,
    reply::Reply,
};
use crate::{
    log::{Log, Quoted},
    pool::Pool,
};
use exchange::Exchange;
use head::{Incoming, Outgoing};
use service::Found;

/// All services of an agent.
#[derive(Debug)]
pub(crate) struct Forwards {
    /// The longest prefix first.
    services: Vec<Service>,
    resolver: Rc<Pool>,
    log: Log,
}

impl Forwards {
    /// No two of `services` have the same prefix. `resolver` has [`RESOLVERS`] threads.
    pub(crate) fn new(mut services: Vec<Service>, resolver: Rc<Pool>, log: Log) -> Self {
        services.sort_by_key(|service| std::cmp::Reverse(service.prefix().len()));
        Self { services, resolver, log }
    }

    /// The service that a path, with or without a query, belongs to.
    pub(crate) fn find(&self, path: &[u8]) -> Option<&Service> {
        self.services.iter().find(|service| service.holds(path))
    }

    /// Has `service` answer one request, and returns the status. Safe to drop: the stream is
    /// reset, the connection to the service closed.
    ///
    /// # Errors
    /// The stream failed, or was reset because the service broke off.
    pub(crate) async fn serve(
        &self,
        service: &Service,
        request: &RequestHead,
        stream: &Stream,
        sent: &mut u64,
    ) -> Result<u16, BodyError> {
        let begun = Instant::now();
        let mut replied = None;
        let gone = async { Err(Failure::Visitor(poll_fn(|cx| stream.poll_failed(cx)).await)) };
        let pass = self.pass(service, request, stream, sent, &mut replied);
        let failure = match or(gone, pass).await {
            Ok(status) => return Ok(status),
            Err(Failure::Visitor(error)) => return Err(error.into()),
            Err(failure) => failure,
        };
        let status = failure.status();
        if !failure.is_of_visitor() {
            self.log.warn(format_args!(
                "event=forward_failed forward={} status={} reason={} ms={} request={}",
                service.prefix(),
                replied.map_or(status, |replied| replied),
                Quoted(&failure.to_string()),
                begun.elapsed().as_millis(),
                Quoted(&String::from_utf8_lossy(
                    request.headers.get("x-request-id").unwrap_or_default()
                )),
            ));
        }
        if replied.is_some() {
            // Only a reset tells that this is not all.
            stream.reset(Status::InternalError);
            return Err(BodyError::Stream(io::Error::other(failure.to_string())));
        }
        let text = format!("{}\n", failure.text());
        let reply = Reply::empty(status)
            .with("content-type", "text/plain; charset=utf-8")
            .with("content-length", &text.len().to_string())
            .with("cache-control", "no-store")
            .with("proxy-status", &format!("spdy-agent; error={}", failure.cause()));
        let is_head = request.method == "HEAD";
        stream.reply(&reply.head, is_head).await?;
        if !is_head {
            body::send_octets(stream, text.as_bytes(), true).await?;
        }
        Ok(status)
    }

    async fn pass(
        &self,
        service: &Service,
        request: &RequestHead,
        stream: &Stream,
        sent: &mut u64,
        replied: &mut Option<u16>,
    ) -> Result<u16, Failure> {
        if matches!(request.method.as_str(), "TRACE" | "CONNECT") {
            return Err(Failure::Method);
        }
        if head::loops(request) {
            return Err(Failure::Loop);
        }
        let path = match service.find(&request.path) {
            Found::At(path) => path,
            Found::Astray => return Err(Failure::Request("a path that leads astray")),
            Found::Bare => {
                let mut location = format!("{}/", service.prefix()).into_bytes();
                path::push_query(&mut location, path::split_query(&request.path).1);
                if location.len() > LOCATION_MAX {
                    return Err(Failure::Request("a query that is too long"));
                }
                let reply = Reply::empty(308)
                    .with_octets("location", &location)
                    .with("content-length", "0");
                stream.reply(&reply.head, true).await.map_err(Failure::Visitor)?;
                return Ok(308);
            }
        };
        let mut chunk = None;
        let outgoing = match head::outgoing(request)? {
            Some(outgoing) => outgoing,
            // What comes first tells whether there is a body at all.
            None => {
                chunk = poll_fn(|cx| stream.poll_read_chunk(cx)).await.map_err(Failure::Visitor)?;
                chunk.as_ref().map_or(Outgoing::Nothing, |_| Outgoing::Chunked)
            }
        };
        let head = head::request(service, request, &path, outgoing)?;
        let wait = service.wait();
        let socket = connect::connect(service, &self.resolver, wait.min(CONNECT)).await?;
        let mut exchange = Exchange::new(stream, socket, head, outgoing, chunk)?;
        let (head, incoming) = exchange.answer(service, request, wait).await?;
        *replied = Some(head.status);
        let is_whole = incoming == Incoming::Nothing;
        stream.reply(&head, is_whole).await.map_err(Failure::Visitor)?;
        if !is_whole {
            exchange.body(incoming, sent).await?;
        }
        Ok(head.status)
    }
}

/// Why a request was not answered by its service, or not to the end.
#[derive(Debug)]
enum Failure {
    /// The request breaks HTTP; the text says how.
    Request(&'static str),
    /// A method that gateways do not pass on.
    Method,
    /// The request comes back to us again and again.
    Loop,
    /// The visitor has gone, or the tunnel.
    Visitor(StreamError),
    /// The service's name has no address.
    Resolve(io::Error),
    /// It has only addresses that names must not lead to.
    LinkLocal,
    /// Nobody took the connection.
    Connect(io::Error),
    /// The connection was neither taken nor refused in time.
    Late,
    /// No octet of an answer came in time.
    Silent,
    /// The service closed the connection before its answer.
    Closed,
    /// The connection broke.
    Broken(io::Error),
    /// The service closed the connection inside its answer.
    Short,
    /// The answer is none; the text says why.
    Answer(&'static str),
}

impl Failure {
    const fn status(&self) -> u16 {
        match self {
            Self::Request(_) => 400,
            Self::Method => 405,
            Self::Loop => 508,
            Self::Late | Self::Silent => 504,
            _ => 502,
        }
    }

    /// Error type of `Proxy-Status` (RFC 9209 2.3).
    const fn cause(&self) -> &'static str {
        match self {
            Self::Request(_) => "http_request_error",
            Self::Method => "http_request_denied",
            Self::Loop => "proxy_loop_detected",
            Self::Resolve(_) => "dns_error",
            Self::LinkLocal => "destination_ip_prohibited",
            Self::Connect(_) => "connection_refused",
            Self::Late => "connection_timeout",
            Self::Silent => "http_response_timeout",
            Self::Answer(_) => "http_protocol_error",
            _ => "connection_terminated",
        }
    }

    const fn is_of_visitor(&self) -> bool {
        matches!(self, Self::Request(_) | Self::Method | Self::Visitor(_))
    }

    /// What the visitor is told: nothing of the network behind us.
    const fn text(&self) -> &'static str {
        match self {
            Self::Request(_) => "The request cannot be passed on.",
            Self::Method => "This method is not passed on.",
            Self::Loop => "The request goes in circles.",
            Self::Resolve(_) | Self::LinkLocal => "The service was not found.",
            Self::Connect(_) => "The service does not take connections.",
            Self::Late | Self::Silent => "The service did not answer in time.",
            Self::Answer(_) => "The service answered nonsense.",
            _ => "The service broke the connection off.",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(cause) => write!(f, "the request has {cause}"),
            Self::Answer(cause) => write!(f, "the answer is bad: {cause}"),
            Self::Visitor(error) => error.fmt(f),
            Self::Resolve(error) => write!(f, "name does not resolve: {error}"),
            Self::LinkLocal => f.write_str("name leads to link-local addresses"),
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Broken(error) => write!(f, "connection broke: {error}"),
            Self::Short => f.write_str("connection closed inside the answer"),
            Self::Late => f.write_str("connection not taken in time"),
            Self::Silent => f.write_str("no answer in time"),
            Self::Closed => f.write_str("connection closed before the answer"),
            Self::Loop | Self::Method => f.write_str(self.text()),
        }
    }
}

/// Request bodies and changed protocols of one tunnel at a time, where services are forwarded: a
/// page with a WebSocket stays open for hours. Each may hold 64 KiB unread.
pub const UPLOADS: usize = 64;
/// Names that are resolved at a time; a resolver that hangs keeps its thread.
pub(super) const RESOLVERS: usize = 2;
/// Longest Location, in octets.
const LOCATION_MAX: usize = 30_000;
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Level;

    #[test]
    fn longest_prefix_wins() {
        let service = |text| Service::parse(text).unwrap();
        let services = ["/=http://a", "/x/y=http://b", "/x=http://c"].map(service);
        let forwards = Forwards::new(
            services.into(),
            Rc::new(Pool::new(1)),
            Log::writer(Level::Error, Box::new(io::sink())),
        );
        for (path, prefix) in [
            ("/", "/"),
            ("/xy", "/"),
            ("/x", "/x"),
            ("/x/yz", "/x"),
            ("/x/y", "/x/y"),
            ("/x/y/z", "/x/y"),
        ] {
            assert_eq!(forwards.find(path.as_bytes()).unwrap().prefix(), prefix, "{path}");
        }
    }
}
