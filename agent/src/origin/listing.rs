//! A folder as an HTML page.
//!
//! It owns the reading of folders (blocking, for the pool), their order and the page, which is
//! made in pieces while it is sent. No script, nothing from elsewhere.

use std::{cmp::Ordering, fmt::Write as _, mem, os::fd::OwnedFd};

use data_encoding::BASE64;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use rustix::{
    fs::{AtFlags, Dir, FileType, OFlags, statat},
    io::Errno,
};

use super::{
    file::{Kind, Meta, Root},
    path::{Target, encode_segment},
    reply::{PIECE, Source},
};
use crate::{civil::Civil, verify::sha256};

/// What a folder holds, in the order of the page. Names share one allocation: a folder of 100,000
/// entries costs about 4 MiB.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    names: Vec<u8>,
    entries: Vec<Entry>,
    cut: bool,
}

impl Listing {
    /// Blocks. Reads an open folder; `name` is the folder's own, below the root.
    ///
    /// What is hidden, no file or folder, or a link that leads nowhere or out is left out: one bad
    /// entry must not cost the page.
    pub(crate) fn read(root: &Root, name: &[u8], folder: &OwnedFd) -> Result<Self, Errno> {
        let mut listing = Self::default();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let child = entry.file_name().to_bytes();
            if child.starts_with(b".") {
                continue;
            }
            let stat = match entry.file_type() {
                FileType::Symlink => None,
                _ => statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW).ok(),
            };
            let meta = match stat.as_ref().map(Meta::from_stat) {
                Some(meta) if meta.kind != Kind::Other => meta,
                Some(_) if !is_link(stat.as_ref()) => continue,
                // Only the opener knows whether a link leads to something that is served.
                _ => match follow(root, name, child) {
                    Some(meta) => meta,
                    None => continue,
                },
            };
            if listing.entries.len() == ENTRIES_MAX {
                listing.cut = true;
                break;
            }
            listing.push(child, &meta);
        }
        listing.sort();
        Ok(listing)
    }

    /// Entries that it holds.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn push(&mut self, name: &[u8], meta: &Meta) {
        let start = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        let len = u16::try_from(name.len()).unwrap_or(u16::MAX);
        self.names.extend_from_slice(name);
        self.entries.push(Entry {
            start,
            len,
            folder: meta.kind == Kind::Folder,
            size: meta.len,
            modified: meta.modified.0,
        });
    }

    fn sort(&mut self) {
        let names = mem::take(&mut self.names);
        self.entries.sort_unstable_by(|a, b| {
            b.folder.cmp(&a.folder).then_with(|| natural(a.name(&names), b.name(&names)))
        });
        self.names = names;
    }
}

/// A page that is made piece by piece.
#[derive(Debug)]
pub(crate) struct Page {
    listing: Listing,
    next: usize,
    head: Option<String>,
    /// Of the upload form, where the folder may be changed.
    token: Option<String>,
    done: bool,
}

impl Page {
    /// The page of a folder.
    pub(crate) fn new(target: &Target, listing: Listing, token: Option<String>) -> Self {
        let is_root = target.name == b".";
        let shown = if is_root { String::new() } else { shown(&target.name) };
        let head = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { "/" (shown) }
                    style { (PreEscaped(STYLE)) }
                }
            }
        };
        let mut head = head.into_string();
        // The rest follows in pieces, so the element stays open.
        head.truncate(head.len() - "</html>".len());
        let _ = write!(head, "<body>{}{TABLE}", way(target).into_string());
        if !is_root {
            head.push_str(PARENT);
        }
        Self { listing, next: 0, head: Some(head), token, done: false }
    }

    fn next_text(&mut self) -> Option<String> {
        if self.done {
            return None;
        }
        let mut piece = self.head.take().unwrap_or_default();
        while piece.len() < PIECE {
            let Some(entry) = self.listing.entries.get(self.next) else {
                self.done = true;
                piece.push_str("</tbody></table>");
                if self.listing.entries.is_empty() {
                    piece.push_str("<p>This folder is empty.</p>");
                }
                if self.listing.cut {
                    let _ = write!(
                        piece,
                        "<p>More than {ENTRIES_MAX} entries; the rest is not shown.</p>"
                    );
                }
                if let Some(token) = self.token.take() {
                    piece.push_str(&upload_form(&token).into_string());
                }
                piece.push_str("</body></html>\n");
                break;
            };
            self.next += 1;
            piece.push_str(&row(entry, entry.name(&self.listing.names)));
        }
        Some(piece)
    }
}

