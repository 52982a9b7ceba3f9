//! Who may come in: what visitors are asked for, what they are told, and what stays secret.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

use std::{
    collections::BTreeMap, fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, process::Command,
};

use data_encoding::BASE64;
use spdy_protocol::{
    handshake::Features,
    head::{RequestHead, ResponseHead},
    tunnel::Stream,
};
use spdy_tests::{
    fixture::{Agent, Builds, Proxy, TempRoot, finished, join, tool},
    http::{Request, Response, wait_for_agent},
    observe::{Debug, memory, memory_peak},
    service::Service,
    visitor::Visitor,
};

/// A proxy with a service behind it, the origin `nas1`, and the password that leads there.
struct Guarded {
    _service: Service,
    proxy: Proxy,
    password: String,
}

impl Guarded {
    fn start(args: &[&str]) -> Self {
        let proxy = Proxy::start(args);
        let service = Service::start(&proxy, "nas1", Features::OURS, serve);
        let password = new_password(&proxy, "nas1");
        Self { _service: service, proxy, password }
    }

    fn right(&self) -> String {
        basic(&format!("nas1:{}", self.password))
    }

    /// The answer to a GET with these headers.
    fn get(&self, headers: &[(&str, &str)]) -> Response {
        Request { headers, ..Request::get("/") }.send(self.proxy.http).unwrap()
    }

    fn status(&self, authorization: &str) -> u16 {
        self.get(&[("Authorization", authorization)]).status
    }

    fn checked(&self) -> u64 {
        Debug::of(self.proxy.http).total("passwords_checked")
    }
}

/// Answers with the request's headers; changes to the protocol `echo`, which waits for the visitor's
/// end and says one word.
async fn serve(request: RequestHead, stream: Stream) {
    let is_upgrade = request.upgrade.as_deref() == Some("echo");
    let list = |(name, value): (&str, &[u8])| format!("{name}: {}\n", value.escape_ascii());
    let text: String = request.headers.iter().map(list).collect();
    let text = if is_upgrade { "echo" } else { &text };
    let _ = stream.reply(&ResponseHead::new(if is_upgrade { 101 } else { 200 }), false).await;
    let read = || smol::future::poll_fn(|cx| stream.poll_read_chunk(cx));
    while is_upgrade && read().await.unwrap_or_default().is_some() {}
    let mut body = text.as_bytes();
    while !body.is_empty() {
        match smol::future::poll_fn(|cx| stream.poll_write(cx, body, true)).await {
            Ok(sent) => body = &body[sent..],
            // A visitor who has gone does not matter.
            Err(_) => return,
        }
    }
    if text.is_empty() {
        let _ = smol::future::poll_fn(|cx| stream.poll_finish(cx)).await;
    }
}

/// `spdy-proxy access NAME password`, which the running proxy is told of.
fn new_password(proxy: &Proxy, name: &str) -> String {
    let said = proxy.tell(&["access", name, "password"]);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, format!("user {name}").as_str()), "{said}");
    lines[1].strip_prefix("password ").unwrap().to_owned()
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", BASE64.encode(credentials.as_bytes()))
}

/// All that an answer says, but what differs from one to the next anyway.
fn told(answer: &Response) -> (u16, BTreeMap<String, String>, String) {
    let mut headers = answer.headers.clone();
    for name in ["date", "x-request-id"] {
        headers.remove(name);
    }
    (answer.status, headers, answer.text())
}

fn ask(proxy: &Proxy, host: &str, more: &str) -> Response {
    let mut visitor = Visitor::connect(proxy.http);
    visitor.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n{more}\r\n"));
    Response::read(&mut visitor, "GET").unwrap()
}

