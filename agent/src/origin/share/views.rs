//! What is said about a folder or a film instead of its content.
//!
//! It owns how pages are read, on the pool and within the amount that all share, and their headers.
//! The texts are `super::super::pages`'.

use std::{os::fd::OwnedFd, sync::Arc};

use rustix::io::Errno;
use spdy_protocol::head::RequestHead;

use super::{
    super::{
        conditional::{self, Validators, Verdict},
        file::{Kind, Meta, status_of},
        gzip::{self, Gzip},
        listing::{
            self, Class, Cursor, Filter, Folder, Listing, Order, PAGE, PASS, Scan, Sort, Wanted,
        },
        pages::{self, FileView, Form, Frame, Media, Page, View},
        path::Target,
        quota::Lease,
        reply::{Body, Made, PIECE, PRIVATE, Reply, Source},
    },
    Share, Tools, files, with_validators,
};
use crate::pool::Pool;

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
            let index = self.pool.run(move || root.open_with_meta(&name));
            if let Ok((opened, meta)) = index.await
                && meta.kind == Kind::File
            {
                let target = Target { name: inner, folder: false, ..target.clone() };
                let reply = files::whole_or_parts(tools, request, &target, opened, &meta, now);
                return reply.with("vary", "accept");
            }
        }
        let (root, name) = (self.root.clone(), target.name.clone());
        let is_top = self.name.is_empty() && name == b".";
        let folder = Some(Arc::new(Folder { root, name, opened }));
        let extra = if is_top { tools.shares.clone() } else { Arc::new([]) };
        let wanted = Wanted::all(folder, extra, tools.hidden);
        let token = self.writable.then(|| tools.shared.secret.token(&self.name, now));
        list(tools, &self.pool, request, target, view, wanted, token.as_deref()).await
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
                Some(Answer::text(tools, text).reply(tools, request, target, Form::Playlist))
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
        let opened = self.pool.run(move || {
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
        let (next, _lease) = scan(tools, &self.pool, next, place.clone()).await?;
        let (previous, _lease) = scan(tools, &self.pool, previous, place).await?;
        let (subtitles, _lease) = match class {
            Class::Film => scan(tools, &self.pool, subtitles, None).await?,
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
        Ok(Answer::text(tools, page.page()).reply(tools, request, target, Form::List))
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
    list(tools, &tools.shared.pool, request, target, view, wanted, None).await
}

/// Answers with entries. `token`: that of the forms, where there are any.
async fn list(
    tools: &Tools,
    pool: &Pool,
    request: &RequestHead,
    target: &Target,
    view: View,
    wanted: Wanted,
    token: Option<&str>,
) -> Reply {
    let archives = wanted.folder.is_some();
    let filter = if view.form == Form::Playlist { Filter::Media } else { Filter::All };
    let wanted = Wanted { order: view.order, filter, ..wanted };
    let (listing, mut lease) = match scan(tools, pool, wanted.clone(), view.after.clone()).await {
        Ok(found) => found,
        Err(status) => return Reply::status(status),
    };
    let mut rest = (view.all && listing.next.is_some()).then_some(wanted);
    let base =
        if view.form == Form::Playlist { pages::base(request, target) } else { String::new() };
    // What is read in several parts may change between them.
    let more = [&*base, token.unwrap_or_default()];
    let tag = rest.is_none().then(|| pages::tag(tools.key, Some((&view, &listing)), &more));
    if let Some(rest) = &mut rest {
        drop(lease.take());
        let amount = |max| listing::held_max(max) + 2 * PIECE;
        lease = tools.shared.made.lease_leaving(pages::LEFT, amount(PASS));
        if lease.is_some() {
            rest.max = PASS;
        } else {
            lease = tools.shared.made.lease(amount(PAGE));
        }
        if lease.is_none() {
            return Reply::status(503);
        }
    }
    let frame = Frame { target, view: &view, listing: &listing, archives, token };
    let page = Page::new(&frame, base, rest);
    let source = Box::new(page.with(listing));
    let answer =
        Answer { source, leases: lease.into_iter().collect(), tag, forms: token.is_some() };
    answer.reply(tools, request, target, view.form)
}

/// Reads a part of a folder, step by step, so that others have their turns on the pool. `Err`: a
/// status.
async fn scan(
    tools: &Tools,
    pool: &Pool,
    wanted: Wanted,
    after: Option<Cursor>,
) -> Result<(Listing, Option<Lease>), u16> {
    let mut scan = Scan::new(wanted, after);
    let mut lease: Option<Lease> = None;
    loop {
        let outcome;
        (scan, outcome) = pool
            .run(move || {
                let outcome = scan.step();
                (scan, outcome)
            })
            .await;
        let is_done = outcome.map_err(status_of)?;
        drop(lease.take());
        lease = Some(tools.shared.made.lease(scan.held() + 2 * PIECE).ok_or(503_u16)?);
        if is_done {
            return Ok((scan.into_listing(), lease));
        }
    }
}

/// A text of ours without its headers.
struct Answer {
    source: Box<dyn Source>,
    leases: Vec<Lease>,
    /// `None` if it may change while it is read.
    tag: Option<String>,
    /// Whether it has forms.
    forms: bool,
}

impl Answer {
    /// A short one, which has no forms.
    fn text(tools: &Tools, text: String) -> Self {
        let tag = Some(pages::tag(tools.key, None, &[&text]));
        Self { source: Box::new(Text(Some(text))), leases: Vec::new(), tag, forms: false }
    }

    fn reply(mut self, tools: &Tools, request: &RequestHead, target: &Target, form: Form) -> Reply {
        let headers = &request.headers;
        let media_type = match form {
            Form::Json => "application/json",
            Form::Playlist => "audio/x-mpegurl; charset=utf-8",
            Form::List | Form::Grid => "text/html; charset=utf-8",
        };
        // The length of what is compressed together with a secret tells of the secret (BREACH).
        let worth = !self.forms && gzip::is_worth(media_type, None);
        let coding = worth && gzip::is_accepted(headers);
        let coding = if coding { tools.shared.gzips.lease(1) } else { None };
        if coding.is_some() {
            self.tag = self.tag.as_deref().map(gzip::etag);
        }
        let validators = Validators { etag: self.tag, modified: None };
        // There is no date among the validators that the clock would matter for.
        let status = match conditional::evaluate(headers, true, Some(&validators), 0) {
            Verdict::Failed => return Reply::status(412),
            Verdict::NotModified => 304,
            Verdict::Proceed { .. } => 200,
        };
        let head = with_validators(Reply::empty(status), &validators)
            .with("cache-control", PRIVATE)
            .with("vary", "accept, accept-encoding");
        if status == 304 {
            return head;
        }
        let head = head.with("content-type", media_type).with("x-content-type-options", "nosniff");
        let mut head = match form {
            Form::Json => head,
            Form::Playlist => head.with("content-disposition", &pages::disposition(target)),
            Form::List | Form::Grid => {
                let policy = &tools.policies[usize::from(self.forms)];
                head.with("content-security-policy", policy)
            }
        };
        if coding.is_some() {
            head = head.with("content-encoding", "gzip");
            self.source = Box::new(Gzip::new(self.source));
            self.leases.extend(coding);
        }
        Reply { body: Body::Made(Made { source: self.source, leases: self.leases }), ..head }
    }
}

/// A text that is there already.
struct Text(Option<String>);

impl Source for Text {
    fn next_piece(&mut self) -> Result<Option<Vec<u8>>, Errno> {
        Ok(self.0.take().map(String::into_bytes))
    }
}

/// Subtitles of one film.
const SUBTITLES: usize = 16;
