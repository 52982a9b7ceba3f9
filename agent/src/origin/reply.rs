//! What goes back for one request: a head and where its body comes from.
//!
//! It does not write to streams (`super::body` does).

use std::os::fd::OwnedFd;

use spdy_protocol::head::ResponseHead;

use super::listing::Page;

/// An answer that was not sent yet.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) head: ResponseHead,
    pub(crate) body: Body,
}

/// Where octets come from.
#[derive(Debug)]
pub(crate) enum Body {
    /// Nowhere: the head is all.
    Empty,
    /// A few, made here.
    Text(String),
    /// A part of a file.
    File {
        /// The open file.
        file: OwnedFd,
        /// First octet.
        offset: u64,
        /// Number of octets, at least one.
        len: u64,
    },
    /// A page that is made while it is sent.
    Page(Page),
}

impl Reply {
    /// A head without body.
    pub(crate) fn empty(status: u16) -> Self {
        Self { head: ResponseHead::new(status), body: Body::Empty }
    }

    /// An error or a redirect, with a line for people.
    pub(crate) fn status(status: u16) -> Self {
        let text = format!("{status} {}\n", reason(status));
        let reply = Self::empty(status)
            .with("content-type", "text/plain; charset=utf-8")
            .with("content-length", &text.len().to_string())
            .with("x-content-type-options", "nosniff")
            .with("cache-control", PRIVATE);
        let reply = if status == 503 { reply.with("retry-after", "1") } else { reply };
        Self { body: Body::Text(text), ..reply }
    }

    /// Adds a header.
    #[must_use]
    pub(crate) fn with(self, name: &str, value: &str) -> Self {
        self.with_octets(name, value.as_bytes())
    }

    /// Adds a header whose value is not known to be text.
    #[must_use]
    pub(crate) fn with_octets(mut self, name: &str, value: &[u8]) -> Self {
        // Names are ours; values are short and without NUL by how they are made. Were one refused,
        // the answer would only lack that header.
        let added = self.head.headers.push(name, value);
        debug_assert!(added.is_ok(), "header {name} cannot be sent");
        self
    }

    /// The same without its body: the answer to HEAD.
    #[must_use]
    pub(crate) fn without_body(self) -> Self {
        Self { body: Body::Empty, ..self }
    }
}

/// Several people share a proxy and its caches: nothing of a NAS is public.
pub(crate) const PRIVATE: &str = "private, no-cache";

const fn reason(status: u16) -> &'static str {
    match status {
        201 => "Created",
        301 => "Moved Permanently",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        416 => "Range Not Satisfiable",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        507 => "Insufficient Storage",
        _ => "",
    }
}
