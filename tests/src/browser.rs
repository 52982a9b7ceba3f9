//! Chromium without a window, driven as its developer tools do (Chrome DevTools Protocol).
//!
//! It owns the process, its profile and one page, and knows the few commands that the tests need:
//! go somewhere, evaluate, choose a file, take a picture. What a page must look like is the tests'
//! business.
//!
//! Commands and events go over two pipes as JSON, each ended by NUL. Every wait ends after
//! [`PATIENCE`].

use std::{
    fs,
    io::{BufRead, BufReader, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use data_encoding::BASE64;
use flate2::read::ZlibDecoder;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use crate::fixture::{PATIENCE, TempRoot, tool};

/// A running browser with one page; ended when dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    commands: Option<ChildStdin>,
    messages: Receiver<Value>,
    /// What the page has announced since it was told to go somewhere.
    events: Vec<Value>,
    next_id: u64,
    session: String,
    profile: TempRoot,
}

/// What the page is looked at with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Width of the window, in CSS pixels.
    pub width: u32,
    /// Height of the window, in CSS pixels.
    pub height: u32,
    /// Whether the person prefers dark pages.
    pub dark: bool,
}

impl Browser {
    /// Starts Chromium and opens an empty page. No name but those of this machine can be reached.
    ///
    /// # Panics
    /// When it is missing or does not answer.
    #[must_use]
    pub fn start() -> Self {
        let profile = TempRoot::new();
        let stderr = fs::File::create(profile.join(STDERR));
        let stderr = stderr.unwrap_or_else(|error| panic!("{STDERR}: {error}"));
        let mut command = Command::new(tool("sh"));
        // Its pipes are the descriptors 3 and 4.
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >&2"]);
        command.arg(tool("chromium")).args(FLAGS);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("chromium: {error}"));
        let (sender, messages) = channel();
        if let Some(pipe) = child.stdout.take() {
            // Ends with the pipe, which ends with the process.
            thread::spawn(move || {
                let mut pipe = BufReader::new(pipe);
                let mut message = Vec::new();
                while pipe.read_until(0, &mut message).is_ok_and(|len| len > 0) {
                    message.pop();
                    let Ok(read) = serde_json::from_slice(&message) else { break };
                    if sender.send(read).is_err() {
                        break;
                    }
                    message.clear();
                }
            });
        }
        let commands = child.stdin.take();
        let (events, session) = (Vec::new(), String::new());
        let mut browser = Self { child, commands, messages, events, next_id: 1, session, profile };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().unwrap_or_default().to_owned();
        for domain in ["Page", "Runtime", "Log", "DOM"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Sends a command of the protocol and waits for its result.
    ///
    /// # Panics
    /// When the browser reports an error or nothing in time.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        let mut octets = message.to_string().into_bytes();
        octets.push(0);
        let sent = self.commands.as_mut().map(|pipe| pipe.write_all(&octets));
        assert!(matches!(sent, Some(Ok(()))), "{method}: {sent:?}: {}", self.said());
        let answer = self.wait(method, |message| message["id"] == id);
        assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        answer["result"].clone()
    }

