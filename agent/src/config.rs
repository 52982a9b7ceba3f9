//! The configuration file, and settings made of it and of the command line.
//!
//! It owns the format (`file`), what overrules what, and every check before the first dial. It does
//! not know `argv` ([`crate::args`]).

mod access;
mod file;
mod rewrite;

use std::{
    env, fmt,
    path::{Path, PathBuf},
};

use ring::rand::{SecureRandom, SystemRandom};
use rustix::process::{getegid, geteuid};
use spdy_protocol::join::is_origin_name;

use self::access::{card, token, token_path, trust};
pub use self::{access::Access, file::File, rewrite::with_joined};
use crate::{
    account,
    dial::Address,
    log::{Level, Log},
    origin::{self, ShareOptions, forward::Service},
    supervise::{Proxy, Settings},
    verify::Trust,
};

/// What flags or the top of a file say, as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `root`: the folder.
    pub root: Option<PathBuf>,
    /// `proxy`: addresses.
    pub proxies: Vec<String>,
    /// `ca`, `pin`, `insecure`, `token-file`.
    pub access: Access,
    /// `follow-peers`: proxies that others name are dialled, too.
    pub follow_peers: bool,
    /// `name`: the name we are reached by.
    pub name: Option<String>,
    /// `forward`: services that requests are passed to.
    pub forwards: Vec<String>,
    /// `allow-write`: visitors may change `root`.
    pub allow_write: bool,
    /// `share`, `share-rw`: `NAME=PATH`, and whether visitors may change it.
    pub shares: Vec<(String, bool)>,
    /// `follow-into`: folders that links in the shares may lead into.
    pub follow_into: Vec<PathBuf>,
    /// `max-upload`: octets of the largest file that is taken.
    pub max_upload: Option<u64>,
    /// `upload-owner`: whose uploads are, `USER[:GROUP]`.
    pub upload_owner: Option<String>,
    /// `upload-umask`: what nobody may do with uploads, octal.
    pub upload_umask: Option<String>,
    /// `show-hidden`: names that begin with a dot are served.
    pub show_hidden: bool,
    /// `no-index`: a folder is listed even if it has an index.html.
    pub no_index: bool,
    /// `session-debug`.
    pub session_debug: bool,
    /// `log`: the level.
    pub log: Option<String>,
}

