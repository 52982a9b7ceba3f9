//! A folder as a page: the frame around its entries, rows of the table, tiles of the grid.
//!
//! It owns the markup, which works without script and fetches nothing from elsewhere, and the
//! policy that says so. Names are escaped by the templates and encoded in links.

use data_encoding::BASE64;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    super::{
        listing::{Class, Entry, Listing, Order, Sort},
        mime,
        path::{Target, encode_segment},
    },
    text,
    view::{Form, View, descends},
};
use crate::verify::sha256;

/// What stands around the entries of a page.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) target: &'a Target,
    pub(crate) view: &'a View,
    pub(crate) listing: &'a Listing,
    /// Whether it can be had as an archive: the list of shares cannot.
    pub(crate) archives: bool,
    /// What a form of this page must bring back; `None` where nothing may be changed.
    pub(crate) token: Option<&'a str>,
}

impl Frame<'_> {
    /// All before the first entry.
    pub(crate) fn head(&self) -> String {
        let segments = segments(self.target);
        let name = segments.last().map_or_else(|| TOP.to_owned(), |name| text::shown(name));
        let is_grid = self.view.form == Form::Grid;
        let header = html! {
            header {
                (way(&segments, is_grid, true))
                @if is_grid || self.listing.has_pictures { (self.forms()) }
            }
        };
        let mut page = begin(&name, is_grid) + &header.into_string() + "<main>";
        if self.view.after.is_some() {
            page.push_str(&self.turns().into_string());
        }
        if self.listing.len() == 0 {
            let empty = if self.view.after.is_some() { NO_MORE } else { EMPTY };
            page.push_str(empty);
        } else if is_grid {
            page.push_str(&self.sorts().into_string());
            page.push_str("<ul class=\"g\">");
        } else {
            page.push_str("<table>");
            page.push_str(&self.columns().into_string());
            page.push_str("<tbody>");
            if !segments.is_empty() && self.view.after.is_none() {
                page.push_str(if self.listing.has_media { PARENT_MEDIA } else { PARENT });
            }
        }
        page
    }

    /// All behind the last entry.
    pub(crate) fn foot(&self) -> String {
        let mut page = String::new();
        if self.listing.len() > 0 {
            page.push_str(match self.view.form {
                Form::Grid => "</ul>",
                _ => "</tbody></table>",
            });
        }
        if self.listing.next.is_some() && !self.view.all {
            page.push_str(&self.turns().into_string());
        }
        let more = html! {
            @if let Some(token) = self.token { (upload_form(token)) }
            footer {
                p { (self.number()) }
                @if self.listing.total > 0 && (self.archives || self.listing.has_media) {
                    nav.bar aria-label="Whole folder" {
                        @if self.listing.has_media {
                            a href=(self.view.link(Form::Playlist, self.view.order, None)) {
                                "Playlist"
                            }
                        }
                        @if self.archives {
                            a href="./?format=zip" { "Download ZIP" }
                            a href="./?format=tar" { "tar" }
                        }
                    }
                }
            }
        };
        page + "</main>" + &more.into_string() + END + "\n"
    }

    /// List or grid.
    fn forms(&self) -> Markup {
        let (view, order) = (self.view, self.view.order);
        html! {
            nav.tabs aria-label="View" {
                @for (form, name) in [(Form::List, "List"), (Form::Grid, "Grid")] {
                    @let current = (view.form == form).then_some("true");
                    a href=(view.link(form, order, None)) aria-current=[current] { (name) }
                }
            }
        }
    }

    /// The head of the table.
    fn columns(&self) -> Markup {
        html! {
            thead { tr {
                @for (sort, name) in SORTS {
                    @let (link, is_current) = self.sort_link(sort);
                    @let way = if self.view.order.descending { "descending" } else { "ascending" };
                    th scope="col" aria-sort=[is_current.then_some(way)] {
                        a href=(link) { (name) }
                    }
                    @if sort == Sort::Name && self.listing.has_media {
                        th.a scope="col" aria-label="Play" {}
                    }
                }
            } }
        }
    }

    /// The same for the grid, which has no columns.
    fn sorts(&self) -> Markup {
        html! {
            nav.tabs aria-label="Order" {
                @for (sort, name) in SORTS {
                    @let (link, is_current) = self.sort_link(sort);
                    @let arrow = if self.view.order.descending { " \u{25bc}" } else { " \u{25b2}" };
                    a href=(link) aria-current=[is_current.then_some("true")] {
                        (name) @if is_current { (arrow) }
                    }
                }
            }
        }
    }

    /// The link that sorts, in the other direction where it is sorted so already.
    fn sort_link(&self, sort: Sort) -> (String, bool) {
        let now = self.view.order;
        let is_current = now.sort == sort;
        let descending = if is_current { !now.descending } else { descends(sort) };
        (self.view.link(self.view.form, Order { sort, descending }, None), is_current)
    }

    /// Forth and back through a large folder.
    fn turns(&self) -> Markup {
        let (view, order) = (self.view, self.view.order);
        html! {
            nav.bar aria-label="Pages" {
                @if view.after.is_some() {
                    a rel="first" href=(view.link(view.form, order, None)) { "First page" }
                }
                @if self.listing.next.is_some() {
                    a rel="next" href=(view.link(view.form, order, self.listing.next.as_ref())) {
                        "Next page"
                    }
                }
            }
        }
    }

    /// How many entries there are and which these are.
    fn number(&self) -> String {
        let (total, before) = (self.listing.total, self.listing.before);
        let is_part = before > 0 || self.listing.next.is_some();
        if is_part && !self.view.all {
            let (first, last) = (before + 1, before + self.listing.len());
            let [first, last, total] = [first, last, total].map(text::count);
            format!("{first} to {last} of {total} entries")
        } else if total == 1 {
            "1 entry".to_owned()
        } else {
            format!("{} entries", text::count(total))
        }
    }
}

