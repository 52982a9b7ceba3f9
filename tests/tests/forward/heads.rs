//! Paths and headers, there and back.

use spdy_tests::{fixture::Pair, http::Request, local::Local, visitor::Visitor};

use crate::{Forwarded, TempRoot};

#[test]
fn request_reaches_the_service_below_its_prefix() {
    let forwarded = Forwarded::start("/base", |call| {
        let (len, _) = call.body().unwrap();
        call.answer(format!("got {len}"));
    });
    let http = forwarded.pair.proxy.http;
    let headers = [
        ("Accept", "text/x"),
        ("Cookie", "a=1; b=2"),
        ("Authorization", "Bearer of the service"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Original-URL", "/evil"),
        ("X_Forwarded_Host", "evil"),
        ("TE", "trailers"),
        ("Connection", "X-Hop"),
        ("X-Hop", "1"),
    ];
    let request =
        Request { headers: &headers, ..Request::with_body("PUT", "/x/a%20b?q=%2F", b"abc") };
    let answer = request.send(http).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "got 3"));
    let asked = forwarded.service.last();
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("PUT", "/base/a%20b?q=%2F"));
    for (name, value) in [
        ("host", forwarded.service.address().to_string()),
        ("accept", "text/x".to_owned()),
        ("cookie", "a=1; b=2".to_owned()),
        ("authorization", "Bearer of the service".to_owned()),
        ("content-length", "3".to_owned()),
        ("connection", "close".to_owned()),
        ("via", "1.1 spdy-agent".to_owned()),
        // The test is a trusted front end, which may speak for others.
        ("x-forwarded-for", "192.0.2.1, 127.0.0.1".to_owned()),
        ("x-forwarded-proto", "http".to_owned()),
        ("x-forwarded-host", http.to_string()),
        ("x-forwarded-prefix", "/x".to_owned()),
    ] {
        assert_eq!(asked.all(name), [value.as_str()], "{name}");
    }
    assert!(!asked.all("x-request-id").is_empty());
    for name in ["x-original-url", "x_forwarded_host", "te", "x-hop", "transfer-encoding", "expect"]
    {
        assert!(asked.all(name).is_empty(), "{name}");
    }
}

#[test]
fn prefix_and_host_are_kept_where_the_owner_says_so() {
    let forwarded = Forwarded::start("/base,keep-prefix,keep-host", |call| call.answer("here"));
    assert_eq!(forwarded.get("/x/a/").text(), "here");
    let asked = forwarded.service.last();
    assert_eq!(asked.target, "/base/x/a/");
    assert_eq!(asked.all("host"), [forwarded.pair.proxy.http.to_string()]);
    assert!(asked.all("x-forwarded-prefix").is_empty());
}

#[test]
fn prefixes_hold_whole_segments_and_the_longest_wins() {
    let (one, two) =
        (Local::start(|call| call.answer("one")), Local::start(|call| call.answer("two")));
    let root = TempRoot::new();
    root.write("xyz", b"a file");
    root.write("folder/file", b"in a folder");
    let flags = [
        format!("--forward=/x=http://{}", one.address()),
        format!("--forward=/x/y=http://{}", two.address()),
        format!("--forward=/folder/service=http://{}", two.address()),
    ];
    let pair = Pair::with(root.path(), &[], &flags.each_ref().map(String::as_str));
    let get = |target: &str| Request::get(target).send(pair.proxy.http).unwrap();
    for (target, text) in [
        ("/xyz", "a file"),
        ("/x/", "one"),
        ("/x/yz", "one"),
        ("/x/y/", "two"),
        ("/x/y/z?q", "two"),
        ("/folder/file", "in a folder"),
        ("/folder/service/", "two"),
    ] {
        assert_eq!((get(target).status, get(target).text().as_str()), (200, text), "{target}");
    }
    for (target, location) in
        [("/x", "/x/"), ("/x?a=b&c=%20/", "/x/?a=b&c=%20/"), ("/x/y?", "/x/y/?")]
    {
        let answer = get(target);
        assert_eq!(
            (answer.status, answer.headers["location"].as_str()),
            (308, location),
            "{target}"
        );
    }
    assert_eq!((get("/X/").status, get("/%78/").status), (404, 404));
}

