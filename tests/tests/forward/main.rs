//! Local HTTP services behind `--forward`: visitor, proxy, tunnel, agent, service, all real.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod bodies;
mod failures;
mod heads;
mod upgrades;

use std::process::Command;

use spdy_tests::{
    fixture::{Builds, PATIENCE, Pair, Pipe, Program, TempRoot, binary},
    http::{Request, Response},
    local::{Call, Local},
    visitor::Visitor,
};

/// A service and the pair that forwards `/x` to it.
struct Forwarded {
    pair: Pair,
    service: Local,
    _root: TempRoot,
}

impl Forwarded {
    /// `rest`: what follows the address of the service in the flag.
    fn start(rest: &str, serve: impl Fn(&mut Call) + Send + Sync + 'static) -> Self {
        let service = Local::start(serve);
        let (root, flag) = (TempRoot::new(), format!("/x=http://{}{rest}", service.address()));
        root.write("file.txt", b"a file");
        let pair =
            Pair::with(root.path(), &["--trusted-front-end", "127.0.0.1"], &["--forward", &flag]);
        Self { pair, service, _root: root }
    }

    fn get(&self, target: &str) -> Response {
        Request::get(target).send(self.pair.proxy.http).unwrap()
    }

    fn visit(&self, target: &str) -> Visitor {
        Visitor::get(self.pair.proxy.http, target)
    }

    /// Waits for the line of the agent about a request that failed.
    fn failed(&self, parts: &[&str]) {
        self.pair.agent.program().wait_for("the failure", |line| {
            let parts = ["event=forward_failed forward=/x "].iter().chain(parts);
            parts.into_iter().all(|part| line.contains(part)).then_some(())
        });
    }
}

#[test]
fn mistakes_in_the_flag_are_one_line_and_exit_64() {
    let root = TempRoot::new();
    let config = root.write("agent.conf", b"root /\ninsecure\nforward /x=https://h\n");
    for (args, part) in [
        (&["--forward", "/x"][..], "PREFIX=URL"),
        (&["--forward=/x/=http://h"], "PREFIX must be"),
        (&["--forward", "/x=https://h"], "only http://"),
        (&["--forward", "/x=http://me:pw@h"], "no user"),
        (&["--forward", "/x=http://h", "--forward", "/x=http://i"], "given twice"),
        (&["--forward", "/=http://h"], "leaves nothing of root"),
        (&["--config", config.to_str().unwrap()], ":3: forward /x=https://h: only http://"),
    ] {
        let mut command = Command::new(binary("spdy-agent"));
        command.args(["-r", "/", "--insecure"]).args(args).env("HOME", root.path());
        let mut program = Program::start("spdy-agent", &mut command);
        assert_eq!(program.wait_exit(PATIENCE).code(), Some(64), "{args:?}");
        let said = program.lines(Pipe::Stderr);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(part), "{said:?}");
    }
}

#[test]
fn agent_with_services_alone_needs_no_folder() {
    let service = Local::start(|call| call.answer("everything"));
    let (proxy, home) =
        (spdy_tests::fixture::Proxy::start(&["--allow-anonymous"]), TempRoot::new());
    let mut command = Command::new(binary("spdy-agent"));
    command.args(["--insecure", "--proxy", &proxy.tunnel.to_string()]).env("HOME", home.path());
    command.arg("--forward").arg(format!("/=http://{}", service.address()));
    let _agent = Program::start("spdy-agent", &mut command);
    spdy_tests::http::wait_for_agent(proxy.http);
    assert_eq!(Request::get("/a/b?c").send(proxy.http).unwrap().text(), "everything");
    assert_eq!(service.last().target, "/a/b?c");
}

#[test]
fn no_redirect_that_we_rewrite_leads_to_another_host() {
    let service = Local::start(|call| {
        let location = call.asked.target.strip_prefix("/base/?").unwrap_or("/").replace("%20", " ");
        call.send(format!(
            "HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Location: {location}\r\n\
             Content-Length: 0\r\n\r\n"
        ));
    });
    let (proxy, home) =
        (spdy_tests::fixture::Proxy::start(&["--allow-anonymous"]), TempRoot::new());
    let mut command = Builds::beside().agent_behind(&[]);
    command.args(["--insecure", "--proxy", &proxy.tunnel.to_string()]).env("HOME", home.path());
    command.arg("--forward").arg(format!("/=http://{}/base", service.address()));
    let _agent = Program::start("spdy-agent", &mut command);
    spdy_tests::http::wait_for_agent(proxy.http);
    let own = service.address();
    for (location, wanted) in [
        ("/base//evil.example/".to_owned(), "/.//evil.example/".to_owned()),
        ("/base/\\evil.example/".to_owned(), "/./\\evil.example/".to_owned()),
        (format!("http://{own}/base//evil.example/"), "/.//evil.example/".to_owned()),
        (format!("//{own}/base/\\evil.example/"), "/./\\evil.example/".to_owned()),
        ("/base/%09//evil.example/".to_owned(), "/%09//evil.example/".to_owned()),
        ("//elsewhere.example/".to_owned(), "//elsewhere.example/".to_owned()),
    ] {
        let answer = Request::get(&format!("/?{location}")).send(proxy.http).unwrap();
        assert_eq!(answer.headers["location"], wanted, "{location}");
        assert_eq!(answer.headers["content-location"], wanted, "{location}");
    }
}
