//! An upload in several requests, for phones on bad links.
//!
//! It owns the protocol: draft-ietf-httpbis-resumable-upload as far as it goes without interim
//! responses, which no tunnel carries; docs/uploads.md says it in full. What arrived stays on the
//! disk beside the target, also when the agent starts again. An upload is known by 128 random bits;
//! the disk holds only their digest.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    time::{Duration, Instant},
};

use async_channel::{Receiver, Sender};
use async_io::Timer;
use rustix::io::Errno;
use spdy_protocol::{digits::HEX, head::RequestHead};

use super::{
    super::reply::Reply,
    Change, Failure, Problem,
    journal::{Entry, Id, KEPT, PART},
    place::NOTHING,
    receive::{NO_LENGTH, TAKEN_OVER, TOO_LARGE, content_length, number, receive},
    upload::{Upload, WRITTEN_TO, random},
};
use crate::verify::sha256;

/// Who works on which upload: one request at a time. And which uploads ended well, for who lost the
/// answer.
#[derive(Debug, Default)]
pub(super) struct Turns {
    active: RefCell<Vec<Active>>,
    /// The number of the newest request for each upload that any is for.
    newest: RefCell<Vec<(Id, u64)>>,
    requests: Cell<u64>,
    done: RefCell<VecDeque<(Id, u64)>>,
}

#[derive(Debug)]
struct Active {
    id: Id,
    stop: Sender<()>,
    ended: Receiver<()>,
}

/// A request for an upload, from when it came.
struct Arrival<'a> {
    turns: &'a Turns,
    id: Id,
    number: u64,
}

/// The right to work on an upload, until it is dropped.
struct Turn<'a> {
    arrival: Arrival<'a>,
    /// Closed when a newer request wants the turn.
    stop: Receiver<()>,
    /// Closed with the turn.
    _ended: Sender<()>,
}

impl Turns {
    /// Takes the turn. A request that has it gives it up: its client has lost it, or would not have
    /// sent another. Of several that wait the newest gets it.
    async fn take(&self, id: &Id) -> Result<Turn<'_>, Problem> {
        let arrival = self.arrive(id);
        loop {
            if !arrival.is_newest() {
                return Err(TAKEN_OVER);
            }
            let other = {
                let mut active = self.active.borrow_mut();
                let other = active.iter().find(|other| other.id == *id);
                let Some(other) = other else {
                    let (stop, stopped) = async_channel::bounded(1);
                    let (ending, ended) = async_channel::bounded(1);
                    active.push(Active { id: id.clone(), stop, ended });
                    return Ok(Turn { arrival, stop: stopped, _ended: ending });
                };
                other.stop.close();
                other.ended.clone()
            };
            // Nothing is ever sent.
            let _ = other.recv().await;
        }
    }

    fn arrive(&self, id: &Id) -> Arrival<'_> {
        let number = self.requests.get() + 1;
        self.requests.set(number);
        let mut newest = self.newest.borrow_mut();
        newest.retain(|(known, _)| known != id);
        newest.push((id.clone(), number));
        Arrival { turns: self, id: id.clone(), number }
    }

    fn len_of_done(&self, id: &Id) -> Option<u64> {
        self.done.borrow().iter().find(|(done, _)| done == id).map(|(_, len)| *len)
    }

    fn add_done(&self, id: Id, len: u64) {
        let mut done = self.done.borrow_mut();
        if done.len() == DONE_MAX {
            done.pop_front();
        }
        done.push_back((id, len));
    }
}

impl Arrival<'_> {
    fn is_newest(&self) -> bool {
        let newest = self.turns.newest.borrow();
        newest.iter().any(|(id, number)| *id == self.id && *number == self.number)
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        let newest = (&self.id, self.number);
        self.turns.newest.borrow_mut().retain(|(id, number)| (id, *number) != newest);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let id = &self.arrival.id;
        self.arrival.turns.active.borrow_mut().retain(|active| active.id != *id);
    }
}

