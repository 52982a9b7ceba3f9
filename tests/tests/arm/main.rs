//! The agent on the processors of NAS boxes: joined to a real proxy, it serves by qemu-user what it
//! serves here.
//!
//! Each test is run on each machine of [`spdy_tests::fixture::MACHINES`]. What qemu-user is, and is
//! not, stands in docs/testing.md.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod folders;

mod large;

mod running;

mod writing;

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use spdy_tests::{
    fixture::{
        Builds, MACHINES, Machine, PATIENCE, Pipe, Program, Proxy, TempRoot, finished, wait_until,
    },
    http::{Request, Response, wait_for_agent},
    visitor::{Head, Visitor},
};

/// Every test for every machine.
macro_rules! on {
    ($($machine:ident)*) => {
        const TESTED: &[&str] = &[$(stringify!($machine)),*];

        $(
            mod $machine {
                const MACHINE: &str = stringify!($machine);

                tests! {
                    large: files_arrive_whole, parts_beyond_32_bits_are_exact,
                        conditions_hold_for_a_large_file, names_stay_beneath_the_share;
                    folders: names_that_are_no_text_come_back, times_before_1970_and_after_2038_are_right,
                        text_is_compressed, folder_arrives_as_an_archive;
                    writing: files_are_put_moved_and_deleted, upload_goes_on_beyond_32_bits;
                    running: services_are_forwarded, agent_tells_how_it_is,
                        agent_comes_back_to_a_proxy_that_was_killed,
                        agent_comes_back_to_a_proxy_that_said_goodbye,
                        agent_ends_and_leaves_nothing;
                }
            }
        )*
    };
}

macro_rules! tests {
    ($($module:ident: $($name:ident),*;)*) => {
        $($(
            #[test]
            fn $name() {
                crate::$module::$name(&crate::Nas::of(MACHINE));
            }
        )*)*
    };
}

on! { aarch64 armv7 armv7_without_neon armv6_hard_float armv6 armv5te }

/// A box: its configuration, its socket and what it serves in one folder.
struct Nas {
    builds: Builds,
    home: TempRoot,
}

/// What a command said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    text: String,
}

/// An agent that runs, and its proxy.
struct Running {
    proxy: Proxy,
    agent: Program,
}

impl Nas {
    fn of(machine: &str) -> Self {
        let home = TempRoot::new();
        fs::create_dir(home.join("share")).unwrap();
        Self { builds: Builds::of(Machine::named(machine)), home }
    }

    /// The folder that is served.
    fn share(&self) -> PathBuf {
        self.home.join("share")
    }

    /// A file in it.
    fn write(&self, name: &str, octets: &[u8]) -> PathBuf {
        self.home.write(&format!("share/{name}"), octets)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.builds.agent_behind(&[]);
        command.env("RUNTIME_DIRECTORY", self.home.join("run")).env("HOME", self.home.path());
        command.env_remove("XDG_RUNTIME_DIR").env_remove("XDG_CONFIG_HOME");
        command.args(args).arg("--config").arg(self.home.join("agent.conf"));
        command
    }

    fn tell(&self, args: &[&str]) -> Said {
        let mut program = Program::start("spdy-agent", &mut self.command(args));
        let code = program.wait_exit(PATIENCE).code();
        Said { code, text: program.lines(Pipe::Stdout).join("\n") }
    }

    /// Joins with the code as an argument, and serves.
    fn serve(&self, args: &[&str]) -> Running {
        let proxy = Proxy::of(&self.builds, GOODBYE);
        finished(&mut self.command(&["join", &proxy.pair("nas1")]), "");
        let share = self.share();
        let args = [&["-r", share.to_str().unwrap()], args].concat();
        let agent = Program::start("spdy-agent", &mut self.command(&args));
        proxy.wait_for_tunnel("nas1");
        Running { proxy, agent }
    }
}

impl Running {
    fn http(&self) -> SocketAddr {
        self.proxy.http
    }

    fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
        Request { method, headers, ..Request::get(target) }.send(self.http()).unwrap()
    }

    fn get(&self, target: &str) -> Response {
        self.ask("GET", target, &[])
    }

    fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        Request { headers, ..Request::with_body(method, target, body) }.send(self.http()).unwrap()
    }

    /// A GET with the whole body as it is sent.
    fn whole(&self, target: &str, headers: &[(&str, &str)]) -> (Head, Vec<u8>) {
        let mut visitor = Visitor::connect(self.http());
        let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let lines: String = lines.collect();
        visitor.send(format!("GET {target} HTTP/1.0\r\nHost: nas1\r\n{lines}\r\n"));
        let head = visitor.head();
        (head, visitor.rest().0)
    }

    /// The strong tag of a file, which it has when it has not changed for a while.
    fn tag(&self, target: &str) -> String {
        let tag = || self.ask("HEAD", target, &[]).headers.remove("etag");
        wait_until("the file has an entity tag", || tag().is_some());
        tag().unwrap()
    }

    /// Waits until a proxy that was started again has its agent back.
    fn wait_back(&self) {
        self.proxy.wait_for_tunnel("nas1");
        wait_for_agent(self.http());
    }
}

fn set_modified(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// Agents come back within a second of a goodbye.
const GOODBYE: &[&str] = &["--spread", "1"];

/// More octets in one stream than 32 bits can count.
#[test]
#[ignore = "takes minutes"]
fn five_gib_arrive_whole() {
    large::five_gib_arrive_whole(&Nas::of("armv7"));
}

#[test]
fn every_machine_is_tested() {
    assert!(MACHINES.iter().map(|machine| machine.name).eq(TESTED.iter().copied()));
}

/// Else the models would mean nothing.
#[test]
fn emulator_refuses_what_an_older_processor_lacks() {
    let old = Machine { cpu: "arm926", ..Machine::named("armv7") };
    let mut command = Command::new(&old.emulator()[0]);
    let output =
        command.args(&old.emulator()[1..]).arg(Builds::of(old).agent).arg("--help").output();
    assert!(!output.unwrap().status.success());
}
