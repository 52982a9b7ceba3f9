//! Programs that people use: curl, Python, Node, Chromium. Each keeps connections, and repeats what
//! it thinks may be repeated.
//!
//! It owns how they are run and how what they say is read. What was right is `judge`'s business.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::Value;
use spdy_tests::{
    browser::Browser,
    fixture::{TempRoot, tool},
};

use crate::{
    judge::{Attempt, Mark, Outcome, Seen},
    plan::{Exchange, Framing, content},
    service::now,
};

/// A program that performs exchanges.
pub enum Client {
    /// Several on one connection; `true`: with `--retry`.
    Curl(bool, SocketAddr),
    /// Python or Node.
    Script(Script),
    Chromium(Box<Browser>, SocketAddr),
}

/// A program that takes lists of exchanges and gives lists of outcomes, as lines.
pub struct Script {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Names of all clients, as [`Client::start`] takes them.
pub const CLIENTS: [&str; 8] = [
    "curl",
    "curl --retry",
    "python http",
    "python urllib",
    "python requests",
    "node http",
    "node fetch",
    "chromium",
];

impl Client {
    pub fn start(name: &str, proxy: SocketAddr) -> Self {
        match name.split_once(' ') {
            Some(("python", how)) => {
                // Debian's own, which has `requests`.
                Self::Script(Script::start("/usr/bin/python3".as_ref(), "client.py", how, proxy))
            }
            Some(("node", how)) => {
                Self::Script(Script::start(&tool("node"), "client.mjs", how, proxy))
            }
            None if name == "chromium" => {
                let mut browser = Browser::start();
                browser.go(&format!("http://{proxy}/x/page"));
                Self::Chromium(Box::new(browser), proxy)
            }
            _ => Self::Curl(name.ends_with("--retry"), proxy),
        }
    }

    /// How many exchanges it is given at once.
    pub const fn batch(&self) -> u64 {
        match self {
            // All of one list must end within the patience of the fixture.
            Self::Chromium(..) => 4,
            _ => 8,
        }
    }

    /// Performs exchanges; an outcome for each, in their order.
    pub fn perform(&mut self, exchanges: &[Exchange]) -> Vec<Outcome> {
        let list: Vec<Value> = exchanges.iter().map(Exchange::to_json).collect();
        match self {
            Self::Curl(retries, proxy) => curl(exchanges, *retries, *proxy),
            Self::Script(script) => script.perform(&list),
            Self::Chromium(browser, proxy) => {
                let list = Value::from(list);
                let outcomes = browser.run(&format!("perform('http://{proxy}', {list}, true)"));
                outcomes.as_array().unwrap().iter().map(outcome).collect()
            }
        }
    }
}

impl Script {
    fn start(program: &Path, script: &str, how: &str, proxy: SocketAddr) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exchanges").join(script);
        let mut command = Command::new(program);
        command.arg(path).arg(how).arg(format!("http://{proxy}"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output) }
    }