/// `PUT` with `Upload-Complete: ?0`: begins an upload with what the request brings. If that does not
/// arrive whole nothing is kept: the visitor never learned what to ask for.
pub(super) async fn create(
    change: &Change<'_>,
    entry: Entry,
    announced: Option<u64>,
) -> Result<Reply, Failure> {
    let (pool, key, total) = (&change.share.pool, change.tools.key, entry.total);
    if total.zip(announced).is_some_and(|(total, announced)| announced > total) {
        return Ok(inconsistent(None, total));
    }
    let token = HEX.encode(&random()?);
    let id = id_of(token.as_bytes());
    let len = total.or(announced).unwrap_or(0);
    let coordination = change.changes.coordination.clone();
    let begin = move || Upload::begin_part(entry, &id, len, &coordination, key);
    let mut upload = pool.run(begin).await?;
    let mut sink = upload.sink(pool, 0, limit(change, total));
    let received = receive(change.stream, &mut sink, announced, None).await;
    let offset = sink.len;
    let is_whole = received.is_ok();
    let kept = pool.run(move || if is_whole { upload.keep() } else { Ok(()) }).await;
    received?;
    kept?;
    let location = [&change.target.path()[..], b"?upload=", token.as_bytes()].concat();
    let reply = Reply::status(201)
        .with_octets("location", &location)
        .with("upload-limit", &limits(change.max_upload));
    Ok(with_state(reply, false, Some(offset), total))
}

/// HEAD: how much has arrived.
pub(super) async fn state(change: &Change<'_>, token: &[u8]) -> Result<Reply, Failure> {
    let id = id_of(token);
    let _turn = change.changes.turns.take(&id).await?;
    let reply = Reply::empty(204).with("upload-limit", &limits(change.max_upload));
    if let Some(len) = change.changes.turns.len_of_done(&id) {
        return Ok(with_state(reply, true, Some(len), Some(len)));
    }
    let (upload, len) = open(change, id).await?;
    Ok(with_state(reply, false, Some(len), upload.entry.total))
}

/// PATCH: more of it, and perhaps the end.
pub(super) async fn append(change: &Change<'_>, token: &[u8]) -> Result<Reply, Failure> {
    let headers = &change.request.headers;
    let media_type = headers.get("content-type").unwrap_or_default();
    let media_type = media_type.split(|octet| *octet == b';').next().unwrap_or_default();
    if !media_type.trim_ascii().eq_ignore_ascii_case(MEDIA_TYPE.as_bytes()) {
        let reply = Problem::new(415, "The body must be application/partial-upload.").reply();
        return Ok(reply.with("accept-patch", MEDIA_TYPE));
    }
    let announced = content_length(change.request)?;
    let offset = headers.get("upload-offset").and_then(item).and_then(number);
    let (Some(complete), Some(offset)) = (completeness(change.request), offset) else {
        let missing = Problem::new(400, "Upload-Offset or Upload-Complete is missing or wrong.");
        return Err(missing.into());
    };
    let id = id_of(token);
    let turn = change.changes.turns.take(&id).await?;
    if let Some(len) = change.changes.turns.len_of_done(&id) {
        let reply = json(400, "completed-upload", "the upload is complete already", "");
        return Ok(with_state(reply, true, Some(len), Some(len)));
    }
    let (upload, len) = open(change, id.clone()).await?;
    let total = upload.entry.total;
    if len != offset {
        let more = format!(",\"expected-offset\":{len},\"provided-offset\":{offset}");
        let reply = json(409, "mismatching-upload-offset", "the offset is another", &more);
        return Ok(with_state(reply, false, Some(len), total));
    }
    let end = announced.map(|announced| offset.saturating_add(announced));
    let said = total_of(change.request).or(end.filter(|_| complete)).or(total);
    let is_inconsistent =
        said != total && total.is_some() || end.zip(total).is_some_and(|(end, total)| end > total);
    if is_inconsistent {
        return Ok(inconsistent(Some(len), total));
    }
    change.check_size(said.or(end))?;
    if announced.is_none() && change.stream.is_head_only() && said != Some(offset) {
        return Err(NO_LENGTH.into());
    }
    let pool = &change.share.pool;
    let (mut upload, reserved) = pool
        .run(move || {
            let mut upload = upload;
            let reserved = upload.reserve(announced.unwrap_or(0));
            (upload, reserved)
        })
        .await;
    reserved?;
    let mut sink = upload.sink(pool, offset, limit(change, said));
    let received = receive(change.stream, &mut sink, announced, Some(&turn.stop)).await;
    let len = sink.len;
    if said.is_some() && matches!(received, Err(Failure::Problem(TOO_LARGE))) {
        // It can never become what it was said to be.
        pool.run(move || upload.discard()).await;
        return Ok(inconsistent(None, total));
    }
    let is_end = complete && received.is_ok();
    if is_end && said.is_some_and(|said| said != len) {
        keep(change, upload).await?;
        return Ok(inconsistent(Some(len), total));
    }
    if !is_end {
        // What arrived is what this is all about, whatever ended the request.
        keep(change, upload).await?;
        received?;
        return Ok(with_state(Reply::empty(204), false, Some(len), total));
    }
    finish(change, upload, id, len).await
}

