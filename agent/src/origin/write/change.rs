//! DELETE, MKCOL and MOVE: changes of names (RFC 4918 9.3, 9.6, 9.9).
//!
//! It owns what a `Destination` means. A folder is deleted only when it is empty: one slip must
//! not cost a library.

use rustix::{
    fs::{AtFlags, Mode, mkdirat, statat, unlinkat},
    io::Errno,
};

use super::{
    super::{path::Target, reply::Reply, share},
    Change, Failure, Problem, guard,
    place::{Conditions, FAILED, LINK, NOTHING, Place, Spot, Thing, alone, check_new, sync},
    receive::{chunk, content_length},
};

/// Removes a file, a link (not what it leads to) or an empty folder.
pub(super) async fn delete(change: &Change<'_>) -> Result<Reply, Failure> {
    let place = change.place()?;
    let expected = Expected::of(change);
    let names = change.changes.names.clone();
    let delete = move || {
        let spot = place.open_existing()?;
        let _alone = alone(&names);
        let flags = match expected.find(&spot)? {
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
        Ok::<_, Problem>(())
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
    let (names, key) = (change.changes.names.clone(), change.tools.key);
    let make = move || {
        let spot = place.open()?;
        let _alone = alone(&names);
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
        spot.root.give(&spot.folder, &spot.name);
        sync(&spot.folder);
        Ok(())
    };
    change.share.pool.run(make).await
}

/// Gives a file, a link or a folder another name in the same share.
pub(super) async fn rename(change: &Change<'_>) -> Result<Reply, Failure> {
    let from = change.place()?;
    let to = destination(change)?;
    if (&from.folder, &from.name) == (&to.folder, &to.name) {
        return Err(Problem::new(403, "It has this name already.").into());
    }
    let expected = Expected::of(change);
    let overwrite = change.request.headers.get("overwrite");
    let replace = !overwrite.is_some_and(|value| value.trim_ascii().eq_ignore_ascii_case(b"f"));
    let names = change.changes.names.clone();
    let rename = move || {
        let (from, to) = (from.open_existing()?, to.open()?);
        let _alone = alone(&names);
        expected.find(&from)?;
        let replaced = match to.look() {
            Ok(None) => {
                check_new(&to.name)?;
                false
            }
            Ok(Some(_)) if !replace => return Err(FAILED),
            Ok(Some(Thing::Link)) | Err(NOTHING) => return Err(LINK),
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
        if replaced && are_one(&from, &to) {
            // Of two names of one file the system moves neither onto the other.
            unlinkat(&from.folder, &*from.name, AtFlags::empty()).map_err(Problem::from)?;
        }
        sync(&to.folder);
        sync(&from.folder);
        Ok(replaced)
    };
    let replaced = change.share.pool.run(rename).await?;
    Ok(if replaced { Reply::empty(204) } else { Reply::status(201) })
}

/// Whether two names are those of one file.
fn are_one(a: &Spot, b: &Spot) -> bool {
    let file = |spot: &Spot| {
        let stat = statat(&spot.folder, &*spot.name, AtFlags::SYMLINK_NOFOLLOW);
        stat.map(|stat| (stat.st_dev, stat.st_ino))
    };
    matches!((file(a), file(b)), (Ok(a), Ok(b)) if a == b)
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

const EXISTS: Problem = Problem::new(405, "There is something of this name already.");
