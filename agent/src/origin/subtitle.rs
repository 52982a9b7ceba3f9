//! `SubRip` subtitles as WebVTT, which is the one form that browsers read.
//!
//! It owns the codings that such files come in and what of their markup is kept. The text is made
//! while it is sent, from reads of 8 KiB; nothing but one line is held. What is no cue is left out.

use std::{fmt::Write as _, os::fd::OwnedFd};

use rustix::io::Errno;

use super::{
    content::Content,
    file::{Kind, Meta},
    path,
    reply::Source,
};

/// Whether a file is to be converted. Longer than [`LONGEST`], it is nothing that a browser could
/// show and is sent as it is.
pub(crate) fn is_asked(name: &[u8], meta: &Meta, query: Option<&[u8]>) -> bool {
    let extension = name.get(name.len().saturating_sub(4)..).unwrap_or_default();
    meta.kind == Kind::File
        && meta.len <= LONGEST
        && extension.eq_ignore_ascii_case(b".srt")
        && path::query_value(query, b"format") == Some(b"vtt")
}

/// A file of subtitles being converted.
#[derive(Debug)]
pub(crate) struct Subtitles {
    content: Content,
    lines: Lines,
    cues: Cues,
    stage: Stage,
}

impl Subtitles {
    /// Of an open file whose length was `len`.
    pub(crate) fn new(file: OwnedFd, len: u64) -> Self {
        let content = Content::new(file, len);
        Self { content, lines: Lines::default(), cues: Cues::default(), stage: Stage::Head }
    }
}