/// DELETE: it is not wanted any more.
pub(super) async fn cancel(change: &Change<'_>, token: &[u8]) -> Result<Reply, Failure> {
    let id = id_of(token);
    let _turn = change.changes.turns.take(&id).await?;
    let (upload, _) = open(change, id).await?;
    change.share.pool.run(move || upload.discard()).await;
    Ok(Reply::empty(204))
}

/// `Upload-Complete` of a request.
pub(super) fn completeness(request: &RequestHead) -> Option<bool> {
    match item(request.headers.get("upload-complete")?)? {
        b"?1" => Some(true),
        b"?0" => Some(false),
        _ => None,
    }
}

/// `Upload-Length` of a request that begins an upload, if that is not too much.
pub(super) fn total(change: &Change<'_>) -> Result<Option<u64>, Problem> {
    let total = total_of(change.request);
    change.check_size(total).map(|()| total)
}

/// `Upload-Limit` for a new upload.
pub(super) fn limits(max_upload: Option<u64>) -> String {
    match max_upload {
        Some(max) => format!("max-size={max}, max-age={KEPT}"),
        None => format!("max-age={KEPT}"),
    }
}

/// Gives the upload its name. One that the target does not take is gone: nothing that is sent could
/// change that.
async fn finish(
    change: &Change<'_>,
    mut upload: Upload,
    id: Id,
    len: u64,
) -> Result<Reply, Failure> {
    let (coordination, key) = (change.changes.coordination.clone(), change.tools.key);
    let commit = move || match upload.commit(&coordination, key) {
        Err(problem) if problem.status < 500 => {
            upload.discard();
            (Err(problem), true)
        }
        committed => {
            let is_done = committed.is_ok();
            (committed, is_done)
        }
    };
    let (committed, is_done) = change.share.pool.run(commit).await;
    if committed.is_ok() {
        change.changes.turns.add_done(id, len);
    }
    let reply = match committed {
        Ok(committed) => committed.reply(),
        Err(problem) => problem.reply(),
    };
    Ok(with_state(reply, is_done, Some(len), None))
}

async fn keep(change: &Change<'_>, mut upload: Upload) -> Result<(), Errno> {
    change.share.pool.run(move || upload.keep()).await
}