#[test]
fn password_that_pair_prints_lets_in_and_nothing_else_does() {
    let (root, config) = (TempRoot::new(), TempRoot::new());
    root.write("film", b"film");
    let proxy = Proxy::start(&[]);
    let address = proxy.tunnel.to_string();
    let paired = proxy.tell(&["pair", "nas1", "--address", &address]);
    let lines: Vec<_> = paired.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "user nas1"), "{paired}");
    let password = lines[1].strip_prefix("password ").unwrap();
    let (builds, config) = (Builds::beside(), config.join("agent.conf"));
    join(&builds, lines[2], &config);
    let _agent = Agent::joined(&builds, root.path(), &config, &["--allow-write"]);
    proxy.wait_for_tunnel("nas1");

    let right = basic(&format!("nas1:{password}"));
    let send = |method, target, authorization: Option<&str>| {
        let headers: Vec<_> =
            authorization.map(|value| ("Authorization", value)).into_iter().collect();
        Request { method, target, headers: &headers, body: None }.send(proxy.http).unwrap()
    };
    let missing = send("GET", "/film", None);
    assert_eq!(missing.status, 401);
    let asks = r#"Basic realm="nas1", charset="UTF-8""#;
    assert_eq!(missing.all("www-authenticate"), [asks]);
    assert_eq!(missing.headers["proxy-status"], "spdy-proxy; error=http_request_denied");
    assert_eq!(missing.headers["cache-control"], "no-store");
    for wrong in [
        basic("nas1:wrong"),
        basic(&format!("nas2:{password}")),
        basic(&format!("nas1:{}", password.to_uppercase())),
        basic(&format!("nas1:{password} ")),
        basic("nas1"),
        format!("Bearer {password}"),
        "Basic ?".to_owned(),
        right.replace("Basic", "Digest"),
    ] {
        assert_eq!(told(&send("GET", "/film", Some(&wrong))), told(&missing), "{wrong}");
    }
    let methods = ["HEAD", "OPTIONS", "PUT", "DELETE", "PROPFIND"];
    for method in methods {
        let refused = send(method, "/film", None);
        assert_eq!(
            (refused.status, refused.all("www-authenticate")),
            (401, vec![asks]),
            "{method}"
        );
    }
    assert_eq!(send("GET", "/film", Some(&right)).text(), "film");
    assert_eq!(send("GET", "/film", Some(&right.replace("Basic", "bAsIc"))).text(), "film");
    assert_eq!(send("HEAD", "/film", Some(&right)).status, 200);
    assert_eq!(send("OPTIONS", "/film", Some(&right)).status / 100, 2);
    let names: Vec<_> =
        fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["film"]);

    // The next code for the same origin leaves its visitors alone.
    let again = proxy.tell(&["pair", "nas1", "--address", &address]);
    assert_eq!(again.lines().count(), 1, "{again}");
    assert_eq!(send("GET", "/film", Some(&right)).status, 200);
    let renewed = proxy.tell(&["pair", "nas1", "--address", &address, "--access=password"]);
    assert_eq!(renewed.lines().count(), 3, "{renewed}");
    assert_eq!(send("GET", "/film", Some(&right)).status, 401);
    assert_eq!(proxy.tell(&["pair", "nas1", "--access", "open"]).lines().count(), 1);
    assert_eq!(send("GET", "/film", None).status, 200);
}

#[test]
fn password_is_computed_once_for_all_that_a_player_asks() {
    let guarded = Guarded::start(&["--threads", "2"]);
    let right = guarded.right();
    let mut visitor = Visitor::connect(guarded.proxy.http);
    let request = format!("GET / HTTP/1.1\r\nHost: nas1\r\nAuthorization: {right}\r\n\r\n");
    for _ in 0..19 {
        visitor.send(&request);
        assert_eq!(Response::read(&mut visitor, "GET").unwrap().status, 200);
    }
    // Other connections too, and what is wrong is known to be without computing.
    assert_eq!(guarded.status(&right), 200);
    assert_eq!(guarded.status(&basic("nas1:wrong")), 401);
    assert_eq!(guarded.checked(), 1);
    assert_eq!(Debug::of(guarded.proxy.http).total("passwords_wrong"), 1);
}

#[test]
fn new_password_ends_the_old_one_at_once() {
    let guarded = Guarded::start(&[]);
    let proxy = &guarded.proxy;
    let mut visitor = Visitor::connect(proxy.http);
    let mut status = |authorization: &str| {
        visitor.send(format!(
            "GET / HTTP/1.1\r\nHost: nas1\r\nAuthorization: {authorization}\r\n\r\n"
        ));
        Response::read(&mut visitor, "GET").unwrap().status
    };
    let old = guarded.right();
    assert_eq!(status(&old), 200);
    let new = basic(&format!("nas1:{}", new_password(proxy, "nas1")));
    assert_eq!(status(&old), 401);
    assert_eq!(status(&new), 200);
    assert_eq!(proxy.tell(&["access", "nas1", "open"]), "");
    assert_eq!(status("Basic nonsense"), 200);
    // It never comes back.
    let newest = basic(&format!("nas1:{}", new_password(proxy, "nas1")));
    assert_eq!((status(&old), status(&new), status(&newest)), (401, 401, 200));
}