#[test]
fn no_path_and_no_host_leads_out_of_the_base() {
    let forwarded = Forwarded::start("/base", |call| call.answer("base"));
    let elsewhere = Local::start(|call| call.answer("elsewhere"));
    let at = elsewhere.address();
    let ask = |target: &str, host: &str| {
        let mut visitor = Visitor::connect(forwarded.pair.proxy.http);
        visitor.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        let status = visitor.head().status;
        visitor.finish();
        status
    };
    for target in [
        "/x/..",
        "/x/../../secret",
        "/x/a/../../secret",
        "/x/%2e%2e/secret",
        "/x/%2E./secret",
        "/x/a%2f..%2f..%2fsecret",
        "/x/..%5csecret",
        "/x/..\\secret",
        "/x/..;/secret",
        "/x/%252e%252e/secret",
    ] {
        assert_eq!(ask(target, "nas1"), 400, "{target}");
    }
    assert_eq!(forwarded.service.connections(), 0);
    for (target, host, wanted) in [
        (format!("/x//{at}/a"), "nas1".to_owned(), format!("/base//{at}/a")),
        (format!("/x/http://{at}/a"), "nas1".to_owned(), format!("/base/http://{at}/a")),
        (format!("/x/@{at}/a"), "nas1".to_owned(), format!("/base/@{at}/a")),
        (format!("http://{at}/x/a"), at.to_string(), "/base/a".to_owned()),
        ("/x/a".to_owned(), at.to_string(), "/base/a".to_owned()),
        (
            "/x/a%2Fb%2fc%00%5C;d=%3F".to_owned(),
            "h".to_owned(),
            "/base/a%2Fb%2fc%00%5C;d=%3F".to_owned(),
        ),
        ("/x/a?../../b".to_owned(), "h".to_owned(), "/base/a?../../b".to_owned()),
    ] {
        assert_eq!(ask(&target, &host), 200, "{target}");
        assert_eq!(forwarded.service.last().target, wanted, "{target}");
        let host = forwarded.service.address().to_string();
        assert_eq!(forwarded.service.last().all("host"), [host]);
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn locations_and_cookies_are_those_of_visitors() {
    let forwarded = Forwarded::start("", |call| {
        let at = call.asked.all("host")[0].to_owned();
        let public = call.asked.all("x-forwarded-host")[0].to_owned();
        let location = match call.asked.target.as_str() {
            "/path" => "/web/?a#b".to_owned(),
            "/own" => format!("http://{at}/login"),
            "/public" => format!("https://{public}/login"),
            "/heeds" => "/x/login".to_owned(),
            "/relative" => "../login".to_owned(),
            _ => "http://elsewhere.example/login".to_owned(),
        };
        call.send(format!(
            "HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Location: /c\r\n\
             Set-Cookie: a=1; Path=/; Domain=localhost; HttpOnly\r\nSet-Cookie: b=2; path=/web\r\n\
             Set-Cookie: __Host-c=3; Path=/; Secure\r\nAlt-Svc: h3=\":443\"\r\n\
             Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n"
        ));
    });
    let public = forwarded.pair.proxy.http.to_string();
    for (target, location) in [
        ("/x/path", "/x/web/?a#b".to_owned()),
        ("/x/own", "/x/login".to_owned()),
        ("/x/public", format!("https://{public}/x/login")),
        ("/x/heeds", "/x/login".to_owned()),
        ("/x/relative", "../login".to_owned()),
        ("/x/other", "http://elsewhere.example/login".to_owned()),
    ] {
        let before = forwarded.service.connections();
        let answer = forwarded.get(target);
        assert_eq!((answer.status, answer.all("location")), (302, vec![location.as_str()]));
        assert_eq!(answer.all("content-location"), ["/x/c"]);
        assert_eq!(
            answer.all("set-cookie"),
            ["a=1; Path=/x/; HttpOnly", "b=2; Path=/x/web", "__Host-c=3; Path=/; Secure"]
        );
        for name in ["alt-svc", "x-hop", "keep-alive"] {
            assert!(answer.all(name).is_empty(), "{name}");
        }
        // Nothing was followed.
        assert_eq!(forwarded.service.connections(), before + 1);
    }
}

#[test]
fn methods_pass_but_those_that_mirror() {
    let forwarded = Forwarded::start("", |call| {
        call.send("HTTP/1.1 207 Multi-Status\r\nContent-Length: 0\r\n\r\n");
    });
    let send = |method: &str| {
        let request = Request { method, ..Request::get("/x/") };
        request.send(forwarded.pair.proxy.http).unwrap().status
    };
    for method in ["GET", "HEAD", "OPTIONS", "DELETE", "PROPFIND", "MKCOL", "M-SEARCH"] {
        assert_eq!(send(method), 207, "{method}");
        let asked = forwarded.service.last();
        assert_eq!(asked.method, method);
        assert!(
            asked.all("content-length").is_empty() && asked.all("transfer-encoding").is_empty()
        );
    }
    assert_eq!(send("POST"), 207);
    assert_eq!(forwarded.service.last().all("content-length"), ["0"]);
    let before = forwarded.service.connections();
    assert_eq!(send("TRACE"), 405);
    assert_eq!(forwarded.service.connections(), before);
}

#[test]
fn a_request_that_goes_in_circles_ends() {
    let forwarded = Forwarded::start("", |call| call.answer("here"));
    let via = |value: &str| {
        let headers = [("Via", value)];
        let request = Request { headers: &headers, ..Request::get("/x/") };
        request.send(forwarded.pair.proxy.http).unwrap().status
    };
    assert_eq!(via("1.1 spdy-agent, 1.1 other"), 200);
    assert_eq!(
        forwarded.service.last().all("via"),
        ["1.1 spdy-agent, 1.1 other", "1.1 spdy-agent"]
    );
    assert_eq!(via("1.1 spdy-agent, 1.1 spdy-agent, 1.1 spdy-agent, 1.1 spdy-agent"), 508);
}
