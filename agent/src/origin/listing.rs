//! Reading folders: the entries of one page, in bounded memory however many there are.
//!
//! It owns what of a folder is shown, the wanted of the entries that come next in an order (`scan`
//! reads them, `order` compares them), and their kinds. It makes no page of them (`super::pages`
//! does). All that reads may block.

mod order;
mod scan;

use std::{hash::Hasher, mem, os::fd::OwnedFd, sync::Arc};

use super::{file::Root, mime};
use order::Key;
pub(crate) use order::{Cursor, Order, Sort};
pub(crate) use scan::{Scan, held_max};

/// Some entries of a folder, in order. Names share one allocation.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    names: Vec<u8>,
    entries: Vec<Entry>,
    /// Entries of the folder that come before these.
    pub(crate) before: usize,
    /// All entries of the folder. Links that lead nowhere are among them unless they would stand
    /// on this page.
    pub(crate) total: usize,
    /// The place behind the last of these, if others follow.
    pub(crate) next: Option<Cursor>,
    /// Whether there are pictures in the folder, on this page or not.
    pub(crate) has_pictures: bool,
    /// Whether there are films or music.
    pub(crate) has_media: bool,
}

/// An entry without its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Octets of a file.
    pub(crate) size: u64,
    /// Seconds since 1970; [`UNKNOWN`] if it was not asked for.
    pub(crate) modified: i64,
    start: u32,
    len: u16,
    pub(crate) class: Class,
    /// Whether size and time were read.
    read: bool,
}

/// What people take an entry for, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    Folder,
    Film,
    Music,
    Picture,
    Text,
    Archive,
    Other,
}

/// Which entries are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// All.
    All,
    /// Films and music.
    Media,
    /// Files of one class.
    Only(Class),
    /// Subtitles of the film with this stem.
    Subtitles(Vec<u8>),
}

/// A folder to read, and how.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The folder; `None` where only `extra` is shown.
    pub(crate) folder: Option<Arc<Folder>>,
    /// Folders that are shown besides, instead of what has their names.
    pub(crate) extra: Arc<[Box<[u8]>]>,
    /// Whether names that begin with a dot are shown.
    pub(crate) hidden: bool,
    pub(crate) order: Order,
    pub(crate) filter: Filter,
    /// Entries of a page: [`PAGE`], or more for who gets them all ([`PASS`]).
    pub(crate) max: usize,
}

/// An open folder of a share.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) root: Arc<Root>,
    /// Its name below the root.
    pub(crate) name: Vec<u8>,
    pub(crate) opened: OwnedFd,
}

impl Class {
    /// The class of a file.
    pub(crate) fn of(name: &[u8]) -> Self {
        let media_type = mime::media_type(name);
        let (kind, rest) = media_type.split_once('/').unwrap_or_default();
        match kind {
            "video" if rest != "iso.segment" => Self::Film,
            "audio" if rest != "mpegurl" => Self::Music,
            "image" => Self::Picture,
            "text" => Self::Text,
            _ if DOCUMENTS.iter().any(|part| rest.contains(part)) => Self::Text,
            _ if ARCHIVES.iter().any(|part| rest.contains(part)) => Self::Archive,
            _ => Self::Other,
        }
    }

    /// Whether a player plays it.
    pub(crate) const fn is_media(self) -> bool {
        matches!(self, Self::Film | Self::Music)
    }
}

impl Filter {
    fn takes(&self, name: &[u8], class: Class) -> bool {
        match self {
            Self::All => true,
            Self::Media => class.is_media(),
            Self::Only(wanted) => class == *wanted,
            Self::Subtitles(stem) => subtitle_tag(name, stem).is_some(),
        }
    }
}

/// What stands between the stem of a film and the extension of its subtitles: `en` in
/// `film.en.srt`, nothing in `film.srt`; `None` if a name is none of its subtitles.
pub(crate) fn subtitle_tag<'a>(name: &'a [u8], stem: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = name.split_at_checked(stem.len())?;
    let tag = rest.len().checked_sub(4).map(|at| rest.split_at(at));
    let (tag, extension) = tag.filter(|_| start.eq_ignore_ascii_case(stem))?;
    let known = [&b".srt"[..], b".vtt"].iter().any(|known| extension.eq_ignore_ascii_case(known));
    match tag {
        b"" if known => Some(b""),
        [b'.', tag @ ..] if known => Some(tag),
        _ => None,
    }
}

