//! What is said about folders and media: HTML, JSON, playlists, piece by piece.
//!
//! It owns the texts and what makes them new (their entity tags); what is in a folder is
//! `super::listing`'s, headers are `super::share`'s. A page holds its entries
//! ([`listing::held_max`] octets at most) and one piece.

mod html;

mod json;

mod media;

mod playlist;

mod text;

mod view;

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    mem,
};

use rustix::io::Errno;

pub(crate) use self::{
    html::{END, Frame, begin, policy},
    media::{Media, stem},
    playlist::{HEAD as PLAYLIST, base, disposition, entry as playlist_entry},
    view::{FileView, Form, View},
};
use super::{
    listing::{Listing, Scan, Wanted},
    reply::{PIECE, Source},
};

/// The text about a folder, under way.
#[derive(Debug)]
pub(crate) struct Page {
    rows: Rows,
    head: String,
    listing: Listing,
    next: usize,
    /// How to read on where the whole folder is wanted.
    rest: Option<Wanted>,
    scan: Option<Scan>,
    foot: Option<String>,
}

/// What an entry becomes.
#[derive(Debug)]
enum Rows {
    List { media: bool },
    Grid,
    Json { is_first: bool },
    Playlist { base: String },
}

impl Page {
    /// The text of what a frame stands around. `base`: [`base`]; `rest`: how to read what comes
    /// behind this part of the folder, if that is wanted, too.
    pub(crate) fn new(frame: &Frame<'_>, base: String, rest: Option<Wanted>) -> Self {
        let (rows, head, foot) = match frame.view.form {
            Form::List => (Rows::List { media: frame.plays() }, frame.head(), frame.foot()),
            Form::Grid => (Rows::Grid, frame.head(), frame.foot()),
            Form::Json => (
                Rows::Json { is_first: true },
                json::head(frame.target),
                json::foot(frame.view, frame.listing),
            ),
            Form::Playlist => (Rows::Playlist { base }, PLAYLIST.to_owned(), String::new()),
        };
        let listing = Listing::default();
        Self { rows, head, listing, next: 0, rest, scan: None, foot: Some(foot) }
    }

    /// With the entries that the frame stood around.
    pub(crate) fn with(self, listing: Listing) -> Self {
        Self { listing, ..self }
    }

    /// Begins or goes on with the next part of the folder; whether there is one.
    fn read_on(&mut self) -> Result<bool, Errno> {
        if self.scan.is_none() {
            let next = self.listing.next.take();
            let (Some(after), Some(wanted)) = (next, &self.rest) else { return Ok(false) };
            // What is held goes first: two parts at once would be over the bound.
            self.listing = Listing::default();
            self.scan = Some(Scan::rest(wanted.clone(), after));
        }
        if let Some(scan) = &mut self.scan
            && scan.step()?
            && let Some(scan) = self.scan.take()
        {
            (self.listing, self.next) = (scan.into_listing(), 0);
        }
        Ok(true)
    }
}

impl Rows {
    fn row(&mut self, listing: &Listing, at: usize) -> Option<String> {
        let (entry, name) = listing.get(at)?;
        Some(match self {
            Self::List { media } => html::row(entry, name, *media),
            Self::Grid => html::tile(entry, name),
            Self::Json { is_first } => json::entry(entry, name, mem::take(is_first)),
            Self::Playlist { base } => playlist::entry(base, name),
        })
    }
}

impl Source for Page {
    fn next_piece(&mut self) -> Result<Option<Vec<u8>>, Errno> {
        let mut piece = mem::take(&mut self.head);
        while piece.len() < PIECE {
            if let Some(row) = self.rows.row(&self.listing, self.next) {
                piece.push_str(&row);
                self.next += 1;
            } else if self.read_on()? {
                // What was read is one step of a pass, so others have their turns.
                return Ok(Some(piece.into_bytes()));
            } else {
                let Some(foot) = self.foot.take() else { break };
                piece.push_str(&foot);
            }
        }
        Ok(Some(piece.into_bytes()).filter(|piece| !piece.is_empty()))
    }
}

