//! multipart/form-data as browsers send it (RFC 7578, RFC 2046 5.1), piece by piece.
//!
//! It owns where parts begin and end and what their heads say. It holds the octets of one piece and
//! what may be the start of a boundary; a head of at most [`HEAD_MAX`] octets.

/// Reads a form. Octets go in by [`Parser::feed`], then all events come out by [`Parser::next`].
#[derive(Debug)]
pub(super) struct Parser {
    /// What stands before each part but for the first line's missing end.
    delimiter: Vec<u8>,
    held: Vec<u8>,
    state: State,
}

/// What a form consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A part begins.
    Part(Part),
    /// Some of its octets, at least one.
    Data(Vec<u8>),
    /// It ends.
    End,
    /// The form ends. What follows means nothing.
    Last,
}

/// What the head of a part says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// Name of the field.
    pub(super) name: Vec<u8>,
    /// Name of the file, as it was sent; `None` for a field that is none.
    pub(super) file: Option<Vec<u8>>,
}

/// The octets are no form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first part.
    Preamble,
    /// Behind a delimiter.
    Delimited,
    Head,
    Data,
    Over,
}

impl Parser {
    /// For the boundary that a Content-Type names; `None` if it is no form or the boundary is none.
    pub(super) fn new(content_type: &[u8]) -> Option<Self> {
        let (kind, parameters) = split_value(content_type);
        if !kind.eq_ignore_ascii_case(b"multipart/form-data") {
            return None;
        }
        let boundary = parameter(parameters, b"boundary")?;
        if !(1..=BOUNDARY_MAX).contains(&boundary.len()) || boundary.iter().any(|o| *o < b' ') {
            return None;
        }
        let delimiter = [b"\r\n--", boundary.as_slice()].concat();
        // The first delimiter may stand at the very start.
        Some(Self { delimiter, held: b"\r\n".to_vec(), state: State::Preamble })
    }

    pub(super) fn feed(&mut self, octets: &[u8]) {
        if self.state != State::Over {
            self.held.extend_from_slice(octets);
        }
    }

    /// What the octets so far mean; `None` when more are needed.
    pub(super) fn next(&mut self) -> Result<Option<Event>, Malformed> {
        loop {
            match self.state {
                State::Preamble | State::Data => {
                    let is_data = self.state == State::Data;
                    let found = find(&self.held, &self.delimiter);
                    if found == Some(0) {
                        self.held.drain(..self.delimiter.len());
                        self.state = State::Delimited;
                        if is_data {
                            return Ok(Some(Event::End));
                        }
                        continue;
                    }
                    // What may be the start of a delimiter waits for its rest.
                    let kept = self.delimiter.len() - 1;
                    let end = found.unwrap_or(self.held.len().saturating_sub(kept));
                    let data: Vec<u8> = self.held.drain(..end).collect();
                    if is_data && !data.is_empty() {
                        return Ok(Some(Event::Data(data)));
                    }
                    if found.is_none() {
                        return Ok(None);
                    }
                }
                State::Delimited => {
                    if self.held.starts_with(b"--") {
                        self.held = Vec::new();
                        self.state = State::Over;
                        return Ok(Some(Event::Last));
                    }
                    // Spaces may follow a delimiter (RFC 2046 5.1.1).
                    let is_space = |octet: &u8| matches!(octet, b' ' | b'\t');
                    let spaces = self.held.iter().take_while(|octet| is_space(octet)).count();
                    match self.held.get(spaces..spaces + 2) {
                        Some(b"\r\n") => {
                            self.held.drain(..spaces + 2);
                            self.state = State::Head;
                        }
                        Some(_) => return Err(Malformed),
                        None if spaces > SPACES_MAX => return Err(Malformed),
                        None => return Ok(None),
                    }
                }
                State::Head => {
                    let Some(end) = find(&self.held, b"\r\n\r\n") else {
                        if self.held.len() > HEAD_MAX {
                            return Err(Malformed);
                        }
                        return Ok(None);
                    };
                    if end > HEAD_MAX {
                        return Err(Malformed);
                    }
                    let part = Part::parse(&self.held[..end])?;
                    self.held.drain(..end + 4);
                    self.state = State::Data;
                    return Ok(Some(Event::Part(part)));
                }
                State::Over => return Ok(None),
            }
        }
    }
}

