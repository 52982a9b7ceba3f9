//! From the path of a request to a name below the root.
//!
//! It decodes once, to bytes, and lets nothing through that means another folder. It does not
//! touch the disk: links that lead out are refused when the name is opened (`super::file`).

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, percent_encode};

/// What a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Decoded, relative to the share, without slashes at its ends; `.` for the share itself.
    pub(crate) name: Vec<u8>,
    /// Whether the path ends with a slash: it names a folder.
    pub(crate) folder: bool,
    /// The name of the share that it lies in; empty for the one at `/`.
    pub(crate) share: Vec<u8>,
}

/// Why a path names nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PathError {
    /// 400: an escape that is none, a NUL, `..` or an encoded `.`.
    Malformed,
    /// 404: what we do not show, whether it exists or not.
    NotFound,
    /// 414: longer than [`PATH_MAX`].
    TooLong,
    /// 301 to this path: it has empty segments, or `.`, which no file has.
    Elsewhere(Vec<u8>),
}

/// Splits a raw `:path` into path and query (without its `?`).
pub(crate) fn split_query(raw: &[u8]) -> (&[u8], Option<&[u8]>) {
    match raw.iter().position(|octet| *octet == b'?') {
        Some(at) => (&raw[..at], Some(&raw[at + 1..])),
        None => (raw, None),
    }
}

/// The value of a word of a query, as it stands there: the first, if it is said twice.
pub(crate) fn query_value<'a>(query: Option<&'a [u8]>, name: &[u8]) -> Option<&'a [u8]> {
    let mut pairs = query?.split(|octet| *octet == b'&');
    pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="))
}

impl Target {
    /// Reads a raw path without query. `hidden`: names that begin with a dot are names like others.
    pub(crate) fn parse(path: &[u8], hidden: bool) -> Result<Self, PathError> {
        if path.len() > PATH_MAX {
            return Err(PathError::TooLong);
        }
        let Some(inner) = path.strip_prefix(b"/") else { return Err(PathError::Malformed) };
        if inner.is_empty() {
            return Ok(Self { name: b".".to_vec(), folder: true, share: Vec::new() });
        }
        let (inner, folder) = match inner.strip_suffix(b"/") {
            Some(inner) => (inner, true),
            None => (inner, false),
        };
        let mut name = Vec::with_capacity(inner.len());
        let mut empty = false;
        for segment in inner.split(|octet| *octet == b'/') {
            // `.` means nothing either; rclone asks for "a:b" as "./a:b".
            if matches!(segment, b"" | b".") {
                empty = true;
                continue;
            }
            if !name.is_empty() {
                name.push(b'/');
            }
            let start = name.len();
            decode(segment, &mut name)?;
            match &name[start..] {
                b"." | b".." => return Err(PathError::Malformed),
                // An encoded slash is a character of the segment (RFC 3986 2.2), and no file has it.
                decoded if decoded.contains(&b'/') => return Err(PathError::NotFound),
                decoded if decoded.contains(&0) => return Err(PathError::Malformed),
                decoded if is_hidden(decoded, hidden) => return Err(PathError::NotFound),
                _ => {}
            }
        }
        if empty {
            return Err(PathError::Elsewhere(location(&name, folder)));
        }
        Ok(Self { name, folder, share: Vec::new() })
    }

    /// The first segment; `None` for `/` alone.
    pub(crate) fn first(&self) -> Option<&[u8]> {
        self.name.split(|octet| *octet == b'/').next().filter(|segment| *segment != b".")
    }

    /// The same place as its share sees it: the first segment is the share's name.
    #[must_use]
    pub(crate) fn in_share(self) -> Self {
        let (share, name) = match self.name.iter().position(|octet| *octet == b'/') {
            Some(at) => (self.name[..at].to_vec(), self.name[at + 1..].to_vec()),
            None => (self.name, b".".to_vec()),
        };
        Self { name, folder: self.folder, share }
    }

    /// The path of this target.
    pub(crate) fn path(&self) -> Vec<u8> {
        let inner = if self.name == b"." { b"".as_slice() } else { &self.name };
        location(&[self.share.as_slice(), inner].join(&b'/'), self.folder)
    }