/// Octets that all pages under way may hold.
pub(crate) const HELD: usize = 9 << 18;
/// Octets that who takes more than a page needs leaves for others.
pub(crate) const LEFT: usize = HELD / 8 * 5;

/// The entity tag of a text: of the entries that it shows and how, and of `more`, all else that it
/// depends on.
pub(crate) fn tag(key: u64, shown: Option<(&View, &Listing)>, more: &[&str]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(key);
    // Another program makes another page.
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    html::STYLE.hash(&mut hasher);
    if let Some((view, listing)) = shown {
        // One page is the same whether all of the folder was wanted or not.
        let all = view.all && listing.before > 0;
        (view.form, view.order, all, view.explicit, view.bare).hash(&mut hasher);
        view.after.as_ref().map(ToString::to_string).hash(&mut hasher);
        listing.digest(&mut hasher);
    }
    more.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

#[cfg(test)]
mod tests {
    use spdy_protocol::headers::Headers;

    use super::*;
    use crate::origin::path::Target;

    fn view(query: &str) -> View {
        View::of(Some(query.as_bytes()), &Headers::new())
    }

    fn pieces(query: &str, listing: Listing) -> Vec<String> {
        let target = Target::parse(b"/", false).unwrap();
        let view = view(query);
        let frame =
            Frame { target: &target, view: &view, listing: &listing, archives: true, token: None };
        let mut page = Page::new(&frame, "http://nas/".to_owned(), None).with(listing);
        let next = || page.next_piece().unwrap().map(|piece| String::from_utf8(piece).unwrap());
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn every_form_comes_in_pieces_with_each_entry_once() {
        let names: Vec<_> = (0..2_000).map(|at| format!("file{at}.mp3")).collect();
        let names: Vec<_> = names.iter().map(String::as_bytes).collect();
        for (query, entry, end) in [
            ("", "href=\"./file", "</body></html>\n"),
            ("view=grid", "href=\"./file", "</body></html>\n"),
            ("format=json", "\"href\":\"./file", "\"next\":null}\n"),
            ("format=m3u", "\nhttp://nas/file", "file1999.mp3\n"),
        ] {
            let pieces = pieces(query, Listing::with(&names));
            assert!(pieces.len() > 3, "{query}");
            assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() < PIECE + 8_192));
            let text = pieces.concat();
            // A row of the table has a second link, which plays.
            let found = text.matches(entry).count() - text.matches("aria-label=\"Play f").count();
            assert_eq!(found, 2_000, "{query}");
            assert!(text.ends_with(end), "{query}");
        }
    }

    #[test]
    fn nothing_is_a_text_too() {
        let text = |query| pieces(query, Listing::default()).concat();
        assert_eq!(text("format=json"), "{\"path\":\"/\",\"entries\":[\n],\"next\":null}\n");
        assert_eq!(text("format=m3u"), "#EXTM3U\n");
        assert!(text("").contains("This folder is empty."));
    }

    #[test]
    fn tags_change_with_all_that_is_shown() {
        let listing = Listing::with(&[b"a", b"b"]);
        let tag = |query: &str, listing: &Listing, more: &str| {
            super::tag(1, Some((&view(query), listing)), &[more])
        };
        let first = tag("", &listing, "");
        assert_eq!(first, tag("t=1", &listing, ""));
        let mut longer = Listing::with(&[b"a", b"b"]);
        longer.total = 3;
        for other in [
            tag("sort=size", &listing, ""),
            tag("order=desc", &listing, ""),
            tag("view=grid", &listing, ""),
            tag("format=json", &listing, ""),
            tag("after=f.0", &listing, ""),
            tag("", &listing, "token"),
            tag("", &Listing::with(&[b"a", b"c"]), ""),
            tag("", &Listing::with(&[b"a", b"b/"]), ""),
            tag("", &longer, ""),
            super::tag(2, Some((&view(""), &listing)), &[""]),
        ] {
            assert_ne!(first, other);
        }
    }
}