impl Source for Subtitles {
    fn next_piece(&mut self) -> Result<Option<Vec<u8>>, Errno> {
        let mut out = String::new();
        match self.stage {
            Stage::Head => out.push_str("WEBVTT\n\n"),
            Stage::Cues => {}
            Stage::Done => return Ok(None),
        }
        self.stage = Stage::Cues;
        let mut block = Vec::with_capacity(READ);
        self.content.read(&mut block)?;
        self.lines.take(&block, |line| self.cues.line(line, &mut out));
        if self.content.left() == 0 {
            self.lines.end(|line| self.cues.line(line, &mut out));
            self.cues.line("", &mut out);
            self.stage = Stage::Done;
        }
        Ok(Some(out.into_bytes()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Head,
    Cues,
    Done,
}

/// Octets into lines of text.
#[derive(Debug, Default)]
struct Lines {
    coding: Coding,
    /// What does not make a character yet, and before the coding is known all there is.
    rest: Vec<u8>,
    line: Vec<u8>,
    /// The line before ended with CR: LF belongs to it.
    after_cr: bool,
}

/// How text stands in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Coding {
    /// The first octets will tell.
    #[default]
    Unknown,
    /// UTF-8 or, in lines that are not, windows-1252: so one broken character does not spoil a file.
    Octets,
    /// UTF-16, which always has its mark.
    Wide { big: bool },
}

impl Lines {
    /// Takes some octets and gives the lines that end in them.
    fn take(&mut self, octets: &[u8], mut each: impl FnMut(&str)) {
        self.rest.extend_from_slice(octets);
        if self.coding == Coding::Unknown {
            if self.rest.len() < 3 {
                return;
            }
            self.find_coding();
        }
        let rest = std::mem::take(&mut self.rest);
        match self.coding {
            Coding::Unknown | Coding::Octets => self.split(&rest, &mut each),
            Coding::Wide { big } => {
                let (text, left) = wide(&rest, big);
                self.rest = left.to_vec();
                self.split(text.as_bytes(), &mut each);
            }
        }
    }

    /// Gives the last line.
    fn end(&mut self, mut each: impl FnMut(&str)) {
        if self.coding == Coding::Unknown {
            self.find_coding();
            self.take(&[], &mut each);
        }
        each(&text(&self.line));
    }

    fn find_coding(&mut self) {
        let (coding, mark) = match *self.rest {
            [0xff, 0xfe, ..] => (Coding::Wide { big: false }, 2),
            [0xfe, 0xff, ..] => (Coding::Wide { big: true }, 2),
            [0xef, 0xbb, 0xbf, ..] => (Coding::Octets, 3),
            _ => (Coding::Octets, 0),
        };
        self.coding = coding;
        self.rest.drain(..mark);
    }

    fn split(&mut self, octets: &[u8], each: &mut impl FnMut(&str)) {
        for octet in octets {
            match octet {
                b'\n' if self.after_cr => {}
                b'\n' | b'\r' => {
                    each(&text(&self.line));
                    self.line.clear();
                }
                octet if self.line.len() < LINE_MAX => self.line.push(*octet),
                _ => {}
            }
            self.after_cr = *octet == b'\r';
        }
    }
}

/// Lines into cues.
#[derive(Debug, Default)]
struct Cues {
    /// Whether lines belong to a cue.
    inside: bool,
    /// A line of digits: text of this cue, or the number of the next one.
    number: Option<String>,
    /// Tags that are open, in order.
    open: Vec<char>,
}

impl Cues {
    fn line(&mut self, line: &str, out: &mut String) {
        let line = line.trim();
        if let Some((from, to)) = times(line) {
            self.number = None;
            self.end(out);
            if let (Some(from), Some(to)) = (milliseconds(from), milliseconds(to))
                && from < to
            {
                let _ = write!(out, "{} --> {}", shown(from), shown(to));
                self.inside = true;
            }
        } else if !self.inside {
            // Numbers, and what belongs to a cue that is none.
        } else if line.is_empty() {
            self.flush_number(out);
            self.end(out);
        } else {
            self.flush_number(out);
            if line.bytes().all(|octet| octet.is_ascii_digit()) {
                self.number = Some(line.to_owned());
            } else {
                self.text(line, out);
            }
        }
    }

    fn flush_number(&mut self, out: &mut String) {
        if let Some(number) = self.number.take() {
            self.text(&number, out);
        }
    }

    fn end(&mut self, out: &mut String) {
        if !self.inside {
            return;
        }
        while let Some(tag) = self.open.pop() {
            let _ = write!(out, "</{tag}>");
        }
        out.push_str("\n\n");
        self.inside = false;
    }

    /// A line of a cue: `<i>`, `<b>` and `<u>` are kept in order, other markup is dropped, and
    /// everything else stands for itself.
    fn text(&mut self, line: &str, out: &mut String) {
        let start = out.len();
        out.push('\n');
        let mut rest = line;
        while let Some(next) = rest.chars().next() {
            let after = &rest[next.len_utf8()..];
            match next {
                '<' => {
                    if let Some((inner, after)) = tag(after) {
                        self.tag(inner, out);
                        rest = after;
                        continue;
                    }
                    out.push_str("&lt;");
                }
                '{' if after.starts_with('\\') => {
                    if let Some((_, after)) = after.split_once('}') {
                        rest = after;
                        continue;
                    }
                    out.push('{');
                }
                '>' => out.push_str("&gt;"),
                '&' => out.push_str("&amp;"),
                '\0' => out.push(char::REPLACEMENT_CHARACTER),
                other => out.push(other),
            }
            rest = after;
        }
        if out[start..].trim().is_empty() {
            // An empty line would end the cue.
            out.truncate(start);
        }
    }

    fn tag(&mut self, inner: &str, out: &mut String) {
        let (closes, name) = match inner.strip_prefix('/') {
            Some(name) => (true, name),
            None => (false, inner),
        };
        let mut name = name.trim().chars().map(|c| c.to_ascii_lowercase());
        let (Some(letter @ ('i' | 'b' | 'u')), None) = (name.next(), name.next()) else { return };
        match (self.open.iter().position(|open| *open == letter), closes) {
            (None, false) => {
                self.open.push(letter);
                let _ = write!(out, "<{letter}>");
            }
            (Some(at), true) => {
                for open in self.open.drain(at..).rev() {
                    let _ = write!(out, "</{open}>");
                }
            }
            _ => {}
        }
    }
}

/// The inner of a tag that begins before `rest`, and what follows it.
fn tag(rest: &str) -> Option<(&str, &str)> {
    let name = rest.strip_prefix('/').unwrap_or(rest);
    name.starts_with(|c: char| c.is_ascii_alphabetic()).then(|| rest.split_once('>'))?
}

/// The two sides of a line that stands before a cue, be they times or not.
fn times(line: &str) -> Option<(&str, &str)> {
    let (from, to) = line.split_once("-->")?;
    let of_times = |c: char| c.is_ascii_digit() || matches!(c, ':' | ',' | '.' | ' ' | '\t');
    (from.contains(':') && from.chars().all(of_times)).then_some((from, to))
}

/// `[hours:]minutes:seconds[,milliseconds]`; what follows it, such as a place, is not looked at.
fn milliseconds(text: &str) -> Option<u32> {
    let text = text.split_whitespace().next()?;
    let (clock, fraction) = text.split_once([',', '.']).unwrap_or((text, "0"));
    let number = |digits: &str, longest| {
        let good = (1..=longest).contains(&digits.len());
        good.then(|| digits.parse::<u32>().ok())?.filter(|_| !digits.starts_with('+'))
    };
    let mut parts = clock.rsplit(':');
    let seconds = number(parts.next()?, 2).filter(|seconds| *seconds < 60)?;
    let minutes = number(parts.next()?, 2).filter(|minutes| *minutes < 60)?;
    let hours = parts.next().map_or(Some(0), |hours| number(hours, 3))?;
    if parts.next().is_some() {
        return None;
    }
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000 + number(fraction, 3)?)
}

fn shown(milliseconds: u32) -> String {
    let seconds = milliseconds / 1_000;
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:03}", seconds % 60, milliseconds % 1_000)
}

