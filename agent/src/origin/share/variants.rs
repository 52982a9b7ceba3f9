//! What a share makes from a file or a folder when it is asked for another form of it.
//!
//! It owns the headers of these answers; how they are made is `archive`'s and `subtitle`'s.

use std::os::fd::OwnedFd;

use spdy_protocol::head::RequestHead;

use super::{Tools, with_validators};
use crate::{
    origin::{
        archive::{self, Archive, Form},
        conditional::{self, Validators, Verdict},
        file::{self, Meta},
        gzip::{self, Gzip},
        path::Target,
        reply::{PRIVATE, Reply},
        subtitle::{self, Subtitles},
    },
    pool::Pool,
};

/// A folder as an archive. The answer to HEAD is made without looking at what the folder holds, so
/// it does not know whether there is room for another archive, or for all entries in a zip.
pub(super) async fn archive(
    tools: &Tools,
    pool: &Pool,
    request: &RequestHead,
    target: &Target,
    opened: OwnedFd,
    query: Option<&[u8]>,
) -> Reply {
    let form = Form::asked(query).unwrap_or(Form::Tar);
    let top = archive::top_name(target);
    let head = Reply::empty(200)
        .with("content-type", form.media_type())
        .with("content-disposition", &archive::disposition(&top, form.extension()))
        .with("cache-control", PRIVATE)
        .with("x-content-type-options", "nosniff");
    if request.method == "HEAD" {
        return head;
    }
    let Some(lease) = tools.shared.archives.lease(1) else { return Reply::status(503) };
    let hidden = tools.hidden;
    match pool.run(move || Archive::open(&opened, &top, form, hidden)).await {
        Ok(archive) => head.made(archive, vec![lease]),
        Err(archive::FULL) => Reply::text(403, TOO_MANY.to_owned()),
        Err(error) => Reply::status(file::status_of(error)),
    }
}

/// Subtitles in the form that browsers read.
pub(super) fn subtitles(
    tools: &Tools,
    request: &RequestHead,
    opened: OwnedFd,
    meta: &Meta,
    now: i64,
) -> Reply {
    let headers = &request.headers;
    let gzip = gzip::is_worth(subtitle::MEDIA_TYPE, Some(meta.len)) && gzip::is_accepted(headers);
    let gzip = if gzip { tools.shared.gzips.lease(1) } else { None };
    let mut validators = Validators::of(meta, now, tools.key);
    validators.etag = validators.etag.map(|etag| {
        let etag = conditional::variant(&etag, "vtt");
        if gzip.is_some() { gzip::etag(&etag) } else { etag }
    });
    let (status, verdict) = match conditional::evaluate(headers, true, Some(&validators), now) {
        Verdict::Failed => return Reply::status(412),
        verdict @ Verdict::NotModified => (304, verdict),
        verdict @ Verdict::Proceed { .. } => (200, verdict),
    };
    let head = with_validators(Reply::empty(status), &validators)
        .with("cache-control", PRIVATE)
        .with("vary", "accept-encoding");
    if verdict == Verdict::NotModified {
        return head;
    }
    let head =
        head.with("content-type", subtitle::MEDIA_TYPE).with("x-content-type-options", "nosniff");
    let source = Subtitles::new(opened, meta.len);
    match gzip {
        Some(lease) => {
            head.with("content-encoding", "gzip").made(Gzip::new(Box::new(source)), vec![lease])
        }
        None => head.made(source, Vec::new()),
    }
}

const TOO_MANY: &str = "403 More files than a zip archive from here can list.\n\
    Ask for ?format=tar, which has no such bound, or for the folders one by one.\n";
