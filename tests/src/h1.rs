//! The HTTP client of the tests: async-h1 over one connection, so that it is not hyper talking to
//! hyper.
//!
//! It owns the connection and the patience. What async-h1 cannot say (HTTP/1.0, two requests at
//! once, half-closed connections) is [`crate::visitor`]'s.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

pub use http_types::{Body, Method, Request, Response};
use http_types::{Url, headers::HeaderName};
use smol::{
    Timer,
    future::FutureExt,
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpStream,
};

use crate::fixture::PATIENCE;

/// A connection to an HTTP port. Requests go one after the other.
#[derive(Debug)]
pub struct Client {
    socket: TcpStream,
    to: SocketAddr,
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    /// When nobody listens.
    pub async fn connect(to: SocketAddr) -> Self {
        let socket = within(PATIENCE, TcpStream::connect(to)).await;
        let socket = socket.unwrap_or_else(|error| panic!("{to}: {error}"));
        socket.set_nodelay(true).unwrap_or_else(|error| panic!("{error}"));
        Self { socket, to }
    }

    /// A request to this address; `target` is a path with its query.
    ///
    /// # Panics
    /// When no URL can have that target.
    #[must_use]
    pub fn request(&self, method: Method, target: &str) -> Request {
        let url = Url::parse(&format!("http://{}{target}", self.to));
        Request::new(method, url.unwrap_or_else(|error| panic!("{target}: {error}")))
    }

    /// Sends a request whole and reads the head of its answer. The body is read from the response,
    /// to its end if another request is to follow.
    ///
    /// # Panics
    /// When the connection fails or the head does not come in time.
    pub async fn begin(&self, request: Request) -> Response {
        let socket = Gathered { socket: self.socket.clone(), held: Vec::new() };
        let response = within(PATIENCE, async_h1::connect(socket, request)).await;
        response.unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Panics
    /// As [`Client::begin`], and when the body has not the length that was announced.
    pub async fn ask(&self, request: Request) -> Answer {
        let is_head = request.method() == Method::Head;
        let mut response = self.begin(request).await;
        let status = u16::from(response.status());
        let mut body = Vec::new();
        if !is_head && !matches!(status, 204 | 304) {
            let announced = response.len();
            let mut from = response.take_body();
            let read = within(PATIENCE, from.read_to_end(&mut body)).await;
            let read = read.unwrap_or_else(|error| panic!("body: {error} after {}", body.len()));
            // async-h1 takes a body that ends early for a whole one.
            assert!(announced.is_none_or(|len| len == read), "{read} octets of {announced:?}");
        }
        Answer { status, response, body }
    }

    /// GET of `target`, whole.
    ///
    /// # Panics
    /// As [`Client::ask`].
    pub async fn get(&self, target: &str) -> Answer {
        self.ask(self.request(Method::Get, target)).await
    }

    /// GET with one header.
    ///
    /// # Panics
    /// As [`Client::ask`].
    pub async fn get_with(&self, target: &str, name: &str, value: &str) -> Answer {
        let mut request = self.request(Method::Get, target);
        request.insert_header(name, value);
        self.ask(request).await
    }
}

/// An answer that has been read to its end.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
    response: Response,
}

impl Answer {
    /// The only value of a header.
    ///
    /// # Panics
    /// When it has several.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.response.header(name)?.iter();
        let value = values.next()?.as_str();
        assert!(values.next().is_none(), "several values of {name}");
        Some(value)
    }

    /// Names of all headers, in order of the alphabet, lower case.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.response.header_names().map(HeaderName::to_string).collect();
        names.sort();
        names
    }

    /// The body as text.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_else(|error| panic!("no text: {error}"))
    }
}

/// Reads exactly so many octets.
///
/// # Panics
/// When the body ends before or stands still for [`PATIENCE`].
pub async fn read_exact(from: &mut (impl AsyncRead + Unpin), len: usize) -> Vec<u8> {
    let mut octets = vec![0; len];
    let read: io::Result<()> = within(PATIENCE, from.read_exact(&mut octets)).await;
    read.unwrap_or_else(|error| panic!("{len} octets: {error}"));
    octets
}

/// Waits for something, but not longer than `limit`.
///
/// # Panics
/// When it takes longer.
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> T {
    let late = async {
        Timer::after(limit).await;
        panic!("waited in vain for {limit:?}")
    };
    work.or(late).await
}

/// A socket that sends head and body of a small request as one segment: async-h1 writes them apart.
#[derive(Debug)]
struct Gathered {
    socket: TcpStream,
    held: Vec<u8>,
}

impl Gathered {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.held))?;
            self.held.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Gathered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gathered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.held.len() + buf.len() > GATHERED {
            ready!(self.poll_send(cx))?;
        }
        self.held.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    /// async-h1 flushes at the end of each request.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_close(cx)
    }
}

/// Octets that are gathered before they are sent.
const GATHERED: usize = 65_536;
