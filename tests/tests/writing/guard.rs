//! Requests that pages of other sites make.

use crate::Share;

#[test]
fn only_the_own_site_and_programs_may_change() {
    let share = Share::new();
    let own = format!("http://{}", share.http());
    let secure = own.replace("http:", "https:");
    let cases = [
        (vec![], true),
        (vec![("origin", own.as_str())], true),
        (vec![("origin", own.as_str()), ("sec-fetch-site", "same-origin")], true),
        (vec![("sec-fetch-site", "none")], true),
        // A trusted front end speaks for its clients.
        (
            vec![
                ("origin", "https://nas.example"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "nas.example"),
            ],
            true,
        ),
        (vec![("origin", own.as_str()), ("x-forwarded-host", "nas.example")], false),
        (vec![("origin", own.as_str()), ("sec-fetch-site", "cross-site")], false),
        (vec![("sec-fetch-site", "same-site")], false),
        (vec![("origin", secure.as_str())], false),
        (vec![("origin", "http://127.0.0.1")], false),
        (vec![("origin", "http://evil.example")], false),
        (vec![("origin", "null")], false),
    ];
    let begun = share.send("PUT", "/begun", &[("upload-complete", "?0")], b"");
    let upload = begun.headers["location"].clone();
    for (headers, taken) in &cases {
        share.root.write("old", b"old");
        let status = |taken_as: u16| if *taken { taken_as } else { 403 };
        assert_eq!(share.put("/new", headers, b"x"), status(201), "{headers:?}");
        assert_eq!(share.status("DELETE", "/new", headers), status(204), "{headers:?}");
        assert_eq!(share.status("MKCOL", "/dir", headers), status(201), "{headers:?}");
        let to = [headers.as_slice(), &[("destination", "/dir/moved")]].concat();
        assert_eq!(share.status("MOVE", "/old", &to), status(201), "{headers:?}");
        let part = [headers.as_slice(), &[("upload-complete", "?0")]].concat();
        assert_eq!(share.put("/part", &part, b"x"), status(201), "{headers:?}");
        let other = [("upload-offset", "9"), ("upload-complete", "?0")];
        let partial = [("content-type", "application/partial-upload")];
        let more = [headers.as_slice(), &other, &partial].concat();
        assert_eq!(share.send("PATCH", &upload, &more, b"").status, status(409), "{headers:?}");
        // A form of another site has no token of ours either.
        assert_eq!(share.send("POST", "/", headers, b"").status, status(415), "{headers:?}");
        // Reading is everybody's.
        assert_eq!(share.status("GET", "/", headers), 200);
        for name in ["dir/moved", "old"] {
            let _ = std::fs::remove_file(share.root.join(name));
        }
        let _ = std::fs::remove_dir(share.root.join("dir"));
    }
}