impl Source for Page {
    fn next_piece(&mut self) -> Result<Option<Vec<u8>>, Errno> {
        Ok(self.next_text().map(String::into_bytes))
    }
}

/// The Content-Security-Policy of every page: nothing but its own style.
pub(crate) fn policy() -> String {
    let style = BASE64.encode(&sha256(STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'self'; \
         frame-ancestors 'none'"
    )
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    size: u64,
    modified: i64,
    start: u32,
    len: u16,
    folder: bool,
}

impl Entry {
    fn name<'a>(&self, names: &'a [u8]) -> &'a [u8] {
        let start = self.start as usize;
        names.get(start..start + usize::from(self.len)).unwrap_or_default()
    }
}

fn is_link(stat: Option<&rustix::fs::Stat>) -> bool {
    stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

fn follow(root: &Root, folder: &[u8], child: &[u8]) -> Option<Meta> {
    let name = [folder, b"/", child].concat();
    let opened = root.open_with(&name, OFlags::PATH | OFlags::CLOEXEC).ok()?;
    let meta = Meta::of(opened).ok()?;
    (meta.kind != Kind::Other).then_some(meta)
}

/// What a visitor puts files into this folder with. The order of the fields matters: what says how
/// to take a file stands before it.
fn upload_form(token: &str) -> Markup {
    html! {
        form method="post" enctype="multipart/form-data" {
            input type="hidden" name="token" value=(token);
            p {
                label {
                    input type="checkbox" name="replace" value="1";
                    " Replace files of the same name"
                }
            }
            p { label { "Files " input type="file" name="file" multiple; } }
            p { label { "New folder " input type="text" name="folder" maxlength="255"; } }
            p { button { "Upload" } }
        }
    }
}

/// The heading: where we are, and the way back. Only the nearest folders are links, so that a deep
/// path does not make a large page.
fn way(target: &Target) -> Markup {
    let segments = target.name.split(|octet| *octet == b'/').filter(|name| *name != b".");
    let names: Vec<_> = std::iter::once(&b"Files"[..]).chain(segments).collect();
    let depth = names.len() - 1;
    html! {
        h1 {
            @for (level, name) in names.iter().enumerate() {
                @if level > 0 { span { "/" } }
                @if level == depth || depth - level > LINKED {
                    bdi { (shown(name)) }
                } @else {
                    a href=("../".repeat(depth - level)) { bdi { (shown(name)) } }
                }
            }
        }
    }
}

fn row(entry: &Entry, name: &[u8]) -> String {
    let slash = if entry.folder { "/" } else { "" };
    let size = if entry.folder { String::new() } else { human(entry.size) };
    // `./` keeps "a:b" from being read as a scheme.
    let markup = html! {
        tr class=[entry.folder.then_some("d")] {
            td { a href={ "./" (encode_segment(name)) (slash) } { bdi { (shown(name)) (slash) } } }
            td { (size) }
            td { (date(entry.modified)) }
        }
    };
    markup.into_string()
}

/// A name for people: what is no text or would disturb the page is replaced.
fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn human(size: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if size < 1_000 {
        return format!("{size} B");
    }
    let (mut tenths, mut unit) = (size / 100, 0);
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1_000;
        unit += 1;
    }
    if tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{} {}", tenths / 10, UNITS[unit])
    }
}

fn date(seconds: i64) -> String {
    Civil::from_unix(seconds).map_or_else(String::new, |at| {
        format!("{:04}-{:02}-{:02} {:02}:{:02}", at.year, at.month, at.day, at.hour, at.minute)
    })
}