    /// The path of this target as a folder, with its slash: where to send who forgot it.
    pub(crate) fn as_folder(&self) -> Vec<u8> {
        Self { folder: true, ..self.clone() }.path()
    }

    /// Folder and last segment; `None` for the root.
    pub(crate) fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.name == b"." {
            return None;
        }
        Some(match self.name.iter().rposition(|octet| *octet == b'/') {
            Some(at) => (&self.name[..at], &self.name[at + 1..]),
            None => (b".", &self.name),
        })
    }
}

/// Whether a name exists for nobody. `shown`: a dot at its start does not hide it. Uploads that are
/// not whole, and what tells of them, always are, also as a disk may spell them that ignores case.
pub(crate) fn is_hidden(name: &[u8], shown: bool) -> bool {
    match name.first() {
        Some(b'.') => !shown || is_ours(name),
        // Letters that a disk may pass over, with a dot behind them.
        Some(0x80..) => {
            let first = folded(name).next();
            first == Some('.') && (!shown || is_ours(name))
        }
        _ => false,
    }
}

fn is_ours(name: &[u8]) -> bool {
    folded(name).take(OURS.len()).eq(OURS.chars())
}

/// The characters of a name as the most tolerant disks compare them, as far as that touches ASCII:
/// without case and without what Unicode lets programs ignore (ext4 with casefold).
fn folded(name: &[u8]) -> impl Iterator<Item = char> + '_ {
    let chars = name.utf8_chunks().flat_map(|chunk| {
        let invalid = (!chunk.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER);
        chunk.valid().chars().chain(invalid)
    });
    chars.filter(|c| !is_ignorable(*c)).map(|c| match c {
        // The only letters beside A to Z that fold to one of a to z alone.
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    })
}

/// Default_Ignorable_Code_Point (Unicode 15.1, DerivedCoreProperties).
const fn is_ignorable(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// A name as one segment of a link.
pub(crate) fn encode_segment(name: &[u8]) -> impl std::fmt::Display + '_ {
    percent_encode(name, SEGMENT)
}

/// Appends `?query`, with what cannot stand in a header encoded.
pub(crate) fn push_query(path: &mut Vec<u8>, query: Option<&[u8]>) {
    if let Some(query) = query {
        path.push(b'?');
        path.extend(percent_encode(query, CONTROLS_AND_SPACE).flat_map(str::bytes));
    }
}

/// The path of a decoded name. It begins with exactly one slash, so that it never names a host.
fn location(name: &[u8], folder: bool) -> Vec<u8> {
    let mut path = Vec::with_capacity(name.len() + 2);
    for segment in name.split(|octet| *octet == b'/').filter(|segment| !segment.is_empty()) {
        path.push(b'/');
        path.extend(percent_encode(segment, SEGMENT).flat_map(str::bytes));
    }
    if folder || path.is_empty() {
        path.push(b'/');
    }
    path
}

fn decode(segment: &[u8], out: &mut Vec<u8>) -> Result<(), PathError> {
    if !segment.contains(&b'%') {
        out.extend_from_slice(segment);
        return Ok(());
    }
    // The decoder leaves bad escapes as they are; here they are errors.
    for (at, _) in segment.iter().enumerate().filter(|(_, octet)| **octet == b'%') {
        let digits = segment.get(at + 1..at + 3).ok_or(PathError::Malformed)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(PathError::Malformed);
        }
    }
    out.extend(percent_decode(segment));
    Ok(())
}

/// How the names of our own files in a share begin.
const OURS: &str = ".spdy-";

/// Longest path that is read, in octets, without its query. Encoded again it still fits a header.
const PATH_MAX: usize = 8_192;

const CONTROLS_AND_SPACE: &AsciiSet = &CONTROLS.add(b' ');

