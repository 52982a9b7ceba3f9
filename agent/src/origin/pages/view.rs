//! What of a folder, or of a file, somebody wants to see.
//!
//! It owns the words in queries, how `Accept` is read (RFC 9110 12.5.1), and the links from one
//! view to the next. Words that it does not know are nobody's.

use std::fmt;

use spdy_protocol::headers::Headers;

use super::super::{
    gzip,
    listing::{Cursor, Order, Sort},
    path,
};

/// In which form a folder is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// A page with a table.
    List,
    /// A page with tiles.
    Grid,
    /// `format=json`, or by `Accept`.
    Json,
    /// `format=m3u`.
    Playlist,
}

/// What of a folder is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) form: Form,
    pub(crate) order: Order,
    /// Where the page begins.
    pub(crate) after: Option<Cursor>,
    /// Whether the whole folder is wanted and not a page of it.
    pub(crate) all: bool,
    /// Whether it was asked for in so many words: no file of the folder stands for it then.
    pub(crate) explicit: bool,
    /// Whether a page has the entries and nothing else: what follows every link of a folder must
    /// not find each file three times, in an archive and in another order.
    pub(crate) bare: bool,
}

impl View {
    /// Reads query and `Accept`.
    ///
    /// Only who asks for HTML by its name is a person at a browser, who turns pages. Everybody else
    /// gets the whole folder: a program that mirrors it would take the first page for all. It gets
    /// the bare one.
    pub(crate) fn of(query: Option<&[u8]>, headers: &Headers) -> Self {
        let accept = Accept::of(headers);
        let value = |word: &str| path::query_value(query, word.as_bytes());
        let asked = match (value("format"), value("view")) {
            (Some(b"json"), _) => Some(Form::Json),
            (Some(b"m3u"), _) => Some(Form::Playlist),
            (_, Some(b"list")) => Some(Form::List),
            (_, Some(b"grid")) => Some(Form::Grid),
            _ if accept.prefers_json() => Some(Form::Json),
            _ => None,
        };
        let sort = match value("sort") {
            Some(b"name") => Some(Sort::Name),
            Some(b"size") => Some(Sort::Size),
            Some(b"time") => Some(Sort::Time),
            _ => None,
        };
        let descending = match value("order") {
            Some(b"asc") => Some(false),
            Some(b"desc") => Some(true),
            _ => None,
        };
        let after = value("after").and_then(Cursor::parse);
        let all = value("all").map(|value| value == b"1");
        let is_explicit = [sort.is_some(), descending.is_some(), after.is_some(), all.is_some()];
        let explicit = asked.is_some() || is_explicit.contains(&true);
        let form = asked.unwrap_or(Form::List);
        let sort = sort.unwrap_or_default();
        let order = Order { sort, descending: descending.unwrap_or(descends(sort)) };
        let bare = !accept.names_html();
        let turns = match form {
            Form::List | Form::Grid => !bare || after.is_some(),
            Form::Json => true,
            Form::Playlist => false,
        };
        Self { form, order, after, all: all.unwrap_or(!turns), explicit, bare }
    }

    /// A link to another view of the same folder.
    pub(crate) fn link(&self, form: Form, order: Order, after: Option<&Cursor>) -> String {
        let mut link = "./".to_owned();
        let mut add = |word: &str, value: &dyn fmt::Display| {
            let sign = if link.len() == 2 { '?' } else { '&' };
            link.push_str(&format!("{sign}{word}={value}"));
        };
        match form {
            Form::List if self.explicit && self.form != Form::Json => add("view", &"list"),
            Form::List => {}
            Form::Grid => add("view", &"grid"),
            Form::Json => add("format", &"json"),
            Form::Playlist => add("format", &"m3u"),
        }
        if order != Order::default() {
            let word = match order.sort {
                Sort::Name => "name",
                Sort::Size => "size",
                Sort::Time => "time",
            };
            add("sort", &word);
            add("order", &if order.descending { "desc" } else { "asc" });
        }
        if let Some(after) = after {
            add("after", after);
        }
        link
    }
}

/// The order in which a sort begins: the largest and the newest first.
pub(crate) const fn descends(sort: Sort) -> bool {
    !matches!(sort, Sort::Name)
}

/// What of a file is shown instead of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileView {
    /// `view=play`: a page that plays it.
    Play,
    /// `format=m3u`: a playlist of one.
    Playlist,
}

impl FileView {
    /// Reads a query; `None`: the file itself.
    pub(crate) fn of(query: Option<&[u8]>) -> Option<Self> {
        let value = |word: &str| path::query_value(query, word.as_bytes());
        match (value("format"), value("view")) {
            (Some(b"m3u"), _) => Some(Self::Playlist),
            (_, Some(b"play")) => Some(Self::Play),
            _ => None,
        }
    }
}

/// How much somebody wants HTML and JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Accept {
    html: Wish,
    json: Wish,
}

/// The weight in thousandths that the most exact range gives a type, and how exact it is: 0 for
/// none, 1 for `*/*`, 2 for `text/*`, 3 for the type itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wish {
    exact: u8,
    weight: u16,
}

