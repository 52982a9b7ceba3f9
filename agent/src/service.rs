//! The agent as a service of systemd: what the package's unit lacks to serve the shares of the
//! configuration.
//!
//! It owns the drop-in, the owners of the configuration's files, and the start. What holds for
//! every machine is systemd/spdy-agent.service's; which remedy is taken when, and why, stands in
//! docs/decisions.md, "Shares that the service may not read".

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    account, command,
    config::{self, File, Options},
    control::Answer,
    join::Draft,
};

/// The service of this machine.
#[derive(Clone, Debug)]
pub struct Service {
    root: PathBuf,
    systemctl: PathBuf,
    /// Of systemd; 0 if it does not say.
    version: u32,
    user: u32,
    group: u32,
}

/// What the unit has to be told.
#[derive(Debug, Default)]
struct Needs {
    /// Whom it runs as instead, with that group if it matters.
    owner: Option<(u32, Option<u32>)>,
    groups: BTreeSet<u32>,
    /// Folders that only who may not enter them is kept out of: their insides are bound in anew.
    closed: BTreeSet<PathBuf>,
    /// Where what is bound, and whether it may be written.
    binds: Vec<(PathBuf, PathBuf, bool)>,
    advice: Vec<String>,
}

impl Service {
    /// The service of the machine whose files lie below `root`: `/`, except for tests. None if we
    /// are not root, systemd does not run there, or the package with its user is not installed.
    #[must_use]
    pub fn find(root: &Path) -> Option<Self> {
        let is_run = root.join("run/systemd/system").is_dir();
        if !is_run || !rustix::process::geteuid().is_root() {
            return None;
        }
        let (user, group) = account::user(&root.join("etc"), USER)?;
        let is_real = root == Path::new("/");
        let systemctl = if is_real { "systemctl".into() } else { root.join("bin/systemctl") };
        let said = Command::new(&systemctl).arg("--version").output();
        let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let version = said.ok().and_then(|said| said.split_whitespace().nth(1)?.parse().ok());
        Some(Self { root: root.into(), systemctl, version: version.unwrap_or(0), user, group })
    }

    /// Gives the files of a configuration to the service, and the unit what its shares need.
    /// Returns what a person has to know, a line each.
    ///
    /// # Errors
    /// One line: the configuration is wrong, or a file cannot be written.
    pub fn prepare(&self, config: &Path) -> Result<Vec<String>, String> {
        let file = File::load(Some(config)).map_err(|error| error.to_string())?;
        let tokens: Vec<&Path> = file.token_files().filter(|path| path.exists()).collect();
        let folder = config.parent().unwrap_or(Path::new("/"));
        give(folder, 0, self.group, 0o750)?;
        give(config, 0, self.group, 0o640)?;
        if self.version < CREDENTIALS {
            // Nobody reads them for the service.
            tokens.iter().try_for_each(|token| give(token, self.user, 0, 0o600))?;
        }
        let needs = self.needs(&file)?;
        let text = self.drop_in(&needs, &tokens);
        let folder = self.root.join(DROP_INS);
        let path = folder.join("shares.conf");
        let write = || {
            fs::create_dir_all(&folder)?;
            let mut draft = Draft::create(&folder).map_err(io::Error::other)?;
            draft.write(&text).map_err(io::Error::other)?;
            draft.publish(&path).map_err(io::Error::other)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
        };
        write().map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(needs.advice)
    }

    /// Has systemd start the service, or start it anew, and waits until each proxy has its tunnel.
    ///
    /// # Errors
    /// One line: systemd refuses, or the tunnels do not come within `patience`.
    pub fn start(&self, config: &Path, patience: Duration) -> Result<Answer, String> {
        self.systemctl(&["daemon-reload"])?;
        self.systemctl(&["enable", UNIT])?;
        self.systemctl(&["restart", UNIT])?;
        let end = Instant::now() + patience;
        loop {
            let asked = command::ask_one("connected", config);
            match asked {
                Some(answer) if answer.code == 0 => return Ok(answer),
                _ if Instant::now() < end => thread::sleep(PAUSE),
                Some(answer) => {
                    let state = answer.text.trim().to_owned();
                    return Err(format!("it runs, and is not connected yet: {state}"));
                }
                None => return Err("it does not answer; see journalctl -u spdy-agent".to_owned()),
            }
        }
    }