impl Part {
    fn parse(head: &[u8]) -> Result<Self, Malformed> {
        let mut lines = head.split(|octet| *octet == b'\n').map(<[u8]>::trim_ascii);
        let disposition = lines.find_map(|line| {
            let (name, value) = line.split_at_checked(line.iter().position(|o| *o == b':')?)?;
            let is_it = name.trim_ascii_end().eq_ignore_ascii_case(b"content-disposition");
            is_it.then(|| value[1..].trim_ascii())
        });
        let (kind, parameters) = split_value(disposition.ok_or(Malformed)?);
        if !kind.eq_ignore_ascii_case(b"form-data") {
            return Err(Malformed);
        }
        let name = parameter(parameters, b"name").ok_or(Malformed)?;
        Ok(Self { name, file: parameter(parameters, b"filename") })
    }
}

fn split_value(value: &[u8]) -> (&[u8], &[u8]) {
    let end = value.iter().position(|octet| *octet == b';').unwrap_or(value.len());
    (value[..end].trim_ascii(), &value[end..])
}

/// A parameter, `; name=token` or `; name="quoted"`. Browsers send names of files as they are but
/// for quotes and line ends, which they write as escapes; a backslash is only itself, unless a
/// quote follows.
fn parameter(mut rest: &[u8], wanted: &[u8]) -> Option<Vec<u8>> {
    loop {
        rest = rest.trim_ascii_start().strip_prefix(b";")?.trim_ascii_start();
        let equals = rest.iter().position(|octet| *octet == b'=')?;
        let name = rest[..equals].trim_ascii();
        rest = &rest[equals + 1..];
        let mut value = Vec::new();
        if let Some(quoted) = rest.strip_prefix(b"\"") {
            rest = quoted;
            loop {
                let (first, after) = rest.split_first()?;
                rest = after;
                match (first, after.first()) {
                    (b'"', _) => break,
                    (b'\\', Some(b'"')) => {
                        value.push(b'"');
                        rest = &after[1..];
                    }
                    (octet, _) => value.push(*octet),
                }
            }
        } else {
            let end = rest.iter().position(|octet| *octet == b';').unwrap_or(rest.len());
            value.extend_from_slice(rest[..end].trim_ascii());
            rest = &rest[end..];
        }
        if name.eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
    }
}

fn find(octets: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += octets.get(at..)?.iter().position(|octet| *octet == wanted[0])?;
        if octets[at..].starts_with(wanted) {
            return Some(at);
        }
        at += 1;
    }
}

