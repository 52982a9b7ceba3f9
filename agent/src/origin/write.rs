//! What changes a share: PUT, DELETE, MKCOL, MOVE, the upload form, uploads in several requests.
//!
//! It owns which methods a place takes, who may use them, and how what went wrong is said. How
//! each of them works is with the modules below, which stand in order like those of the crate.

mod form;

mod multipart;

mod resume;

mod put;

mod change;

mod receive;

mod upload;

mod journal;

mod place;

mod room;

mod guard;

use std::sync::Arc;

use rustix::io::Errno;
use spdy_protocol::{error::StreamError, head::RequestHead, tunnel::Stream};

use super::{
    file::status_of,
    path::Target,
    reply::Reply,
    share::{Share, Tools},
};
pub(crate) use journal::sweep;
use place::{Coordination, Place};

/// A request that changes something.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    pub(crate) share: &'a Share,
    /// All there are: a MOVE names a second place.
    pub(crate) shares: &'a [Share],
    pub(crate) tools: &'a Tools,
    pub(crate) changes: &'a Changes,
    /// Bytes of the largest file that is taken.
    pub(crate) max_upload: Option<u64>,
    pub(crate) request: &'a RequestHead,
    pub(crate) target: &'a Target,
    pub(crate) query: Option<&'a [u8]>,
    pub(crate) stream: &'a Stream,
}

/// What all changes share for as long as the agent runs.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    coordination: Arc<Coordination>,
    turns: resume::Turns,
}

/// What goes back instead of a success: a status and a line for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    status: u16,
    text: &'static str,
}

/// Why a change was not made.
#[derive(Debug)]
enum Failure {
    Problem(Problem),
    /// Nobody is left to answer.
    Stream(StreamError),
}

impl Change<'_> {
    /// Answers. Safe to drop: nothing is left of an upload that cannot be taken up again.
    ///
    /// # Errors
    /// The stream failed: nobody is left to answer.
    pub(crate) async fn answer(&self) -> Result<Reply, StreamError> {
        match self.make().await {
            Ok(reply) => Ok(reply),
            Err(Failure::Problem(problem)) if problem.status == 405 => {
                let allow = super::allowed(methods(self.target, self.query));
                Ok(problem.reply().with("allow", &allow))
            }
            Err(Failure::Problem(problem)) => Ok(problem.reply()),
            Err(Failure::Stream(error)) => Err(error),
        }
    }

    async fn make(&self) -> Result<Reply, Failure> {
        let method = self.request.method.as_str();
        let reads = matches!(method, "GET" | "HEAD");
        if !reads && guard::is_foreign(self.request) {
            return Err(Problem::new(403, "The request comes from another site.").into());
        }
        match (method, upload_of(self.query)) {
            ("PATCH", Some(upload)) => resume::append(self, upload).await,
            ("DELETE", Some(upload)) => resume::cancel(self, upload).await,
            (_, Some(upload)) if reads => resume::state(self, upload).await,
            ("PUT", None) => put::put(self).await,
            ("POST", None) => form::post(self).await,
            ("DELETE", None) => change::delete(self).await,
            ("MKCOL", None) => change::make_folder(self).await,
            ("MOVE", None) => change::rename(self).await,
            _ => Err(Problem::new(400, "The method does not go with this path.").into()),
        }
    }

    fn place(&self) -> Result<Place, Problem> {
        Place::of(self.share, self.target)
    }

    /// Refuses what is announced to be larger than may be.
    fn check_size(&self, len: Option<u64>) -> Result<(), Problem> {
        match (len, self.max_upload) {
            (Some(len), Some(max)) if len > max => Err(receive::TOO_LARGE),
            _ => Ok(()),
        }
    }
}

impl Problem {
    const fn new(status: u16, text: &'static str) -> Self {
        Self { status, text }
    }

    fn reply(self) -> Reply {
        let reply = Reply::text(self.status, format!("{}\n", self.text));
        // What the agent lacks for the moment, or has just found out.
        if self.status == 503 { reply.with("retry-after", RETRY_AFTER) } else { reply }
    }
}

impl From<Errno> for Problem {
    fn from(error: Errno) -> Self {
        let (status, text) = match error {
            Errno::BUSY => (409, "It is in use."),
            Errno::ILSEQ => (400, "The disk takes no such name."),
            error => match status_of(error) {
                403 => (403, "The agent may not do that here."),
                404 => (404, "There is no such place."),
                413 => (413, "The file is larger than the disk takes."),
                503 => (503, "The agent is too busy."),
                507 => (507, "There is not enough room on the disk."),
                status => (status, "The disk failed."),
            },
        };
        Self { status, text }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::Problem(error.into())
    }
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

/// The methods that change what a path names in a share that may be changed.
pub(crate) fn methods(target: &Target, query: Option<&[u8]>) -> &'static [&'static str] {
    match upload_of(query) {
        Some(_) => &["GET", "HEAD", "PATCH", "DELETE"],
        None if target.folder => &["POST", "DELETE", "MKCOL", "MOVE"],
        None => &["PUT", "DELETE", "MKCOL", "MOVE"],
    }
}

/// What OPTIONS tells about uploads in several requests.
pub(crate) fn with_uploads(reply: Reply, max_upload: Option<u64>) -> Reply {
    let reply = reply.with("accept-patch", resume::MEDIA_TYPE);
    reply.with("upload-limit", &resume::limits(max_upload))
}

/// `upload=` of a query.
fn upload_of(query: Option<&[u8]>) -> Option<&[u8]> {
    query?.split(|octet| *octet == b'&').find_map(|pair| pair.strip_prefix(b"upload="))
}

/// Seconds after which a client may ask again for what could not be done now.
const RETRY_AFTER: &str = "2";
/// Methods that are taken somewhere in a share that may be changed.
pub(crate) const METHODS: &[&str] = &["PUT", "POST", "PATCH", "DELETE", "MKCOL", "MOVE"];