impl Listing {
    /// The entries with their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Entry, &[u8])> {
        self.entries.iter().map(|entry| (entry, entry.name(&self.names)))
    }

    /// An entry with its name.
    pub(crate) fn get(&self, at: usize) -> Option<(&Entry, &[u8])> {
        self.entries.get(at).map(|entry| (entry, entry.name(&self.names)))
    }

    /// Entries that it holds.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Octets that it holds.
    pub(crate) fn held(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.names.capacity()
    }

    /// Adds all that a page of it could show to a digest.
    pub(crate) fn digest(&self, hasher: &mut impl Hasher) {
        for (entry, name) in self.iter() {
            hasher.write_usize(name.len());
            hasher.write(name);
            hasher.write_u64(entry.size);
            hasher.write_i64(entry.modified);
            hasher.write_u8(entry.class as u8);
        }
        for number in [self.before, self.total, self.next.is_some().into()] {
            hasher.write_usize(number);
        }
        hasher.write_u8(u8::from(self.has_pictures) << 1 | u8::from(self.has_media));
    }

    fn push(&mut self, name: &[u8], class: Class, details: Option<Details>) {
        let start = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        let len = u16::try_from(name.len()).unwrap_or(u16::MAX);
        // Not twice as large each time: a pass is to stay within its bound.
        if self.names.capacity() - self.names.len() < name.len() {
            self.names.reserve_exact(name.len().max(self.names.len().min(32 << 10)));
        }
        if self.entries.capacity() == self.entries.len() {
            self.entries.reserve_exact(self.entries.len().clamp(16, 512));
        }
        self.names.extend_from_slice(name);
        let Details { size, modified } = details.unwrap_or(NONE);
        self.entries.push(Entry { size, modified, start, len, class, read: details.is_some() });
    }

    /// A listing of names, those of folders with a slash at their end.
    #[cfg(test)]
    pub(crate) fn with(names: &[&[u8]]) -> Self {
        let mut listing = Self { total: names.len(), ..Self::default() };
        for name in names {
            let (name, class) = match name.strip_suffix(b"/") {
                Some(name) => (name, Class::Folder),
                None => (*name, Class::of(name)),
            };
            listing.has_pictures |= class == Class::Picture;
            listing.has_media |= class.is_media();
            let details = Details { size: 1_500, modified: 951_782_400 };
            listing.push(name, class, Some(details));
        }
        listing
    }

    /// Puts the entries in order and lets go of those that do not fit. Whether there were any.
    fn cut(&mut self, order: Order, max: usize) -> bool {
        let names = mem::take(&mut self.names);
        let key = |entry: &Entry| entry.key(order.sort, &names);
        self.entries.sort_unstable_by(|a, b| order.compare(key(a), key(b)));
        let mut octets = 0;
        // The first always fits, however long its name is.
        let fits = |entry: &&Entry| {
            octets += usize::from(entry.len);
            octets <= (max * NAME_OCTETS).max(entry.len.into())
        };
        let fit = self.entries.iter().take(max).take_while(fits).count();
        let is_cut = fit < self.entries.len();
        self.entries.truncate(fit);
        let octets = self.entries.iter().map(|entry| usize::from(entry.len)).sum();
        self.names.reserve_exact(octets);
        for entry in &mut self.entries {
            let start = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
            self.names.extend_from_slice(entry.name(&names));
            entry.start = start;
        }
        is_cut
    }
}

impl Entry {
    pub(crate) const fn is_folder(&self) -> bool {
        matches!(self.class, Class::Folder)
    }