#[test]
fn agent_never_sees_the_password_of_its_visitors() {
    let guarded = Guarded::start(&[]);
    let seen = guarded.get(&[("Authorization", &guarded.right()), ("Cookie", "a=b")]).text();
    assert!(seen.contains("cookie: a=b\n") && seen.contains("x-forwarded-for: "), "{seen}");
    assert!(!seen.to_lowercase().contains("authorization"), "{seen}");
    // What an open origin asks for is its own business.
    assert_eq!(guarded.proxy.tell(&["access", "nas1", "open"]), "");
    for value in [guarded.right(), "Bearer token".to_owned()] {
        let seen = guarded.get(&[("Authorization", &value)]).text();
        assert!(seen.contains(&format!("authorization: {value}\n")), "{seen}");
    }
}

#[test]
fn ten_wrong_passwords_in_a_minute_end_the_looking() {
    let guarded = Guarded::start(&["--trusted-front-end", "127.0.0.1"]);
    let (right, wrong) = (guarded.right(), basic("nas1:wrong"));
    // A trusted front end says whom it speaks for; what a visitor puts before is no use.
    let from = |authorization: &str, address: &str| {
        guarded.get(&[("Authorization", authorization), ("X-Forwarded-For", address)])
    };
    for at in 0..10 {
        let address = format!("203.0.113.{at}, 2001:db8::{at}");
        assert_eq!(from(&wrong, &address).status, 401, "{at}");
    }
    let blocked = from(&right, "2001:db8::ffff");
    assert_eq!(blocked.status, 429);
    assert!((1..=60).contains(&blocked.headers["retry-after"].parse::<u32>().unwrap()));
    assert!(!blocked.headers.contains_key("www-authenticate"));
    assert_eq!(from(&wrong, "2001:db8::1").status, 429);
    assert_eq!(guarded.checked(), 10);
    let line = "access=blocked origin=nas1 peer=2001:db8::9";
    guarded.proxy.program().wait_for("the address", |held| held.contains(line).then_some(()));
    // Without a password nothing is tried, and nothing counted.
    assert_eq!(guarded.get(&[("X-Forwarded-For", "2001:db8::1")]).status, 401);
    // Others come in, and then so does who knows the password there: nobody locks others out.
    assert_eq!(from(&wrong, "2001:db8:0:1::1").status, 401);
    assert_eq!(from(&right, "2001:db8:0:1::1").status, 200);
    assert_eq!(from(&right, "2001:db8::1").status, 200);
    assert_eq!(from(&wrong, "2001:db8::1").status, 429);
    assert_eq!(guarded.checked(), 12);
}

#[test]
fn guesses_from_everywhere_cost_two_hashes_at_a_time() {
    let guarded = Guarded::start(&["--trusted-front-end", "127.0.0.1"]);
    let id = guarded.proxy.program().id();
    let before = memory(id);
    let mut visitors: Vec<_> = (0..60)
        .map(|at| {
            let mut visitor = Visitor::connect(guarded.proxy.http);
            let wrong = basic(&format!("nas1:{at}"));
            visitor.send(format!(
                "GET / HTTP/1.1\r\nHost: nas1\r\nX-Forwarded-For: 203.0.113.{at}\r\n\
                 Authorization: {wrong}\r\n\r\n"
            ));
            visitor
        })
        .collect();
    let mut refused = 0;
    for visitor in &mut visitors {
        let answer = Response::read(visitor, "GET").unwrap();
        match answer.status {
            401 => refused += 1,
            503 => assert_eq!(answer.headers["retry-after"], "1"),
            other => panic!("{other}"),
        }
    }
    assert_eq!(refused, guarded.checked());
    // Two of 19 MiB, and what sixty connections need.
    let growth = memory_peak(id).saturating_sub(before);
    assert!(growth < 60 << 20, "{growth}");
    // They are not kept for the next.
    let kept = memory(id).saturating_sub(before);
    println!("{refused} guesses computed, {growth} octets at most, {kept} kept");
    assert!(kept < 12 << 20, "{kept}");
    assert_eq!(guarded.status(&guarded.right()), 200);
}