/// An entry as a row of the table; `media`: there is a column for what can be played.
pub(crate) fn row(entry: &Entry, name: &[u8], media: bool) -> String {
    let (shown, link, folder) = (text::shown(name), encode_segment(name), entry.is_folder());
    let slash = if folder { "/" } else { "" };
    // `./` keeps "a:b" from being read as a scheme.
    let markup = html! {
        tr {
            td { a class=(letter(entry.class)) href={ "./" (link) (slash) } { bdi { (shown) (slash) } } }
            @if media {
                td.a {
                    @if entry.class.is_media() {
                        a href={ "./" (link) "?view=play" } aria-label={ "Play " (shown) } {}
                    }
                }
            }
            td.s { @if !folder { (text::size(entry.size)) } }
            td { (text::time(entry.modified)) }
        }
    };
    markup.into_string()
}

/// An entry as a tile of the grid.
pub(crate) fn tile(entry: &Entry, name: &[u8]) -> String {
    let (shown, link) = (text::shown(name), encode_segment(name));
    let is_seen = entry.class == Class::Picture && is_seen(mime::media_type(name));
    let end = match entry.class {
        Class::Folder => "/?view=grid",
        Class::Film | Class::Music | Class::Picture => "?view=play",
        Class::Text | Class::Archive | Class::Other => "",
    };
    let markup = html! {
        li {
            a.i[is_seen] class=(letter(entry.class)) href={ "./" (link) (end) } {
                @if is_seen { img loading="lazy" decoding="async" alt="" src={ "./" (link) }; }
                bdi { (shown) }
            }
        }
    };
    markup.into_string()
}

/// The forms by which a browser puts files into the folder and makes folders in it:
/// multipart/form-data to the folder itself. `token` stands first, `replace` (if set, files of the
/// same name are replaced) before `file`, which comes once for each; `folder` is a name.
pub(crate) fn upload_form(token: &str) -> Markup {
    let hidden = html! { input type="hidden" name="token" value=(token); };
    html! {
        section aria-label="Change this folder" {
            form method="post" action="./" enctype="multipart/form-data" {
                (hidden)
                label {
                    "Upload "
                    input type="file" name="file" multiple required;
                }
                label { input type="checkbox" name="replace" value="1"; " replace old files" }
                button { "Send" }
            }
            form method="post" action="./" enctype="multipart/form-data" {
                (hidden)
                label {
                    "New folder "
                    input type="text" name="folder" maxlength="255" required autocomplete="off";
                }
                button { "Make" }
            }
        }
    }
}

