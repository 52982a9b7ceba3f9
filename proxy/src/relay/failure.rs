//! What a visitor is told when an exchange fails before its head was sent.
//!
//! It owns the one mapping of causes to HTTP status, `Proxy-Status` (RFC 9209) and a sentence. It
//! does not own what happens afterwards: then the body is cut ([`super::body`]).

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use spdy_protocol::{error::StreamError, tunnel::OpenError};

use super::page;
use crate::{access::Denied, log::Utc};

/// Why there is no response of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The request breaks HTTP; the text says how.
    Request(&'static str),
    /// The request head is larger than the tunnel carries.
    HeadTooLarge,
    /// The request has a transfer coding that we do not have.
    Coding,
    /// The request is not HTTP/1.
    Version,
    /// A method that only forward proxies have.
    Method,
    /// Nobody may come in to the origin yet.
    Locked,
    /// The origin asks for a password, which others could read on this connection.
    Exposed,
    /// The visitor shows no password, or a wrong one; the user that is asked for.
    Password(String),
    /// Wrong passwords came too often; seconds until another is looked at.
    TooOften(u64),
    /// Too many passwords wait to be checked.
    Crowded,
    /// No origin has this name.
    Unknown,
    /// The origin's agent is not connected; since when, if it ever was.
    Away(Option<SystemTime>),
    /// No stream came free in time.
    Busy,
    /// The agent took no further stream.
    Refused,
    /// The stream was cut to make room for others.
    Stalled,
    /// The agent reset the stream.
    Reset,
    /// The agent broke the protocol.
    Violation(&'static str),
    /// The tunnel ended.
    Lost,
    /// The agent owed a reply for too long.
    Silent,
    /// The visitor went away inside its request.
    Visitor,
}

impl Failure {
    /// Status of the response.
    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::Request(_) | Self::Visitor => StatusCode::BAD_REQUEST,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Method | Self::Coding => StatusCode::NOT_IMPLEMENTED,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Locked | Self::Exposed => StatusCode::FORBIDDEN,
            Self::Password(_) => StatusCode::UNAUTHORIZED,
            Self::TooOften(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::Crowded | Self::Away(_) | Self::Busy | Self::Refused | Self::Stalled => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Reset | Self::Violation(_) | Self::Lost => StatusCode::BAD_GATEWAY,
            Self::Silent => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Error type of `Proxy-Status` (RFC 9209 2.3).
    pub(crate) const fn cause(&self) -> &'static str {
        match self {
            Self::Request(_)
            | Self::HeadTooLarge
            | Self::Coding
            | Self::Version
            | Self::Visitor => "http_request_error",
            Self::Method
            | Self::Locked
            | Self::Exposed
            | Self::Password(_)
            | Self::TooOften(_)
            | Self::Crowded => "http_request_denied",
            Self::Unknown => "destination_not_found",
            Self::Away(_) => "destination_unavailable",
            Self::Busy | Self::Stalled => "connection_limit_reached",
            Self::Refused => "connection_refused",
            Self::Reset => "http_response_incomplete",
            Self::Violation(_) => "http_protocol_error",
            Self::Lost => "connection_terminated",
            Self::Silent => "http_response_timeout",
        }
    }

    /// Whether it is the visitor's own doing: nothing to log.
    pub(crate) const fn is_of_visitor(&self) -> bool {
        matches!(
            self,
            Self::Request(_)
                | Self::HeadTooLarge
                | Self::Coding
                | Self::Version
                | Self::Method
                | Self::Locked
                | Self::Exposed
                | Self::Password(_)
                | Self::TooOften(_)
                | Self::Crowded
                | Self::Unknown
                | Self::Visitor
        )
    }

    fn text(&self) -> String {
        match self {
            Self::Request(cause) => format!("The request is malformed: {cause}.\n"),
            Self::HeadTooLarge => "The request head is too large.\n".to_owned(),
            Self::Coding => "The request has an unknown transfer coding.\n".to_owned(),
            Self::Version => "Only HTTP/1.1 and HTTP/1.0 are spoken here.\n".to_owned(),
            Self::Method => "This is no forward proxy.\n".to_owned(),
            Self::Locked => LOCKED.to_owned(),
            Self::Exposed => EXPOSED.to_owned(),
            Self::Password(_) => "This origin asks for a user and a password.\n".to_owned(),
            Self::TooOften(_) => "The password was wrong too often. Try again later.\n".to_owned(),
            Self::Crowded => "Too many passwords are being checked.\n".to_owned(),
            Self::Unknown => "No origin has this name.\n".to_owned(),
            Self::Away(None) => "The origin is not connected.\n".to_owned(),
            Self::Away(Some(since)) => {
                format!("The origin has not been connected since {}.\n", Utc(*since))
            }
            Self::Busy => "The origin is busy with other requests.\n".to_owned(),
            Self::Refused => "The origin takes no further request now.\n".to_owned(),
            Self::Stalled => "The request was dropped to make room for others.\n".to_owned(),
            Self::Reset => "The origin broke the request off.\n".to_owned(),
            Self::Violation(cause) => format!("The origin answered nonsense: {cause}.\n"),
            Self::Lost => "The connection to the origin was lost.\n".to_owned(),
            Self::Silent => "The origin did not answer in time.\n".to_owned(),
            Self::Visitor => "The request ended too early.\n".to_owned(),
        }
    }

    const fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Away(_) | Self::Busy => Some(5),
            Self::Crowded | Self::Refused | Self::Stalled => Some(1),
            Self::TooOften(seconds) => Some(*seconds),
            _ => None,
        }
    }

    /// The response, with its text still apart; where it is not of the visitor's doing, a page
    /// for one who `wants_page`.
    pub(crate) fn response(&self, request_id: &str, wants_page: bool) -> Response<Bytes> {
        let is_page = wants_page && !self.is_of_visitor();
        let since = if let Self::Away(since) = self { *since } else { None };
        let text = if is_page {
            page::page(&self.text(), since, self.retry_after(), request_id)
        } else {
            self.text()
        };
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if is_page {
            page::add_headers(headers, self.retry_after());
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let cause = format!("spdy-proxy; error={}", self.cause());
        for (name, value) in [("proxy-status", cause.as_str()), ("x-request-id", request_id)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Self::Password(user) = self {
            let asks = format!("Basic realm=\"{user}\", charset=\"UTF-8\"");
            if let Ok(asks) = HeaderValue::from_str(&asks) {
                headers.insert(header::WWW_AUTHENTICATE, asks);
            }
        }
        response
    }
}

impl Failure {
    /// Why `user`'s password does not let anybody in.
    pub(crate) fn denied(denied: Denied, user: &str) -> Self {
        match denied {
            Denied::Wrong => Self::Password(user.to_owned()),
            Denied::TooOften(seconds) => Self::TooOften(seconds),
            Denied::Busy => Self::Crowded,
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Busy => Self::Busy,
            OpenError::Closed => Self::Away(None),
            OpenError::Head => Self::HeadTooLarge,
        }
    }
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Reset(_) => Self::Reset,
            StreamError::Refused => Self::Refused,
            StreamError::Violation(_) => Self::Violation("it broke the protocol"),
            StreamError::SessionEnded => Self::Lost,
            StreamError::Stalled => Self::Stalled,
            // Only a mistake of ours leads here; the visitor sees a broken gateway, as it is.
            StreamError::State => Self::Violation("out of order"),
        }
    }
}

