//! DELETE, MKCOL and MOVE: changes of names (RFC 4918 9.3, 9.6, 9.9).
//!
//! It owns what a `Destination` means. A folder is deleted only when it is empty: one slip must
//! not cost a library.

use std::{os::fd::OwnedFd, sync::Arc};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, fstat, mkdirat, openat, renameat, statat, unlinkat,
    },
    io::Errno,
};
use spdy_protocol::digits::HEX;

use super::{
    super::{
        file::{Root, id_of, ids_above},
        path::Target,
        reply::Reply,
        share,
    },
    Change, Failure, Problem, guard,
    journal::{self, Entry, MOVE},
    place::{Conditions, Coordination, FAILED, LINK, NOTHING, Place, Spot, Thing, check_new, sync},
    receive::{chunk, content_length},
    upload::random,
};

/// Removes a file, a link (not what it leads to) or an empty folder.
pub(super) async fn delete(change: &Change<'_>) -> Result<Reply, Failure> {
    let place = change.place()?;
    let expected = Expected::of(change);
    let coordination = change.changes.coordination.clone();
    let delete = move || {
        let spot = place.open_existing()?;
        coordination.with_names(spot.device()?, || {
            let flags = match expected.find(&spot)? {
                Thing::Folder if spot.root.is_share(spot.id()?) => return Err(SHARE),
                Thing::Folder => AtFlags::REMOVEDIR,
                Thing::File(_) | Thing::Link => AtFlags::empty(),
            };
            unlinkat(&spot.folder, spot.name.as_slice(), flags).map_err(|error| match error {
                Errno::NOTEMPTY | Errno::EXIST => {
                    Problem::new(409, "The folder is not empty; it may hold hidden files.")
                }
                error => error.into(),
            })?;
            sync(&spot.folder);
            Ok(())
        })
    };
    change.share.pool.run(delete).await?;
    Ok(Reply::empty(204))
}

/// Makes a folder.
pub(super) async fn make_folder(change: &Change<'_>) -> Result<Reply, Failure> {
    let unknown = Problem::new(415, "A folder is made without a body.");
    if content_length(change.request)?.is_some_and(|len| len > 0) {
        return Err(unknown.into());
    }
    if change.target.name == b"." {
        return Err(EXISTS.into());
    }
    let place = change.place()?;
    while let Some(chunk) = chunk(change.stream).await? {
        if !chunk.is_empty() {
            return Err(unknown.into());
        }
    }
    let conditions = Conditions::of(&change.request.headers);
    make(change, place, conditions).await?;
    Ok(Reply::status(201))
}

/// Makes a folder that must not be there yet: 405.
pub(super) async fn make(
    change: &Change<'_>,
    place: Place,
    conditions: Conditions,
) -> Result<(), Problem> {
    let (coordination, key) = (change.changes.coordination.clone(), change.tools.key);
    let make = move || {
        let spot = place.open()?;
        coordination.with_names(spot.device()?, || {
            let found = spot.look()?;
            conditions.check(found.as_ref(), key)?;
            if found.is_some() {
                return Err(EXISTS);
            }
            check_new(&spot.name)?;
            let mode = Mode::from_bits_truncate(0o777);
            mkdirat(&spot.folder, spot.name.as_slice(), mode).map_err(|error| match error {
                Errno::EXIST => EXISTS,
                Errno::INVAL => Errno::ILSEQ.into(),
                error => error.into(),
            })?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(made) = openat(&spot.folder, spot.name.as_slice(), flags, Mode::empty())
                && is_empty(&made)
            {
                spot.root.give(&made);
            }
            sync(&spot.folder);
            Ok(())
        })
    };
    change.share.pool.run(make).await
}

/// Gives a file, a link or a folder another name in the same share.
pub(super) async fn rename(change: &Change<'_>) -> Result<Reply, Failure> {
    let renaming = Renaming {
        from: change.place()?,
        to: destination(change)?,
        expected: Expected::of(change),
        replace: !is_overwrite_forbidden(change),
        shares: change.shares.iter().map(|share| share.root.clone()).collect(),
    };
    let coordination = change.changes.coordination.clone();
    let rename = move || renaming.run(&coordination);
    let replaced = change.share.pool.run(rename).await?;
    Ok(if replaced { Reply::empty(204) } else { Reply::status(201) })
}

fn is_overwrite_forbidden(change: &Change<'_>) -> bool {
    let overwrite = change.request.headers.get("overwrite");
    overwrite.is_some_and(|value| value.trim_ascii().eq_ignore_ascii_case(b"f"))
}

/// A MOVE, as a thread of the pool takes it.
struct Renaming {
    from: Place,
    to: Place,
    expected: Expected,
    /// Whether something else may lose the new name.
    replace: bool,
    /// The directories of all shares.
    shares: Vec<Arc<Root>>,
}