/// A page up to where its body begins.
pub(crate) fn begin(title: &str, wide: bool) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
            }
            body.wide[wide] {}
        }
    };
    let mut page = page.into_string();
    page.truncate(page.len() - END.len());
    page
}

/// Where we are, and the way back. Only the nearest folders are links, so that a deep path does not
/// make a large page. `here`: the last segment is this page, not a folder above it.
pub(crate) fn way(segments: &[&[u8]], grid: bool, here: bool) -> Markup {
    let names: Vec<_> = std::iter::once(TOP.as_bytes()).chain(segments.iter().copied()).collect();
    let depth = names.len() - 1;
    let end = if grid { "?view=grid" } else { "" };
    html! {
        nav.way aria-label="Folders" {
            @for (level, name) in names.iter().enumerate() {
                @if level > 0 { i aria-hidden="true" { "/" } }
                @if here && level == depth {
                    h1 { bdi { (text::shown(name)) } }
                } @else if depth - level > LINKED {
                    bdi { (text::shown(name)) }
                } @else {
                    @let up = depth - level;
                    a href={ @if up == 0 { "./" } @else { ("../".repeat(up)) } (end) } {
                        bdi { (text::shown(name)) }
                    }
                }
            }
        }
    }
}

/// The names from the top to a target, with that of its share.
pub(crate) fn segments(target: &Target) -> Vec<&[u8]> {
    let share = std::iter::once(target.share.as_slice()).filter(|name| !name.is_empty());
    let inner = target.name.split(|octet| *octet == b'/').filter(|name| *name != b".");
    share.chain(inner).collect()
}

/// The Content-Security-Policy of our pages: nothing but their own style, pictures and media of
/// the same NAS, and forms only where there is one.
pub(crate) fn policy(forms: bool) -> String {
    let style = BASE64.encode(&sha256(STYLE.as_bytes()));
    let forms = if forms { "'self'" } else { "'none'" };
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src 'self' data:; media-src 'self'; \
         base-uri 'none'; form-action {forms}; frame-ancestors 'none'"
    )
}

/// Whether browsers show pictures of this type.
pub(crate) fn is_seen(media_type: &str) -> bool {
    let kind = media_type.strip_prefix("image/").unwrap_or_default();
    ["jpeg", "png", "gif", "webp", "avif", "bmp", "svg+xml", "vnd.microsoft.icon"].contains(&kind)
}

/// The class of an entry in the style.
pub(crate) const fn letter(class: Class) -> &'static str {
    match class {
        Class::Folder => "d",
        Class::Film => "f",
        Class::Music => "m",
        Class::Picture => "p",
        Class::Text => "t",
        Class::Archive => "z",
        Class::Other => "o",
    }
}

/// Where a body ends.
pub(crate) const END: &str = "</body></html>";
/// Part of every entity tag of ours.
pub(crate) const STYLE: &str = include_str!("style.css");
/// The name of what is above all shares.
const TOP: &str = "Files";
/// Folders above that the heading leads to.
const LINKED: usize = 8;
const SORTS: [(Sort, &str); 3] =
    [(Sort::Name, "Name"), (Sort::Size, "Size"), (Sort::Time, "Modified (UTC)")];
const EMPTY: &str = "<p class=\"note\">This folder is empty.</p>";
const NO_MORE: &str = "<p class=\"note\">Nothing follows here any more.</p>";
const PARENT: &str = "<tr><td><a class=\"d\" href=\"../\" aria-label=\"Folder above\">../</a></td>\
<td class=\"s\"></td><td></td></tr>";
const PARENT_MEDIA: &str = "<tr><td><a class=\"d\" href=\"../\" aria-label=\"Folder above\">../</a>\
</td><td class=\"a\"></td><td class=\"s\"></td><td></td></tr>";
/// A folder, so that browsers do not ask for /favicon.ico.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'\
%3E%3Cpath fill='%23d99a28' d='M1 2h5l2 2h7v10H1z'/%3E%3C/svg%3E";