const LOCKED: &str = "Nobody may come in here yet. Whoever runs the proxy says who may:\n\
    spdy-proxy access NAME password\nspdy-proxy access NAME open\n";
const EXPOSED: &str = "This origin asks for a password, which anybody on the way could read on \
    this connection: it is not encrypted. Come by https. Whoever runs the proxy turns that on by \
    -t, or says by --behind-tls that a front end does it.\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_status() {
        let status = |failure: Failure| failure.response("id", true).status().as_u16();
        assert_eq!(status(Failure::Away(None)), 503);
        assert_eq!(status(StreamError::SessionEnded.into()), 502);
        assert_eq!(status(StreamError::Reset(5).into()), 502);
        assert_eq!(status(StreamError::Refused.into()), 503);
        assert_eq!(status(Failure::Silent), 504);
        assert_eq!(status(OpenError::Head.into()), 431);
        assert_eq!(status(Failure::Unknown), 404);
    }

    #[test]
    fn a_wrong_password_is_told_like_a_missing_one() {
        let response = Failure::denied(Denied::Wrong, "nas1").response("id", true);
        assert_eq!(response.status(), 401);
        let asks = "Basic realm=\"nas1\", charset=\"UTF-8\"";
        assert_eq!(response.headers()["www-authenticate"], asks);
        assert_eq!(response.headers()["cache-control"], "no-store");
        let response = Failure::denied(Denied::TooOften(42), "nas1").response("id", true);
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "42");
        assert!(!response.headers().contains_key("www-authenticate"));
        assert_eq!(Failure::denied(Denied::Busy, "nas1").response("id", true).status(), 503);
    }

    #[test]
    fn responses_say_their_cause_to_machines() {
        let response = Failure::Away(Some(SystemTime::UNIX_EPOCH)).response("abc", false);
        assert_eq!(response.headers()["proxy-status"], "spdy-proxy; error=destination_unavailable");
        assert_eq!(response.headers()["retry-after"], "5");
        assert_eq!(response.headers()["x-request-id"], "abc");
        assert!(response.body().ends_with(b"since 1970-01-01T00:00:00Z.\n"));
    }
}