    fn name<'a>(&self, names: &'a [u8]) -> &'a [u8] {
        let start = self.start as usize;
        names.get(start..start + usize::from(self.len)).unwrap_or_default()
    }

    fn key<'a>(&self, sort: Sort, names: &'a [u8]) -> Key<'a> {
        let number = match sort {
            Sort::Size if !self.is_folder() => i64::try_from(self.size).unwrap_or(i64::MAX),
            Sort::Time => self.modified,
            Sort::Name | Sort::Size => 0,
        };
        Key { folder: self.is_folder(), number, name: self.name(names) }
    }
}

impl Wanted {
    /// A page of all entries by name.
    pub(crate) fn all(folder: Option<Arc<Folder>>, extra: Arc<[Box<[u8]>]>, hidden: bool) -> Self {
        let order = Order::default();
        Self { folder, extra, hidden, order, filter: Filter::All, max: PAGE }
    }
}

/// What the name of an entry does not say.
#[derive(Clone, Copy, Debug)]
struct Details {
    size: u64,
    modified: i64,
}

/// A time that was not asked for.
pub(crate) const UNKNOWN: i64 = i64::MIN;
/// Entries of a page.
pub(crate) const PAGE: usize = 2_000;
/// Entries of a pass for who gets them all, while there is memory for it: the folder is read anew
/// for each, so that fewer are less work.
pub(crate) const PASS: usize = 2 * PAGE;
/// Octets of a name that a page has room for on average; with longer ones it holds fewer entries.
const NAME_OCTETS: usize = 64;
/// Of an entry whose disk nobody asks: a share among the entries.
const NONE: Details = Details { size: 0, modified: UNKNOWN };
/// Parts of media types.
const DOCUMENTS: [&str; 9] =
    ["pdf", "epub", "msword", "document", "ebook", "rtf", "json", "subrip", "comicbook"];
