//! A pass over a folder, in steps: the entries of one page, in bounded memory.

use std::mem;

use rustix::{
    fs::{AtFlags, Dir, FileType, OFlags, statat},
    io::Errno,
};

use super::{
    Class, Cursor, Details, Entry, Filter, Listing, NAME_OCTETS, NONE, Sort, Wanted, order::Key,
};
use crate::origin::{
    file::{Kind, Meta, stat_path},
    path::is_hidden,
};

/// A pass over a folder, in steps of bounded size. It holds the entries that it may yet keep:
/// [`held_max`] octets at most.
#[derive(Debug)]
pub(crate) struct Scan {
    wanted: Wanted,
    after: Option<Cursor>,
    kept: Listing,
    /// The last entry that still belongs to the page, once there are too many.
    worst: Option<usize>,
    state: State,
    /// Whether the kinds of all entries are told already, by a pass before this one.
    told: bool,
}

#[derive(Debug)]
enum State {
    Begins,
    Names(Dir),
    /// The next entry whose size and time are to be read.
    Details(usize),
    Done,
}

impl Scan {
    /// A pass for the entries behind `after`.
    pub(crate) fn new(wanted: Wanted, after: Option<Cursor>) -> Self {
        let (kept, state) = (Listing::default(), State::Begins);
        Self { wanted, after, kept, worst: None, state, told: false }
    }

    /// A pass for the entries behind `after` in an answer that has begun: whether there are pictures
    /// or media in the folder is not looked for once more.
    pub(crate) fn rest(wanted: Wanted, after: Cursor) -> Self {
        Self { told: true, ..Self::new(wanted, Some(after)) }
    }

    /// Goes on with the pass: [`STEP`] names, fewer where the disk has to be asked. Whether it is
    /// done.
    pub(crate) fn step(&mut self) -> Result<bool, Errno> {
        let mut left = STEP;
        while left > 0 {
            self.state = match mem::replace(&mut self.state, State::Done) {
                State::Begins => self.begin()?,
                State::Names(mut dir) => match self.read_names(&mut dir, &mut left)? {
                    true => self.end_of_names(),
                    false => State::Names(dir),
                },
                State::Details(at) if at < self.kept.len() => {
                    left = left.saturating_sub(ASKING * usize::from(self.read_details(at)));
                    State::Details(at + 1)
                }
                State::Details(_) => {
                    self.kept.entries.retain(|entry| entry.read);
                    return Ok(true);
                }
                State::Done => return Ok(true),
            };
        }
        Ok(false)
    }

    /// Does all steps.
    #[cfg(test)]
    pub(crate) fn run(mut self) -> Result<Listing, Errno> {
        while !self.step()? {}
        Ok(self.kept)
    }

    /// What was kept, after the last step.
    pub(crate) fn into_listing(self) -> Listing {
        self.kept
    }

    /// Octets that it holds.
    pub(crate) fn held(&self) -> usize {
        self.kept.held()
    }

    fn begin(&mut self) -> Result<State, Errno> {
        let extra = self.wanted.extra.clone();
        if self.wanted.filter == Filter::All {
            for name in extra.iter() {
                self.count(Class::Folder);
                self.keep(name, Class::Folder, Some(NONE));
            }
        }
        Ok(match &self.wanted.folder {
            Some(folder) => State::Names(Dir::read_from(&folder.opened)?),
            None => self.end_of_names(),
        })
    }

    /// Whether that was the last name.
    fn read_names(&mut self, dir: &mut Dir, left: &mut usize) -> Result<bool, Errno> {
        while *left > 0 {
            let Some(entry) = dir.read() else { return Ok(true) };
            let entry = entry?;
            *left -= 1;
            let name = entry.file_name().to_bytes();
            if is_hidden(name, self.wanted.hidden) || matches!(name, b"." | b"..") {
                continue;
            }
            if self.wanted.extra.iter().any(|extra| **extra == *name) {
                continue;
            }
            if self.take(name, entry.file_type()) {
                *left = left.saturating_sub(ASKING);
            }
        }
        Ok(false)
    }

    /// Takes a name if it is shown. Whether the disk had to be asked.
    fn take(&mut self, name: &[u8], file_type: FileType) -> bool {
        let is_folder = match file_type {
            FileType::Directory => Some(true),
            FileType::RegularFile => Some(false),
            // Only the opener knows whether a link leads to something that is served, and not every
            // filesystem says what its entries are.
            FileType::Symlink | FileType::Unknown => None,
            _ => return false,
        };
        if self.is_elsewhere(name, is_folder) {
            return false;
        }
        let by_name = Class::of(name);
        let class = is_folder.map(|is_folder| if is_folder { Class::Folder } else { by_name });
        let may_take = |class| self.wanted.filter.takes(name, class);
        if !class.map_or_else(|| may_take(by_name) || may_take(Class::Folder), may_take) {
            return false;
        }
        let by_number = self.wanted.order.sort != Sort::Name;
        let must_ask = match class {
            Some(_) => by_number,
            None => by_number || self.may_keep(name, by_name) || self.may_keep(name, Class::Folder),
        };
        if !must_ask {
            let class = class.unwrap_or(by_name);
            self.count(class);
            self.keep(name, class, None);
            return false;
        }
        // One bad entry must not cost the page.
        if let Some((is_folder, details)) = self.details(name) {
            let class = if is_folder { Class::Folder } else { by_name };
            if self.wanted.filter.takes(name, class) {
                self.count(class);
                self.keep(name, class, Some(details));
            }
        }
        true
    }

