//! What is said about a folder or a film instead of its content.
//!
//! It owns how pages are read, on the pool and within the amount that all share, and their headers.
//! The texts are `super::super::pages`'.

use std::{os::fd::OwnedFd, sync::Arc};

use spdy_protocol::head::RequestHead;

use super::{
    super::{
        conditional::{self, Validators, Verdict},
        file::{Kind, Meta, status_of},
        listing::{self, Class, Cursor, Filter, Folder, Listing, Order, Scan, Sort, Wanted},
        pages::{self, FileView, Form, Frame, Media, Page, View},
        path::Target,
        quota::Lease,
        reply::{Body, PIECE, PRIVATE, Reply},
    },
    Share, Tools, file_reply,
};

impl Share {
    /// Answers for an open folder.
    pub(super) async fn folder(
        &self,
        tools: &Tools,
        request: &RequestHead,
        target: &Target,
        query: Option<&[u8]>,
        opened: OwnedFd,
        now: i64,
    ) -> Reply {
        let view = View::of(query, &request.headers);
        if tools.index && !view.explicit {
            let inner = [&target.name, &b"/index.html"[..]].concat();
            let (root, name) = (self.root.clone(), inner.clone());
            let index = tools.pool.run(move || {
                let opened = root.open_file(&name)?;
                root.meta(&opened).map(|meta| (opened, meta))
            });
            if let Ok((opened, meta)) = index.await
                && meta.kind == Kind::File
            {
                let target = Target { name: inner, folder: false, ..target.clone() };
                let reply = file_reply(tools, request, &target, opened, &meta, now);
                return reply.with("vary", "accept");
            }
        }
        let (root, name) = (self.root.clone(), target.name.clone());
        let is_top = self.name.is_empty() && name == b".";
        let folder = Some(Arc::new(Folder { root, name, opened }));
        let extra = if is_top { tools.shares.clone() } else { Arc::new([]) };
        list(tools, request, target, view, Wanted::all(folder, extra, tools.hidden), None).await
    }

    /// Answers for a film, song or picture if not its content is asked for but a page or a
    /// playlist.
    pub(super) async fn media(
        &self,
        tools: &Tools,
        request: &RequestHead,
        target: &Target,
        query: Option<&[u8]>,
        meta: &Meta,
    ) -> Option<Reply> {
        let class = Class::of(&target.name);
        let (above, own) = target.split()?;
        match FileView::of(query)? {
            FileView::Playlist if class.is_media() => {
                let base = pages::base(request, target);
                let text = pages::PLAYLIST.to_owned() + &pages::playlist_entry(&base, own);
                let head = head(&tools.policies[0], Form::Playlist, target);
                Some(with_text(head, request, pages::tag(tools.key, None, &[&text]), text))
            }
            FileView::Play if class.is_media() || class == Class::Picture => {
                let page = self.media_page(tools, request, target, (above, own), class, meta);
                Some(page.await.unwrap_or_else(Reply::status))
            }
            _ => None,
        }
    }

    /// `Err`: a status.
    async fn media_page(
        &self,
        tools: &Tools,
        request: &RequestHead,
        target: &Target,
        (above, own): (&[u8], &[u8]),
        class: Class,
        meta: &Meta,
    ) -> Result<Reply, u16> {
        let (root, name) = (self.root.clone(), above.to_vec());
        let opened = tools.pool.run(move || {
            let opened = root.open_folder(&name)?;
            Ok(Arc::new(Folder { root, name, opened }))
        });
        let folder = Some(opened.await.map_err(status_of)?);
        let all = Wanted::all(folder, Arc::new([]), tools.hidden);
        let next = Wanted { filter: Filter::Only(class), max: 1, ..all };
        let order = Order { sort: Sort::Name, descending: true };
        let previous = Wanted { order, ..next.clone() };
        let filter = Filter::Subtitles(pages::stem(own).to_vec());
        let subtitles = Wanted { filter, max: SUBTITLES, ..next.clone() };
        let place = Some(Cursor::of_file(own));
        let (next, _lease) = scan(tools, next, place.clone()).await?;
        let (previous, _lease) = scan(tools, previous, place).await?;
        let (subtitles, _lease) = match class {
            Class::Film => scan(tools, subtitles, None).await?,
            _ => (Listing::default(), None),
        };
        let page = Media {
            target,
            class,
            size: meta.len,
            modified: meta.modified.0,
            previous: previous.get(0).map(|(_, name)| name),
            next: next.get(0).map(|(_, name)| name),
            subtitles: &subtitles,
        };
        let text = page.page();
        let tag = pages::tag(tools.key, None, &[&text]);
        Ok(with_text(head(&tools.policies[0], Form::List, target), request, tag, text))
    }
}

