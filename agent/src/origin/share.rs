//! One share: GET and HEAD of what lies in it.
//!
//! It owns what a name is and which form of it was asked for. What changes a share is
//! `super::write`'s.

mod files;
mod variants;
mod views;

use std::{rc::Rc, sync::Arc};

use ring::error::Unspecified;
use spdy_protocol::head::RequestHead;

use super::{
    archive::{self, Form},
    conditional::Validators,
    file::{self, Kind, Root},
    gzip, pages,
    path::{self, Target},
    quota::Quota,
    reply::Reply,
    subtitle,
    token::Secret,
};
use crate::pool::Pool;

pub(crate) use views::shares;

/// A folder that is served.
#[derive(Debug)]
pub(crate) struct Share {
    /// Its first segment in paths; empty for the one at `/`.
    pub(crate) name: Box<[u8]>,
    pub(crate) root: Arc<Root>,
    /// Threads of its own: a disk that hangs keeps those of no other share.
    pub(crate) pool: Rc<Pool>,
    /// Whether visitors may change it.
    pub(crate) writable: bool,
}

/// What all shares of an origin work with.
#[derive(Debug)]
pub(crate) struct Tools {
    /// Makes the tags of one NAS differ from those of another.
    pub(crate) key: u64,
    /// Whether names with a dot are served.
    pub(crate) hidden: bool,
    /// Whether a folder's index.html stands for it.
    pub(crate) index: bool,
    /// The names of the shares that have one: folders of `/`.
    pub(crate) shares: Arc<[Box<[u8]>]>,
    /// The policy of our own pages, and that of those with forms.
    pub(crate) policies: [String; 2],
    pub(crate) shared: Shared,
}

/// What the shares of all origins work with, one after the other. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// For what no disk is asked.
    pub(crate) pool: Rc<Pool>,
    /// Octets of pages that are made while they are sent.
    pub(crate) made: Quota,
    /// Archives under way.
    pub(crate) archives: Quota,
    /// Bodies that are compressed.
    pub(crate) gzips: Quota,
    /// Makes and knows the tokens of our own forms.
    pub(crate) secret: Rc<Secret>,
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
            Some(opened) => self.root.meta(&opened).map(|meta| (opened, meta)),
            None => {
                let (root, name) = (self.root.clone(), target.name.clone());
                self.pool.run(move || root.open_with_meta(&name)).await
            }
        };
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
                files::whole_or_parts(tools, request, target, opened, &meta, now)
            }
            Ok(_) if !target.folder => redirect(target.as_folder(), query),
            Ok((opened, _)) if Form::asked(query).is_some() => {
                variants::archive(tools, &self.pool, request, target, opened, query).await
            }
            Ok((opened, _)) => self.folder(tools, request, target, query, opened, now).await,
        }
    }
}

/// The share that a path lies in, and the place there. A share by name comes before what the one at
/// `/` holds under that name.
pub(crate) fn place(shares: &[Share], target: Target) -> Option<(&Share, Target)> {
    let named = target.first().and_then(|first| {
        shares.iter().find(|share| !share.name.is_empty() && *share.name == *first)
    });
    match named {
        Some(share) => Some((share, target.in_share())),
        None => shares.iter().find(|share| share.name.is_empty()).map(|top| (top, target)),
    }
}

impl Shared {
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn new() -> Result<Self, Unspecified> {
        Ok(Self {
            pool: Rc::new(Pool::new(1)),
            made: Quota::new(pages::HELD),
            archives: Quota::new(archive::AT_A_TIME),
            gzips: Quota::new(gzip::AT_A_TIME),
            secret: Rc::new(Secret::new()?),
        })
    }
}

impl Tools {
    pub(crate) fn new(shared: Shared, key: u64, hidden: bool) -> Self {
        Self {
            key,
            hidden,
            index: true,
            shares: Arc::new([]),
            policies: [false, true].map(pages::policy),
            shared,
        }
    }
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

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn share_whose_disk_hangs_keeps_no_other_waiting() {
        let tools = Tools::new(Shared::new().unwrap(), 0, false);
        let share = || {
            let root = Arc::new(Root::open(&std::env::temp_dir(), false, &[]).unwrap());
            Share { name: Box::default(), root, pool: Rc::new(Pool::new(1)), writable: false }
        };
        let (hangs, other) = (share(), share());
        let (come_back, disk) = std::sync::mpsc::channel::<()>();
        let mut hanging = Box::pin(hangs.pool.run(move || disk.recv().is_err()));
        assert!(block_on(poll_once(&mut hanging)).is_none());
        let request = RequestHead::get("/");
        let target = Target::parse(b"/", false).unwrap();
        let read = async |share: &Share| share.read(&tools, &request, &target, None, 0).await;
        let mut stuck = Box::pin(read(&hangs));
        assert!(block_on(poll_once(&mut stuck)).is_none());
        assert_eq!(block_on(read(&other)).head.status, 200);
        assert!(block_on(poll_once(&mut stuck)).is_none());
        drop(come_back);
        assert_eq!(block_on(stuck).head.status, 200);
    }
}