/// Why there are no settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// What was asked for makes no sense: exit code 64.
    Usage(String),
    /// It makes sense but cannot be done here: exit code 1.
    Failure(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(problem) | Self::Failure(problem) => f.write_str(problem),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Settings of flags over a file over defaults. Everything is checked here, also that files can be
/// read; only folders may be missing.
///
/// # Errors
/// The first thing that is wrong.
pub fn settle(flags: &Options, file: &File) -> Result<Settings, ConfigError> {
    let top = &file.options;
    let level = match flags.log.as_ref().or(top.log.as_ref()) {
        Some(text) => Level::parse(text).ok_or_else(|| {
            ConfigError::Usage(format!("log level {text} is none of error, warn, info, debug"))
        })?,
        None => Level::Info,
    };
    let name = name(flags, file)?;
    let forwards = forwards(flags, top)?;
    let shares = shares(flags, top, !forwards.is_empty())?;
    for share in &shares {
        if let Some(service) = forwards.iter().find(|service| service.hides(&share.name)) {
            let what = if share.name.is_empty() { "root" } else { share.name.as_str() };
            let problem = format!("forward {} leaves nothing of {what}", service.prefix());
            return Err(ConfigError::Usage(problem));
        }
    }
    let proxies: Vec<Proxy> = proxies(flags, file)?.into_iter().map(|(proxy, _)| proxy).collect();
    let follow_peers = flags.follow_peers || top.follow_peers;
    if follow_peers && !proxies.iter().any(|proxy| matches!(proxy.trust, Trust::Pins(_))) {
        let problem = "follow-peers needs a pin: that is what a named proxy must prove";
        return Err(ConfigError::Usage(problem.to_owned()));
    }
    for share in &shares {
        // A disk may come later, and its folder with it. A file never becomes a folder.
        if share.path.exists() && !share.path.is_dir() {
            let what = if share.name.is_empty() { "root" } else { share.name.as_str() };
            let path = share.path.display();
            return Err(ConfigError::Failure(format!("{what} {path}: is not a folder")));
        }
    }
    let instance = match file.instance {
        Some(instance) => instance,
        None => new_instance()?,
    };
    let debug = flags.session_debug || top.session_debug;
    let log = Log::detect(if debug { Level::Debug } else { level }, debug);
    let origin = origin::Options {
        shares,
        forwards,
        show_hidden: flags.show_hidden || top.show_hidden,
        index: !(flags.no_index || top.no_index),
        follow_into: follow_into(flags, top)?,
        max_upload: flags.max_upload.or(top.max_upload),
        owner: upload_owner(flags, top)?,
        instance,
        ..origin::Options::new("")
    };
    let settings = Settings::new(name, origin, log);
    let umask = upload_umask(flags, top)?;
    Ok(Settings { proxies, follow_peers, umask, session_debug: debug, ..settings })
}

fn upload_owner(flags: &Options, top: &Options) -> Result<Option<(u32, u32)>, ConfigError> {
    let Some(text) = flags.upload_owner.as_ref().or(top.upload_owner.as_ref()) else {
        return Ok(None);
    };
    let (wanted, own) = (owner(Path::new("/etc"), text)?, geteuid());
    if own.is_root() {
        return Ok(Some(wanted));
    }
    // What we make is ours: there is nothing to give away.
    if wanted == (own.as_raw(), getegid().as_raw()) {
        return Ok(None);
    }
    let problem = "only root can give files away; run the agent as that user and group, or, as \
                   a service, run spdy-agent setup";
    Err(ConfigError::Failure(format!("upload-owner {text}: {problem}")))
}

/// The ids of `USER[:GROUP]`; `etc`: `/etc`.
///
/// # Errors
/// One of them is not known.
pub fn owner(etc: &Path, text: &str) -> Result<(u32, u32), ConfigError> {
    let (user, group) = text.split_once(':').unzip();
    let ids = account::user(etc, user.unwrap_or(text)).and_then(|(user, own)| {
        Some((user, group.map_or(Some(own), |group| account::group(etc, group))?))
    });
    ids.ok_or_else(|| ConfigError::Failure(format!("upload-owner {text}: no such user or group")))
}

fn upload_umask(flags: &Options, top: &Options) -> Result<Option<u32>, ConfigError> {
    let Some(text) = flags.upload_umask.as_ref().or(top.upload_umask.as_ref()) else {
        return Ok(None);
    };
    let mask = u32::from_str_radix(text, 8).ok().filter(|mask| *mask <= 0o777);
    let problem = || ConfigError::Usage(format!("upload-umask {text} is not 000 to 777"));
    mask.map(Some).ok_or_else(problem)
}

/// The name we are reached by.
///
/// # Errors
/// It is none.
pub fn name(flags: &Options, file: &File) -> Result<String, ConfigError> {
    match flags.name.as_ref().or(file.options.name.as_ref()) {
        Some(name) if is_origin_name(name) => Ok(name.clone()),
        Some(name) => {
            let rule = "must be 1 to 63 of a-z, 0-9 and -";
            Err(ConfigError::Usage(format!("name {name} {rule}")))
        }
        None => Ok(name_of_host()),
    }
}

/// A new `instance`.
///
/// # Errors
/// The system has no random numbers.
pub fn new_instance() -> Result<[u8; 16], ConfigError> {
    let mut instance = [0; 16];
    let random = SystemRandom::new().fill(&mut instance);
    random.map_err(|_| ConfigError::Failure("the system has no random numbers".to_owned()))?;
    Ok(instance)
}

/// The default file that exists, the system's before the user's.
#[must_use]
pub fn default_path() -> Option<PathBuf> {
    [Some(PathBuf::from(SYSTEM_FILE)), user_path()].into_iter().flatten().find(|path| path.exists())
}

/// The default file that join writes: the system's for root, else the user's.
#[must_use]
pub fn path_to_write() -> Option<PathBuf> {
    if geteuid().is_root() {
        return Some(PathBuf::from(SYSTEM_FILE));
    }
    user_path()
}

/// The services of the flags if they name any, else those of the file.
fn forwards(flags: &Options, top: &Options) -> Result<Vec<Service>, ConfigError> {
    let layer = if flags.forwards.is_empty() { top } else { flags };
    let mut services: Vec<Service> = Vec::new();
    for text in &layer.forwards {
        let service = Service::parse(text).map_err(ConfigError::Usage)?;
        if services.iter().any(|other| other.prefix() == service.prefix()) {
            let problem = format!("forward {} is given twice", service.prefix());
            return Err(ConfigError::Usage(problem));
        }
        services.push(service);
    }
    Ok(services)
}

/// What is served: the shares of the flags if they name any, else those of the file. There must be
/// one unless something else is served.
///
/// # Errors
/// The first thing that is wrong.
pub fn shares(
    flags: &Options,
    top: &Options,
    may_be_none: bool,
) -> Result<Vec<ShareOptions>, ConfigError> {
    let usage = |problem: String| Err(ConfigError::Usage(problem));
    let own = flags.root.is_some() || !flags.shares.is_empty();
    let layer = if own { flags } else { top };
    let mut shares = Vec::new();
    match &layer.root {
        Some(path) => shares.push(ShareOptions {
            name: String::new(),
            path: path.clone(),
            writable: flags.allow_write || top.allow_write,
        }),
        None if flags.allow_write || layer.allow_write => {
            return usage("allow-write is for root; give a share as share-rw".to_owned());
        }
        None => {}
    }
    for (text, writable) in &layer.shares {
        let Some((name, path)) = text.split_once('=').filter(|(_, path)| !path.is_empty()) else {
            return usage(format!("share {text} is not NAME=PATH"));
        };
        if !origin::is_share_name(name) {
            let rule = "must be 1 to 63 of A-Z, a-z, 0-9, ., _ and -, and begin with no dot";
            return usage(format!("share name {name} {rule}"));
        }
        if shares.iter().any(|share| share.name == name) {
            return usage(format!("share {name} is given twice"));
        }
        let (name, path) = (name.to_owned(), PathBuf::from(path));
        shares.push(ShareOptions { name, path, writable: *writable });
    }
    match shares.len() {
        0 if !may_be_none => {
            let ways = "-r DIR, --share NAME=PATH or --forward PREFIX=URL";
            usage(format!("nothing to serve: give {ways}"))
        }
        0..=SHARES_MAX => Ok(shares),
        more => usage(format!("{more} shares are more than {SHARES_MAX}")),
    }
}

/// Folders that links may lead into. They need not exist: a disk may come later.
fn follow_into(flags: &Options, top: &Options) -> Result<Vec<PathBuf>, ConfigError> {
    let layer = if flags.follow_into.is_empty() { top } else { flags };
    let folders = layer.follow_into.iter().map(|folder| {
        let absolute = std::path::absolute(folder)
            .ok()
            .filter(|path| !path.components().any(|part| part == std::path::Component::ParentDir));
        absolute.ok_or_else(|| {
            let folder = folder.display();
            ConfigError::Usage(format!("follow-into {folder} is no path without .."))
        })
    });
    folders.collect()
}

/// The proxies, each with the file that its token is from. Reads files, which may block.
///
/// # Errors
/// The first thing that is wrong.
pub fn proxies(flags: &Options, file: &File) -> Result<Vec<(Proxy, Option<PathBuf>)>, ConfigError> {
    let top = &file.options;
    let mut addresses: Vec<&str> = flags.proxies.iter().map(String::as_str).collect();
    if addresses.is_empty() {
        addresses.extend(top.proxies.iter().map(String::as_str));
        addresses.extend(file.sections.iter().map(|(address, _)| address.as_str()));
    }
    if addresses.is_empty() {
        addresses.push(DEFAULT_PROXY);
    }
    let mut proxies: Vec<(Proxy, Option<PathBuf>)> = Vec::new();
    for text in addresses {
        let address = Address::parse(text)
            .map_err(|error| ConfigError::Usage(format!("proxy {text} is {error}")))?;
        if proxies.iter().any(|(proxy, _)| proxy.address == address) {
            continue;
        }
        let none = Access::default();
        let own = file.sections.iter().find(|(known, _)| known == text);
        let own = own.map_or(&none, |(_, access)| access);
        let access = Access::layered([&flags.access, own, &top.access]);
        let trust = trust(&access, &address)?;
        let credentials = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let card = card(&access, &address)?;
        let given = token_path(&access, credentials.as_deref()).filter(|_| card.is_none());
        let token = given.as_deref().map(token).transpose()?;
        proxies.push((Proxy { address, trust, token, card }, access.token_file));
    }
    Ok(proxies)
}

/// The first label of the host's name, as far as it can be one of ours.
fn name_of_host() -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy().to_ascii_lowercase();
    let label: String = host
        .split('.')
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'))
        .take(63)
        .collect();
    if is_origin_name(&label) { label } else { "nas".to_owned() }
}

