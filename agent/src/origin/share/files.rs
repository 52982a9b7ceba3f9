//! Files as they are: how preconditions, ranges and codings come together.
//!
//! It owns the headers of files and the layout of multipart/byteranges (RFC 9110 13.2.2, 14).

use std::os::fd::OwnedFd;

use ring::{
    error::Unspecified,
    rand::{SecureRandom, SystemRandom},
};
use spdy_protocol::{digits::HEX, head::RequestHead};

use super::{Tools, with_validators};
use crate::origin::{
    conditional::{self, Validators, Verdict},
    content::Content,
    file::Meta,
    gzip::{self, Gzip},
    mime,
    path::Target,
    range::{Range, Selection},
    reply::{Body, PRIVATE, Piece, Reply},
};

/// A file, whole or in parts; the answer to HEAD still has its body.
pub(super) fn whole_or_parts(
    tools: &Tools,
    request: &RequestHead,
    target: &Target,
    opened: OwnedFd,
    meta: &Meta,
    now: i64,
) -> Reply {
    let headers = &request.headers;
    let media_type = mime::media_type(&target.name);
    let mut validators = Validators::of(meta, now, tools.key);
    // Ranges count octets of the file itself, and who names a tag strongly has the file itself.
    let plain = ["range", "if-range", "if-match"].iter().any(|name| headers.get(name).is_some());
    let worth = gzip::is_worth(media_type, Some(meta.len));
    let coding = if worth && !plain && gzip::is_accepted(headers) {
        tools.shared.gzips.lease(1)
    } else {
        None
    };
    if coding.is_some() {
        validators.etag = validators.etag.as_deref().map(gzip::etag);
    }
    let dress = |reply: Reply| {
        let reply = with_validators(reply, &validators).with("cache-control", PRIVATE);
        if worth { reply.with("vary", "accept-encoding") } else { reply }
    };
    let ranges = match conditional::evaluate(headers, true, Some(&validators), now) {
        Verdict::Failed => return Reply::status(412),
        Verdict::NotModified => return dress(Reply::empty(304)),
        // Range is defined for GET alone (RFC 9110 14.2).
        Verdict::Proceed { ranges } => ranges && request.method == "GET",
    };
    // Two Range headers are no set of ranges that anybody meant.
    let mut asked = headers.get_all("range").filter(|_| ranges);
    let selection = match (asked.next(), asked.next()) {
        (Some(value), None) => Selection::parse(value, meta.len),
        _ => Selection::Whole,
    };
    let reply = match selection {
        Selection::Whole if coding.is_some() => Reply::empty(200)
            .with("content-type", media_type)
            .with("content-encoding", "gzip")
            .made(
                Gzip::new(Box::new(Content::new(opened, meta.len))),
                coding.into_iter().collect(),
            ),
        Selection::Whole => Parts::one(0, meta.len).reply(200, opened, media_type),
        Selection::One(range) => Parts::one(range.first, range.len())
            .reply(206, opened, media_type)
            .with("content-range", &content_range(range, meta.len)),
        Selection::Many(ranges) => match Boundary::new() {
            Ok(boundary) => {
                let parts = Parts::many(&ranges, &boundary, media_type, meta.len);
                parts.reply(206, opened, &format!("multipart/byteranges; boundary={}", boundary.0))
            }
            Err(_) => return Reply::status(500),
        },
        Selection::Unsatisfiable => {
            return Reply::status(416)
                .with("content-range", &format!("bytes */{}", meta.len))
                .with("accept-ranges", "bytes");
        }
    };
    let reply =
        dress(reply).with("accept-ranges", "bytes").with("x-content-type-options", "nosniff");
    if mime::is_active(media_type) {
        return reply.with("content-security-policy", "sandbox");
    }
    reply
}

/// What of a file an answer holds, with what stands between.
struct Parts {
    pieces: Vec<Piece>,
    tail: Vec<u8>,
}

impl Parts {
    fn one(offset: u64, len: u64) -> Self {
        Self { pieces: vec![Piece { head: Vec::new(), offset, len }], tail: Vec::new() }
    }

    /// The parts of a multipart/byteranges (RFC 9110 14.6).
    fn many(ranges: &[Range], boundary: &Boundary, media_type: &str, len: u64) -> Self {
        let boundary = &boundary.0;
        let pieces = ranges.iter().enumerate().map(|(at, range)| {
            let start = if at == 0 { "" } else { "\r\n" };
            let head = format!(
                "{start}--{boundary}\r\ncontent-type: {media_type}\r\ncontent-range: {}\r\n\r\n",
                content_range(*range, len)
            );
            Piece { head: head.into_bytes(), offset: range.first, len: range.len() }
        });
        Self { pieces: pieces.collect(), tail: format!("\r\n--{boundary}--\r\n").into_bytes() }
    }

    fn reply(self, status: u16, file: OwnedFd, content_type: &str) -> Reply {
        let lens = self.pieces.iter().map(|piece| piece.head.len() as u64 + piece.len);
        let len = lens.sum::<u64>() + self.tail.len() as u64;
        let reply = Reply::empty(status)
            .with("content-type", content_type)
            .with("content-length", &len.to_string());
        if len == 0 {
            return reply;
        }
        Reply { body: Body::File { file, pieces: self.pieces, tail: self.tail }, ..reply }
    }
}

/// What parts are separated by: random, so that no file can hold it on purpose.
struct Boundary(String);

impl Boundary {
    fn new() -> Result<Self, Unspecified> {
        let mut random = [0; 16];
        SystemRandom::new().fill(&mut random)?;
        Ok(Self(HEX.encode(&random)))
    }
}

fn content_range(range: Range, len: u64) -> String {
    format!("bytes {}-{}/{len}", range.first, range.last)
}