#[test]
fn stranger_does_not_learn_whether_a_nas_is_there() {
    let proxy = Proxy::start(&["--hold", "0"]);
    let service = Service::start(&proxy, "nas1", Features::OURS, serve);
    let password = new_password(&proxy, "nas1");
    let right = format!("Authorization: {}\r\n", basic(&format!("nas1:{password}")));
    let wrong = format!("Authorization: {}\r\n", basic("nas1:wrong"));
    // Of two, by a host that names neither, too.
    let _ = proxy.tell(&["pair", "nas2"]);
    let strange = || {
        ["nas1", "localhost", "203.0.113.1"]
            .map(|host| [told(&ask(&proxy, host, "")), told(&ask(&proxy, host, &wrong))])
    };
    let here = strange();
    assert_eq!(here.each_ref().map(|answers| answers[1].0), [401, 404, 404]);
    assert_eq!(ask(&proxy, "nas1", &right).status, 200);
    drop(service);
    proxy.program().wait_for("its end", |line| line.contains("tunnel=down").then_some(()));
    assert_eq!(strange(), here);
    assert_eq!(ask(&proxy, "nas1", &right).status, 503);
    // One that was never there looks like it, but for its name.
    assert_eq!(ask(&proxy, "nas2", &wrong).status, 401);
}

#[test]
fn body_is_not_read_and_no_protocol_changed_without_a_password() {
    let guarded = Guarded::start(&[]);
    let right = format!("Authorization: {}\r\n", guarded.right());
    let put = |more: &str| {
        let mut visitor = Visitor::connect(guarded.proxy.http);
        visitor.send(format!(
            "PUT /a HTTP/1.1\r\nHost: nas1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n{more}\r\n"
        ));
        let answer = Response::read(&mut visitor, "PUT").unwrap();
        (answer.status, answer.headers.get("connection").cloned())
    };
    assert_eq!(put(""), (401, Some("close".to_owned())));
    // The service answers without reading; only that it was asked counts.
    assert!(matches!(put(&right).0, 100 | 200));
    // A body that nobody waits for is not passed on either.
    let mut visitor = Visitor::connect(guarded.proxy.http);
    visitor
        .send("POST / HTTP/1.1\r\nHost: nas1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    assert_eq!(Response::read(&mut visitor, "POST").unwrap().status, 401);

    let upgrade = |more: &str| {
        let mut visitor = Visitor::connect(guarded.proxy.http);
        visitor.send(format!(
            "GET / HTTP/1.1\r\nHost: nas1\r\nConnection: Upgrade\r\nUpgrade: echo\r\n{more}\r\n"
        ));
        (Response::read(&mut visitor, "GET").unwrap().status, visitor)
    };
    let opened = Debug::of(guarded.proxy.http).tunnels("streams_opened");
    assert_eq!(upgrade("").0, 401);
    assert_eq!(upgrade("Authorization: Basic bmFzMTp3cm9uZw==\r\n").0, 401);
    assert_eq!(Debug::of(guarded.proxy.http).tunnels("streams_opened"), opened);
    let (status, mut visitor) = upgrade(&right);
    assert_eq!(status, 101);
    visitor.finish_sending();
    assert_eq!(visitor.rest().0, b"echo");
}

/// The address that is not loopback, as it is reached from here.
fn outside(proxy: &Proxy) -> SocketAddr {
    let port = proxy.program().wait_for("the other address", |line| {
        let address = line.strip_prefix("listening on ")?.strip_suffix(" http")?;
        let address: SocketAddr = address.parse().ok()?;
        address.ip().is_unspecified().then_some(address.port())
    });
    ([127, 0, 0, 1], port).into()
}

#[test]
fn no_password_is_asked_for_where_others_could_listen() {
    let exposed = Guarded::start(&["--listen", "0.0.0.0:0"]);
    let right = exposed.right();
    let send = |to: SocketAddr, authorization: &str| {
        let headers = [("Authorization", authorization)];
        Request { headers: &headers, ..Request::get("/") }.send(to).unwrap()
    };
    let warning = |line: &str| line.contains("warn access=refused ").then_some(());
    let refused = send(outside(&exposed.proxy), &right);
    assert_eq!(refused.status, 403);
    assert_eq!(refused.headers["content-type"], "text/plain; charset=utf-8");
    for word in ["not encrypted", "https", "--behind-tls"] {
        assert!(refused.text().contains(word), "{}", refused.text());
    }
    assert!(!refused.headers.contains_key("www-authenticate"));
    // It is not even looked at.
    assert_eq!(exposed.checked(), 0);
    exposed.proxy.program().wait_for("a warning", warning);
    assert_eq!(send(outside(&exposed.proxy), "").status, 403);
    // The other address of the same proxy is loopback, and an open origin has nothing to lose.
    assert_eq!(exposed.status(&right), 200);
    assert_eq!(exposed.proxy.tell(&["access", "nas1", "open"]), "");
    assert_eq!(send(outside(&exposed.proxy), "").status, 200);
    assert_eq!(exposed.proxy.program().text().matches("access=refused").count(), 1);

    let front = Guarded::start(&["--listen", "0.0.0.0:0", "--behind-tls"]);
    assert_eq!(send(outside(&front.proxy), &front.right()).status, 200);
    assert_eq!(send(outside(&front.proxy), "").status, 401);
    assert!(!front.proxy.program().text().contains("access=refused"));

    let tls = Guarded::start(&["--listen", "0.0.0.0:0", "-t"]);
    let curl = |credentials: &[&str]| {
        let url = format!("https://{}/", outside(&tls.proxy));
        let mut command = Command::new(tool("curl"));
        command.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}"]).args(credentials);
        finished(command.arg(url), "")
    };
    assert_eq!(curl(&["-u", &format!("nas1:{}", tls.password)]), "200");
    assert_eq!(curl(&[]), "401");
}

