//! A connection that has changed its protocol: octets both ways, nothing else.
//!
//! FIN half-closes either direction, an error ends both; no timer runs (docs/design.md section 7).

use std::{future::poll_fn, io};

use bytes::{Buf, Bytes};
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, future, io::split};
use http::{Method, header, request};
use hyper::upgrade::{OnUpgrade, Parts};
use spdy_protocol::tunnel::Stream;

use crate::{
    socket::{Socket, VisitorIo},
    tls::TlsStream,
};

/// Waits until hyper has sent the 101 and let go of the connection, then joins it with `stream`.
pub(super) async fn join(on_upgrade: OnUpgrade, stream: Stream) {
    let Ok(upgraded) = on_upgrade.await else { return };
    // The two types that downstream serves; anything else would be a mistake in this crate.
    let _ = match upgraded.downcast::<VisitorIo<Socket>>() {
        Ok(Parts { io, read_buf, .. }) => copy(io.into_inner(), read_buf, &stream).await,
        Err(upgraded) => match upgraded.downcast::<VisitorIo<TlsStream<Socket>>>() {
            Ok(Parts { io, read_buf, .. }) => copy(io.into_inner(), read_buf, &stream).await,
            Err(_) => Ok(()),
        },
    };
    // Dropping the stream resets it unless both directions have ended.
}

/// Whether a request with a body may ask for `protocol`. The agent must know from the head where
/// the body ends, because the stream stays open behind it: no chunked ones. A POST only, as `docker
/// exec` sends it: a share takes a PUT up to the end of its stream. Clients that offer HTTP/2 do so
/// with any request, and no agent takes it.
pub(super) fn may_follow_body(parts: &request::Parts, protocol: &str) -> bool {
    let lower = protocol.to_ascii_lowercase();
    parts.method == Method::POST
        && parts.headers.contains_key(header::CONTENT_LENGTH)
        && !parts.headers.contains_key(header::TRANSFER_ENCODING)
        && !lower.starts_with("h2")
        && !lower.starts_with("http")
}

async fn copy<I>(io: I, early: Bytes, stream: &Stream) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = split(io);
    let up = async {
        let mut chunk = early;
        let mut octets = vec![0; BUFFER];
        loop {
            while !chunk.is_empty() {
                let written = poll_fn(|cx| stream.poll_write(cx, &chunk, false)).await?;
                chunk.advance(written);
            }
            let read = reader.read(&mut octets).await?;
            if read == 0 {
                return Ok(poll_fn(|cx| stream.poll_finish(cx)).await?);
            }
            chunk = Bytes::copy_from_slice(&octets[..read]);
        }
    };
    let down = async {
        while let Some(chunk) = poll_fn(|cx| stream.poll_read_chunk(cx)).await? {
            writer.write_all(&chunk).await?;
            writer.flush().await?;
        }
        writer.close().await
    };
    future::try_zip(up, down).await.map(|_| ())
}

/// Octets of one read.
const BUFFER: usize = 16_384;