    /// Counts an entry of which nothing more is to be known than that it stands on another page: all
    /// but 2,000 of a large folder, in each of its passes.
    fn is_elsewhere(&mut self, name: &[u8], is_folder: Option<bool>) -> bool {
        let by_name = self.wanted.filter == Filter::All && self.wanted.order.sort == Sort::Name;
        let Some(folder) = is_folder.filter(|_| self.told && by_name) else { return false };
        let place = self.place(Key { folder, number: 0, name });
        self.kept.total += usize::from(place != Place::Here);
        self.kept.before += usize::from(place == Place::Before);
        place != Place::Here
    }

    fn count(&mut self, class: Class) {
        self.kept.total += 1;
        self.kept.has_pictures |= class == Class::Picture;
        self.kept.has_media |= class.is_media();
    }

    /// Whether an entry by name alone may stand on the page.
    fn may_keep(&self, name: &[u8], class: Class) -> bool {
        let key = Key { folder: class == Class::Folder, number: 0, name };
        self.place(key) == Place::Here
    }

    fn place(&self, key: Key<'_>) -> Place {
        let order = self.wanted.order;
        if self.after.as_ref().is_some_and(|after| order.compare(key, after.key()).is_le()) {
            return Place::Before;
        }
        let worst = self.worst.and_then(|worst| self.kept.entries.get(worst));
        match worst.map(|worst| worst.key(order.sort, &self.kept.names)) {
            Some(worst) if order.compare(key, worst).is_gt() => Place::Behind,
            _ => Place::Here,
        }
    }

    /// Keeps an entry if it stands on the page as far as that is known.
    fn keep(&mut self, name: &[u8], class: Class, details: Option<Details>) {
        self.kept.push(name, class, details);
        let last = self.kept.entries.last();
        let key = last.map(|entry| entry.key(self.wanted.order.sort, &self.kept.names));
        match key.map_or(Place::Behind, |key| self.place(key)) {
            Place::Here => {}
            place => {
                self.kept.before += usize::from(place == Place::Before);
                if let Some(entry) = self.kept.entries.pop() {
                    self.kept.names.truncate(entry.start as usize);
                }
            }
        }
        let max = self.wanted.max;
        let slack = max / 4 + 16;
        let octets = (max + slack) * NAME_OCTETS;
        if self.kept.len() >= max + slack || self.kept.names.len() >= octets {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.kept.cut(self.wanted.order, self.wanted.max) {
            self.worst = self.kept.len().checked_sub(1);
        }
    }

    /// The page is known; what is left are sizes and times, where somebody looks at them.
    fn end_of_names(&mut self) -> State {
        self.cut();
        let last = self.worst.and_then(|_| self.kept.entries.last());
        self.kept.next =
            last.map(|last| Cursor::of(last.key(self.wanted.order.sort, &self.kept.names)));
        self.kept.entries.shrink_to_fit();
        match self.wanted.filter {
            Filter::All => State::Details(0),
            _ => State::Done,
        }
    }

    /// Whether anything had to be asked.
    fn read_details(&mut self, at: usize) -> bool {
        let Some((entry, name)) = self.kept.get(at).filter(|(entry, _)| !entry.read) else {
            return false;
        };
        let is_folder = entry.is_folder();
        // It may have gone, or become something else, since its name was read.
        let found = self.details(name).filter(|found| found.0 == is_folder);
        if let (Some((_, details)), Some(entry)) = (found, self.kept.entries.get_mut(at)) {
            let Details { size, modified } = details;
            *entry = Entry { size, modified, read: true, ..*entry };
        }
        true
    }

    /// Whether an entry is a folder, and its details; `None` if it is not served.
    fn details(&self, name: &[u8]) -> Option<(bool, Details)> {
        let folder = self.wanted.folder.as_ref()?;
        let own = statat(&folder.opened, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let stat = if FileType::from_raw_mode(own.st_mode) == FileType::Symlink {
            let path = [&folder.name, &b"/"[..], name].concat();
            stat_path(folder.root.open_with(&path, OFlags::PATH | OFlags::CLOEXEC).ok()?).ok()?
        } else {
            own
        };
        let Meta { kind, len, modified, .. } = Meta::from_stat(&stat);
        let details = Details { size: len, modified: modified.0 };
        (kind != Kind::Other).then_some((kind == Kind::Folder, details))
    }
}

/// Where an entry stands as seen from the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Before,
    Here,
    Behind,
}

/// Octets that a pass for so many entries holds between two steps: a quarter more than they take,
/// because it is not cut at each name, and what vectors have in hand.
pub(crate) const fn held_max(entries: usize) -> usize {
    entries * 5 / 4 * (size_of::<Entry>() + NAME_OCTETS) + (64 << 10)
}

/// Entries between two looks of others at the pool.
const STEP: usize = 4_096;
/// What it costs to ask the disk for one, in the same unit.
const ASKING: usize = 8;
