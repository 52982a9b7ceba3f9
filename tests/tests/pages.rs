//! Folders and media as people and programs see them: pages, JSON, playlists, through both programs.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::Path,
};

use serde_json::Value;
use smol::block_on;
use spdy_tests::{
    fixture::{Agent, Pair, Proxy, TempRoot},
    h1::{Answer, Client, Method},
    http::wait_for_agent,
    media,
};

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// A pair and one connection to it.
struct Visit {
    client: Client,
    _pair: Pair,
}

impl Visit {
    fn to(root: &TempRoot, args: &[&str]) -> Self {
        let pair = Pair::with(root.path(), &[], args);
        Self { client: block_on(Client::connect(pair.proxy.http)), _pair: pair }
    }

    /// What a browser gets.
    fn page(&self, target: &str) -> Answer {
        let page = block_on(self.client.get_with(target, "accept", BROWSER));
        assert_eq!(page.status, 200, "{target}");
        page
    }

    /// What a program gets that says nothing about itself.
    fn get(&self, target: &str) -> Answer {
        block_on(self.client.get(target))
    }

    fn json(&self, target: &str) -> Value {
        let answer = self.get(target);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// `{path}{link}` as a browser follows it.
    fn follow(&self, path: &str, link: &str) -> Answer {
        self.get(&format!("{path}{}", link.strip_prefix("./").unwrap()))
    }
}

/// The links of a page whose target begins with `start`, without it, up to the quote.
fn links(page: &Answer, start: &str) -> Vec<String> {
    let parts = page.text().split(start).skip(1);
    parts.map(|part| part.split('"').next().unwrap().replace("&amp;", "&")).collect()
}

/// The entries of a page, in order: their links without what leads to them.
fn entries(page: &Answer) -> Vec<String> {
    let links = links(page, "href=\"./").into_iter();
    links.filter(|link| !link.is_empty() && !link.contains('?')).collect()
}

fn names(listing: &Value) -> Vec<&str> {
    listing["entries"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect()
}

// Order.

#[test]
fn listing_is_sorted_as_people_ask() {
    let root = TempRoot::new();
    for (name, len, time) in
        [("Chapter 10.txt", 5, 300), ("chapter 2.txt", 50_000, 100), ("\u{c4}rger.txt", 700, 200)]
    {
        let path = root.write(name, &vec![b'x'; len]);
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(time);
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }
    root.write("Zoo/inner", b"");
    let visit = Visit::to(&root, &[]);
    let (two, ten, umlaut) = ("chapter%202.txt", "Chapter%2010.txt", "%C3%84rger.txt");
    for (query, order) in [
        ("", [two, ten, umlaut]),
        ("?sort=name&order=desc", [umlaut, ten, two]),
        ("?sort=size", [two, umlaut, ten]),
        ("?sort=size&order=asc", [ten, umlaut, two]),
        ("?sort=time", [ten, umlaut, two]),
        ("?sort=time&order=asc", [two, umlaut, ten]),
    ] {
        let page = visit.page(&format!("/{query}"));
        let found = entries(&page);
        assert_eq!(found[0], "Zoo/", "folders come first");
        assert_eq!(found[1..], order, "{query}");
        // The head marks the order and leads to the other ones.
        assert_eq!(page.text().matches("<th scope=\"col\" aria-sort=").count(), 1);
        for link in links(&page, "href=\"./?sort=") {
            visit.page(&format!("/?sort={link}"));
        }
    }
}

// Large folders.

#[test]
fn pages_of_a_large_folder_hold_every_entry_once() {
    let root = TempRoot::new();
    for number in 0..5_000 {
        root.write(&format!("file {number}.txt"), b"");
    }
    let visit = Visit::to(&root, &[]);
    let (mut found, mut path) = (Vec::new(), "/".to_owned());
    let mut pages = 0;
    loop {
        let page = visit.page(&path);
        pages += 1;
        let on_page = entries(&page);
        assert!(on_page.len() <= 2_000);
        let total = format!("{} of 5,000 entries", ["2,000", "4,000", "5,000"][pages - 1]);
        assert!(page.text().contains(&total), "{total}");
        assert_eq!(links(&page, "rel=\"first\" href=\"").is_empty(), pages == 1);
        found.extend(on_page);
        match links(&page, "rel=\"next\" href=\"./").pop() {
            Some(next) => path = format!("/{next}"),
            None => break,
        }
    }
    let all: Vec<_> = (0..5_000).map(|number| format!("file%20{number}.txt")).collect();
    assert_eq!(found, all);
    // Who turns no pages gets all of it at once, in the same order.
    assert_eq!(entries(&visit.get("/")), all);
    assert_eq!(entries(&visit.page("/?all=1")), all);
    assert_eq!(visit.page("/?all=1").header("etag"), None);
    assert_eq!(names(&visit.json("/?format=json&all=1")).len(), 5_000);
}

#[test]
fn entries_that_vanish_between_pages_cost_no_other() {
    let root = TempRoot::new();
    for number in 0..5_000 {
        root.write(&format!("{number}.txt"), b"");
    }
    let visit = Visit::to(&root, &[]);
    let first = visit.json("/?format=json");
    assert_eq!((first["path"].as_str(), names(&first).len()), (Some("/"), 2_000));
    // With the entry that the next page begins behind, and some on either side.
    for number in 1_990..2_010 {
        fs::remove_file(root.join(&format!("{number}.txt"))).unwrap();
    }
    let mut found: Vec<String> = names(&first).into_iter().map(str::to_owned).collect();
    let mut next = first["next"].as_str().map(str::to_owned);
    while let Some(link) = next {
        let page = visit.json(&link.replacen("./", "/", 1));
        found.extend(names(&page).into_iter().map(str::to_owned));
        next = page["next"].as_str().map(str::to_owned);
    }
    let kept = (0..2_000).chain(2_010..5_000).map(|number| format!("{number}.txt"));
    assert!(found.iter().eq(kept.collect::<Vec<_>>().iter()), "{} entries", found.len());
    let rest = visit.page("/?after=f.9999.txt");
    assert!(entries(&rest).is_empty() && rest.text().contains("Nothing follows"));
}

#[test]
fn programs_find_each_file_once_and_no_other_form_of_it() {
    let root = TempRoot::new();
    for name in ["a b.mp3", "picture.jpg", "sub/film.mp4"] {
        root.write(name, b"x");
    }
    let visit = Visit::to(&root, &[]);
    let hrefs = |target: &str| {
        let mut links = links(&visit.get(target), "href=\"");
        links.retain(|link| !link.starts_with("data:"));
        links
    };
    assert_eq!(hrefs("/"), ["./sub/", "./a%20b.mp3", "./picture.jpg"]);
    assert_eq!(hrefs("/sub/"), ["../", "../", "./film.mp4"]);
    // A person at a browser finds more.
    let page = visit.page("/");
    for link in ["a%20b.mp3?view=play", "?format=zip", "?format=m3u", "?view=grid"] {
        assert!(links(&page, "href=\"./").contains(&link.to_owned()), "{link}");
    }
}

// JSON.

#[test]
fn json_names_every_entry_and_leads_to_it() {
    const NAMES: [&[u8]; 10] = [
        b"two words.mkv",
        b"100% #?&=+.mp4",
        b"quote\"back\\slash.txt",
        b"<b>.html",
        b"a:b.txt",
        b"new\nline\ttab\x01.txt",
        b"not utf-8 \xff.txt",
        b"%2e%2e",
        "\u{fc}ml\u{e4}ut \u{1f3b5}.mp3".as_bytes(),
        b"\x7f\xc2\x80.bin",
    ];
    let root = TempRoot::new();
    let folder = root.join("sub folder");
    fs::create_dir_all(folder.join("inner")).unwrap();
    for name in NAMES {
        fs::write(folder.join(OsStr::from_bytes(name)), name).unwrap();
    }
    symlink("gone", folder.join("dangling")).unwrap();
    symlink("/etc/passwd", folder.join("outside")).unwrap();
    let visit = Visit::to(&root, &[]);
    let listing = visit.json("/sub%20folder/?format=json");
    assert_eq!(listing["path"], "/sub folder/");
    assert_eq!(listing["next"], Value::Null);
    let entries = listing["entries"].as_array().unwrap();
    assert_eq!(entries.len(), NAMES.len() + 1);
    let mut found = BTreeSet::new();
    for entry in entries {
        let answer = visit.follow("/sub%20folder/", entry["href"].as_str().unwrap());
        assert_eq!(answer.status, 200, "{entry}");
        if entry["type"] == "folder" {
            assert_eq!((&entry["size"], &entry["media_type"]), (&Value::Null, &Value::Null));
            continue;
        }
        // Each file holds its own name.
        assert_eq!(entry["name"].as_str().unwrap(), String::from_utf8_lossy(&answer.body));
        assert_eq!(entry["size"].as_u64().unwrap(), answer.body.len() as u64);
        assert_eq!(entry["media_type"].as_str(), answer.header("content-type"));
        let time = entry["modified"].as_str().unwrap();
        assert!(time.len() == 20 && time.starts_with("20") && time.ends_with('Z'), "{time}");
        found.insert(answer.body);
    }
    assert_eq!(found, NAMES.iter().map(|name| name.to_vec()).collect());
}

#[test]
fn accept_decides_between_page_and_json() {
    let root = TempRoot::new();
    root.write("a.txt", b"");
    let visit = Visit::to(&root, &[]);
    for (accept, media_type) in [
        (BROWSER, "text/html; charset=utf-8"),
        ("*/*", "text/html; charset=utf-8"),
        ("application/json", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("text/html, application/json;q=0.9", "text/html; charset=utf-8"),
    ] {
        let answer = block_on(visit.client.get_with("/", "accept", accept));
        assert_eq!(answer.header("content-type"), Some(media_type), "{accept}");
        assert!(answer.header("vary").unwrap().split(", ").any(|name| name == "accept"));
    }
}

// What is new.

#[test]
fn unchanged_folders_are_not_sent_again() {
    let root = TempRoot::new();
    root.write("dir/a.mp3", b"1");
    let visit = Visit::to(&root, &[]);
    let targets = [
        "/dir/",
        "/dir/?view=grid",
        "/dir/?format=json",
        "/dir/?format=m3u",
        "/dir/a.mp3?view=play",
    ];
    let tags: BTreeSet<_> = targets
        .iter()
        .map(|target| {
            let tag = visit.page(target).header("etag").unwrap().to_owned();
            let mut request = visit.client.request(Method::Get, target);
            request.insert_header("accept", BROWSER);
            request.insert_header("if-none-match", &*tag);
            let again = block_on(visit.client.ask(request));
            assert_eq!((again.status, again.body.len()), (304, 0), "{target}");
            assert_eq!(again.header("etag"), Some(&*tag));
            assert!(again.header("vary").is_some() && again.header("cache-control").is_some());
            tag
        })
        .collect();
    assert_eq!(tags.len(), targets.len(), "each has a tag of its own");
    let before = visit.page("/dir/").header("etag").unwrap().to_owned();
    root.write("dir/b.mp3", b"2");
    let after = visit.page("/dir/");
    assert_ne!(after.header("etag"), Some(&*before));
    fs::write(root.join("dir/b.mp3"), b"longer").unwrap();
    assert_ne!(visit.page("/dir/").header("etag"), after.header("etag"));
    let failed = block_on(visit.client.get_with("/dir/", "if-match", &before));
    assert_eq!(failed.status, 412);
}

#[test]
fn head_has_the_headers_of_get() {
    let root = TempRoot::new();
    root.write("a.mp4", b"1");
    let visit = Visit::to(&root, &[]);
    for target in ["/", "/?format=json", "/?format=m3u", "/a.mp4?view=play", "/a.mp4?format=m3u"] {
        let head = block_on(visit.client.ask(visit.client.request(Method::Head, target)));
        let get = visit.get(target);
        assert_eq!((head.status, head.body.len()), (200, 0), "{target}");
        for name in ["content-type", "etag", "vary", "cache-control", "content-security-policy"] {
            assert_eq!(head.header(name), get.header(name), "{name} of {target}");
        }
        assert_eq!(get.header("accept-ranges"), None);
        assert_eq!(get.header("x-content-type-options"), Some("nosniff"));
    }
    let part = block_on(visit.client.get_with("/", "range", "bytes=0-9"));
    assert_eq!(part.status, 200);
}

// Pages.

#[test]
fn pages_fetch_nothing_from_elsewhere_and_run_nothing() {
    let root = TempRoot::new();
    root.write("<script>alert(1).mp4", b"");
    root.write("a.jpg", b"");
    let visit = Visit::to(&root, &[]);
    let media = "/%3Cscript%3Ealert%281%29.mp4?view=play";
    for target in ["/", "/?view=grid", "/a.jpg?view=play", media] {
        let page = visit.page(target);
        let policy = page.header("content-security-policy").unwrap();
        for part in [
            "default-src 'none'",
            "style-src 'sha256-",
            "img-src 'self' data:",
            "media-src 'self'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.contains(part), "{part} in {policy}");
        }
        let text = page.text();
        assert!(!text.contains("<script") && !text.contains(" style=\""), "{target}");
        assert!(!text.contains("src=\"http") && !text.contains("href=\"http"), "{target}");
        assert!(text.contains("<link rel=\"icon\" href=\"data:"), "{target}");
    }
}

#[test]
fn grid_shows_pictures_and_stays_a_grid() {
    let root = TempRoot::new();
    root.write("a b.jpg", b"");
    root.write("raw.heic", b"");
    root.write("Day 1/c.png", b"");
    root.write("plain/notes.txt", b"");
    let visit = Visit::to(&root, &[]);
    assert_eq!(links(&visit.page("/"), "href=\"./?view="), ["grid"]);
    assert!(links(&visit.page("/plain/"), "href=\"./?view=").is_empty());
    let grid = visit.page("/?view=grid");
    assert_eq!(
        links(&grid, "<img loading=\"lazy\" decoding=\"async\" alt=\"\" src=\""),
        ["./a%20b.jpg"]
    );
    let links = links(&grid, "href=\"./");
    for link in ["a%20b.jpg?view=play", "raw.heic?view=play", "Day%201/?view=grid", "?view=list"] {
        assert!(links.contains(&link.to_owned()), "{link} in {links:?}");
    }
    for link in links {
        assert_eq!(visit.get(&format!("/{link}")).status, 200, "{link}");
    }
}

#[test]
fn media_page_has_subtitles_and_neighbours() {
    let root = TempRoot::new();
    media::copy(root.path()).unwrap();
    for name in ["Film 2.mp4", "Film 10.mp4"] {
        fs::copy(root.join("film.mp4"), root.join(name)).unwrap();
    }
    let subtitles = "1\n00:00:01,000 --> 00:00:02,000\nHello\n";
    for name in ["Film 2.en.srt", "Film 2.srt", "Film 20.srt", "film.de.srt"] {
        root.write(name, subtitles.as_bytes());
    }
    symlink("gone.mp4", root.join("Film 3.mp4")).unwrap();
    let visit = Visit::to(&root, &[]);
    let page = visit.page("/Film%202.mp4?view=play");
    let text = page.text();
    assert!(
        text.contains("<video controls playsinline preload=\"metadata\" src=\"./Film%202.mp4\"")
    );
    let tracks = links(&page, "<track kind=\"subtitles\" src=\"./");
    assert_eq!(tracks, ["Film%202.srt?format=vtt", "Film%202.en.srt?format=vtt"]);
    assert_eq!(text.matches(" default>").count(), 1);
    let track = visit.get(&format!("/{}", tracks[0]));
    assert!(track.text().starts_with("WEBVTT") && track.text().contains("Hello"));
    // What cannot be opened is no neighbour, and neither is a song.
    assert_eq!(links(&page, "rel=\"prev\" href=\"./"), ["clip.webm?view=play"]);
    assert_eq!(links(&page, "rel=\"next\" href=\"./"), ["Film%2010.mp4?view=play"]);
    let last = visit.page("/film.ts?view=play");
    assert!(links(&last, "rel=\"next\" href=\"./").is_empty());
    assert!(visit.page("/song.mp3?view=play").text().contains("<audio controls"));
    assert!(visit.page("/picture.png?view=play").text().contains("<img src=\"./picture.png\""));
    // A text has no such page, and a film without the word is a film.
    assert_eq!(
        visit.page("/notes.txt?view=play").header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(visit.page("/film.mp4").header("content-type"), Some("video/mp4"));
    assert_eq!(visit.get("/none.mp4?view=play").status, 404);
}

#[test]
fn empty_folder_says_so() {
    let root = TempRoot::new();
    fs::create_dir(root.join("empty")).unwrap();
    let visit = Visit::to(&root, &[]);
    let page = visit.page("/empty/");
    assert!(page.text().contains("This folder is empty."));
    assert!(names(&visit.json("/empty/?format=json")).is_empty());
    assert_eq!(visit.get("/empty/?format=m3u").text(), "#EXTM3U\n");
}

// Playlists.

#[test]
fn playlist_plays_what_the_folder_holds() {
    let root = TempRoot::new();
    media::copy(root.path()).unwrap();
    root.write("evil\n#EXTINF:1,x\r.mp3", b"");
    let visit = Visit::to(&root, &[]);
    let list = visit.get("/?format=m3u");
    assert_eq!(list.header("content-type"), Some("audio/x-mpegurl; charset=utf-8"));
    let disposition = list.header("content-disposition").unwrap();
    assert!(disposition.starts_with("attachment; filename=\"files.m3u8\""), "{disposition}");
    let base = format!("http://{}/", visit._pair.proxy.http);
    let lines: Vec<_> = list.text().lines().collect();
    assert_eq!(lines[0], "#EXTM3U");
    let (mut titles, mut files) = (Vec::new(), Vec::new());
    for pair in lines[1..].chunks(2) {
        titles.push(pair[0].strip_prefix("#EXTINF:-1,").unwrap());
        files.push(pair[1].strip_prefix(&base).unwrap());
    }
    let wanted = [
        "clip.webm",
        "evil%0A%23EXTINF%3A1,x%0D.mp3",
        "film.avi",
        "film.mkv",
        "film.mp4",
        "film.ts",
        "song.mp3",
    ];
    assert_eq!(files, wanted);
    assert_eq!(titles[1], "evil\u{fffd}#EXTINF:1,x\u{fffd}.mp3");
    for file in files {
        assert_eq!(visit.get(&format!("/{file}")).status, 200, "{file}");
    }
    let one = visit.get("/film.mkv?format=m3u");
    assert_eq!(one.text(), format!("#EXTM3U\n#EXTINF:-1,film.mkv\n{base}film.mkv\n"));
    // A program of the machine reads it and finds what it leads to.
    let found = media::probe(format!("{base}song.mp3")).unwrap();
    assert_eq!(found["format"]["format_name"], "mp3");
}

// Which entries there are.

#[test]
fn hidden_names_are_listed_only_on_request() {
    let root = TempRoot::new();
    root.write(".hidden/x", b"");
    root.write(".film.mp4", b"");
    root.write("shown.mp4", b"");
    let forms = ["/?format=json", "/", "/?view=grid", "/?format=m3u", "/shown.mp4?view=play"];
    for (args, count) in [(&[][..], 0), (&["--show-hidden"], 1)] {
        let visit = Visit::to(&root, args);
        for form in forms {
            let text = visit.page(form).text().to_owned();
            assert_eq!(text.contains(".film.mp4"), count == 1, "{form}");
        }
    }
}

#[test]
fn index_stands_for_its_folder_unless_something_else_is_asked_for() {
    let root = TempRoot::new();
    root.write("site/index.html", b"<h1>mine</h1>");
    root.write("odd/index.html/x", b"");
    let visit = Visit::to(&root, &[]);
    let index = visit.page("/site/");
    assert_eq!(
        (index.text(), index.header("content-type")),
        ("<h1>mine</h1>", Some("text/html; charset=utf-8"))
    );
    assert_eq!(index.header("content-security-policy"), Some("sandbox"));
    for target in ["/site/?view=list", "/site/?view=grid", "/site/?sort=size"] {
        assert!(visit.page(target).text().contains("href=\"./index.html\""), "{target}");
    }
    assert_eq!(names(&visit.json("/site/?format=json")), ["index.html"]);
    assert!(visit.page("/odd/").text().contains("href=\"./index.html/\""));
    drop(visit);
    let visit = Visit::to(&root, &["--no-index"]);
    assert!(visit.page("/site/").text().contains("href=\"./index.html\""));
}

#[test]
fn shares_are_folders_of_the_top() {
    let (root, films) = (TempRoot::new(), TempRoot::new());
    root.write("a.txt", b"");
    root.write("films/shadowed.txt", b"");
    films.write("sub/film.mp4", b"film");
    let share = |name: &str| format!("--share={name}={}", films.path().display());
    let visit = Visit::to(&root, &[&share("films"), &share("Attic")]);
    let listing = visit.json("/?format=json");
    assert_eq!(names(&listing), ["Attic", "films", "a.txt"]);
    assert_eq!(listing["entries"][1]["href"], "./films/");
    assert_eq!(names(&visit.json("/films/?format=json")), ["sub"]);
    let inner = visit.page("/films/sub/");
    for part in ["href=\"../../\"", "href=\"../\"", "<h1><bdi>sub</bdi></h1>"] {
        assert!(inner.text().contains(part), "{part}");
    }
    assert_eq!(visit.json("/films/sub/?format=json")["path"], "/films/sub/");
    let list = visit.get("/films/sub/?format=m3u");
    assert!(list.text().ends_with("/films/sub/film.mp4\n"), "{}", list.text());
}

/// Serves folders by their names alone, with nothing at `/`.
fn serve_shares(proxy: &Proxy, shares: &[(&str, &Path)]) -> Agent {
    let address = proxy.tunnel.to_string();
    let mut args: Vec<_> = ["--insecure", "--proxy", &address].map(str::to_owned).into();
    args.extend(shares.iter().map(|(name, path)| format!("--share={name}={}", path.display())));
    let agent = Agent::start(&args);
    wait_for_agent(proxy.http);
    agent
}

#[test]
fn top_without_a_share_lists_them() {
    let films = TempRoot::new();
    films.write("film.mp4", b"film");
    let proxy = Proxy::start(&["--allow-anonymous"]);
    let _agent = serve_shares(&proxy, &[("films", films.path()), ("B", films.path())]);
    block_on(async {
        let client = Client::connect(proxy.http).await;
        let page = client.get_with("/", "accept", BROWSER).await;
        assert_eq!(
            (page.status, entries(&page)),
            (200, vec!["B/".to_owned(), "films/".to_owned()])
        );
        assert!(!page.text().contains("format=zip"), "there is no folder to pack");
        let bare = client.get("/").await;
        let tag = bare.header("etag").unwrap();
        assert_ne!(page.header("etag"), Some(tag));
        assert_eq!(client.get_with("/", "if-none-match", tag).await.status, 304);
        let json = client.get_with("/", "accept", "application/json").await;
        let listing: Value = serde_json::from_slice(&json.body).unwrap();
        assert_eq!((names(&listing), &listing["path"]), (vec!["B", "films"], &Value::from("/")));
        assert_eq!(listing["entries"][0]["modified"], Value::Null);
        assert_eq!(client.get("/films/film.mp4").await.text(), "film");
        for target in ["/a.txt", "/nope/", "/index.html"] {
            assert_eq!(client.get(target).await.status, 404, "{target}");
        }
        let put = client.ask(client.request(Method::Put, "/")).await;
        assert_eq!((put.status, put.header("allow")), (405, Some("GET, HEAD, OPTIONS")));
        let options = client.ask(client.request(Method::Options, "/")).await;
        assert_eq!(options.status, 204);
        let head = client.ask(client.request(Method::Head, "/")).await;
        assert_eq!(head.status, 200);
    });
}