const ARCHIVES: [&str; 8] = ["zip", "tar", "7z", "rar", "x-xz", "zstd", "iso9660", "package"];

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::symlink,
        path::{Path, PathBuf},
        time::{Duration, UNIX_EPOCH},
    };

    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let unique = format!("spdy-agent-listing-{name}-{}", std::process::id());
            let top = std::env::temp_dir().join(unique);
            let _ = fs::remove_dir_all(&top);
            fs::create_dir_all(&top).unwrap();
            Self(top)
        }

        fn with_files(name: &str, files: impl IntoIterator<Item = String>) -> Self {
            let tree = Self::new(name);
            for file in files {
                fs::write(tree.0.join(file), "x").unwrap();
            }
            tree
        }

        fn source(&self, order: Order) -> Wanted {
            source(&self.0, order)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn source(path: &Path, order: Order) -> Wanted {
        let root = Arc::new(Root::open(path, true, &[]).unwrap());
        let opened = root.open_folder(b".").unwrap();
        let folder = Arc::new(Folder { root, name: b".".to_vec(), opened });
        Wanted { order, ..Wanted::all(Some(folder), Arc::new([]), false) }
    }

    fn names(listing: &Listing) -> Vec<String> {
        listing.iter().map(|(_, name)| String::from_utf8_lossy(name).into_owned()).collect()
    }

    fn by(sort: Sort, descending: bool) -> Order {
        Order { sort, descending }
    }

    #[test]
    fn bad_entries_are_left_out_and_links_are_what_they_lead_to() {
        let tree = Tree::new("bad");
        let path = &tree.0;
        fs::write(path.join("file"), "four").unwrap();
        fs::write(path.join(".hidden"), "").unwrap();
        fs::create_dir(path.join("Folder")).unwrap();
        symlink("/etc", path.join("etc")).unwrap();
        symlink("gone", path.join("dangling")).unwrap();
        symlink("Folder", path.join("link")).unwrap();
        symlink("file", path.join("other")).unwrap();
        let cwd = rustix::fs::CWD;
        rustix::fs::mkfifoat(cwd, path.join("fifo"), rustix::fs::Mode::RUSR).unwrap();
        for order in [by(Sort::Name, false), by(Sort::Size, false), by(Sort::Time, true)] {
            let listing = Scan::new(tree.source(order), None).run().unwrap();
            let mut found = names(&listing);
            found.sort();
            assert_eq!(found, ["Folder", "file", "link", "other"]);
            assert_eq!((listing.total, listing.before), (4, 0));
            let folders: Vec<_> = listing.iter().map(|(entry, _)| entry.is_folder()).collect();
            assert_eq!(folders, [true, true, false, false]);
            assert_eq!(listing.get(3).unwrap().0.size, 4);
        }
        let shown = Wanted { hidden: true, ..tree.source(Order::default()) };
        let listing = Scan::new(shown, None).run().unwrap();
        assert_eq!(names(&listing), ["Folder", "link", ".hidden", "file", "other"]);
    }

    #[test]
    fn every_order_is_kept() {
        let tree = Tree::new("orders");
        for (name, size, time) in [("b2", 5, 30), ("b10", 9, 10), ("A", 7, 20)] {
            let path = tree.0.join(name);
            fs::write(&path, vec![0; size]).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(time)).unwrap();
        }
        for name in ["d2", "d10"] {
            fs::create_dir(tree.0.join(name)).unwrap();
        }
        for (sort, descending, wanted) in [
            (Sort::Name, false, ["d2", "d10", "A", "b2", "b10"]),
            (Sort::Name, true, ["d10", "d2", "b10", "b2", "A"]),
            (Sort::Size, false, ["d2", "d10", "b2", "A", "b10"]),
            (Sort::Size, true, ["d2", "d10", "b10", "A", "b2"]),
        ] {
            let listing = Scan::new(tree.source(by(sort, descending)), None).run().unwrap();
            assert_eq!(names(&listing), wanted);
        }
        for (descending, wanted) in [(false, ["b10", "A", "b2"]), (true, ["b2", "A", "b10"])] {
            let listing = Scan::new(tree.source(by(Sort::Time, descending)), None).run().unwrap();
            assert_eq!(names(&listing)[2..], wanted);
        }
    }

    #[test]
    fn pages_hold_every_entry_once_in_every_order() {
        let tree = Tree::with_files("pages", (0..200).map(|at| format!("file{at}")));
        for at in 0..30 {
            fs::create_dir(tree.0.join(format!("folder{at}"))).unwrap();
        }
        for sort in [Sort::Name, Sort::Size, Sort::Time] {
            for descending in [false, true] {
                let order = by(sort, descending);
                let whole = names(&Scan::new(tree.source(order), None).run().unwrap());
                assert_eq!(whole.len(), 230);
                let (mut found, mut after) = (Vec::new(), None);
                loop {
                    let source = Wanted { max: 7, ..tree.source(order) };
                    let rest = after.clone().map(|after| Scan::rest(source.clone(), after));
                    let page = Scan::new(source, after).run().unwrap();
                    assert!(page.len() <= 7);
                    assert_eq!((page.total, page.before), (230, found.len()), "{order:?}");
                    if let Some(rest) = rest.map(|rest| rest.run().unwrap()) {
                        assert_eq!((rest.total, rest.before), (page.total, page.before));
                        assert_eq!((names(&rest), &rest.next), (names(&page), &page.next));
                    }
                    found.extend(names(&page));
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                assert_eq!(found, whole, "{order:?}");
            }
        }
    }

    #[test]
    fn cursor_outlives_its_entry() {
        let tree = Tree::with_files("cursor", (0..10).map(|at| format!("file{at}")));
        let source = Wanted { max: 4, ..tree.source(Order::default()) };
        let first = Scan::new(source.clone(), None).run().unwrap();
        for gone in ["file3", "file4"] {
            fs::remove_file(tree.0.join(gone)).unwrap();
        }
        let second = Scan::new(source, first.next).run().unwrap();
        assert_eq!(names(&second), ["file5", "file6", "file7", "file8"]);
    }

    #[test]
    fn pass_is_bounded_whatever_the_folder_holds() {
        let long = "n".repeat(240);
        let tree = Tree::with_files("bound", (0..6_000).map(|at| format!("{long}{at:05}")));
        for descending in [false, true] {
            let mut scan = Scan::new(tree.source(by(Sort::Name, descending)), None);
            while !scan.step().unwrap() {
                assert!(scan.held() <= held_max(PAGE), "{} octets", scan.held());
            }
            let page = scan.into_listing();
            // Long names make a shorter page.
            assert_eq!(page.len(), PAGE * NAME_OCTETS / 245);
            assert!(page.held() <= PAGE * (NAME_OCTETS + size_of::<Entry>()));
            assert_eq!(page.total, 6_000);
            let first = if descending { "05999" } else { "00000" };
            assert!(names(&page)[0].ends_with(first));
            assert!(page.next.is_some());
        }
    }

    #[test]
    fn extra_folders_stand_among_the_others_and_hide_them() {
        let tree = Tree::with_files("extra", ["b".to_owned(), "films".to_owned()]);
        fs::create_dir(tree.0.join("a")).unwrap();
        fs::create_dir(tree.0.join("z")).unwrap();
        let extra: Arc<[Box<[u8]>]> =
            Arc::new([b"films".as_slice().into(), b"M".as_slice().into()]);
        let with = Wanted { extra: extra.clone(), ..tree.source(Order::default()) };
        let listing = Scan::new(with, None).run().unwrap();
        assert_eq!(names(&listing), ["a", "films", "M", "z", "b"]);
        assert_eq!(listing.get(1).unwrap().0.modified, UNKNOWN);
        let alone = Wanted { folder: None, extra, ..tree.source(Order::default()) };
        assert_eq!(names(&Scan::new(alone, None).run().unwrap()), ["films", "M"]);
    }

    #[test]
    fn filters_take_their_kinds() {
        let files = ["a.mp4", "b.mp3", "c.jpg", "c.txt", "A.EN.SRT", "a.srt", "ab.srt", "a.vtt"];
        let tree = Tree::with_files("filters", files.map(str::to_owned));
        fs::create_dir(tree.0.join("d.mp4")).unwrap();
        symlink("a.mp4", tree.0.join("e.mkv")).unwrap();
        symlink("d.mp4", tree.0.join("f.mkv")).unwrap();
        let filtered = |filter| {
            let source = Wanted { filter, ..tree.source(Order::default()) };
            names(&Scan::new(source, None).run().unwrap())
        };
        assert_eq!(filtered(Filter::Media), ["a.mp4", "b.mp3", "e.mkv"]);
        assert_eq!(filtered(Filter::Only(Class::Picture)), ["c.jpg"]);
        let subtitles = filtered(Filter::Subtitles(b"a".to_vec()));
        assert_eq!(subtitles, ["A.EN.SRT", "a.srt", "a.vtt"]);
    }

    #[test]
    fn classes_are_what_people_take_files_for() {
        for (name, class) in [
            ("a.MKV", Class::Film),
            ("a.ts", Class::Film),
            ("a.m4s", Class::Other),
            ("a.opus", Class::Music),
            ("a.m3u", Class::Other),
            ("a.svg", Class::Picture),
            ("a.txt", Class::Text),
            ("a.srt", Class::Text),
            ("a.odt", Class::Text),
            ("a.xlsx", Class::Text),
            ("a.cbz", Class::Text),
            ("a.epub", Class::Text),
            ("a.tar", Class::Archive),
            ("a.ZIP", Class::Archive),
            ("a.iso", Class::Archive),
            ("a", Class::Other),
            ("a.bin", Class::Other),
        ] {
            assert_eq!(Class::of(name.as_bytes()), class, "{name}");
        }
    }

    #[test]
    fn tags_of_subtitles_are_found() {
        for (name, tag) in [
            ("film.srt", Some("")),
            ("film.en.srt", Some("en")),
            ("FILM.de.forced.VTT", Some("de.forced")),
            ("film2.srt", None),
            ("film.mkv", None),
            ("film", None),
            ("fil", None),
            ("filmsrt", None),
        ] {
            let found = subtitle_tag(name.as_bytes(), b"film");
            assert_eq!(found, tag.map(str::as_bytes), "{name}");
        }
    }
}
