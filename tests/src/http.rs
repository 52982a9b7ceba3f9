//! Requests that are to succeed, over plain TCP.
//!
//! It owns whole exchanges on a [`Visitor`]: it never decodes, retries or follows, and takes a body
//! that ends early for an error.

use std::{collections::BTreeMap, io, net::SocketAddr};

use crate::{
    fixture::wait_until,
    visitor::{End, Visitor},
};

/// A request.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Method.
    pub method: &'a str,
    /// Target as it goes on the wire.
    pub target: &'a str,
    /// Headers besides Host, Content-Length and Connection.
    pub headers: &'a [(&'a str, &'a str)],
    /// Body; `None` sends no Content-Length either.
    pub body: Option<&'a [u8]>,
}

impl<'a> Request<'a> {
    /// A GET without headers of its own.
    #[must_use]
    pub const fn get(target: &'a str) -> Self {
        Self { method: "GET", target, headers: &[], body: None }
    }

    /// A request with a body.
    #[must_use]
    pub const fn with_body(method: &'a str, target: &'a str, body: &'a [u8]) -> Self {
        Self { method, target, headers: &[], body: Some(body) }
    }

    /// Sends the request on a connection of its own and reads the whole answer, the body by its
    /// digest only.
    ///
    /// # Errors
    /// Those of the socket, an answer that is not HTTP, and a body that ends early.
    ///
    /// # Panics
    /// When nothing comes for [`crate::fixture::PATIENCE`].
    pub fn send(&self, to: SocketAddr) -> io::Result<Response> {
        let mut visitor = Visitor::try_connect(to)?;
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {to}\r\n", self.method, self.target);
        for (name, value) in self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = self.body {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("Connection: close\r\n\r\n");
        visitor.try_send(head.as_bytes())?;
        visitor.try_send(self.body.unwrap_or_default())?;
        Response::read(&mut visitor, self.method)
    }
}

/// An answer that has been read to its end.
#[derive(Clone, Debug)]
pub struct Response {
    /// Version that it claims, such as `HTTP/1.1`.
    pub version: String,
    /// Status.
    pub status: u16,
    /// Headers by lower-case name; repeated ones joined by ", ".
    pub headers: BTreeMap<String, String>,
    /// Headers as they came, names in lower case.
    pub lines: Vec<(String, String)>,
    /// Octets of the body.
    pub len: u64,
    /// SHA-256 of the body, in hexadecimal.
    pub sha256: String,
    /// The body's first octets, [`crate::visitor::START`] at most.
    pub start: Vec<u8>,
}

impl Response {
    /// Reads one answer to its end; `method` is that of its request.
    ///
    /// # Errors
    /// Those of the socket, an answer that is not HTTP, and a body that ends early.
    ///
    /// # Panics
    /// When nothing comes for [`crate::fixture::PATIENCE`].
    pub fn read(visitor: &mut Visitor, method: &str) -> io::Result<Self> {
        let head = visitor.try_head(method)?;
        let body = visitor.finish();
        if body.end != End::Whole {
            let why = format!("body ends early ({:?}), after {}", body.end, body.len);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        let mut headers = BTreeMap::new();
        for (name, _) in &head.headers {
            headers.insert(name.clone(), head.all(name).join(", "));
        }
        Ok(Self {
            version: head.version,
            status: head.status,
            headers,
            lines: head.headers,
            len: body.len,
            sha256: body.sha256,
            start: body.start,
        })
    }

    /// The start of the body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.start).into_owned()
    }

    /// The values of a header, given in lower case, line by line.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.lines.iter().filter(|line| line.0 == name);
        lines.map(|line| line.1.as_str()).collect()
    }
}

/// Waits until the proxy at `http` has an agent: until it answers something else than 503.
///
/// # Panics
/// When it has none after the patience of its connection.
pub fn wait_for_agent(http: SocketAddr) {
    wait_until("the proxy has an agent", || {
        let answer = Request { method: "HEAD", ..Request::get("/") }.send(http);
        answer.is_ok_and(|answer| answer.status != 503)
    });
}
