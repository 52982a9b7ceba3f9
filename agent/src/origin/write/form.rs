//! The upload form of a listing: POST of multipart/form-data to a folder.
//!
//! It owns its fields (`token` and, if set, `replace` stand before what they are for; `folder`
//! makes a folder, each `file` is stored) and what the visitor is told. Each file is stored as PUT
//! would; one that cannot be does not cost the others.

use maud::html;

use super::{
    super::{
        pages,
        path::{Target, encode_segment},
        reply::{PRIVATE, Reply},
    },
    Change, Failure, Problem, change,
    journal::Entry,
    multipart::{Event, Parser, Part},
    place::{Conditions, Place, now},
    put::store,
    receive::{Sink, chunk, content_length},
    upload::Upload,
};

pub(super) async fn post(change: &Change<'_>) -> Result<Reply, Failure> {
    let content_type = change.request.headers.get("content-type").unwrap_or_default();
    let Some(parser) = Parser::new(content_type) else {
        return Err(Problem::new(415, "A folder takes multipart/form-data.").into());
    };
    let announced = content_length(change.request)?.unwrap_or(0);
    let (root, name) = (change.share.root.clone(), change.target.name.clone());
    let coordination = change.changes.coordination.clone();
    // A promise for a moment: each file gets its own.
    let check = move || {
        let at = root.open_folder(&name)?;
        coordination.room.at(&at)?.reserve(&at, announced)
    };
    change.share.pool.run(check).await?;
    let mut form = Form { change, is_ours: false, replace: false, outcome: Outcome::default() };
    match form.read(parser).await {
        // What was stored is to be told.
        Err(Failure::Problem(problem)) if !form.outcome.stored.lines.is_empty() => {
            form.outcome.refuse(b"The rest", problem);
        }
        read => read?,
    }
    Ok(form.outcome.reply(change))
}

/// A form under way.
struct Form<'a> {
    change: &'a Change<'a>,
    /// Whether a valid token came.
    is_ours: bool,
    replace: bool,
    outcome: Outcome,
}

/// What is done with the octets of a part.
enum Field<'a> {
    /// It is short, and means something.
    Text {
        name: Vec<u8>,
        value: Vec<u8>,
    },
    File(Box<Incoming<'a>>),
    /// It means nothing, or cannot be stored.
    Ignored,
}

/// A file under way.
struct Incoming<'a> {
    name: Vec<u8>,
    upload: Upload,
    sink: Sink<'a>,
    failed: Option<Problem>,
}

impl<'a> Form<'a> {
    async fn read(&mut self, mut parser: Parser) -> Result<(), Failure> {
        let mut field = Field::Ignored;
        let mut parts = 0;
        while let Some(chunk) = chunk(self.change.stream).await? {
            for piece in chunk.chunks(PIECE) {
                parser.feed(piece);
                while let Some(event) = parser.next().map_err(|_| MALFORMED)? {
                    match event {
                        Event::Part(part) => {
                            parts += 1;
                            if parts > PARTS_MAX {
                                return Err(
                                    Problem::new(413, "The form has too many parts.").into()
                                );
                            }
                            field = self.begin(part).await?;
                        }
                        Event::Data(data) => take(&mut field, data).await?,
                        Event::End => {
                            self.end(std::mem::replace(&mut field, Field::Ignored)).await?;
                        }
                        Event::Last => return self.demand_token(),
                    }
                }
            }
        }
        Err(Problem::new(400, "The form is not whole.").into())
    }

