//! The guides (docs/install-*.md), from the installation to the removal: each command in them is
//! run, in the order of the guides, by dpkg's side and by rpm's.
//!
//! One machine with systemd is server and NAS at once. What a reader has and a machine of tests has
//! not is brought by [`prepare`]; a code is typed where one is asked for.

use std::fs;

use spdy_tests::{
    machine::{Init, Machine},
    source::workspace,
};

use super::{Packages, install::prepare_rpm, machine};

/// A fenced block of commands.
#[derive(Debug)]
struct Block {
    /// What stands behind `sh`: for whom it is.
    kind: String,
    commands: String,
}

/// The blocks of each section, by its heading.
fn guide(name: &str) -> Vec<(String, Vec<Block>)> {
    let text = fs::read_to_string(workspace().join("docs").join(name)).unwrap();
    let mut sections = vec![(String::new(), Vec::<Block>::new())];
    let mut is_open = false;
    for line in text.lines() {
        let blocks = &mut sections.last_mut().unwrap().1;
        match line.strip_prefix("```") {
            Some("") if is_open => is_open = false,
            Some(kind) => {
                let kind = kind.strip_prefix("sh").expect("commands of the shell").trim();
                blocks.push(Block { kind: kind.to_owned(), commands: String::new() });
                is_open = true;
            }
            None if is_open => blocks.last_mut().unwrap().commands += &(line.to_owned() + "\n"),
            None => {
                assert!(!line.starts_with("    "), "{name}: not in a fence: {line}");
                if let Some(heading) = line.strip_prefix("## ") {
                    sections.push((heading.to_owned(), Vec::new()));
                }
            }
        }
    }
    sections
}

/// Both guides, and how far one is.
struct Reader {
    machine: Machine,
    /// `deb` or `rpm`.
    kind: &'static str,
    code: String,
    server: Vec<(String, Vec<Block>)>,
    nas: Vec<(String, Vec<Block>)>,
}

impl Reader {
    /// Runs the commands of a section and returns what they print.
    fn follow(&mut self, is_server: bool, heading: &str) -> String {
        let guide = if is_server { &mut self.server } else { &mut self.nas };
        let at = guide.iter().position(|section| section.0 == heading);
        let (_, blocks) = guide.remove(at.unwrap_or_else(|| panic!("no section {heading}")));
        let mut printed = String::new();
        for block in blocks {
            if !["", "join", self.kind].contains(&block.kind.as_str()) {
                assert!(["deb", "rpm"].contains(&block.kind.as_str()), "{block:?}");
                continue;
            }
            if block.kind == "join" {
                // Every way to join starts with a code of its own.
                let paired = "spdy-proxy pair nas1 --address proxy.example.com:1444";
                self.code = last_line(&self.machine.run(paired));
            }
            let done = self.machine.attempt(&block.commands, &self.code);
            let said = format!("{}{}", done.output, done.errors);
            assert!(done.status.success(), "{heading}: {}{said}", block.commands);
            printed += &said;
        }
        printed
    }
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().to_owned() + "\n"
}

/// What the reader has: a name that leads to the server, films and photos, a certificate, and the
/// packages with their sums, those of an update in a folder of their own.
fn prepare(machine: &Machine) {
    let [first, second] = Packages::both();
    first.put(machine, "/root");
    second.put(machine, "/root/update");
    machine.run(
        "sha256sum spdy-* >SHA256SUMS\n\
         echo 127.0.0.1 proxy.example.com >>/etc/hosts\n\
         useradd --create-home ann\n\
         mkdir -p /srv/films /srv/music /home/ann/photos\n\
         chmod 700 /home/ann\n\
         echo film >/srv/films/film; echo music >/srv/music/music\n\
         echo photo >/home/ann/photos/photo; chown -R ann: /home/ann\n\
         openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
           -subj /CN=proxy.example.com -addext subjectAltName=DNS:proxy.example.com \
           -keyout privkey.pem -out fullchain.pem 2>/dev/null",
    );
}

fn walk(kind: &'static str) {
    let Some(machine) = machine(Init::Systemd) else { return };
    prepare(&machine);
    if kind == "rpm" {
        prepare_rpm(&machine);
    }
    let mut reader = Reader {
        machine,
        kind,
        code: String::new(),
        server: guide("install-server.md"),
        nas: guide("install-nas-systemd.md"),
    };
    let [first, second] = Packages::both();

    let said = reader.follow(true, "Install");
    assert!(said.contains(": OK\n") && said.contains("Active: active (running)"), "{said}");
    let said = reader.follow(true, "Let a NAS join");
    let password = said.lines().find_map(|line| line.strip_prefix("password ")).unwrap().to_owned();
    let fetch = |reader: &Reader, path: &str| {
        // The certificate that was put there is the one that visitors see.
        let curl = "curl --silent --show-error --fail --cacert /root/fullchain.pem";
        let url = format!("https://nas1:{password}@proxy.example.com:1443{path}");
        reader.machine.run(&format!("{curl} {url}"))
    };

    reader.follow(false, "Install");
    let said = reader.follow(false, "Join");
    assert!(said.contains("connected"), "{said}");
    let served = ["films/film", "music/music", "photos/photo"]
        .map(|path| fetch(&reader, &format!("/{path}")));
    assert_eq!(served, ["film\n", "music\n", "photo\n"]);
    let said = reader.follow(false, "Check");
    assert!(
        said.contains("proxy.example.com:1444: connected") && !said.contains("WRONG"),
        "{said}"
    );
    let said = reader.follow(true, "Check");
    assert!(said.contains("nas1") && said.contains("connected"), "{said}");

    let version = |reader: &Reader, program: &str| {
        let (deb, rpm) = ("dpkg-query -W -f '${Version}'", "rpm -q --qf '%{VERSION}-%{RELEASE}'");
        reader.machine.run(&format!("{} {program}", if kind == "deb" { deb } else { rpm }))
    };
    assert_eq!(version(&reader, "spdy-agent"), format!("{}-1", first.version));
    reader.follow(false, "Update");
    reader.follow(true, "Update");
    for program in super::PROGRAMS {
        assert_eq!(version(&reader, program), format!("{}-1", second.version));
    }
    // Visitors wait for an agent that has just gone, so nobody has to.
    assert_eq!(fetch(&reader, "/films/film"), "film\n");

    reader.follow(false, "Remove");
    reader.follow(true, "Remove");
    let left =
        reader.machine.run("ls -d /etc/spdy* /var/lib/spdy* /usr/bin/spdy* 2>/dev/null || true");
    assert_eq!(left, "");
    for (sections, name) in [(&reader.server, "server"), (&reader.nas, "NAS")] {
        let unread: Vec<_> = sections.iter().filter(|section| !section.1.is_empty()).collect();
        assert!(unread.is_empty(), "{name}: {unread:?}");
    }
}

#[test]
fn guides_work_with_dpkg() {
    walk("deb");
}

#[test]
fn guides_work_with_rpm() {
    walk("rpm");
}