    /// Has a running service take up credentials that have changed.
    ///
    /// # Errors
    /// One line: systemd refuses.
    pub fn refresh(&self) -> Result<(), String> {
        if self.version < CREDENTIALS { Ok(()) } else { self.systemctl(&["try-restart", UNIT]) }
    }

    fn systemctl(&self, words: &[&str]) -> Result<(), String> {
        let done = Command::new(&self.systemctl).args(words).stdin(Stdio::null()).status();
        if done.is_ok_and(|status| status.success()) {
            return Ok(());
        }
        Err(format!("systemctl {} failed; see journalctl -u spdy-agent", words.join(" ")))
    }

    fn needs(&self, file: &File) -> Result<Needs, String> {
        let none = Options::default();
        let shares =
            config::shares(&none, &file.options, true).map_err(|error| error.to_string())?;
        let shares = shares.into_iter().map(|share| (share.path, share.writable));
        let linked = file.options.follow_into.iter().map(|folder| (folder.clone(), false));
        let mut needs = Needs::default();
        if let Some(owner) = &file.options.upload_owner {
            let etc = self.root.join("etc");
            let (user, group) = config::owner(&etc, owner).map_err(|error| error.to_string())?;
            needs.owner = Some((user, Some(group)));
        }
        for (path, writable) in shares.chain(linked) {
            self.add(&mut needs, &path, writable);
        }
        Ok(needs)
    }

    fn add(&self, needs: &mut Needs, path: &Path, writable: bool) {
        let shown = path.display();
        if path.as_os_str().as_bytes().iter().any(u8::is_ascii_control) {
            needs.advice.push(format!("{shown:?} has a name that a unit cannot hold: rename it"));
            return;
        }
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(error) => {
                needs.advice.push(format!("{shown}: {error}; once it is there: spdy-agent setup"));
                path.to_owned()
            }
        };
        if let Ok(meta) = fs::metadata(&real) {
            let wanted = if writable { 7 } else { 5 };
            let grants = |shift: u32| (meta.mode() >> shift) & wanted == wanted;
            let is_owner = needs.owner.is_some_and(|(user, _)| user == meta.uid());
            let is_free = needs.owner.is_none() && meta.uid() >= PEOPLE;
            match self.look(&real, writable) {
                Look::All => {}
                _ if is_owner && grants(6) => {}
                Look::Not(name) => needs
                    .advice
                    .push(format!("{shown} can be read, but not all in it, for one {name:?}")),
                Look::Nothing if grants(3) && is_of_people(meta.gid()) => {
                    needs.groups.insert(meta.gid());
                }
                Look::Nothing if grants(6) && is_free => {
                    needs.owner = Some((meta.uid(), None));
                }
                Look::Nothing => {
                    let (verb, rights) = if writable { ("changed", "rwX") } else { ("read", "rX") };
                    needs.advice.push(format!(
                        "{shown} cannot be {verb} by the service -> \
                         setfacl -R -m u:{USER}:{rights},d:u:{USER}:{rights} {}",
                        quoted(path)
                    ));
                }
            }
        }
        let is_hidden = is_home(path);
        let place = if is_hidden { path } else { &real };
        let closed = place.ancestors().skip(1).filter(|above| !self.may_enter(needs, above)).last();
        let closed = closed.filter(|_| !is_hidden).map(Path::to_owned);
        if is_hidden || closed.is_some() || writable {
            needs.binds.push((real.clone(), place.to_owned(), writable));
        }
        needs.closed.extend(closed);
    }

    /// Looks into a folder as the user of the unit. Who may enter the folders above does not matter:
    /// what is bound stands for itself.
    fn look(&self, folder: &Path, writable: bool) -> Look {
        let Ok(opened) = fs::File::open(folder) else { return Look::Nothing };
        let script =
            if writable { [ENTER, " && [ -w . ]", LIST].concat() } else { ENTER.to_owned() + LIST };
        let asked = Command::new("/bin/sh")
            .args(["-c", &script])
            .stdin(Stdio::from(opened))
            .stderr(Stdio::null())
            .uid(self.user)
            .gid(self.group)
            .output();
        match asked {
            Ok(output) if output.status.success() => match output.stdout.trim_ascii_end() {
                [] => Look::All,
                name => Look::Not(String::from_utf8_lossy(name).into_owned()),
            },
            _ => Look::Nothing,
        }
    }

    fn may_enter(&self, needs: &Needs, folder: &Path) -> bool {
        let Ok(meta) = fs::metadata(folder) else { return true };
        let (user, mode) = (needs.owner.map_or(self.user, |(user, _)| user), meta.mode());
        if meta.uid() == user {
            return mode & 0o100 != 0;
        }
        let is_member = meta.gid() == self.group || needs.groups.contains(&meta.gid());
        mode & if is_member { 0o010 } else { 0o001 } != 0
    }

    fn drop_in(&self, needs: &Needs, tokens: &[&Path]) -> String {
        let mut text = HEAD.to_owned();
        let mut line = |key: &str, value: &str| {
            text.extend([key, "=", value, "\n"]);
        };
        if self.version >= RELOADS {
            line("Type", "notify-reload");
            line("ExecReload", "");
        }
        if self.version >= CREDENTIALS {
            for token in tokens {
                let name = token.file_name().unwrap_or_default();
                line(
                    "LoadCredential",
                    &format!("{}:{}", escaped(name), escaped(token.as_os_str())),
                );
            }
        }
        let mut groups = needs.groups.clone();
        if let Some((user, group)) = needs.owner {
            line("User", &user.to_string());
            if let Some(group) = group {
                line("Group", &group.to_string());
                // Who may read the configuration.
                groups.insert(self.group);
            }
        }
        for group in groups {
            line("SupplementaryGroups", &group.to_string());
        }
        for closed in &needs.closed {
            line("TemporaryFileSystem", &(escaped(closed.as_os_str()) + ":ro"));
        }
        for (from, to, writable) in &needs.binds {
            let key = if *writable { "BindPaths" } else { "BindReadOnlyPaths" };
            let mut value = "-".to_owned() + &escaped(from.as_os_str());
            if from != to {
                value.extend([":", &escaped(to.as_os_str())]);
            }
            line(key, &value);
        }
        text
    }
}