    async fn begin(&mut self, part: Part) -> Result<Field<'a>, Failure> {
        let Some(file) = part.file else {
            return Ok(Field::Text { name: part.name, value: Vec::new() });
        };
        self.demand_token()?;
        if part.name != b"file" || file.is_empty() {
            // Browsers send an empty one when none was chosen.
            return Ok(Field::Ignored);
        }
        let conditions = if self.replace { Conditions::default() } else { Conditions::new_only() };
        // Browsers may send whole paths, of either kind.
        let name = last_segment(&file);
        let begun = match self.place(name) {
            Ok(place) => {
                let key = self.change.tools.key;
                let entry = Entry { place, total: None, conditions };
                let coordination = self.change.changes.coordination.clone();
                let begin = move || Upload::begin(entry, 0, &coordination, key);
                self.change.share.pool.run(begin).await
            }
            Err(problem) => Err(problem),
        };
        match begun {
            Ok(mut upload) => {
                let sink = upload.sink(&self.change.share.pool, 0, self.change.max_upload);
                Ok(Field::File(Box::new(Incoming {
                    name: name.to_vec(),
                    upload,
                    sink,
                    failed: None,
                })))
            }
            Err(problem) => {
                self.outcome.refuse(name, problem);
                Ok(Field::Ignored)
            }
        }
    }

    async fn end(&mut self, field: Field<'a>) -> Result<(), Failure> {
        match field {
            Field::Ignored => Ok(()),
            Field::Text { name, value } => self.set(&name, value.trim_ascii()).await,
            Field::File(file) => {
                let Incoming { name, upload, mut sink, failed } = *file;
                let received = match failed {
                    Some(problem) => Err(problem),
                    None => sink.flush().await,
                };
                match store(self.change, upload, received.map_err(Failure::from)).await {
                    Ok(_) => self.outcome.store(&name),
                    Err(Failure::Problem(problem)) => self.outcome.refuse(&name, problem),
                    Err(failure) => return Err(failure),
                }
                Ok(())
            }
        }
    }

    async fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), Failure> {
        match name {
            b"token" => {
                let secret = &self.change.tools.shared.secret;
                self.is_ours = secret.is_valid(value, &self.change.share.name, now());
                self.demand_token()?;
            }
            b"replace" => self.replace = !value.is_empty(),
            b"folder" if !value.is_empty() => {
                self.demand_token()?;
                let made = match self.place(value) {
                    Ok(place) => change::make(self.change, place, Conditions::default()).await,
                    Err(problem) => Err(problem),
                };
                match made {
                    Ok(()) => self.outcome.store(value),
                    Err(problem) => self.outcome.refuse(value, problem),
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn demand_token(&self) -> Result<(), Failure> {
        if self.is_ours {
            return Ok(());
        }
        Err(Problem::new(403, "The form is too old, or not ours. Load the page again.").into())
    }

    /// Where something of this name goes: names are taken as in a path.
    fn place(&self, name: &[u8]) -> Result<Place, Problem> {
        let path = format!("/{}", encode_segment(name));
        match Target::parse(path.as_bytes(), self.change.tools.hidden) {
            Ok(target) if !name.is_empty() => {
                let (root, folder) = (&self.change.share.root, &self.change.target.name);
                Ok(Place { root: root.clone(), folder: folder.clone(), name: target.name })
            }
            _ => Err(Problem::new(
                400,
                "The name is not taken: it is empty, begins with a dot or holds a slash.",
            )),
        }
    }
}

/// What became of a form.
#[derive(Debug, Default)]
struct Outcome {
    stored: Names,
    refused: Names,
    status: Option<u16>,
}

/// The first names of a list that may be long, and how many follow.
#[derive(Debug, Default)]
struct Names {
    lines: Vec<String>,
    more: usize,
}

impl Names {
    fn push(&mut self, name: &[u8], why: Option<&str>) {
        if self.lines.len() == LINES_MAX {
            self.more += 1;
            return;
        }
        let mut line: String = String::from_utf8_lossy(name).chars().take(255).collect();
        if let Some(why) = why {
            line = format!("{line}: {why}");
        }
        self.lines.push(line);
    }
}

impl Outcome {
    fn store(&mut self, name: &[u8]) {
        self.stored.push(name, None);
    }

    fn refuse(&mut self, name: &[u8], problem: Problem) {
        let (status, text) = match problem.status {
            // What the visitor would have to tick.
            412 | 405 => (409, "There is something of this name already."),
            status => (status, problem.text),
        };
        self.status.get_or_insert(status);
        self.refused.push(name, Some(text));
    }

    /// Back to the folder, or what was stored and what was not.
    fn reply(&self, change: &Change<'_>) -> Reply {
        let folder = change.target.path();
        let Some(status) = self.status else {
            return Reply::status(303).with_octets("location", &folder);
        };
        let folder = String::from_utf8_lossy(&folder);
        let body = html! {
            main {
                h1 { (TITLE) }
                @for (title, names) in [("Not stored", &self.refused), ("Stored", &self.stored)] {
                    @if !names.lines.is_empty() {
                        h2 { (title) }
                        ul { @for line in &names.lines { li { bdi { (line) } } } }
                        @if names.more > 0 { p { "and " (names.more) " more" } }
                    }
                }
                p { a href=(folder) { "Back to the folder" } }
            }
        };
        let page = pages::begin(TITLE, false) + &body.into_string() + pages::END;
        Reply::typed(status, "text/html; charset=utf-8", page)
            .with("cache-control", PRIVATE)
            .with("content-security-policy", &change.tools.policies[0])
    }
}

const TITLE: &str = "Not everything was stored";

/// Octets of a part. A file that fails is read to its end, so that the next is found.
async fn take(field: &mut Field<'_>, data: Vec<u8>) -> Result<(), Failure> {
    match field {
        Field::Text { value, .. } => {
            value.extend_from_slice(&data);
            if value.len() > TEXT_MAX {
                return Err(MALFORMED.into());
            }
        }
        Field::File(file) if file.failed.is_none() => {
            file.failed = file.sink.push(data).await.err();
        }
        Field::File(_) | Field::Ignored => {}
    }
    Ok(())
}

fn last_segment(name: &[u8]) -> &[u8] {
    name.rsplit(|octet| matches!(octet, b'/' | b'\\')).next().unwrap_or_default()
}

const MALFORMED: Problem = Problem::new(400, "The body is no form.");
/// Octets that are read at once.
const PIECE: usize = 16 << 10;
/// Octets of a field that is no file.
const TEXT_MAX: usize = 1 << 10;
const PARTS_MAX: usize = 1_024;
/// Names that the visitor is told, of each kind.
const LINES_MAX: usize = 64;
