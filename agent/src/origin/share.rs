//! One share: GET and HEAD of what lies in it.
//!
//! It owns the headers of files and folders and how preconditions, ranges and codings come
//! together (RFC 9110 13.2.2). What is said about folders and media is `views`', what changes a
//! share is `super::write`'s.

mod views;

mod variants;

use std::{os::fd::OwnedFd, sync::Arc};

use data_encoding::HEXLOWER;
use ring::{
    error::Unspecified,
    rand::{SecureRandom, SystemRandom},
};
use spdy_protocol::head::RequestHead;

use super::{
    archive::{self, Form},
    conditional::{self, Validators, Verdict},
    file::{self, Kind, Meta, Root},
    gzip, mime, pages, path,
    path::Target,
    quota::Quota,
    range::{Range, Selection},
    reply::{Body, PRIVATE, Piece, Reply},
    subtitle,
};
use crate::pool::Pool;

pub(crate) use views::shares;

/// A folder that is served.
#[derive(Debug)]
pub(crate) struct Share {
    /// Its first segment in paths; empty for the one at `/`.
    pub(crate) name: Box<[u8]>,
    pub(crate) root: Arc<Root>,
    /// Whether visitors may change it.
    pub(crate) writable: bool,
}

/// What all shares of an origin work with.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) pool: Pool,
    /// Makes the tags of one NAS differ from those of another.
    pub(crate) key: u64,
    /// Whether names with a dot are served.
    pub(crate) hidden: bool,
    /// Whether a folder's index.html stands for it.
    pub(crate) index: bool,
    /// The names of the shares that have one: folders of `/`.
    pub(crate) shares: Arc<[Box<[u8]>]>,
    /// Octets of pages that are made while they are sent.
    pub(crate) made: Quota,
    /// Archives under way.
    pub(crate) archives: Quota,
    /// Bodies that are compressed.
    pub(crate) gzips: Quota,
    /// The policy of our own pages, and that of those with forms.
    pub(crate) policies: [String; 2],
}

impl Share {
    /// Answers GET and HEAD; the answer to HEAD still has its body.
    pub(crate) async fn read(
        &self,
        tools: &Tools,
        request: &RequestHead,
        target: &Target,
        query: Option<&[u8]>,
        now: i64,
    ) -> Reply {
        let opened = match self.root.open_cached(&target.name) {
            Some(opened) => Ok(opened),
            None => {
                let (root, name) = (self.root.clone(), target.name.clone());
                tools.pool.run(move || root.open_file(&name)).await
            }
        };
        let opened = opened.and_then(|opened| self.root.meta(&opened).map(|meta| (opened, meta)));
        match opened {
            Err(error) => Reply::status(file::status_of(error)),
            Ok((_, meta)) if meta.kind == Kind::Other => Reply::status(404),
            Ok((_, meta)) if meta.kind == Kind::File && target.folder => Reply::status(404),
            Ok((opened, meta)) if subtitle::is_asked(&target.name, &meta, query) => {
                variants::subtitles(tools, request, opened, &meta, now)
            }
            Ok((opened, meta)) if meta.kind == Kind::File => {
                if let Some(reply) = self.media(tools, request, target, query, &meta).await {
                    return reply;
                }
                file_reply(tools, request, target, opened, &meta, now)
            }
            Ok(_) if !target.folder => redirect(target.as_folder(), query),
            Ok((opened, _)) if Form::asked(query).is_some() => {
                variants::archive(tools, request, target, opened, query).await
            }
            Ok((opened, _)) => self.folder(tools, request, target, query, opened, now).await,
        }
    }
}

impl Tools {
    pub(crate) fn new(key: u64, threads: usize, hidden: bool) -> Self {
        Self {
            pool: Pool::new(threads),
            key,
            hidden,
            index: true,
            shares: Arc::new([]),
            made: Quota::new(pages::HELD),
            archives: Quota::new(archive::AT_A_TIME),
            gzips: Quota::new(gzip::AT_A_TIME),
            policies: [false, true].map(pages::policy),
        }
    }
}

fn file_reply(
    tools: &Tools,
    request: &RequestHead,
    target: &Target,
    opened: OwnedFd,
    meta: &Meta,
    now: i64,
) -> Reply {
    let validators = Validators::of(meta, now, tools.key);
    let verdict = conditional::evaluate(&request.headers, true, Some(&validators), now);
    let ranges = match verdict {
        Verdict::Failed => return Reply::status(412),
        Verdict::NotModified => {
            return with_validators(Reply::empty(304), &validators).with("cache-control", PRIVATE);
        }
        // Range is defined for GET alone (RFC 9110 14.2).
        Verdict::Proceed { ranges } => ranges && request.method == "GET",
    };
    // Two Range headers are no set of ranges that anybody meant.
    let mut asked = request.headers.get_all("range").filter(|_| ranges);
    let selection = match (asked.next(), asked.next()) {
        (Some(value), None) => Selection::parse(value, meta.len),
        _ => Selection::Whole,
    };
    let media_type = mime::media_type(&target.name);
    let reply = match selection {
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
    let reply = with_validators(reply, &validators)
        .with("accept-ranges", "bytes")
        .with("cache-control", PRIVATE)
        .with("x-content-type-options", "nosniff");
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
        Ok(Self(HEXLOWER.encode(&random)))
    }
}

fn content_range(range: Range, len: u64) -> String {
    format!("bytes {}-{}/{len}", range.first, range.last)
}

/// 301 to a path of ours, with the query of the request.
pub(crate) fn redirect(mut location: Vec<u8>, query: Option<&[u8]>) -> Reply {
    path::push_query(&mut location, query);
    if location.len() > LOCATION_MAX {
        return Reply::status(414);
    }
    Reply::status(301).with_octets("location", &location)
}

fn with_validators(mut reply: Reply, validators: &Validators) -> Reply {
    if let Some(etag) = &validators.etag {
        reply = reply.with("etag", etag);
    }
    match validators.modified.and_then(super::date::format) {
        Some(modified) => reply.with("last-modified", &modified),
        None => reply,
    }
}

/// Longest Location, in octets; a query may be long and grows by being encoded.
const LOCATION_MAX: usize = 30_000;