fn user_path() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    home.map(|home| home.join("spdy-agent/agent.conf"))
}

const SYSTEM_FILE: &str = "/etc/spdy-agent/agent.conf";
/// The original's port for agents.
const DEFAULT_PROXY: &str = "localhost:1444";
const SHARES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const PIN: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(text: &str) -> Result<File, (usize, String)> {
        File::parse(text, Path::new("/etc/x"))
    }

    fn usage(flags: &Options, file: &File) -> String {
        match settle(flags, file) {
            Err(ConfigError::Usage(problem)) => problem,
            other => panic!("{other:?}"),
        }
    }

    fn failure(flags: &Options) -> String {
        match settle(flags, &File::default()) {
            Err(ConfigError::Failure(problem)) => problem,
            other => panic!("{other:?}"),
        }
    }

    fn flags() -> Options {
        let access = Access { pins: vec![PIN.to_owned()], ..Access::default() };
        Options { root: Some(std::env::temp_dir()), access, ..Options::default() }
    }

    #[test]
    fn included_file_is_read_in_its_own_folder_and_keeps_its_sections() {
        let folder = std::env::temp_dir().join(format!("spdy-include-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let inner = folder.join("inner.conf");
        fs::write(&inner, "name nas1\n[proxy a:1]\npin x\ntoken-file a.token\n").unwrap();
        let line = format!("include {}\n", inner.display());
        let file = parse(&format!("{line}root served\n[proxy b:2]\npin y\n")).unwrap();
        assert_eq!(file.options.root.as_deref(), Some(Path::new("/etc/x/served")));
        assert_eq!(file.options.name.as_deref(), Some("nas1"));
        let [(a, first), (b, second)] = &file.sections[..] else { panic!("{file:?}") };
        assert_eq!((a.as_str(), b.as_str()), ("a:1", "b:2"));
        assert_eq!(
            (&first.pins[..], &second.pins[..]),
            (&["x".to_owned()][..], &["y".to_owned()][..])
        );
        assert_eq!(first.token_file, Some(folder.join("a.token")));

        // Its problems name it, with its line; and it includes nothing itself.
        for wrong in ["# fine\nnonsense 1\n", &format!("\n{line}")] {
            fs::write(&inner, wrong).unwrap();
            let (at, problem) = parse(&format!("log info\n{line}")).unwrap_err();
            assert_eq!(at, 2);
            assert!(problem.starts_with(&format!("{}:2: ", inner.display())), "{problem}");
        }
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(parse(&line).unwrap_err().0, 1);
        assert!(parse(&format!("[proxy a:1]\n{line}")).unwrap_err().1.contains("unknown key"));
    }

    #[test]
    fn file_with_sections_is_read() {
        let file = parse(
            "# comment\n\nroot /srv/media\n  name nas1\nallow-write\ninstance \
             000102030405060708090a0b0c0d0e0f\nca rel.pem\n[proxy a:1]\npin x\npin y\n\
             token-file a.token\n[proxy [::1]:2]\ninsecure yes\n",
        )
        .unwrap();
        assert_eq!(file.options.root.as_deref(), Some(Path::new("/srv/media")));
        assert_eq!(file.options.name.as_deref(), Some("nas1"));
        assert!(file.options.allow_write);
        assert_eq!(file.options.access.ca.as_deref(), Some(Path::new("/etc/x/rel.pem")));
        assert_eq!(file.instance.unwrap()[15], 15);
        assert_eq!(file.sections.len(), 2);
        assert_eq!(file.sections[0].0, "a:1");
        assert_eq!(file.sections[0].1.pins, ["x", "y"]);
        assert_eq!(file.sections[0].1.token_file.as_deref(), Some(Path::new("/etc/x/a.token")));
        assert_eq!(file.sections[1].0, "[::1]:2");
        assert!(file.sections[1].1.insecure);
    }

    #[test]
    fn wrong_lines_are_named() {
        for (text, line) in [
            ("nonsense", 1),
            ("root /a\nshare /y", 2),
            ("root", 1),
            ("root /a\nroot /b", 2),
            ("allow-write maybe", 1),
            ("max-upload 1G", 1),
            ("[proxy a:1]\nroot /x", 2),
            ("root /a\nforward /x=https://h", 2),
            ("[proxy]", 1),
            ("[other a]", 1),
            ("[proxy a:1", 1),
            ("[proxy a:1]\n\n[proxy a:1]", 3),
            ("instance 00", 1),
            ("Root /x", 1),
        ] {
            assert_eq!(parse(text).unwrap_err().0, line, "{text}");
        }
    }

    #[test]
    fn shares_have_names_paths_and_switches() {
        let text = "insecure\nshow-hidden\nno-index\nmax-upload 7\nshare films=/\n\
                    share-rw in = sub dir\n";
        let file = parse(text).unwrap();
        assert_eq!(file.options.shares[1], ("in=/etc/x/sub dir".to_owned(), true));
        let one = |shares: &[(&str, bool)], root: Option<&str>, allow_write| {
            let shares = shares.iter().map(|(text, rw)| ((*text).to_owned(), *rw)).collect();
            let root = root.map(PathBuf::from);
            settle(&Options { shares, root, allow_write, ..Options::default() }, &file)
        };
        let settings = one(&[("a=/", false), ("b=/usr", true)], Some("/etc"), true).unwrap();
        let names = settings.origin.shares.iter().map(|share| (&*share.name, share.writable));
        assert_eq!(names.collect::<Vec<_>>(), [("", true), ("a", false), ("b", true)]);
        assert!(settings.origin.show_hidden && !settings.origin.index);
        assert_eq!(settings.origin.max_upload, Some(7));
        let follow = |folder: &str| {
            let (root, follow_into) = (Some("/".into()), vec![folder.into()]);
            settle(&Options { root, follow_into, ..Options::default() }, &file)
        };
        assert_eq!(follow("/mnt/disk").unwrap().origin.follow_into, [Path::new("/mnt/disk")]);
        assert!(follow("/mnt/../x").is_err());
        for (shares, write) in [
            (&[("a", false)][..], false),
            (&[("a=", false)], false),
            (&[("=/", false)], false),
            (&[(".a=/", false)], false),
            (&[("a/b=/", false)], false),
            (&[("a=/", false), ("a=/usr", true)], false),
            (&[("a=/", false)], true),
        ] {
            assert!(matches!(one(shares, None, write), Err(ConfigError::Usage(_))), "{shares:?}");
        }
        assert!(one(&[("a=/nowhere", false)], None, false).is_ok());
        let file = one(&[("a=/etc/passwd", false)], None, false);
        assert!(matches!(file, Err(ConfigError::Failure(_))));
    }

    #[test]
    fn flags_win_over_sections_over_the_top() {
        let text = format!("root /\nname filename\ninsecure\n[proxy a:1]\npin {PIN}\n");
        let file = parse(&text).unwrap();
        let settings = settle(&Options::default(), &file).unwrap();
        assert_eq!(settings.name, "filename");
        assert_eq!(settings.proxies.len(), 1);
        assert!(matches!(settings.proxies[0].trust, Trust::Pins(_)));

        let two = Options { proxies: vec!["b:2".into(), "a:1".into()], ..Options::default() };
        let settings = settle(&two, &file).unwrap();
        assert!(matches!(settings.proxies[0].trust, Trust::Insecure));
        assert!(matches!(settings.proxies[1].trust, Trust::Pins(_)));

        let with_services = parse("insecure\nforward /y=http://top\nforward /=http://top\n");
        let with_services = with_services.unwrap();
        let prefixes = |flags: &Options| {
            let forwards = settle(flags, &with_services).unwrap().origin.forwards;
            forwards.iter().map(|service| service.prefix().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(prefixes(&Options::default()), ["/y", "/"]);
        let forwards = vec!["/x=http://flag".to_owned()];
        assert_eq!(prefixes(&Options { forwards, ..Options::default() }), ["/x"]);

        let access = Access { insecure: true, ..Access::default() };
        let name = Some("flagname".to_owned());
        let settings = settle(&Options { access, name, ..Options::default() }, &file).unwrap();
        assert_eq!(settings.name, "flagname");
        assert!(matches!(settings.proxies[0].trust, Trust::Insecure));
    }

    #[test]
    fn defaults_are_those_of_the_original() {
        let settings = settle(&flags(), &File::default()).unwrap();
        assert_eq!(settings.proxies[0].address.to_string(), "localhost:1444");
        assert!(is_origin_name(&settings.name));
        assert!(!settings.origin.shares[0].writable);
        assert_ne!(settings.instance, [0; 16]);
    }

    #[test]
    fn senseless_options_are_usage_errors() {
        let none = File::default();
        let access = Access { insecure: true, ..Access::default() };
        let peers = Options { follow_peers: true, access, ..flags() };
        assert!(usage(&peers, &none).contains("needs a pin"));
        assert!(settle(&Options { follow_peers: true, ..flags() }, &none).unwrap().follow_peers);
        let access = Access::default();
        assert!(usage(&Options { access, ..flags() }, &none).contains("--pin"));
        assert!(usage(&Options { root: None, ..flags() }, &none).contains("-r DIR"));
        let log = Some("loud".to_owned());
        assert!(usage(&Options { log, ..flags() }, &none).contains("loud"));
        let name = Some("Not a name".to_owned());
        assert!(usage(&Options { name, ..flags() }, &none).contains("Not a name"));
        let proxies = vec!["nowhere".to_owned()];
        assert!(usage(&Options { proxies, ..flags() }, &none).contains("nowhere"));
        let access = Access { pins: vec!["abc".to_owned()], ..Access::default() };
        assert!(usage(&Options { access, ..flags() }, &none).contains("pin abc"));
        for (forwards, wrong) in [
            (&["/x"][..], "forward /x: "),
            (&["/x=http://a", "/y=http://a", "/x=http://b"], "forward /x is given twice"),
            (&["/=http://a"], "forward / leaves nothing of root"),
            (&["/s=http://a"], "forward /s leaves nothing of s"),
        ] {
            let forwards = forwards.iter().map(|text| (*text).to_owned()).collect();
            let shares = vec![("s=/".to_owned(), false)];
            assert!(usage(&Options { forwards, shares, ..flags() }, &none).starts_with(wrong));
        }
        let access = Access { insecure: true, ..flags().access };
        assert!(usage(&Options { access, ..flags() }, &none).contains("exclude"));
    }

    #[test]
    fn missing_files_are_failures() {
        let root = Some(PathBuf::from("/dev/null"));
        assert!(failure(&Options { root, ..flags() }).contains("/dev/null"));
        let access = Access { token_file: Some("/nonexistent/token".into()), ..flags().access };
        assert!(failure(&Options { access, ..flags() }).contains("/nonexistent/token"));
        let access = Access { token_file: Some("/dev/null".into()), ..flags().access };
        assert!(failure(&Options { access, ..flags() }).contains("holds no token"));
        let access = Access { ca: Some("/nonexistent/ca".into()), ..Access::default() };
        assert!(failure(&Options { access, ..flags() }).contains("/nonexistent/ca"));
        let missing = File::load(Some(Path::new("/nonexistent/agent.conf")));
        assert!(matches!(missing, Err(ConfigError::Failure(_))));
    }
}