impl Renaming {
    /// Blocks. Whether something was replaced.
    fn run(self, coordination: &Coordination) -> Result<bool, Problem> {
        let (from, to) = (self.from.clone().open_existing()?, self.to.clone().open()?);
        let above = ids_above(&from.folder)?;
        let is_above = |root: &&Arc<Root>| above.contains(&root.id());
        let above: Vec<_> = self.shares.iter().filter(is_above).cloned().collect();
        let shares = above.iter().map(|root| root.id()).collect();
        let device = from.device()?;
        coordination.move_directories(shares, || {
            coordination.with_names(device, || self.make(&from, &to, &above))
        })
    }

    /// `above`: the shares that the directory of the old name is in.
    fn make(&self, from: &Spot, to: &Spot, above: &[Arc<Root>]) -> Result<bool, Problem> {
        let found = self.expected.find(from)?;
        if found == Thing::Folder {
            self.check_free(from, above)?;
        }
        match relation(from, to)? {
            Relation::Same => Err(Problem::new(403, "It has this name already.")),
            Relation::Spelling => {
                check_new(&to.name)?;
                respell(from, to, self.to.clone()).map(|()| false)
            }
            Relation::Linked if !self.replace => Err(FAILED),
            // Of two names of one file the system moves neither onto the other and leaves both. Two
            // files of one number (mergerfs) it does move.
            Relation::Linked => {
                renameat(&from.folder, &*from.name, &to.folder, &*to.name)?;
                if from.look()?.is_some() {
                    unlinkat(&from.folder, &*from.name, AtFlags::empty())?;
                }
                sync(&from.folder);
                Ok(true)
            }
            Relation::Apart => replace(from, to, self.replace),
        }
    }

    /// Whether a directory may get another name: none of a share's, and nothing that is known by
    /// its path lies in it. Shares that are elsewhere are not asked: their disks may hang.
    fn check_free(&self, spot: &Spot, above: &[Arc<Root>]) -> Result<(), Problem> {
        let directory = spot.id()?;
        if spot.root.is_share(directory) {
            return Err(SHARE);
        }
        for root in &self.shares {
            if root.may_be_within(&spot.root) && root.is_below(directory)? {
                return Err(SHARE);
            }
        }
        for root in above {
            if journal::has_below(root, directory)? {
                return Err(Problem::new(409, "An upload in this folder is not finished."));
            }
        }
        Ok(())
    }
}

/// Gives something the name of another spot. Whether something was replaced.
fn replace(from: &Spot, to: &Spot, replace: bool) -> Result<bool, Problem> {
    let replaced = match to.look() {
        Ok(None) => {
            check_new(&to.name)?;
            false
        }
        Ok(Some(_)) if !replace => return Err(FAILED),
        Ok(Some(Thing::Link)) | Err(NOTHING) => return Err(LINK),
        Ok(Some(Thing::Folder)) if to.root.is_share(to.id()?) => return Err(SHARE),
        Ok(Some(_)) => true,
        Err(problem) => return Err(problem),
    };
    to.take(&from.folder, &from.name, replace).map_err(|error| match error {
        Errno::EXIST if !replace => FAILED,
        Errno::XDEV => Problem::new(502, "The destination is on another disk."),
        Errno::INVAL => Problem::new(409, "A folder cannot be moved into itself."),
        Errno::NOTEMPTY | Errno::EXIST => {
            Problem::new(409, "The folder at the destination is not empty.")
        }
        Errno::ISDIR | Errno::NOTDIR => {
            Problem::new(409, "A file and a folder cannot replace each other.")
        }
        error => error.into(),
    })?;
    sync(&to.folder);
    sync(&from.folder);
    Ok(replaced)
}

/// What two names of the same share are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    /// They name different things, or the second one nothing.
    Apart,
    /// They are one directory entry, spelled alike, perhaps reached by two paths.
    Same,
    /// They are one directory entry that is spelled in two ways: its disk ignores case, or tells
    /// not all forms of a letter apart.
    Spelling,
    /// They are two directory entries of one file (hard links).
    Linked,
}

/// What tells two directory entries of one inode apart is where they are, and not the path by which
/// they were reached: the directories, and in one directory what it lists. Only a file with more
/// than one link can have two.
fn relation(from: &Spot, to: &Spot) -> Result<Relation, Problem> {
    let stat = |spot: &Spot| statat(&spot.folder, &*spot.name, AtFlags::SYMLINK_NOFOLLOW);
    let one = stat(from)?;
    let other = match stat(to) {
        Ok(other) => other,
        Err(Errno::NOENT | Errno::NAMETOOLONG) => return Ok(Relation::Apart),
        Err(error) => return Err(error.into()),
    };
    if id_of(&one) != id_of(&other) {
        return Ok(Relation::Apart);
    }
    let has_one_entry =
        one.st_nlink < 2 || FileType::from_raw_mode(one.st_mode) == FileType::Directory;
    if id_of(&fstat(&from.folder)?) != id_of(&fstat(&to.folder)?) {
        return Ok(if has_one_entry { Relation::Same } else { Relation::Linked });
    }
    if from.name == to.name {
        return Ok(Relation::Same);
    }
    match entries(&from.folder, [&from.name, &to.name])? {
        // Two files of one number: some disks that join others have that (mergerfs).
        [Some(one), Some(other)] if has_one_entry && one != other => Ok(Relation::Apart),
        _ if has_one_entry => Ok(Relation::Spelling),
        [Some(one), Some(other)] if one == other => Ok(Relation::Spelling),
        [Some(_), Some(_)] => Ok(Relation::Linked),
        // Rather nothing than the wrong one.
        _ => Err(Problem::new(409, "The disk does not tell which of its names these are.")),
    }
}