#[test]
fn proxy_that_starts_with_passwords_in_the_open_says_so() {
    let state = TempRoot::new();
    let first = Proxy::start_in(state.path(), &[]);
    let _ = first.tell(&["pair", "nas1"]);
    drop(first);
    let warning = |line: &str| line.contains("warn access=refused ").then_some(());
    let second = Proxy::start_in(state.path(), &["--listen", "0.0.0.0:0"]);
    second.program().wait_for("a warning", warning);
    drop(second);
    let third = Proxy::start_in(state.path(), &["--allow-anonymous"]);
    let open = "warn access=open origin=anonymous ";
    third.program().wait_for("a warning", |line| line.contains(open).then_some(()));
    assert!(!third.program().text().contains("access=refused"));
}

#[test]
fn curl_wget_and_ffprobe_come_in_by_their_own_means() {
    let guarded = Guarded::start(&[]);
    let (address, password) = (guarded.proxy.http, &guarded.password);
    let run = |name: &str, args: &[&str]| finished(Command::new(tool(name)).args(args), "");
    let plain = format!("http://{address}/");
    let with = format!("http://nas1:{password}@{address}/");
    let user = format!("nas1:{password}");
    for args in [
        &["-sf", "-u", &user, &plain][..],
        &["-sf", &with],
        &["-sf", "--anyauth", "-u", &user, &plain],
    ] {
        assert!(run("curl", args).contains("user-agent: curl/"), "{args:?}");
    }
    let (name, secret) = ("--user=nas1", format!("--password={password}"));
    assert!(run("wget", &["-qO-", name, &secret, &plain]).contains("user-agent: Wget/"));
    let refused = Command::new(tool("curl")).args(["-sf", &plain]).status().unwrap();
    // "The HTTP server returned an error of 400 or above", which -f asks for.
    assert_eq!(refused.code(), Some(22));
    // What the service says is no film; that it says something is enough.
    let probe = |url: &str| {
        let output = Command::new(tool("ffprobe")).args(["-v", "error", url]).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(probe(&plain).contains("401 Unauthorized"), "{}", probe(&plain));
    assert!(!probe(&with).contains("401"), "{}", probe(&with));
}

#[test]
fn record_without_a_rule_lets_nobody_in_until_it_has_one() {
    let state = TempRoot::new();
    let proxy = Proxy::start_in(state.path(), &[]);
    let _ = proxy.pair("nas1");
    let record = state.join("origins/nas1");
    drop(proxy);
    let text = fs::read_to_string(&record).unwrap();
    for rule in ["", "access\n", "access opened\n", "access password nas1 secret\n"] {
        fs::write(&record, text.replace("access open\n", rule)).unwrap();
        let proxy = Proxy::start_in(state.path(), &[]);
        let warning = "warn access=locked origins=1 ";
        proxy.program().wait_for("a warning", |line| line.contains(warning).then_some(()));
        assert!(proxy.tell(&["list"]).starts_with("nas1 never-joined access=locked "));
        let locked = ask(&proxy, "nas1", "");
        assert_eq!(locked.status, 403, "{rule}");
        assert!(locked.text().contains("spdy-proxy access NAME password"), "{}", locked.text());
        assert_eq!(proxy.tell(&["access", "nas1", "open"]), "");
        assert_eq!(ask(&proxy, "nas1", "").status, 503);
    }
}

#[test]
fn access_is_changed_and_listed_with_and_without_a_running_proxy() {
    let state = TempRoot::new();
    let proxy = Proxy::start_in(state.path(), &["--allow-anonymous"]);
    let root = TempRoot::new();
    root.write("film", b"film");
    let _agent = Agent::serve(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    let _ = (proxy.tell(&["pair", "nas1"]), proxy.pair("nas2"));
    let rules = |proxy: &Proxy| {
        let rule = |line: &str| {
            let mut words = line.split(' ');
            let rule = line.split(' ').find_map(|word| word.strip_prefix("access="));
            format!("{} {}", words.next().unwrap(), rule.unwrap())
        };
        proxy.tell(&["list"]).lines().map(rule).collect::<Vec<_>>()
    };
    assert_eq!(rules(&proxy), ["anonymous open", "nas1 password", "nas2 open"]);
    // Nobody is asked at the origin that anybody may be.
    assert_eq!(ask(&proxy, "anonymous", "").status, 200);
    assert_eq!(ask(&proxy, "nas1", "").status, 401);
    let mut proxy = proxy;
    proxy.program_mut().kill();
    let said = proxy.tell(&["access", "nas2", "password"]);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "user nas2"));
    assert!(lines[2].contains("next start"), "{said}");
    assert_eq!(rules(&proxy), ["nas1 password", "nas2 password"]);
    let mut unknown = Command::new(Builds::beside().proxy);
    unknown.args(["access", "nas3", "open", "--state-dir"]).arg(state.path());
    let output = unknown.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(complaint.contains("nas3") && complaint.lines().count() == 1, "{complaint}");
    assert!(!state.join("origins/nas3").exists());
}

