//! PUT: one file by one request (RFC 9110 9.3.4).
//!
//! It owns its checks before the body is read. A request that leaves the rest for later is
//! `super::resume`'s.

use super::{
    super::reply::Reply,
    Change, Failure, Problem,
    journal::Entry,
    place::Conditions,
    receive::{NO_LENGTH, content_length, receive},
    resume,
    upload::{Committed, Upload},
};

pub(super) async fn put(change: &Change<'_>) -> Result<Reply, Failure> {
    // A part of a file cannot be put by this method (RFC 9110 14.5).
    if change.request.headers.get("content-range").is_some() {
        return Err(Problem::new(400, "A part of a file cannot be put.").into());
    }
    let announced = content_length(change.request)?;
    if change.target.name == b"." {
        return Err(Problem::new(409, "There is a folder of this name.").into());
    }
    let place = change.place()?;
    change.check_size(announced)?;
    let conditions = Conditions::of(&change.request.headers);
    let mut entry = Entry { place, total: None, conditions };
    let complete = resume::completeness(change.request);
    if complete == Some(false) {
        entry.total = resume::total(change)?;
        return resume::create(change, entry, announced).await;
    }
    if announced.is_none() && change.stream.is_head_only() {
        // Neither a body nor a word of one: somebody may have lost it on the way (RFC 9110 8.6
        // has clients announce even an empty one).
        return Err(NO_LENGTH.into());
    }
    let (coordination, key) = (change.changes.coordination.clone(), change.tools.key);
    let begin = move || Upload::begin(entry, announced.unwrap_or(0), &coordination, key);
    let mut upload = change.share.pool.run(begin).await?;
    let mut sink = upload.sink(&change.share.pool, 0, change.max_upload);
    let received = receive(change.stream, &mut sink, announced, None).await;
    let reply = store(change, upload, received).await?.reply();
    Ok(if complete.is_some() { reply.with("upload-complete", "?1") } else { reply })
}

/// Gives an upload its name if it arrived whole, else removes it.
pub(super) async fn store(
    change: &Change<'_>,
    mut upload: Upload,
    received: Result<(), Failure>,
) -> Result<Committed, Failure> {
    let pool = &change.share.pool;
    if let Err(failure) = received {
        pool.run(move || drop(upload)).await;
        return Err(failure);
    }
    let (coordination, key) = (change.changes.coordination.clone(), change.tools.key);
    Ok(pool.run(move || upload.commit(&coordination, key)).await?)
}

impl Committed {
    pub(super) fn reply(self) -> Reply {
        let reply = if self.replaced { Reply::empty(204) } else { Reply::status(201) };
        match self.etag {
            Some(etag) => reply.with("etag", &etag),
            None => reply,
        }
    }
}