/// The upload and how much of it has arrived. Its target must be the one of the request.
async fn open(change: &Change<'_>, id: Id) -> Result<(Upload, u64), Failure> {
    let wanted = change.place()?;
    let asked = Instant::now();
    loop {
        let (wanted, id) = (wanted.clone(), id.clone());
        let coordination = change.changes.coordination.clone();
        let open = move || {
            let Some(entry) = Entry::read(&wanted.root, &format!("{PART}{id}"))? else {
                return Ok(None);
            };
            if (&entry.place.folder, &entry.place.name) != (&wanted.folder, &wanted.name) {
                return Ok(None);
            }
            let upload = Upload::resume(entry, &id, &coordination)?;
            upload.map(|upload| Ok((upload.len()?, upload))).transpose()
        };
        match change.share.pool.run(open).await {
            Ok(Some((len, upload))) => return Ok((upload, len)),
            Ok(None) => return Err(NOTHING.into()),
            // The write of a request whose tunnel broke is still under way.
            Err(WRITTEN_TO) if asked.elapsed() < PATIENCE => {
                Timer::after(Duration::from_millis(20)).await;
            }
            Err(problem) => return Err(problem.into()),
        }
    }
}

/// What an upload may grow to.
fn limit(change: &Change<'_>, total: Option<u64>) -> Option<u64> {
    total.into_iter().chain(change.max_upload).min()
}

/// The name that an upload has on the disk.
fn id_of(token: &[u8]) -> Id {
    HEX.encode(&sha256(token)[..16])
}

fn total_of(request: &RequestHead) -> Option<u64> {
    number(item(request.headers.get("upload-length")?)?)
}

/// A structured field's value without its parameters (RFC 9651); what is no such value is ignored.
fn item(value: &[u8]) -> Option<&[u8]> {
    let item = value.split(|octet| *octet == b';').next()?.trim_ascii();
    (!item.is_empty()).then_some(item)
}

fn inconsistent(offset: Option<u64>, total: Option<u64>) -> Reply {
    let reply = json(400, "inconsistent-upload-length", "the lengths do not agree", "");
    with_state(reply, false, offset, total)
}

fn with_state(reply: Reply, complete: bool, offset: Option<u64>, total: Option<u64>) -> Reply {
    let mut reply = reply.with("upload-complete", if complete { "?1" } else { "?0" });
    for (name, value) in [("upload-offset", offset), ("upload-length", total)] {
        if let Some(value) = value {
            reply = reply.with(name, &value.to_string());
        }
    }
    reply.with("cache-control", "no-store")
}

/// A problem that programs know (RFC 9457).
fn json(status: u16, kind: &str, title: &str, more: &str) -> Reply {
    let registry = "https://iana.org/assignments/http-problem-types#";
    let text = format!("{{\"type\":\"{registry}{kind}\",\"title\":\"{title}\"{more}}}\n");
    Reply::typed(status, "application/problem+json", text)
}

pub(super) const MEDIA_TYPE: &str = "application/partial-upload";
/// Uploads that ended well and are remembered, 48 octets each.
const DONE_MAX: usize = 256;
/// Longest wait for a write of a request that is gone.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn of_several_that_wait_for_an_upload_the_newest_goes_on() {
        let (turns, id) = (Turns::default(), Id::from("a"));
        let working = block_on(turns.take(&id)).ok();
        assert!(working.is_some());
        let (mut older, mut newest) = (Box::pin(turns.take(&id)), Box::pin(turns.take(&id)));
        assert!(block_on(poll_once(&mut older)).is_none());
        assert!(block_on(poll_once(&mut newest)).is_none());
        // Who works is told to stop, and the older one has lost its place.
        assert!(working.as_ref().is_some_and(|turn| turn.stop.is_closed()));
        drop(working);
        assert_eq!(block_on(&mut older).err(), Some(TAKEN_OVER));
        let turn = block_on(&mut newest).ok();
        assert!(turn.is_some_and(|turn| !turn.stop.is_closed()));
        drop((older, newest));
        assert!(turns.active.borrow().is_empty() && turns.newest.borrow().is_empty());
    }
}