#[test]
fn password_stays_between_its_visitor_and_the_hash() {
    let guarded = Guarded::start(&["-s", "--log", "debug"]);
    let proxy = &guarded.proxy;
    let wrong = "wrong-but-still-a-secret";
    assert_eq!(guarded.status(&basic(&format!("nas1:{wrong}"))), 401);
    assert_eq!(guarded.status(&guarded.right()), 200);
    let record = proxy.state_dir().join("origins/nas1");
    let kept = fs::read_to_string(&record).unwrap();
    let hash = kept.split_whitespace().find(|word| word.starts_with("$argon2id$")).unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    assert_eq!(fs::metadata(&record).unwrap().permissions().mode() & 0o777, 0o600);
    let encoded = guarded.right().replace("Basic ", "");
    let secrets = [&guarded.password, &encoded, wrong, &BASE64.encode(wrong.as_bytes())];
    let of_process = |file: &str| {
        let octets = fs::read(format!("/proc/{}/{file}", proxy.program().id())).unwrap();
        String::from_utf8_lossy(&octets).into_owned()
    };
    for (place, text) in [
        ("the arguments", of_process("cmdline")),
        ("the environment", of_process("environ")),
        ("the log", proxy.program().text()),
        ("/debug", Debug::of(proxy.http).text),
        ("list", proxy.tell(&["list"])),
        ("the record", kept.replace(hash, "")),
    ] {
        for secret in secrets.iter().copied().chain([hash]) {
            assert!(!text.contains(secret), "{secret} is in {place}:\n{text}");
        }
    }
    assert!(proxy.program().text().contains("SYN_STREAM"), "the log says something");
}