/// The entries of a directory that names find: those of the same bytes, or else of the same letters
/// (some disks that ignore case list all names in lower case). Forms of letters that only Unicode's
/// tables know are not found.
fn entries(directory: &OwnedFd, names: [&[u8]; 2]) -> Result<[Option<Vec<u8>>; 2], Errno> {
    let letters = |name: &[u8]| String::from_utf8_lossy(name).to_lowercase();
    let wanted = names.map(letters);
    let mut found = [None, None];
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let listed = letters(name);
        for at in 0..names.len() {
            let is_exact = name == names[at];
            if is_exact || found[at].is_none() && listed == wanted[at] {
                found[at] = Some(name.to_vec());
            }
        }
    }
    Ok(found)
}

/// Spells a name in another way on a disk to which both ways are one name: renaming it at once
/// would do nothing. In between it has a temporary name; a record tells the next start of it.
fn respell(from: &Spot, to: &Spot, place: Place) -> Result<(), Problem> {
    let record = format!("{MOVE}{}", HEX.encode(&random()?));
    let entry = Entry { place, total: None, conditions: Conditions::default() };
    let held = entry.record(&record)?;
    let temporary = journal::temporary(&record);
    let folder = &from.folder;
    let renamed = renameat(folder, &*from.name, folder, &temporary).and_then(|()| {
        // Another program may have made something of that name in this moment.
        to.take(folder, temporary.as_bytes(), false).or_else(|error| {
            // If even that fails the record stays, and the next start finishes it.
            renameat(folder, &temporary, folder, &*from.name)?;
            Err(error)
        })
    });
    drop(held);
    let left = statat(folder, &temporary, AtFlags::SYMLINK_NOFOLLOW);
    if left.is_err_and(|error| error == Errno::NOENT) {
        journal::erase(&from.root, &record);
    }
    renamed?;
    sync(folder);
    Ok(())
}

fn is_empty(directory: &OwnedFd) -> bool {
    let own = |name: &[u8]| matches!(name, b"." | b"..");
    Dir::read_from(directory).is_ok_and(|mut entries| {
        entries.all(|entry| entry.is_ok_and(|entry| own(entry.file_name().to_bytes())))
    })
}

/// What a request expects to find.
struct Expected {
    conditions: Conditions,
    /// Whether the path ends with a slash.
    folder: bool,
    key: u64,
}

impl Expected {
    fn of(change: &Change<'_>) -> Self {
        let conditions = Conditions::of(&change.request.headers);
        Self { conditions, folder: change.target.folder, key: change.tools.key }
    }

    fn find(&self, spot: &Spot) -> Result<Thing, Problem> {
        let found = spot.look()?.ok_or(NOTHING)?;
        if self.folder && found != Thing::Folder {
            return Err(NOTHING);
        }
        self.conditions.check(Some(&found), self.key)?;
        Ok(found)
    }
}

/// Where a MOVE goes: a path, or a URL of where the visitor reached us.
fn destination(change: &Change<'_>) -> Result<Place, Problem> {
    let unclear = Problem::new(400, "The destination is no path of this share.");
    let mut values = change.request.headers.get_all("destination");
    let (Some(value), None) = (values.next(), values.next()) else { return Err(unclear) };
    let value = value.trim_ascii();
    let path = match guard::split_url(value).filter(|_| !value.starts_with(b"/")) {
        Some((scheme, authority, path)) => {
            if !guard::is_own_host(change.request, scheme, authority) {
                return Err(Problem::new(502, "The destination is on another host."));
            }
            path
        }
        None => value,
    };
    if path.iter().any(|octet| b"?#".contains(octet)) {
        return Err(unclear);
    }
    let target = Target::parse(path, change.tools.hidden).map_err(|_| unclear)?;
    match share::place(change.shares, target) {
        Some((share, target)) if std::ptr::eq(share, change.share) => Place::of(share, &target),
        Some(_) => Err(Problem::new(502, "The destination is in another share.")),
        None => Err(Problem::new(409, "There is no such folder.")),
    }
}

const SHARE: Problem = Problem::new(403, "It is the folder of a share, or one lies in it.");
const EXISTS: Problem = Problem::new(405, "There is something of this name already.");