/// As people count: `file2` before `file10`, capitals beside small letters. Total, so that equal
/// names cannot be told apart only if they are equal.
fn natural(a: &[u8], b: &[u8]) -> Ordering {
    let (mut left, mut right) = (a, b);
    while let (Some(&x), Some(&y)) = (left.first(), right.first()) {
        let order = if x.is_ascii_digit() && y.is_ascii_digit() {
            let (first, after_first) = take_number(left);
            let (second, after_second) = take_number(right);
            (left, right) = (after_first, after_second);
            first.len().cmp(&second.len()).then_with(|| first.cmp(second))
        } else {
            (left, right) = (&left[1..], &right[1..]);
            x.to_ascii_lowercase().cmp(&y.to_ascii_lowercase())
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

/// Splits the digits off, without their leading zeros.
fn take_number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|octet| !octet.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let zeros = digits.iter().position(|octet| *octet != b'0').unwrap_or(digits.len());
    (&digits[zeros..], rest)
}

/// Entries of one page; the page says when there are more.
const ENTRIES_MAX: usize = 100_000;
/// Entries that all pages under way may hold.
pub(crate) const ENTRIES_HELD: usize = 150_000;
/// Folders above that the heading leads to.
const LINKED: usize = 8;
const TABLE: &str = "<table><thead><tr><th>Name</th><th>Size</th><th>Modified (UTC)</th></tr>\
</thead><tbody>";
const PARENT: &str =
    "<tr class=\"d\"><td><a href=\"../\"><bdi>../</bdi></a></td><td></td><td></td></tr>";
const STYLE: &str = ":root{--dim:#666;--line:#8883;--hover:#8881;--page:#999;--folder:#d9a03f}\
@media(prefers-color-scheme:dark){:root{--dim:#a6a6a6;--page:#777;--folder:#c08a2e}}\
body{font:16px/1.5 system-ui,sans-serif;margin:1.25rem auto;max-width:64rem;padding:0 1rem}\
h1{font-size:1.25rem;line-height:1.6;margin:0 .5rem .75rem;overflow-wrap:anywhere}\
h1 span{color:var(--dim);font-weight:400;padding:0 .35em}\
table{border-collapse:collapse;width:100%}\
th{color:var(--dim);font-size:.8rem;font-weight:400;padding:.25rem .5rem;text-align:left}\
td{border-top:1px solid var(--line);padding:0 .5rem}\
td a{align-items:baseline;display:flex;gap:.7em;padding:.5rem 0}\
td a::before{border:1px solid var(--page);border-radius:.1em;box-sizing:border-box;content:'';\
flex:none;height:.85em;margin:0 .14em;width:.7em}\
.d a::before{background:var(--folder);border-color:transparent;height:.72em;margin:0;width:.98em}\
bdi{min-width:0;overflow-wrap:anywhere}th:first-child{width:100%}\
td+td,th+th{color:var(--dim);font-variant-numeric:tabular-nums;text-align:right;\
white-space:nowrap}\
tbody tr:hover{background:var(--hover)}\
a{text-decoration:none}a:hover{text-decoration:underline}\
p{color:var(--dim);padding:0 .5rem}\
@media(max-width:40rem){body{margin-top:.75rem;padding:0 .25rem}\
td:last-child,th:last-child{display:none}}";

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::symlink,
        path::{Path, PathBuf},
    };

    use super::*;

    fn page(target: &Target, listing: Listing) -> String {
        let mut page = Page::new(target, listing, None);
        let mut text = String::new();
        while let Some(piece) = page.next_text() {
            text.push_str(&piece);
        }
        assert!(page.done);
        text
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("spdy-list-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        folder
    }

    fn read(path: &Path) -> Listing {
        let root = Root::open(path, true, &[]).unwrap();
        Listing::read(&root, b".", &root.open_folder(b".").unwrap()).unwrap()
    }

    #[test]
    fn order_is_that_of_people() {
        let mut names = ["file10", "b", "File2", "a", "file02", "file1", "2", "10", "\u{e4}"];
        names.sort_by(|a, b| natural(a.as_bytes(), b.as_bytes()));
        let wanted = ["2", "10", "a", "b", "file1", "File2", "file02", "file10", "\u{e4}"];
        assert_eq!(names, wanted);
        assert_eq!(natural(b"x", b"x"), Ordering::Equal);
        assert_ne!(natural(b"x01", b"x1"), Ordering::Equal);
    }

    #[test]
    fn sizes_are_readable() {
        for (size, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (9_999, "9.9 kB"),
            (10_000, "10 kB"),
            (999_999, "999 kB"),
            (1_000_000, "1.0 MB"),
            (31_457_280, "31 MB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(human(size), text);
        }
    }

    #[test]
    fn names_are_escaped_and_links_are_encoded() {
        let path = folder("escape");
        for name in ["<b>&\"'.txt", "a:b.txt", "100% #?", "new\nline", ".hidden"] {
            fs::write(path.join(name), "x").unwrap();
        }
        fs::create_dir(path.join("Folder")).unwrap();
        symlink("/etc", path.join("etc")).unwrap();
        symlink("gone", path.join("dangling")).unwrap();
        symlink("Folder", path.join("link")).unwrap();
        let text = page(&Target::parse(b"/", false).unwrap(), read(&path));
        for part in [
            "href=\"./%3Cb%3E%26%22%27.txt\"",
            "&lt;b&gt;&amp;&quot;'.txt",
            "href=\"./a%3Ab.txt\"",
            "href=\"./100%25%20%23%3F\"",
            "href=\"./new%0Aline\"",
            "new\u{fffd}line",
            "href=\"./Folder/\"",
            "href=\"./link/\"",
            "name=\"viewport\"",
            "light dark",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        for part in ["<b>", "hidden", "./etc", "dangling", "<script", "href=\"../\"", "http"] {
            assert!(!text.contains(part), "{part} in {text}");
        }
        assert!(text.ends_with("</table></body></html>\n") && !text.contains("is empty"));
        assert!(text.find("./Folder/").unwrap() < text.find("./100").unwrap());
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn page_of_a_folder_leads_back_and_has_no_empty_piece() {
        let target = Target::parse(b"/x/a%3Cb/", false).unwrap();
        let mut page = Page::new(&target, Listing::default(), None);
        let piece = page.next_text().unwrap();
        assert!(piece.contains("<title>/x/a&lt;b</title>"), "{piece}");
        for part in [
            "<a href=\"../../\"><bdi>Files</bdi></a>",
            "<a href=\"../\"><bdi>x</bdi></a>",
            "<bdi>a&lt;b</bdi></h1>",
            "<a href=\"../\"><bdi>../</bdi></a>",
            "This folder is empty.",
        ] {
            assert!(piece.contains(part), "{part} in {piece}");
        }
        assert!(page.done);
        assert!(page.next_text().is_none());
    }

    #[test]
    fn deep_folder_has_a_small_heading() {
        let target = Target::parse("/a".repeat(2_000).as_bytes(), false).unwrap();
        let heading = way(&target).into_string();
        assert_eq!(heading.matches("<a ").count(), LINKED);
        assert!(heading.len() < 64 << 10, "{}", heading.len());
    }

    #[test]
    fn large_folder_comes_in_pieces() {
        let mut listing = Listing::default();
        for number in 0..5_000 {
            listing.push(format!("file{number}").as_bytes(), &Meta::file());
        }
        listing.sort();
        let mut page = Page::new(&Target::parse(b"/", false).unwrap(), listing, None);
        let (mut pieces, mut rows) = (0, 0);
        while let Some(piece) = page.next_text() {
            assert!(!piece.is_empty() && piece.len() < PIECE + 4_096);
            pieces += 1;
            rows += piece.matches("<a href=\"./file").count();
        }
        assert_eq!(rows, 5_000);
        assert!(pieces > 10);
    }

    #[test]
    fn policy_names_the_style() {
        let policy = policy();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe"));
    }
}