/// Octets of a boundary (RFC 2046 5.1.1).
const BOUNDARY_MAX: usize = 70;
/// Octets of the head of a part.
const HEAD_MAX: usize = 4 << 10;
const SPACES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &[u8] =
        b"preamble\r\n--xx\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\n\
        abc\r\n--xx  \r\ncontent-type: text/plain\r\ncontent-disposition : form-data; \
        name=file; filename=\"a;b \\\"c\\d\"\r\n\r\n\r\n-\r\n--x\r\n\r\n--xx\r\n\
        Content-Disposition: FORM-DATA; filename=\"\"; name=\"file\"\r\n\r\n\r\n--xx--\r\nepilogue";

    /// The events of a form that comes in these pieces, with the data of a part joined.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Event>, Malformed> {
        let mut parser = Parser::new(b"multipart/form-data; boundary=xx").unwrap();
        let mut events: Vec<Event> = Vec::new();
        for piece in pieces {
            parser.feed(piece);
            while let Some(event) = parser.next()? {
                match (events.last_mut(), event) {
                    (Some(Event::Data(held)), Event::Data(data)) => held.extend(data),
                    (_, event) => events.push(event),
                }
            }
        }
        Ok(events)
    }

    fn events() -> Vec<Event> {
        let part = |name: &[u8], file: Option<&[u8]>| {
            Event::Part(Part { name: name.to_vec(), file: file.map(<[u8]>::to_vec) })
        };
        vec![
            part(b"token", None),
            Event::Data(b"abc".to_vec()),
            Event::End,
            part(b"file", Some(b"a;b \"c\\d")),
            Event::Data(b"\r\n-\r\n--x\r\n".to_vec()),
            Event::End,
            part(b"file", Some(b"")),
            Event::End,
            Event::Last,
        ]
    }

    #[test]
    fn form_is_the_same_in_every_split() {
        assert_eq!(read([FORM]).unwrap(), events());
        assert_eq!(read(FORM.chunks(1)).unwrap(), events());
        for first in 0..FORM.len() {
            for second in first..FORM.len() {
                let pieces = [&FORM[..first], &FORM[first..second], &FORM[second..]];
                assert_eq!(read(pieces).unwrap(), events(), "{first} {second}");
            }
        }
    }

    #[test]
    fn form_that_ends_early_has_no_end() {
        let end = FORM.len() - "--\r\nepilogue".len();
        for len in 0..=end + 1 {
            let events = read([&FORM[..len]]).unwrap();
            assert!(!events.contains(&Event::Last), "{len}");
        }
    }

    #[test]
    fn octets_that_are_no_form_are_refused() {
        let long = [&b"--xx\r\n"[..], &[b'a'; HEAD_MAX + 1]].concat();
        let spaces = [&b"--xx"[..], &[b' '; SPACES_MAX + 1]].concat();
        for bad in [
            &b"--xxx\r\n"[..],
            b"--xx-x",
            b"--xx\r\n\r\n\r\n",
            b"--xx\r\ncontent-type: text/plain\r\n\r\n",
            b"--xx\r\ncontent-disposition: attachment; name=a\r\n\r\n",
            b"--xx\r\ncontent-disposition: form-data\r\n\r\n",
            b"--xx\r\ncontent-disposition: form-data; name=\"a\r\n\r\n",
            &long,
            &spaces,
        ] {
            assert_eq!(read([bad]), Err(Malformed), "{}", bad.escape_ascii());
        }
        assert_eq!(read([&b"no boundary at all"[..]]), Ok(Vec::new()));
    }

    #[test]
    fn little_is_held_of_much() {
        let mut parser = Parser::new(b"multipart/form-data; boundary=\"x x\"").unwrap();
        parser.feed(b"--x x\r\ncontent-disposition: form-data; name=f; filename=f\r\n\r\n");
        assert!(matches!(parser.next(), Ok(Some(Event::Part(_)))));
        let mut len = 0;
        for _ in 0..100 {
            parser.feed(&[b'\r'; 10_000]);
            while let Some(event) = parser.next().unwrap() {
                let Event::Data(data) = event else { panic!("{event:?}") };
                len += data.len();
            }
            assert!(parser.held.len() < 16);
        }
        assert!(len > 999_000);
    }

    #[test]
    fn types_that_are_no_form_have_no_parser() {
        for bad in [
            "",
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"",
            "multipart/mixed; boundary=x",
            "application/x-www-form-urlencoded",
            &format!("multipart/form-data; boundary={}", "x".repeat(71)),
        ] {
            assert!(Parser::new(bad.as_bytes()).is_none(), "{bad}");
        }
        let longest = format!("Multipart/Form-Data; charset=utf-8; Boundary={}", "x".repeat(70));
        assert!(Parser::new(longest.as_bytes()).is_some());
    }
}