fn give(path: &Path, user: u32, group: u32, mode: u32) -> Result<(), String> {
    let given = chown(path, Some(user), Some(group))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)));
    given.map_err(|error| format!("{}: {error}", path.display()))
}

/// What the service sees of a folder.
#[derive(Debug)]
enum Look {
    /// It may do there what it has to.
    All,
    /// The same, but this in it cannot be read.
    Not(String),
    /// It may not.
    Nothing,
}

fn is_home(path: &Path) -> bool {
    HOMES.iter().any(|home| {
        path.starts_with(home) || fs::canonicalize(home).is_ok_and(|home| path.starts_with(home))
    })
}

/// Not one that the system gives powers to.
const fn is_of_people(group: u32) -> bool {
    group == USERS || group >= PEOPLE
}

/// A path as a word of a unit's setting.
fn escaped(path: &OsStr) -> String {
    let mut word = String::new();
    for c in path.to_string_lossy().chars() {
        match c {
            '%' => word.push('%'),
            ' ' | ':' | '"' | '\'' | '\\' => word.push('\\'),
            _ => {}
        }
        word.push(c);
    }
    word
}

/// A path as a word of the shell.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(is_plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

const HEAD: &str = "# Made by `spdy-agent join`, and made anew from agent.conf by `spdy-agent setup`. Yours goes to\n\
                    # override.conf beside it.\n[Service]\n";
const UNIT: &str = "spdy-agent.service";
const USER: &str = "spdy-agent";
const DROP_INS: &str = "etc/systemd/system/spdy-agent.service.d";
/// What `ProtectHome=tmpfs` of the unit hides.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
/// Into the folder that is stdin, which must be readable.
const ENTER: &str = "cd /proc/self/fd/0 && [ -r . ]";
/// Says the first name in it that cannot be read.
const LIST: &str = " || exit 1; for n in *; do [ ! -e \"$n\" ] || [ -r \"$n\" ] || [ -L \"$n\" ] || { echo \"$n\"; break; }; done";
/// Versions of systemd that know LoadCredential and notify-reload.
const CREDENTIALS: u32 = 247;
const RELOADS: u32 = 253;
/// The group `users`, and the first id that is no system's.
const USERS: u32 = 100;
const PEOPLE: u32 = 1_000;
/// Between two questions to a service that starts.
const PAUSE: Duration = Duration::from_millis(200);