/// A line in UTF-8; one that is not is taken for windows-1252.
fn text(line: &[u8]) -> String {
    match str::from_utf8(line) {
        Ok(text) => text.to_owned(),
        // A line that was cut may end within a character.
        Err(error) if line.len() == LINE_MAX && error.error_len().is_none() => {
            String::from_utf8_lossy(&line[..error.valid_up_to()]).into_owned()
        }
        Err(_) => line.iter().map(|octet| windows_1252(*octet)).collect(),
    }
}

fn windows_1252(octet: u8) -> char {
    match octet {
        0x80..0xa0 => WINDOWS_1252[usize::from(octet - 0x80)],
        _ => char::from(octet),
    }
}

/// UTF-16 to text, and what does not make a character yet.
fn wide(octets: &[u8], big: bool) -> (String, &[u8]) {
    let unit =
        |pair: &[u8; 2]| if big { u16::from_be_bytes(*pair) } else { u16::from_le_bytes(*pair) };
    let mut end = octets.len() / 2 * 2;
    if let Some(last) = octets[..end].last_chunk()
        && matches!(unit(last), 0xd800..0xdc00)
    {
        end -= 2;
    }
    let units = octets[..end].chunks_exact(2).filter_map(|pair| pair.first_chunk().map(unit));
    let text = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER));
    (text.collect(), &octets[end..])
}

/// What is made.
pub(crate) const MEDIA_TYPE: &str = "text/vtt; charset=utf-8";

/// Octets above which no file is converted: the subtitles of a film have 100,000.
const LONGEST: u64 = 4 << 20;
/// Octets that are read at once: text may become five times as long.
const READ: usize = 8 << 10;
/// Octets of a line; what is beyond is cut.
const LINE_MAX: usize = 4 << 10;