    /// Sets the size of the window and the scheme of colours; from then on pages are shown so.
    ///
    /// # Panics
    /// As [`Browser::call`].
    pub fn show(&mut self, view: View) {
        // Phones are narrow: they scale pages and have no scroll bars that take space.
        let mobile = view.width < 600;
        let size = json!({
            "width": view.width, "height": view.height, "deviceScaleFactor": 1, "mobile": mobile
        });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if view.dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Goes to an address and waits until the page has loaded.
    ///
    /// # Panics
    /// When it cannot be reached, and as [`Browser::call`].
    pub fn go(&mut self, address: &str) {
        self.events.clear();
        let went = self.call("Page.navigate", json!({ "url": address }));
        assert!(went["errorText"].is_null(), "{address}: {}", went["errorText"]);
        self.wait_for_event("Page.loadEventFired");
    }

    /// Sends the form that the CSS selector names, as its button does, and waits for the answer.
    ///
    /// # Panics
    /// When there is no such form, and as [`Browser::call`].
    pub fn submit(&mut self, selector: &str) {
        self.leave(selector, "requestSubmit");
    }

    /// Follows the link that the CSS selector names and waits until the page has loaded.
    ///
    /// # Panics
    /// When there is no such link, and as [`Browser::call`].
    pub fn follow(&mut self, selector: &str) {
        self.leave(selector, "click");
    }

    /// Waits for an event since the page was told to go somewhere, come already or yet to come.
    ///
    /// # Panics
    /// When it does not come in time.
    pub fn wait_for_event(&mut self, method: &str) {
        if !self.events.iter().any(|event| event["method"] == method) {
            self.wait(method, |message| message["method"] == method);
        }
    }

    /// Evaluates JavaScript in the page and returns its value, that of a promise once it has one.
    ///
    /// # Panics
    /// When it throws, and as [`Browser::call`].
    pub fn run(&mut self, script: &str) -> Value {
        let params = json!({
            "expression": script, "awaitPromise": true, "returnByValue": true, "userGesture": true
        });
        let done = self.call("Runtime.evaluate", params);
        assert!(done["exceptionDetails"].is_null(), "{script}: {}", done["exceptionDetails"]);
        done["result"]["value"].clone()
    }

    /// Chooses a file in the field that the CSS selector names.
    ///
    /// # Panics
    /// When there is no such field, and as [`Browser::call`].
    pub fn choose_file(&mut self, selector: &str, file: &Path) {
        let root = self.call("DOM.getDocument", json!({}));
        let query = json!({ "nodeId": root["root"]["nodeId"], "selector": selector });
        let node = self.call("DOM.querySelector", query)["nodeId"].clone();
        assert_ne!(node, 0, "the page has no {selector}");
        self.call("DOM.setFileInputFiles", json!({ "files": [file], "nodeId": node }));
    }

    /// What is to be seen in the window, as PNG.
    ///
    /// # Panics
    /// As [`Browser::call`].
    pub fn screenshot(&mut self) -> Vec<u8> {
        self.picture(json!({ "format": "png" }))
    }

    /// Red, green and blue of a point of the window.
    ///
    /// # Panics
    /// As [`Browser::call`].
    pub fn colour(&mut self, x: u32, y: u32) -> [u8; 3] {
        let clip = json!({ "x": x, "y": y, "width": 1, "height": 1, "scale": 1 });
        let png = self.picture(json!({ "format": "png", "clip": clip }));
        only_pixel(&png).unwrap_or_else(|| panic!("no picture of one pixel: {png:?}"))
    }

    /// What the browser has found wrong with the page: errors and warnings of its console, among
    /// them refusals by the Content-Security-Policy and resources that could not be loaded.
    #[must_use]
    pub fn complaints(&mut self) -> Vec<String> {
        // What was announced before the answer to this is here then.
        self.run("0");
        let mut complaints = Vec::new();
        for event in &self.events {
            let params = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Runtime.exceptionThrown" => complaints.push(params.to_string()),
                "Runtime.consoleAPICalled" if is_bad(&params["type"]) => {
                    complaints.push(params["args"].to_string());
                }
                "Log.entryAdded" if is_bad(&params["entry"]["level"]) => {
                    let entry = &params["entry"];
                    complaints.push(format!("{} {}", entry["text"], entry["url"]));
                }
                _ => {}
            }
        }
        complaints
    }

    fn leave(&mut self, selector: &str, how: &str) {
        self.events.clear();
        let selector = Value::from(selector);
        self.run(&format!("document.querySelector({selector}).{how}()"));
        self.wait_for_event("Page.loadEventFired");
    }

    fn picture(&mut self, params: Value) -> Vec<u8> {
        let taken = self.call("Page.captureScreenshot", params);
        let text = taken["data"].as_str().unwrap_or_default();
        BASE64.decode(text.as_bytes()).unwrap_or_else(|error| panic!("screenshot: {error}"))
    }