/// Answers for `/` where no share is: with the list of those that have names.
pub(crate) async fn shares(
    tools: &Tools,
    request: &RequestHead,
    target: &Target,
    query: Option<&[u8]>,
) -> Reply {
    let view = View::of(query, &request.headers);
    let wanted = Wanted::all(None, tools.shares.clone(), tools.hidden);
    list(tools, request, target, view, wanted, None).await
}

/// Answers with entries. `token`: that of the forms, where there are
/// any.
async fn list(
    tools: &Tools,
    request: &RequestHead,
    target: &Target,
    view: View,
    wanted: Wanted,
    token: Option<&str>,
) -> Reply {
    let archives = wanted.folder.is_some();
    let filter = if view.form == Form::Playlist { Filter::Media } else { Filter::All };
    let wanted = Wanted { order: view.order, filter, ..wanted };
    let (listing, mut lease) = match scan(tools, wanted.clone(), view.after.clone()).await {
        Ok(found) => found,
        Err(status) => return Reply::status(status),
    };
    let rest = (view.all && listing.next.is_some()).then_some(wanted);
    let base =
        if view.form == Form::Playlist { pages::base(request, target) } else { String::new() };
    // What is read in several parts may change between them.
    let more = [&*base, token.unwrap_or_default()];
    let tag = rest.is_none().then(|| pages::tag(tools.key, Some((&view, &listing)), &more));
    if let Some(early) = precondition(request, tag.as_deref()) {
        return early;
    }
    if rest.is_some() {
        drop(lease.take());
        lease = tools.made.lease(listing::HELD_MAX + 2 * PIECE);
        if lease.is_none() {
            return Reply::status(503);
        }
    }
    let frame = Frame { target, view: &view, listing: &listing, archives, token };
    let page = Page::new(&frame, base, rest);
    let head = head(&tools.policies[usize::from(token.is_some())], view.form, target);
    with_tag(head, tag.as_deref()).made(page.with(listing), lease.into_iter().collect())
}

/// Reads a part of a folder, step by step, so that others have their turns on the pool. `Err`: a
/// status.
async fn scan(
    tools: &Tools,
    wanted: Wanted,
    after: Option<Cursor>,
) -> Result<(Listing, Option<Lease>), u16> {
    let mut scan = Scan::new(wanted, after);
    let mut lease: Option<Lease> = None;
    loop {
        let outcome;
        (scan, outcome) = tools
            .pool
            .run(move || {
                let outcome = scan.step();
                (scan, outcome)
            })
            .await;
        let is_done = outcome.map_err(status_of)?;
        drop(lease.take());
        lease = Some(tools.made.lease(scan.held() + 2 * PIECE).ok_or(503_u16)?);
        if is_done {
            return Ok((scan.into_listing(), lease));
        }
    }
}

/// The headers of a text of ours.
fn head(policy: &str, form: Form, target: &Target) -> Reply {
    let head = Reply::empty(200)
        .with("cache-control", PRIVATE)
        .with("vary", "accept")
        .with("x-content-type-options", "nosniff");
    match form {
        Form::Json => head.with("content-type", "application/json"),
        Form::Playlist => head
            .with("content-type", "audio/x-mpegurl; charset=utf-8")
            .with("content-disposition", &pages::disposition(target)),
        Form::List | Form::Grid => head
            .with("content-type", "text/html; charset=utf-8")
            .with("content-security-policy", policy),
    }
}

fn with_tag(reply: Reply, tag: Option<&str>) -> Reply {
    match tag {
        Some(tag) => reply.with("etag", tag),
        None => reply,
    }
}

fn with_text(head: Reply, request: &RequestHead, tag: String, text: String) -> Reply {
    if let Some(early) = precondition(request, Some(&tag)) {
        return early;
    }
    let head = with_tag(head, Some(&tag)).with("content-length", &text.len().to_string());
    Reply { body: Body::Text(text), ..head }
}

/// The answer that a request's conditions come to, if they do not come to the whole.
fn precondition(request: &RequestHead, tag: Option<&str>) -> Option<Reply> {
    let validators = Validators { etag: tag.map(str::to_owned), modified: None };
    match conditional::evaluate(&request.headers, true, Some(&validators), 0) {
        Verdict::Failed => Some(Reply::status(412)),
        Verdict::NotModified => {
            let head = Reply::empty(304).with("cache-control", PRIVATE).with("vary", "accept");
            Some(with_tag(head, tag))
        }
        Verdict::Proceed { .. } => None,
    }
}

/// Subtitles of one film.
const SUBTITLES: usize = 16;
