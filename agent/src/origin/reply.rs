//! What goes back for one request: a head and where its body comes from.
//!
//! It does not write to streams (`super::body` does).

use std::{fmt, os::fd::OwnedFd};

use rustix::io::Errno;
use spdy_protocol::head::ResponseHead;

use super::quota::Lease;

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
    /// Parts of a file, each behind some octets of ours, and some of ours at the end.
    File {
        /// The open file.
        file: OwnedFd,
        /// In the order in which they are sent; at least one octet in all.
        pieces: Vec<Piece>,
        /// What follows the last.
        tail: Vec<u8>,
    },
    /// Octets that are made while they are sent.
    Made(Made),
}

/// A part of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    /// What is sent before it.
    pub(crate) head: Vec<u8>,
    /// First octet.
    pub(crate) offset: u64,
    /// Number of octets.
    pub(crate) len: u64,
}

/// A body under way, with what it holds of the amounts that all share.
pub(crate) struct Made {
    pub(crate) source: Box<dyn Source>,
    /// Given back at the end of the answer.
    pub(crate) leases: Vec<Lease>,
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Made").field("leases", &self.leases).finish_non_exhaustive()
    }
}

/// Makes a body piece by piece. It lives on the pool while it works, so it may block for about as
/// long as one read of a disk takes.
pub(crate) trait Source: Send {
    /// The next piece, about [`PIECE`] octets; an empty one is nothing yet, `None` comes after the
    /// last.
    ///
    /// # Errors
    /// The body cannot be finished: the stream is reset.
    fn next_piece(&mut self) -> Result<Option<Vec<u8>>, Errno>;
}

/// Octets that a piece of a [`Source`] should have reached; it may be longer by one row of a page.
pub(crate) const PIECE: usize = 16 << 10;

impl Reply {
    /// A head without body.
    pub(crate) fn empty(status: u16) -> Self {
        Self { head: ResponseHead::new(status), body: Body::Empty }
    }

    /// An error or a redirect, with a line for people.
    pub(crate) fn status(status: u16) -> Self {
        Self::text(status, format!("{status} {}\n", reason(status)))
    }

    /// An error, with what we say to people.
    pub(crate) fn text(status: u16, text: String) -> Self {
        Self::typed(status, "text/plain; charset=utf-8", text).with("cache-control", PRIVATE)
    }

    /// A few octets of some type.
    pub(crate) fn typed(status: u16, media_type: &str, text: String) -> Self {
        let reply = Self::empty(status)
            .with("content-type", media_type)
            .with("content-length", &text.len().to_string())
            .with("x-content-type-options", "nosniff");
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

    /// Gives it a body that is made while it is sent.
    #[must_use]
    pub(crate) fn made(self, source: impl Source + 'static, leases: Vec<Lease>) -> Self {
        Self { body: Body::Made(Made { source: Box::new(source), leases }), ..self }
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
        303 => "See Other",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        507 => "Insufficient Storage",
        _ => "",
    }
}