/// All that means something in a URL, in HTML or to a person who copies a link.
const SEGMENT: &AsciiSet = &CONTROLS_AND_SPACE
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'&')
    .add(b'\'')
    .add(b'+')
    .add(b'/')
    .add(b':')
    .add(b';')
    .add(b'<')
    .add(b'=')
    .add(b'>')
    .add(b'?')
    .add(b'@')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_our_own_exist_for_nobody_however_a_disk_spells_them() {
        for name in [
            ".spdy-part-0",
            ".SPDY-PART-0",
            ".sPdY-uploads",
            ".\u{17f}pdy-put-0",
            ".s\u{200d}pdy-put-0",
            "\u{feff}.spdy-put-0",
        ] {
            assert!(is_hidden(name.as_bytes(), true), "{name:?}");
        }
        for name in [".spdy", ".profile", "spdy-put-0", "\u{e4}.spdy-put-0", "\u{200b}"] {
            assert!(!is_hidden(name.as_bytes(), true), "{name:?}");
        }
        assert!(is_hidden("\u{200b}.profile".as_bytes(), false));
        assert!(!is_hidden(b"\xff.profile", false) && !is_hidden(b"", false));
    }

    fn name(path: &[u8]) -> Result<(Vec<u8>, bool), PathError> {
        Target::parse(path, false).map(|target| (target.name, target.folder))
    }

    #[test]
    fn paths_are_decoded_once() {
        let cases: [(&[u8], &[u8], bool); 12] = [
            (b"/", b".", true),
            (b"/ten.txt", b"ten.txt", false),
            (b"/a/b/", b"a/b", true),
            (b"/a%20b", b"a b", false),
            (b"/a b", b"a b", false),
            (b"/%ff", b"\xff", false),
            (b"/\xc3\xa4", b"\xc3\xa4", false),
            (b"/%252e%252e", b"%2e%2e", false),
            (b"/..%5c..%5cetc", b"", false),
            (b"/a\\b", b"a\\b", false),
            (b"/a:b", b"a:b", false),
            (b"/%c0%ae%c0%ae/x", b"\xc0\xae\xc0\xae/x", false),
        ];
        for (path, wanted, folder) in cases {
            if wanted.is_empty() {
                // Begins with a dot: hidden like every such name.
                assert_eq!(name(path), Err(PathError::NotFound));
            } else {
                assert_eq!(name(path), Ok((wanted.to_vec(), folder)));
            }
        }
    }

    #[test]
    fn paths_that_mean_another_folder_are_refused() {
        let malformed: [&[u8]; 16] = [
            b"",
            b"ten.txt",
            b"*",
            b"/..",
            b"/../etc/passwd",
            b"/a/../b",
            b"/a/..",
            b"/a/%2e/b",
            b"/%2E",
            b"/%2e%2e/x",
            b"/.%2e/",
            b"/%zz",
            b"/%",
            b"/%2",
            b"/a%00b",
            b"/%00",
        ];
        for path in malformed {
            assert_eq!(name(path), Err(PathError::Malformed), "{}", path.escape_ascii());
        }
        let hidden: [&[u8]; 6] =
            [b"/dir%2ffile", b"/%2Fetc", b"/.git/config", b"/a/.b", b"/%2ehidden", b"/..a"];
        for path in hidden {
            assert_eq!(name(path), Err(PathError::NotFound), "{}", path.escape_ascii());
        }
        let dots: &[u8] = b"/..%2f..%2fetc";
        assert_eq!(name(dots), Err(PathError::NotFound));
    }

    #[test]
    fn length_is_bounded() {
        let longest = [b"/".as_slice(), &vec![b'a'; PATH_MAX - 1]].concat();
        assert!(name(&longest).is_ok());
        let longer = [&longest[..], b"a"].concat();
        assert_eq!(name(&longer), Err(PathError::TooLong));
    }

    #[test]
    fn redirects_never_name_a_host() {
        let cases: [(&[u8], &[u8]); 8] = [
            (b"/./a:b", b"/a%3Ab"),
            (b"/a/./b/.", b"/a/b"),
            (b"/.", b"/"),
            (b"//dir", b"/dir"),
            (b"//evil.example/", b"/evil.example/"),
            (b"/a//b", b"/a/b"),
            (b"/a//", b"/a/"),
            (b"///", b"/"),
        ];
        for (path, wanted) in cases {
            assert_eq!(name(path), Err(PathError::Elsewhere(wanted.to_vec())));
        }
        let target = Target::parse(b"/a%20b/c%3F", false).unwrap();
        assert_eq!(target.as_folder(), b"/a%20b/c%3F/");
    }

    /// Nor does any other Location of ours, however a client reads it (RFC 3986, WHATWG URL).
    #[test]
    fn no_path_of_ours_names_a_host() {
        const PARTS: [&[u8]; 13] = [
            b"/",
            b"//",
            b"\\",
            b"\t",
            b"%09",
            b"%5C",
            b"%2F",
            b".",
            b"%2e",
            b"evil.example",
            b"a:b",
            b"\xff",
            b"@",
        ];
        let check = |location: Vec<u8>, path: &[u8]| {
            let mut seen = location.iter().filter(|byte| !b"\t\r\n".contains(byte));
            let wrong =
                seen.next() != Some(&b'/') || seen.next().is_some_and(|b| b"/\\".contains(b));
            assert!(!wrong, "{} became {}", path.escape_ascii(), location.escape_ascii());
        };
        for number in 0..PARTS.len().pow(4) {
            let (mut rest, mut path) = (number, b"/".to_vec());
            while rest > 0 {
                path.extend_from_slice(PARTS[rest % PARTS.len()]);
                rest /= PARTS.len();
            }
            for hidden in [false, true] {
                match Target::parse(&path, hidden) {
                    Ok(target) => {
                        for target in [target.clone().in_share(), target] {
                            check(target.as_folder(), &path);
                            check(target.path(), &path);
                        }
                    }
                    Err(PathError::Elsewhere(location)) => check(location, &path),
                    Err(_) => {}
                }
            }
        }
    }

    #[test]
    fn shares_take_the_first_segment() {
        let parse = |path: &[u8]| Target::parse(path, true).unwrap();
        assert_eq!(parse(b"/").first(), None);
        for (path, name) in [(&b"/films"[..], &b"."[..]), (b"/films/a%20b/c", b"a b/c")] {
            let target = parse(path);
            assert_eq!(target.first(), Some(b"films".as_slice()));
            let inner = target.in_share();
            assert_eq!((inner.share.as_slice(), inner.name.as_slice()), (&b"films"[..], name));
        }
        assert_eq!(parse(b"/films").in_share().as_folder(), b"/films/");
        assert_eq!(parse(b"/films/a%20b").in_share().as_folder(), b"/films/a%20b/");
        assert_eq!(parse(b"/.x/y").name, b".x/y");
        assert_eq!(Target::parse(b"/a/.spdy-put-0", true), Err(PathError::NotFound));
        assert_eq!(parse(b"/films/a%20b/").in_share().path(), b"/films/a%20b/");
        assert_eq!(parse(b"/films/a%20b").in_share().path(), b"/films/a%20b");
    }

    #[test]
    fn queries_are_kept_and_made_safe() {
        assert_eq!(split_query(b"/a?b?c"), (b"/a".as_slice(), Some(b"b?c".as_slice())));
        assert_eq!(split_query(b"/a"), (b"/a".as_slice(), None));
        let mut path = b"/a/".to_vec();
        push_query(&mut path, Some(b"x=1&y=\xff \n%20"));
        assert_eq!(path, b"/a/?x=1&y=%FF%20%0A%20");
    }

    #[test]
    fn names_split_into_folder_and_last_segment() {
        let split = |path: &[u8]| {
            let target = Target::parse(path, false).unwrap();
            target.split().map(|(folder, name)| (folder.to_vec(), name.to_vec()))
        };
        assert_eq!(split(b"/"), None);
        assert_eq!(split(b"/a"), Some((b".".to_vec(), b"a".to_vec())));
        assert_eq!(split(b"/a/b/c"), Some((b"a/b".to_vec(), b"c".to_vec())));
    }

    #[test]
    fn segments_round_trip() {
        for segment in [&b"a b%#?\"<>&'"[..], b"a:b.txt", b"\xff\xfe", b"new\nline", b"100%"] {
            let path = format!("/{}", encode_segment(segment));
            assert_eq!(name(path.as_bytes()), Ok((segment.to_vec(), false)), "{path}");
        }
    }
}
