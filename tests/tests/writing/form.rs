//! The upload form of a listing.

use spdy_tests::{
    fixture::{Random, TempRoot, finished, tool},
    http::{Request, Response},
};

use crate::Share;

/// The token in the form of a page.
pub(crate) fn token(share: &Share, target: &str) -> String {
    let page = Request::get(target).send(share.http()).unwrap().text();
    let rest = page.split("name=\"token\" value=\"").nth(1).unwrap();
    rest.split('"').next().unwrap().to_owned()
}

/// A field: its name, the name of its file, its value.
pub(crate) type Field<'a> = (&'a str, Option<&'a str>, &'a [u8]);

fn body(fields: &[Field<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, value) in fields {
        let file = file.map_or_else(String::new, |file| format!("; filename=\"{file}\""));
        let head =
            format!("--XyZ\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
        body.extend([head.as_bytes(), value, b"\r\n"].concat());
    }
    body.extend(b"--XyZ--\r\n");
    body
}

pub(crate) fn post(share: &Share, target: &str, fields: &[Field<'_>]) -> Response {
    let headers = [("content-type", "multipart/form-data; boundary=XyZ")];
    share.send("POST", target, &headers, &body(fields))
}

#[test]
fn form_of_curl_stores_files() {
    let share = Share::new();
    std::fs::create_dir(share.root.join("sub folder")).unwrap();
    let from = TempRoot::new();
    from.random_file("a.bin", 3_000_000, 1);
    from.write("a\"b;c.txt", b"text");
    let mut curl = std::process::Command::new(tool("curl"));
    let url = format!("http://{}/sub%20folder/", share.http());
    curl.args(["-sS", "-D", "-", "-o", "/dev/null", "-F"]);
    curl.arg(format!("token={}", token(&share, "/sub%20folder/")));
    let quoted = from.join("a\"b;c.txt").display().to_string().replace('"', "\\\"");
    curl.args(["-F", &format!("file=@{}", from.join("a.bin").display())]);
    curl.args(["-F", &format!("file=@\"{quoted}\"")]).args(["-F", "folder=new one", &url]);
    let head = finished(&mut curl, "");
    assert!(head.contains(" 303 ") && head.contains("location: /sub%20folder/\r\n"), "{head}");
    assert_eq!(share.read("sub folder/a.bin"), std::fs::read(from.join("a.bin")).unwrap());
    let mut names = share.names();
    names.retain(|name| name != "sub folder" && name != "sub folder/a.bin");
    // Some versions of curl write a quote as an escape.
    let escaped = "sub folder/a%22b;c.txt".to_owned();
    assert!(names.contains(&"sub folder/a\"b;c.txt".to_owned()) || names.contains(&escaped));
    assert!(names.contains(&"sub folder/new one".to_owned()) && names.len() == 2, "{names:?}");
}

#[test]
fn form_is_stored_in_whatever_pieces_it_comes() {
    let share = Share::new();
    let token = token(&share, "/");
    // Nearly a boundary, again and again.
    let first = b"\r\n--Xy\r\n\r\n--XYZ\r\n-\r".repeat(30);
    let second = Random::octets(70_000, 2);
    let seed = 7;
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..6 {
        let body = body(&[
            ("token", None, token.as_bytes()),
            ("replace", None, b"1"),
            ("file", Some("first"), &first),
            ("file", Some("C:\\films\\second"), &second),
            ("file", Some(""), b""),
        ]);
        let head = format!(
            "Content-Type: multipart/form-data; boundary=XyZ\r\nContent-Length: {}\r\n",
            body.len()
        );
        let mut visitor = share.begin("POST", "/", &head, b"");
        let mut rest = body.as_slice();
        while !rest.is_empty() {
            let most = if round == 0 { 40_000 } else { 1 << (2 * round) };
            let (piece, after) = rest.split_at(random.usize(1..=most).min(rest.len()));
            visitor.send(piece);
            rest = after;
        }
        assert_eq!(Response::read(&mut visitor, "POST").unwrap().status, 303);
        assert_eq!((share.read("first"), share.read("second")), (first.clone(), second.clone()));
        assert_eq!(share.names(), ["first", "second"]);
    }
}

#[test]
fn files_that_are_there_are_kept_unless_the_visitor_says_so() {
    let share = Share::new();
    share.root.write("old", b"old");
    std::fs::create_dir(share.root.join("dir")).unwrap();
    let token = token(&share, "/");
    let token: Field<'_> = ("token", None, token.as_bytes());
    let files: [Field<'_>; 5] = [
        ("file", Some("new"), b"new"),
        ("file", Some("old"), b"changed"),
        ("file", Some("dir"), b"x"),
        ("file", Some(".bashrc"), b"x"),
        ("file", Some("a/<b>&.txt"), b"new"),
    ];
    let answer = post(&share, "/", &[&[token][..], &files].concat());
    assert_eq!(
        (answer.status, answer.headers["content-type"].as_str()),
        (409, "text/html; charset=utf-8")
    );
    let page = answer.text();
    for part in [
        "<bdi>old: There is",
        "<bdi>dir: There is",
        ".bashrc: The name",
        "<bdi>new</bdi>",
        "&lt;b&gt;&amp;.txt",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    assert!(answer.headers["content-security-policy"].contains("default-src 'none'"));
    assert_eq!(share.names(), ["<b>&.txt", "dir", "new", "old"]);
    assert_eq!(share.read("old"), b"old");
    let replace: Field<'_> = ("replace", None, b"1");
    let answer = post(&share, "/", &[token, replace, files[0], files[1]]);
    assert_eq!((answer.status, answer.headers["location"].as_str()), (303, "/"));
    assert_eq!(share.read("old"), b"changed");
    // A folder is made once, and not over a file.
    for (folder, status) in
        [("x y", 303), ("x y", 409), ("old", 409), ("a/b", 400), ("..", 400), ("", 303)]
    {
        let answer = post(&share, "/", &[token, ("folder", None, folder.as_bytes())]);
        assert_eq!(answer.status, status, "{folder}");
    }
}

#[test]
fn form_without_a_token_of_ours_is_refused() {
    let other = TempRoot::new();
    let argument = format!("--share-rw=other={}", other.path().display());
    let share = Share::with(&[&argument]);
    let own = token(&share, "/");
    let (hour, tag) = own.split_once('.').unwrap();
    let old = format!("{}.{tag}", hour.parse::<i64>().unwrap() - 25);
    let file: Field<'_> = ("file", Some("a"), b"x");
    let folder: Field<'_> = ("folder", None, b"b");
    for wrong in ["", "x", tag, &old, &token(&share, "/other/")] {
        for field in [file, folder] {
            let answer = post(&share, "/", &[("token", None, wrong.as_bytes()), field]);
            assert_eq!(answer.status, 403, "{wrong}");
        }
    }
    assert_eq!(post(&share, "/", &[file, ("token", None, own.as_bytes())]).status, 403);
    assert_eq!(post(&share, "/", &[]).status, 403);
    assert!(share.names().is_empty());
    // A page may be used more than once.
    for name in ["a", "b"] {
        let fields = [("token", None, own.as_bytes()), ("file", Some(name), &b"x"[..])];
        assert_eq!(post(&share, "/", &fields).status, 303);
    }
}

#[test]
fn body_that_is_no_form_is_refused() {
    let share = Share::new();
    let token = token(&share, "/");
    let whole = body(&[("token", None, token.as_bytes()), ("file", Some("a"), b"content")]);
    let form = [("content-type", "multipart/form-data; boundary=XyZ")];
    assert_eq!(share.send("POST", "/", &[], &whole).status, 415);
    assert_eq!(share.send("POST", "/", &[("content-type", "text/plain")], &whole).status, 415);
    for len in [0, 10, whole.len() - 30, whole.len() - 6] {
        assert_eq!(share.send("POST", "/", &form, &whole[..len]).status, 400, "{len}");
        assert!(share.names().is_empty(), "{len}");
    }
    assert_eq!(share.send("POST", "/none/", &form, &whole).status, 404);
    assert_eq!(share.send("POST", "/a", &form, &whole).status, 405);
    assert_eq!(share.send("POST", "/", &form, &whole).status, 303);
}

#[test]
fn large_files_of_a_form_are_refused_alone() {
    let share = Share::with(&["--max-upload", "1000"]);
    let token = token(&share, "/");
    let answer = post(
        &share,
        "/",
        &[
            ("token", None, token.as_bytes()),
            ("file", Some("large"), &[7; 100_000]),
            ("file", Some("small"), &[7; 1_000]),
        ],
    );
    assert_eq!((answer.status, share.names()), (413, vec!["small".to_owned()]));
}