    /// Waits for a message; events are kept.
    fn wait(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.messages.recv_timeout(left) {
                Ok(message) => {
                    let found = is_it(&message);
                    if message["id"].is_null() {
                        self.events.push(message.clone());
                    }
                    if found {
                        return message;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("chromium: nothing for {what}"),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("chromium ended before {what}: {}", self.said())
                }
            }
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.profile.join(STDERR)).unwrap_or_default()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends by itself when nobody can send it commands any more, and takes its children along.
        drop(self.commands.take());
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline && !matches!(self.child.try_wait(), Ok(Some(_))) {
            thread::sleep(Duration::from_millis(5));
        }
        // What has not by then, is killed; the group is empty otherwise.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl View {
    /// A phone held upright and a desktop, each in light and dark.
    pub const ALL: [Self; 4] = [
        Self { width: 390, height: 844, dark: false },
        Self { width: 390, height: 844, dark: true },
        Self { width: 1_280, height: 800, dark: false },
        Self { width: 1_280, height: 800, dark: true },
    ];

    /// Such as `390x844-dark`.
    #[must_use]
    pub fn name(&self) -> String {
        let scheme = if self.dark { "dark" } else { "light" };
        format!("{}x{}-{scheme}", self.width, self.height)
    }
}

fn is_bad(level: &Value) -> bool {
    level == "error" || level == "warning" || level == "assert"
}

/// The colour of a PNG that has one pixel of 8 bits per channel.
fn only_pixel(png: &[u8]) -> Option<[u8; 3]> {
    let mut rest = png.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
    let mut packed = Vec::new();
    while let Some((len, more)) = rest.split_first_chunk::<4>() {
        let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
        let (kind, more) = more.split_first_chunk::<4>()?;
        let data = more.get(..len)?;
        match kind {
            b"IHDR" if data.get(..9)? != [0, 0, 0, 1, 0, 0, 0, 1, 8] => return None,
            b"IDAT" => packed.extend_from_slice(data),
            _ => {}
        }
        rest = more.get(len + 4..)?;
    }
    let mut line = Vec::new();
    ZlibDecoder::new(&packed[..]).read_to_end(&mut line).ok()?;
    // The first octet names the filter, which changes nothing in a picture without neighbours.
    line.get(1..4)?.try_into().ok()
}

/// Nothing of it leaves this machine, nothing asks for a person or a graphics card.
const FLAGS: &[&str] = &[
    "--headless=new",
    // Tests run as root in CI, where the sandbox cannot; they load nothing but our own pages.
    "--no-sandbox",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
    "--password-store=basic",
    "--autoplay-policy=no-user-gesture-required",
    "--mute-audio",
    "--hide-scrollbars",
];

/// Where the browser's own words go, in its profile.
const STDERR: &str = "stderr";

#[cfg(test)]
mod tests {
    use super::{Browser, View};
    use crate::fixture::TempRoot;

    #[test]
    fn page_is_shown_as_it_was_asked_for() {
        let root = TempRoot::new();
        let page = "<!doctype html><meta name=viewport content='width=device-width'>\
            <style>html { background: rgb(200, 100, 50) }\
            @media (prefers-color-scheme: dark) { html { background: rgb(1, 2, 3) } }</style>";
        let address = format!("file://{}", root.write("page.html", page.as_bytes()).display());
        let mut browser = Browser::start();
        for view in View::ALL {
            browser.show(view);
            browser.go(&address);
            let wanted = if view.dark { [1, 2, 3] } else { [200, 100, 50] };
            assert_eq!(browser.colour(5, 5), wanted, "{view:?}");
            assert_eq!(browser.run("innerWidth"), view.width);
            assert!(browser.screenshot().starts_with(b"\x89PNG"));
            assert_eq!(browser.complaints(), [""; 0]);
        }
        assert_eq!(browser.run("new Promise(done => setTimeout(done, 1, 'later'))"), "later");
    }

    #[test]
    fn complaints_of_a_page_are_heard() {
        let root = TempRoot::new();
        let page = "<!doctype html><meta http-equiv=Content-Security-Policy \
            content=\"default-src 'none'\"><p style='color: red'>x<img src=none.png>";
        let address = format!("file://{}", root.write("page.html", page.as_bytes()).display());
        let mut browser = Browser::start();
        browser.go(&address);
        let complaints = browser.complaints();
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints.iter().all(|one| one.contains("Content Security Policy")));
        let error = browser.run("try { nothing() } catch (error) { error.name }");
        assert_eq!(error, "ReferenceError");
        browser.run("console.error('mine'); setTimeout(() => { throw 'late' }); 0");
        browser.wait_for_event("Runtime.exceptionThrown");
        assert_eq!(browser.complaints().len(), 4);
    }
}