/// 0x80 to 0x9f; the five that mean nothing are the controls of the same number.
const WINDOWS_1252: [char; 32] = [
    '\u{20ac}', '\u{81}', '\u{201a}', '\u{192}', '\u{201e}', '\u{2026}', '\u{2020}', '\u{2021}',
    '\u{2c6}', '\u{2030}', '\u{160}', '\u{2039}', '\u{152}', '\u{8d}', '\u{17d}', '\u{8f}',
    '\u{90}', '\u{2018}', '\u{2019}', '\u{201c}', '\u{201d}', '\u{2022}', '\u{2013}', '\u{2014}',
    '\u{2dc}', '\u{2122}', '\u{161}', '\u{203a}', '\u{153}', '\u{9d}', '\u{17e}', '\u{178}',
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Converted in pieces of `step` octets.
    fn converted_by(octets: &[u8], step: usize) -> String {
        let (mut lines, mut cues, mut out) = (Lines::default(), Cues::default(), String::new());
        for piece in octets.chunks(step) {
            lines.take(piece, |line| cues.line(line, &mut out));
        }
        lines.end(|line| cues.line(line, &mut out));
        cues.line("", &mut out);
        out
    }

    fn converted(octets: &[u8]) -> String {
        let whole = converted_by(octets, octets.len().max(1));
        for step in [1, 2, 3, 7] {
            assert_eq!(converted_by(octets, step), whole, "by {step}");
        }
        whole
    }

    const SIMPLE: &str = "1\n00:00:01,000 --> 00:00:02,500\nHello\nthere\n\n\
                          2\n00:00:03,000 --> 00:00:04,000\nCaf\u{e9} \u{20ac}5\n";
    const CONVERTED: &str = "00:00:01.000 --> 00:00:02.500\nHello\nthere\n\n\
                             00:00:03.000 --> 00:00:04.000\nCaf\u{e9} \u{20ac}5\n\n";

    #[test]
    fn every_coding_gives_the_same_text() {
        assert_eq!(converted(SIMPLE.as_bytes()), CONVERTED);
        assert_eq!(converted(&[b"\xef\xbb\xbf", SIMPLE.as_bytes()].concat()), CONVERTED);
        for end in ["\r\n", "\r"] {
            assert_eq!(converted(SIMPLE.replace('\n', end).as_bytes()), CONVERTED);
        }
        let old: Vec<u8> = SIMPLE
            .chars()
            .map(|c| if c == '\u{20ac}' { 0x80 } else { u8::try_from(u32::from(c)).unwrap() })
            .collect();
        assert_eq!(converted(&old), CONVERTED);
        let wide: Vec<u16> = format!("\u{feff}{SIMPLE}").encode_utf16().collect();
        let little: Vec<u8> = wide.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = wide.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        assert_eq!(converted(&little), CONVERTED);
        assert_eq!(converted(&big), CONVERTED);
        assert_eq!(converted(&little[..little.len() - 1]), CONVERTED);
    }

    #[test]
    fn pairs_of_utf_16_survive_any_cut() {
        let text = "00:00:01,000 --> 00:00:02,000\n\u{1f600}\u{10000}\n";
        let octets: Vec<u8> =
            format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(converted(&octets).contains("\n\u{1f600}\u{10000}\n\n"));
    }

    fn cue(text: &str) -> String {
        let whole = converted(format!("1\n00:00:01,000 --> 00:00:02,000\n{text}\n\n").as_bytes());
        let head = "00:00:01.000 --> 00:00:02.000";
        whole.strip_prefix(head).unwrap().strip_suffix("\n\n").unwrap().to_owned()
    }

    #[test]
    fn markup_is_kept_in_order_or_dropped() {
        for (text, wanted) in [
            ("<i>a</i>", "\n<i>a</i>"),
            ("<I>a</I>", "\n<i>a</i>"),
            ("<i>a\nb", "\n<i>a\nb</i>"),
            ("<b><i>a</b>b</i>", "\n<b><i>a</i></b>b"),
            ("<i><i>a</i></i>", "\n<i>a</i>"),
            ("a</i>", "\na"),
            ("<font color=\"#ff0000\">a</font>", "\na"),
            ("{\\an8}a {b}", "\na {b}"),
            ("{\\an8}\na", "\na"),
            ("{\\an8 a", "\n{\\an8 a"),
            ("<script>alert(1)</script>", "\nalert(1)"),
            ("1 < 2 & 3 > 2", "\n1 &lt; 2 &amp; 3 &gt; 2"),
            ("a <3 b", "\na &lt;3 b"),
            ("<00:00:01.500>a", "\n&lt;00:00:01.500&gt;a"),
            ("a --> b", "\na --&gt; b"),
            ("&lt;i&gt;", "\n&amp;lt;i&amp;gt;"),
            ("a <b", "\na &lt;b"),
            ("42", "\n42"),
            ("42\n43", "\n42\n43"),
            ("a\0b", "\na\u{fffd}b"),
            ("", ""),
        ] {
            assert_eq!(cue(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn broken_cues_are_left_out_and_the_next_are_not() {
        let text = "\u{feff}junk\n\n1\n00:00:0x,000 --> 00:00:02,000\nlost\n\n\
            2\n00:00:05,000 --> 00:00:04,000\nbackwards\n\n\
            3\n00:00:61,000 --> 00:02:00,000\nno time\n\n\
            1:02:03 --> 1:02:04.5 X1:0 X2:9\nshort times\n5\n\
            00:05,000 --> 00:06,007\nno empty line before\n6\n7\n\
            999:00:00,000 --> 999:00:01,000\n\n\
            1000:00:00,000 --> 1001:00:00,000\ntoo long\n";
        assert_eq!(
            converted(text.as_bytes()),
            "01:02:03.000 --> 01:02:04.005\nshort times\n\n\
             00:00:05.000 --> 00:00:06.007\nno empty line before\n6\n\n\
             999:00:00.000 --> 999:00:01.000\n\n"
        );
        assert_eq!(converted(b""), "");
        assert_eq!(converted(b"\xff"), "");
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let line = "\u{e9}".repeat(LINE_MAX);
        let text = cue(&format!("a{line}"));
        assert_eq!(text, format!("\na{}", "\u{e9}".repeat(LINE_MAX / 2 - 1)));
    }

    #[test]
    fn nothing_panics_or_leaves_the_bounds() {
        let mut random = 7_u32;
        let mut next = |below: usize| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) as usize % below
        };
        let words: [&[u8]; 16] = [
            b"00:00:01,000",
            b" --> ",
            b"\n",
            b"\r\n",
            b"\r",
            b"<i>",
            b"</i>",
            b"<",
            b">",
            b"{\\",
            b"}",
            b"&",
            b"9",
            b"\xff",
            b"\xfe",
            b"\xc3",
        ];
        for _ in 0..5_000 {
            let text: Vec<u8> =
                (0..next(40)).flat_map(|_| words[next(words.len())].to_vec()).collect();
            let out = converted(&text);
            for cue in out.split_terminator("\n\n") {
                let (times, text) = cue.split_once('\n').unwrap_or((cue, ""));
                assert!(times.contains(" --> "), "{out:?}");
                assert!(!text.contains("-->") && !text.contains("\n\n"), "{out:?}");
                assert_eq!(text.matches("<i>").count(), text.matches("</i>").count(), "{out:?}");
            }
        }
    }

    #[test]
    fn only_subtitles_are_converted() {
        let file = Meta { len: LONGEST, ..Meta::file() };
        let query = Some(&b"format=vtt"[..]);
        assert!(is_asked(b"a/film.SRT", &file, query));
        assert!(!is_asked(b"film.srt", &file, None));
        assert!(!is_asked(b"film.vtt", &file, query));
        assert!(!is_asked(b"srt", &file, query));
        assert!(!is_asked(b"film.srt", &Meta { len: LONGEST + 1, ..file.clone() }, query));
        assert!(!is_asked(b"film.srt", &Meta { kind: Kind::Folder, ..file }, query));
    }
}