impl Accept {
    fn of(headers: &Headers) -> Self {
        let mut accept = Self::default();
        for range in headers.get_all("accept").flat_map(|value| value.split(|o| *o == b',')) {
            let mut parts = range.split(|octet| *octet == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(gzip::quality).unwrap_or(1_000);
            accept.html.take(&name, weight, b"text/html", b"text/*");
            accept.json.take(&name, weight, b"application/json", b"application/*");
        }
        accept
    }

    /// By name and above HTML, or as much while HTML was not named.
    fn prefers_json(self) -> bool {
        let (html, json) = (self.html, self.json);
        json.weight > 0 && json.exact > 1 && (json.weight, json.exact) > (html.weight, html.exact)
    }

    fn names_html(self) -> bool {
        self.html.exact > 1 && self.html.weight > 0
    }
}

impl Wish {
    fn take(&mut self, name: &[u8], weight: u16, full: &[u8], kind: &[u8]) {
        let exact = match name {
            _ if name == full => 3,
            _ if name == kind => 2,
            b"*/*" => 1,
            _ => return,
        };
        if exact > self.exact {
            *self = Self { exact, weight };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

    fn view(query: &str, accept: &str) -> View {
        let mut headers = Headers::new();
        if !accept.is_empty() {
            headers.push("accept", accept.as_bytes()).unwrap();
        }
        View::of(Some(query.as_bytes()).filter(|query| !query.is_empty()), &headers)
    }

    #[test]
    fn json_goes_to_who_wants_it_more() {
        for (accept, form) in [
            ("", Form::List),
            ("*/*", Form::List),
            (BROWSER, Form::List),
            ("application/json", Form::Json),
            ("Application/JSON; charset=utf-8", Form::Json),
            ("application/json, text/plain, */*", Form::Json),
            ("text/html, application/json", Form::List),
            ("text/html;q=0.5, application/json", Form::Json),
            ("text/html, application/json;q=0.9", Form::List),
            ("application/json;q=0", Form::List),
            ("application/*", Form::Json),
            ("*/*;q=0.1, application/json;q=0.05", Form::List),
        ] {
            assert_eq!(view("", accept).form, form, "{accept}");
        }
        // Words weigh more than headers.
        assert_eq!(view("view=list", "application/json").form, Form::List);
        assert_eq!(view("format=json", BROWSER).form, Form::Json);
    }

    #[test]
    fn only_browsers_turn_pages() {
        for (query, accept, all) in [
            ("", "", true),
            ("", "*/*", true),
            ("", BROWSER, false),
            ("all=1", BROWSER, true),
            ("all=0", "", false),
            ("after=f.x", "", false),
            ("format=json", "", false),
            ("format=json&all=1", "", true),
            ("", "application/json", false),
            ("format=m3u", BROWSER, true),
        ] {
            assert_eq!(view(query, accept).all, all, "{query} {accept}");
        }
    }

    #[test]
    fn queries_say_what_is_shown() {
        let plain = view("", BROWSER);
        assert_eq!(
            (plain.form, plain.order, plain.explicit),
            (Form::List, Order::default(), false)
        );
        // What others mean is not ours.
        assert_eq!(view("t=1&x&view=&sort=colour", BROWSER), plain);
        let sorted = view("sort=size", BROWSER);
        assert_eq!(sorted.order, Order { sort: Sort::Size, descending: true });
        assert!(sorted.explicit);
        let page = view("view=grid&sort=time&order=asc&after=f5.a%20b", BROWSER);
        assert_eq!((page.form, page.order.descending), (Form::Grid, false));
        assert_eq!(page.after.unwrap().to_string(), "f5.a%20b");
        assert_eq!(view("after=nonsense", BROWSER).after, None);
    }

    #[test]
    fn links_lead_to_the_view_that_they_name() {
        let cursor = Cursor::parse(b"f5.a%20b");
        for form in [Form::List, Form::Grid, Form::Json, Form::Playlist] {
            for sort in [Sort::Name, Sort::Size, Sort::Time] {
                for descending in [false, true] {
                    for after in [None, cursor.as_ref()] {
                        let order = Order { sort, descending };
                        let link = view("view=list", BROWSER).link(form, order, after);
                        let found = view(link.strip_prefix("./?").unwrap(), BROWSER);
                        assert_eq!((found.form, found.order), (form, order), "{link}");
                        assert_eq!(found.after.as_ref(), after);
                    }
                }
            }
        }
        let plain = view("", BROWSER);
        assert_eq!(plain.link(Form::List, Order::default(), None), "./");
        let sorted = plain.link(Form::List, Order { sort: Sort::Name, descending: true }, None);
        assert_eq!(sorted, "./?sort=name&order=desc");
    }

    #[test]
    fn files_are_shown_as_they_are_unless_somebody_asks() {
        for (query, wanted) in [
            ("t=1", None),
            ("view=list", None),
            ("format=vtt", None),
            ("view=play", Some(FileView::Play)),
            ("x=1&format=m3u", Some(FileView::Playlist)),
        ] {
            assert_eq!(FileView::of(Some(query.as_bytes())), wanted);
        }
        assert_eq!(FileView::of(None), None);
    }
}
