//! A folder as a page: the frame around its entries, rows of the table, tiles of the grid.
//!
//! It owns the markup, which works without script and fetches nothing from elsewhere, and the
//! policy that says so. Names are escaped by the templates and encoded in links.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use spdy_protocol::digits::BASE64;

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
    /// Whether rows have a link that plays.
    pub(crate) const fn plays(&self) -> bool {
        self.listing.has_media && !self.view.bare
    }

    /// All before the first entry.
    pub(crate) fn head(&self) -> String {
        let segments = segments(self.target);
        let name = segments.last().map_or_else(|| TOP.to_owned(), |name| text::shown(name));
        let is_grid = self.view.form == Form::Grid;
        let header = html! {
            header {
                (way(&segments, is_grid, true))
                @if (is_grid || self.listing.has_pictures) && !self.view.bare { (self.forms()) }
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
            if !self.view.bare {
                page.push_str(&self.sorts().into_string());
            }
            page.push_str("<ul class=\"g\">");
        } else {
            page.push_str("<table>");
            page.push_str(&self.columns().into_string());
            page.push_str("<tbody>");
            if !segments.is_empty() && self.view.after.is_none() {
                page.push_str(PARENT);
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
            @if self.listing.total > 0 {
                footer {
                    p { (self.number()) }
                    @if !self.view.bare { (self.downloads()) }
                }
            }
        };
        page + "</main>" + &more.into_string() + END + "\n"
    }

    /// The whole folder in other forms.
    fn downloads(&self) -> Markup {
        html! {
            nav.bar aria-label="Whole folder" {
                @if self.listing.has_media {
                    a href=(self.view.link(Form::Playlist, self.view.order, None)) { "Playlist" }
                }
                @if self.archives {
                    a href="./?format=zip" { "Download ZIP" }
                    a href="./?format=tar" { "tar" }
                }
            }
        }
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
                        @if self.view.bare { (name) } @else { a href=(link) { (name) } }
                    }
                    @if sort == Sort::Name && self.plays() {
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
            a class=(if is_seen { "i" } else { letter(entry.class) }) href={ "./" (link) (end) } {
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
        section.forms aria-label="Change this folder" {
            form method="post" action="./" enctype="multipart/form-data" {
                (hidden)
                label { input type="checkbox" name="replace" value="1"; "Replace old files" }
                label {
                    "Upload"
                    input type="file" name="file" multiple required;
                }
                button { "Send" }
            }
            form method="post" action="./" enctype="multipart/form-data" {
                (hidden)
                label {
                    "New folder"
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

/// Where we are, and the way back. Only the nearest folders and the top are links, so that a deep
/// path does not make a large page. `here`: the last segment is this page, not a folder above it.
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
                    @if level == 0 { a href="/" { (TOP) } } @else { bdi { (text::shown(name)) } }
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
const PARENT: &str = "<tr><td colspan=\"4\"><a class=\"d\" href=\"../\" aria-label=\"Folder above\">\
../</a></td></tr>";
/// A folder, so that browsers do not ask for /favicon.ico.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'\
%3E%3Cpath fill='%23d99a28' d='M1 2h5l2 2h7v10H1z'/%3E%3C/svg%3E";

#[cfg(test)]
mod tests {
    use spdy_protocol::headers::Headers;

    use super::{super::super::listing::Cursor, *};

    fn target(path: &[u8]) -> Target {
        Target::parse(path, false).unwrap()
    }

    fn view(query: &str) -> View {
        let mut headers = Headers::new();
        headers.push("accept", b"text/html").unwrap();
        View::of(Some(query.as_bytes()), &headers)
    }

    /// A whole page, without its rows.
    fn page(path: &[u8], query: &str, listing: &Listing, token: Option<&str>) -> String {
        let (target, view) = (target(path), view(query));
        let frame = Frame { target: &target, view: &view, listing, archives: true, token };
        frame.head() + &frame.foot()
    }

    #[test]
    fn names_are_escaped_and_links_are_encoded() {
        let names: [&[u8]; 4] = [b"<b>&\"'.txt", b"a:b.mp3", b"100% #?/", b"new\nline.png"];
        let listing = Listing::with(&names);
        let rows: Vec<_> = listing.iter().map(|(entry, name)| row(entry, name, true)).collect();
        let tiles: Vec<_> = listing.iter().map(|(entry, name)| tile(entry, name)).collect();
        assert!(rows[0].contains("href=\"./%3Cb%3E%26%22%27.txt\""), "{}", rows[0]);
        assert!(rows[0].contains("<bdi>&lt;b&gt;&amp;&quot;'.txt</bdi>"), "{}", rows[0]);
        assert!(rows[0].contains("1.5 kB") && rows[0].contains("2000-02-29 00:00"));
        assert!(rows[1].contains("href=\"./a%3Ab.mp3?view=play\" aria-label=\"Play a:b.mp3\""));
        assert!(rows[2].contains("href=\"./100%25%20%23%3F/\""), "{}", rows[2]);
        assert!(rows[3].contains("new\u{fffd}line") && !rows[3].contains("view=play"));
        assert!(tiles[0].contains("href=\"./%3Cb%3E%26%22%27.txt\"") && !tiles[0].contains("<img"));
        assert!(tiles[1].contains("href=\"./a%3Ab.mp3?view=play\""));
        assert!(tiles[2].contains("href=\"./100%25%20%23%3F/?view=grid\""));
        assert!(tiles[3].contains("src=\"./new%0Aline.png\""), "{}", tiles[3]);
        let title = page(b"/%3Ci%3E/", "", &listing, None);
        assert!(title.contains("<title>&lt;i&gt;</title>"), "{title}");
    }

    #[test]
    fn heading_leads_back_and_stays_small_on_deep_paths() {
        let empty = Listing::default();
        let text = page(b"/a/b%20c/", "", &empty, None);
        for part in ["href=\"../../\"", "href=\"../\"", "<h1><bdi>b c</bdi></h1>", "is empty"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("<table") && !text.contains("format="));
        let deep = page(&b"/a".repeat(3_000), "", &empty, None);
        assert_eq!(deep.matches("<a ").count(), LINKED + 1);
        let grid = page(b"/a/b/", "view=grid", &Listing::with(&[b"x.png"]), None);
        assert!(grid.contains("href=\"../../?view=grid\""), "{grid}");
    }

    #[test]
    fn columns_are_marked_and_sort_the_other_way() {
        let listing = Listing::with(&[b"a.txt"]);
        let text = page(b"/", "", &listing, None);
        assert!(text.contains("<th scope=\"col\" aria-sort=\"ascending\">"), "{text}");
        assert_eq!(text.matches("aria-sort").count(), STYLE.matches("aria-sort").count() + 1);
        for link in ["sort=name&amp;order=desc", "sort=size&amp;order=desc"] {
            assert!(text.contains(link), "{link} in {text}");
        }
        let text = page(b"/", "sort=size&order=desc", &listing, None);
        assert!(text.contains("aria-sort=\"descending\""), "{text}");
        assert!(text.contains("sort=size&amp;order=asc"), "{text}");
    }

    #[test]
    fn page_offers_what_the_folder_has() {
        let plain = page(b"/", "", &Listing::with(&[b"a.txt"]), None);
        for absent in ["view=grid", "format=m3u", "<form", "<script", "Play"] {
            assert!(!plain.contains(absent), "{absent} in {plain}");
        }
        for part in
            ["format=zip", "format=tar", "1 entry", "<html lang=\"en\">", "name=\"viewport\""]
        {
            assert!(plain.contains(part), "{part} in {plain}");
        }
        let full = page(b"/", "", &Listing::with(&[b"a.jpg", b"b.mp3"]), Some("the-token"));
        for part in ["./?view=grid", "./?format=m3u", "2 entries", "value=\"the-token\""] {
            assert!(full.contains(part), "{part} in {full}");
        }
        let form = upload_form("t").into_string();
        let places: Vec<_> = ["name=\"token\"", "name=\"file\"", "name=\"replace\""]
            .map(|name| form.find(name))
            .into();
        assert!(places.iter().all(Option::is_some), "{form}");
        assert!(form.contains("enctype=\"multipart/form-data\"") && form.contains(" multiple"));
    }

    #[test]
    fn large_folder_is_turned_page_by_page() {
        let mut listing = Listing::with(&[b"a.txt", b"b.txt"]);
        (listing.total, listing.before) = (5_000, 2_000);
        listing.next = Some(Cursor::of_file(b"b.txt"));
        let text = page(b"/x/", "sort=name&after=f.a", &listing, None);
        for part in ["2,001 to 2,002 of 5,000 entries", "rel=\"first\"", "after=f.b.txt"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        // What turns no pages has all.
        let text = page(b"/x/", "all=1", &listing, None);
        assert!(text.contains("5,000 entries") && !text.contains("rel=\"next\""), "{text}");
    }

    #[test]
    fn policy_names_the_style_and_allows_nothing_from_elsewhere() {
        let policy = policy(false);
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'));
        assert!(
            policy.contains("form-action 'none'") && !super::policy(true).contains("action 'none'")
        );
        assert!(!STYLE.contains("url(") && !STYLE.contains("@import") && !STYLE.contains('<'));
    }

    /// Relative luminance as WCAG 2 has it, of `#rgb` or `#rrggbb`.
    fn luminance(colour: &str) -> f64 {
        let digits: Vec<_> = colour.chars().map(|c| c.to_digit(16).unwrap()).collect();
        let parts = match digits.as_slice() {
            [r, g, b] => [r * 17, g * 17, b * 17],
            [r, s, g, h, b, c] => [r * 16 + s, g * 16 + h, b * 16 + c],
            _ => panic!("{colour}"),
        };
        let linear = parts.map(|part| {
            let part = f64::from(part) / 255.0;
            if part <= 0.040_45 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        });
        0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    }

    #[test]
    fn every_text_can_be_read_in_both_schemes() {
        for scheme in STYLE.lines().filter(|line| line.contains("--back:")) {
            let colour = |name: &str| {
                let text = scheme.split_once(&format!("--{name}:#")).unwrap().1;
                luminance(&text[..text.find([';', '}']).unwrap()])
            };
            for text in ["text", "dim", "link"] {
                for back in ["back", "hover"] {
                    let (a, b) = (colour(text), colour(back));
                    let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
                    assert!(contrast >= 4.5, "{text} on {back}: {contrast}");
                }
            }
        }
        assert_eq!(STYLE.matches("--back:").count(), 2);
    }
}