    fn perform(&mut self, list: &[Value]) -> Vec<Outcome> {
        writeln!(self.input, "{}", Value::from(list)).unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let outcomes: Value = serde_json::from_str(&line).unwrap();
        outcomes.as_array().unwrap().iter().map(outcome).collect()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a script says of one exchange.
fn outcome(said: &Value) -> Outcome {
    let number = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
    let attempt = |said: &Value| Attempt {
        status: said["status"].as_u64().map(|status| u16::try_from(status).unwrap()),
        mark: match said["mark"].as_str() {
            None => Mark::None,
            Some("?") => Mark::Untold,
            Some(id) => Mark::Of(id.to_owned()),
        },
        body: match said["body"].as_str().unwrap() {
            "none" => Seen::Nothing,
            "cut" => Seen::Cut,
            _ => Seen::Whole(number(&said["length"]), said["made"].as_bool().unwrap()),
        },
    };
    Outcome {
        began: said["began"].as_u64().unwrap(),
        ended: said["ended"].as_u64().unwrap(),
        attempts: said["attempts"].as_array().unwrap().iter().map(attempt).collect(),
        untold: number(&said["untold"]),
        gave_up: said["gave_up"].as_bool().unwrap(),
        error: said["error"].as_str().unwrap().to_owned(),
    }
}

/// All of a list by one curl, which says (`-v`) what it sent and got each time.
fn curl(exchanges: &[Exchange], retries: bool, proxy: SocketAddr) -> Vec<Outcome> {
    let root = TempRoot::new();
    let mut command = Command::new(tool("curl"));
    command.args(["--silent", "--verbose", "--no-progress-meter"]);
    for (number, exchange) in exchanges.iter().enumerate() {
        if number > 0 {
            command.arg("--next");
        }
        // Each `--next` begins with nothing set.
        command.args(["--max-time", "20", "--request", exchange.method]);
        command.arg("--header").arg(format!("x-exchange: {}", exchange.id));
        command.arg("--output").arg(root.join(&exchange.id));
        command.args(["--write-out", &format!("{} %{{exitcode}}\\n", exchange.id)]);
        if retries {
            command.args(["--retry", "1", "--retry-delay", "1"]);
        }
        if exchange.framing != Framing::None {
            let file = format!("{}.body", exchange.id);
            let file = root.write(&file, &content(&exchange.id, exchange.len));
            command.arg("--data-binary").arg(format!("@{}", file.display()));
            let expects = if exchange.expects { "Expect: 100-continue" } else { "Expect:" };
            command.args(["--header", expects]);
        }
        if exchange.framing == Framing::Chunked {
            command.args(["--header", "Transfer-Encoding: chunked"]);
        }
        command.arg(format!("http://{proxy}/x/e"));
    }
    let began = now();
    let done = command.stdin(Stdio::null()).output().unwrap();
    let ended = now();
    let attempts = attempts_of_curl(&String::from_utf8_lossy(&done.stderr));
    let codes = String::from_utf8_lossy(&done.stdout).into_owned();
    let outcome = |exchange: &Exchange| {
        let of_id = attempts.iter().filter(|attempt| attempt.0 == exchange.id);
        let mut attempts: Vec<_> = of_id.map(|attempt| attempt.1.clone()).collect();
        // One that could not connect has sent nothing.
        if attempts.is_empty() {
            attempts.push(Attempt::default());
        }
        let mut codes = codes.lines().filter_map(|line| line.split_once(' '));
        let code = codes.rfind(|line| line.0 == exchange.id).map_or("none", |line| line.1);
        if let Some(last) = attempts.last_mut().filter(|last| last.status.is_some()) {
            let body = fs::read(root.join(&exchange.id)).unwrap_or_default();
            last.body = match code {
                "0" => Seen::Whole(body.len(), body == content(&exchange.id, body.len())),
                _ => Seen::Cut,
            };
        }
        let (gave_up, error) = (code == "28", format!("curl exit {code}"));
        Outcome { began, ended, attempts, untold: 0, gave_up, error }
    };
    exchanges.iter().map(outcome).collect()
}

/// Each request that `curl -v` says it sent, by its id, with the answer.
fn attempts_of_curl(said: &str) -> Vec<(String, Attempt)> {
    let mut attempts: Vec<(String, Attempt)> = Vec::new();
    for line in said.lines() {
        if let Some(id) = line.strip_prefix("> x-exchange: ") {
            attempts.push((id.trim().to_owned(), Attempt::default()));
        }
        let Some((_, last)) = attempts.last_mut() else { continue };
        let status = line.strip_prefix("< HTTP/1.1 ").and_then(|rest| rest.get(..3));
        if let Some(status) = status.and_then(|status| status.parse().ok()) {
            last.status = Some(status).filter(|status| *status >= 200);
        }
        if let Some(("< x-exchange", id)) = line.split_once(": ") {
            last.mark = Mark::Of(id.trim().to_owned());
        }
    }
    attempts
}

#[test]
fn curl_tells_of_each_time() {
    let said = "> POST /x/e HTTP/1.1\r\n> x-exchange: a\r\n* Connection died, retrying\n\
                > POST /x/e HTTP/1.1\r\n> x-exchange: a\r\n< HTTP/1.1 100 Continue\r\n\
                < HTTP/1.1 503 Away\r\n* Will retry\n> x-exchange: a\r\n\
                < HTTP/1.1 201 Planned\r\n< x-exchange: a\r\n> x-exchange: b\r\n";
    let attempts = attempts_of_curl(said);
    let seen: Vec<_> = attempts.iter().map(|(id, a)| (id.as_str(), a.status)).collect();
    assert_eq!(seen, [("a", None), ("a", Some(503)), ("a", Some(201)), ("b", None)]);
    assert_eq!(
        (&attempts[1].1.mark, &attempts[2].1.mark),
        (&Mark::None, &Mark::Of("a".to_owned()))
    );
}
