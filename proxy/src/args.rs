//! The command line, and the configuration file that says the same.
//!
//! It owns flags (`flags`), keys and their checks; nothing is opened here but the configuration
//! file. It does not own what a command does ([`crate::command`]).

mod flags;

use std::{
    ffi::OsString,
    fmt,
    fmt::Display,
    fs,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use argh::{EarlyExit, FromArgs};
use flags::{Flags, KeyFlags, KeySubcommand, RotateFlags, Subcommand};
use spdy_protocol::{
    address::Address,
    handshake::{PEERS, TEXT},
    join::{ADDRESSES, is_origin_name},
};

use crate::{
    address_range::AddressRange,
    config::{self, ConfigError},
    log::{Level, Log},
    registry::ANONYMOUS,
    settings::Settings,
};

/// What the program was asked to do.
#[derive(Debug)]
pub enum Command {
    /// Serve.
    Serve(Box<Serve>),
    /// Print a join code.
    Pair(Pair),
    /// Print a join code by which an agent comes to a new token.
    Rotate(Pair),
    /// Change which visitors may come in.
    Access(ChangeAccess),
    /// Void all that an agent could come in by.
    Revoke {
        /// Name of the origin.
        name: String,
        /// The state folder; `None`: the default one.
        state_dir: Option<PathBuf>,
    },
    /// Look after the key that agents pin.
    Key {
        /// What is to be done.
        change: KeyChange,
        /// The state folder; `None`: the default one.
        state_dir: Option<PathBuf>,
    },
    /// Print what the running server counts.
    Status {
        /// As JSON.
        json: bool,
        /// The state folder; `None`: the default one.
        state_dir: Option<PathBuf>,
    },
    /// Print the origins.
    List {
        /// The state folder; `None`: the default one.
        state_dir: Option<PathBuf>,
    },
    /// Print this text and end.
    Print(String),
}

/// `spdy-proxy` without a command.
#[derive(Debug)]
pub struct Serve {
    /// The settings; their state folder is empty when none was named.
    pub settings: Settings,
    /// The configuration file that they come from, and what it said.
    pub config: Option<(PathBuf, String)>,
}

/// What is to be done with the key of the tunnel port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// Make a spare and write it here.
    Spare(PathBuf),
    /// Take the spare of this file into use.
    Use(PathBuf),
    /// Print the pins.
    List,
}

/// `spdy-proxy pair` and `spdy-proxy rotate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Name of the origin.
    pub name: String,
    /// Addresses of the tunnel port as agents reach it.
    pub addresses: Vec<String>,
    /// The state folder; `None`: the default one.
    pub state_dir: Option<PathBuf>,
    /// How long the code is good for.
    pub valid: Duration,
    /// Which visitors may come in; `None`: those of before, and with a password if there is no
    /// rule yet.
    pub access: Option<Choice>,
}

/// `spdy-proxy access`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeAccess {
    /// Name of the origin.
    pub name: String,
    /// Which visitors may come in.
    pub access: Choice,
    /// The state folder; `None`: the default one.
    pub state_dir: Option<PathBuf>,
}

/// Which visitors may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Who shows a password, which is made now.
    Password,
    /// Everybody.
    Open,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "password" => Ok(Self::Password),
            "open" => Ok(Self::Open),
            _ => Err(format!("{text:?} is neither password nor open")),
        }
    }
}

/// The command line or the configuration file asks for what there is not: one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError(String);

impl Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Reads a whole command line, the program's name included.
///
/// # Errors
/// [`UsageError`], also for what a configuration file says.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut words = Vec::new();
    for word in args {
        let word = word.into_string();
        words.push(word.map_err(|word| usage(format_args!("{} is no UTF-8", word.display())))?);
    }
    let words = split(words.into_iter().skip(1));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let flags = match Flags::from_args(&[NAME], &words) {
        Ok(flags) => flags,
        Err(EarlyExit { output, status: Ok(()) }) => return Ok(Command::Print(output)),
        Err(EarlyExit { output, status: Err(()) }) => return Err(one_line(&output)),
    };
    if flags.version {
        return Ok(Command::Print(format!("{NAME} {}\n", env!("CARGO_PKG_VERSION"))));
    }
    match flags.command {
        None => serve(flags).map(|serve| Command::Serve(Box::new(serve))),
        Some(Subcommand::List(list)) => {
            Ok(Command::List { state_dir: list.state_dir.or(flags.state_dir) })
        }
        Some(Subcommand::Pair(pair)) => {
            let state_dir = pair.state_dir.or(flags.state_dir);
            pairing(pair.name, pair.address, pair.valid, pair.access, state_dir).map(Command::Pair)
        }
        Some(Subcommand::Rotate(RotateFlags { name, address, state_dir, valid })) => {
            let state_dir = state_dir.or(flags.state_dir);
            pairing(name, address, valid, None, state_dir).map(Command::Rotate)
        }
        Some(Subcommand::Revoke(revoke)) => {
            check_name(&revoke.name)?;
            let state_dir = revoke.state_dir.or(flags.state_dir);
            Ok(Command::Revoke { name: revoke.name, state_dir })
        }
        Some(Subcommand::Key(KeyFlags { command, state_dir })) => {
            let (change, own) = match command {
                KeySubcommand::Spare(spare) => (KeyChange::Spare(spare.file), spare.state_dir),
                KeySubcommand::Use(used) => (KeyChange::Use(used.file), used.state_dir),
                KeySubcommand::List(list) => (KeyChange::List, list.state_dir),
            };
            Ok(Command::Key { change, state_dir: own.or(state_dir).or(flags.state_dir) })
        }
        Some(Subcommand::Status(status)) => {
            let state_dir = status.state_dir.or(flags.state_dir);
            Ok(Command::Status { json: status.json, state_dir })
        }
        Some(Subcommand::Access(change)) => {
            check_name(&change.name)?;
            let state_dir = change.state_dir.or(flags.state_dir);
            let (name, access) = (change.name, change.access);
            Ok(Command::Access(ChangeAccess { name, access, state_dir }))
        }
    }
}

fn pairing(
    name: String,
    addresses: Vec<String>,
    valid: Option<String>,
    access: Option<Choice>,
    state_dir: Option<PathBuf>,
) -> Result<Pair, UsageError> {
    let valid = valid.map_or(Ok(VALID), |text| seconds("valid", &text))?;
    check_name(&name)?;
    for address in &addresses {
        check_dial_address("address", address)?;
    }
    if addresses.len() > ADDRESSES {
        let given = addresses.len();
        return Err(usage(format_args!("address: {given} are more than {ADDRESSES}")));
    }
    Ok(Pair { name, addresses, state_dir, valid, access })
}

/// A name that an origin of one owner can have.
fn check_name(name: &str) -> Result<(), UsageError> {
    if !is_origin_name(name) {
        return Err(usage(format_args!("{name:?} is no name: [a-z0-9-], 1 to 63 characters")));
    }
    if name == ANONYMOUS {
        return Err(usage(format_args!(
            "{ANONYMOUS:?} is the name of agents without credentials, open to every visitor"
        )));
    }
    Ok(())
}

/// argh takes `--flag value` only: makes two words of `--flag=value`.
fn split(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut split = Vec::new();
    let mut is_over = false;
    for word in words {
        is_over |= word == "--";
        match word.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") && !is_over => {
                split.push(flag.to_owned());
                split.push(value.to_owned());
            }
            _ => split.push(word),
        }
    }
    split
}

/// What argh complains of, in one line.
fn one_line(output: &str) -> UsageError {
    let lines = output.lines().map(str::trim).filter(|line| {
        // The invitation to read the help is not what is wrong.
        !line.is_empty() && !line.starts_with("Run ")
    });
    UsageError(lines.collect::<Vec<_>>().join(" "))
}

fn serve(mut flags: Flags) -> Result<Serve, UsageError> {
    let mut config = None;
    if let Some(path) = flags.config.take() {
        let text = fs::read_to_string(&path)
            .map_err(|error| usage(format_args!("{}: {error}", path.display())))?;
        read_config(&mut flags, &text)
            .map_err(|error| usage(format_args!("{}: {error}", path.display())))?;
        config = Some((path, text));
    }
    let mut settings = Settings::new(flags.state_dir.unwrap_or_default());
    if !flags.listen.is_empty() {
        settings.listen = addresses(&flags.listen)?;
    }
    if !flags.tunnel_listen.is_empty() {
        settings.tunnel_listen = addresses(&flags.tunnel_listen)?;
    }
    if let Some(level) = flags.log {
        let level = Level::from_str(&level).map_err(|_| {
            usage(format_args!("log: {level:?} is none of error, warn, info, debug"))
        })?;
        settings.log = Log::stderr(level);
    }
    if let Some(threads) = flags.threads {
        settings.threads =
            threads.parse().ok().filter(|threads| (1..=THREADS_MAX).contains(threads)).ok_or_else(
                || usage(format_args!("threads: {threads:?} is not 1 to {THREADS_MAX}")),
            )?;
    }
    if let Some(grace) = flags.grace {
        settings.timings.grace = seconds("grace", &grace)?;
    }
    if let Some(spread) = flags.spread {
        settings.timings.spread = seconds("spread", &spread)?;
    }
    if let Some(hold) = flags.hold {
        settings.timings.hold = seconds("hold", &hold)?;
        if settings.timings.hold.is_zero() {
            settings.timings.splice = Duration::ZERO;
        }
    }
    settings.tls = flags.tls;
    settings.behind_tls = flags.behind_tls;
    for range in &flags.trusted_front_end {
        let range = AddressRange::from_str(range)
            .map_err(|error| usage(format_args!("trusted-front-end: {range:?} is {error}")))?;
        settings.trusted_front_ends.push(range);
    }
    settings.trace = flags.session;
    settings.debug = flags.debug;
    settings.allow_anonymous = flags.allow_anonymous;
    settings.standby = flags.standby;
    for peer in &flags.peer {
        check_dial_address("peer", peer)?;
        if peer.len() > TEXT || !peer.bytes().all(|octet| octet.is_ascii_graphic()) {
            return Err(usage(format_args!("peer: no agent can be told {peer:?}")));
        }
    }
    if flags.peer.len() > PEERS {
        return Err(usage(format_args!("peer: {} are more than {PEERS}", flags.peer.len())));
    }
    settings.peers = flags.peer;
    if flags.client_crl.is_some() && flags.client_ca.is_none() {
        return Err(usage(format_args!(
            "client-crl: there is no client-ca whose list it could be"
        )));
    }
    (settings.client_ca, settings.client_crl) = (flags.client_ca, flags.client_crl);
    Ok(Serve { settings, config })
}

/// Fills in what the command line left open.
fn read_config(flags: &mut Flags, text: &str) -> Result<(), ConfigError> {
    let given = [&flags.listen, &flags.tunnel_listen, &flags.peer, &flags.trusted_front_end];
    let given = given.map(|list| !list.is_empty());
    let mut seen: Vec<String> = Vec::new();
    for config::Entry { line, key, value } in config::parse(text) {
        let is_list = LISTS.contains(&key.as_str());
        if !is_list && seen.contains(&key) {
            return Err(ConfigError::Repeated { line, key });
        }
        let switch = |flag: &mut bool, key: &str| match value.as_str() {
            "" | "yes" | "true" => {
                *flag = true;
                Ok(())
            }
            "no" | "false" => Ok(()),
            _ => Err(ConfigError::Value { line, key: key.to_owned(), expected: "yes or no" }),
        };
        if value.is_empty() && !SWITCHES.contains(&key.as_str()) && KEYS.contains(&key.as_str()) {
            return Err(ConfigError::Value { line, key, expected: "a value" });
        }
        match key.as_str() {
            "listen" if given[0] => {}
            "listen" => flags.listen.push(value),
            "tunnel-listen" if given[1] => {}
            "tunnel-listen" => flags.tunnel_listen.push(value),
            "peer" if given[2] => {}
            "peer" => flags.peer.push(value),
            "trusted-front-end" if given[3] => {}
            "trusted-front-end" => flags.trusted_front_end.push(value),
            "state-dir" => drop(flags.state_dir.get_or_insert(PathBuf::from(value))),
            "client-ca" => drop(flags.client_ca.get_or_insert(PathBuf::from(value))),
            "client-crl" => drop(flags.client_crl.get_or_insert(PathBuf::from(value))),
            "standby" => switch(&mut flags.standby, &key)?,
            "log" => drop(flags.log.get_or_insert(value)),
            "threads" => drop(flags.threads.get_or_insert(value)),
            "grace" => drop(flags.grace.get_or_insert(value)),
            "spread" => drop(flags.spread.get_or_insert(value)),
            "hold" => drop(flags.hold.get_or_insert(value)),
            "tls" => switch(&mut flags.tls, &key)?,
            "behind-tls" => switch(&mut flags.behind_tls, &key)?,
            "session" => switch(&mut flags.session, &key)?,
            "debug" => switch(&mut flags.debug, &key)?,
            "allow-anonymous" => switch(&mut flags.allow_anonymous, &key)?,
            _ => return Err(ConfigError::UnknownKey { line, key }),
        }
        seen.push(key);
    }
    Ok(())
}

fn addresses(names: &[String]) -> Result<Vec<SocketAddr>, UsageError> {
    let mut all = Vec::new();
    for name in names {
        let found = name
            .to_socket_addrs()
            .map_err(|error| usage(format_args!("{name:?} is no HOST:PORT: {error}")))?;
        all.extend(found);
    }
    Ok(all)
}

/// `HOST:PORT` that agents can dial; the machine need not be known here.
fn check_dial_address(flag: &str, address: &str) -> Result<(), UsageError> {
    match Address::parse(address) {
        Ok(_) => Ok(()),
        Err(error) => Err(usage(format_args!("{flag}: {address:?} is {error}"))),
    }
}

fn seconds(flag: &str, text: &str) -> Result<Duration, UsageError> {
    text.parse()
        .ok()
        .filter(|seconds| *seconds <= SECONDS_MAX)
        .map(Duration::from_secs)
        .ok_or_else(|| usage(format_args!("{flag}: {text:?} is not 0 to {SECONDS_MAX} seconds")))
}

fn usage(text: fmt::Arguments<'_>) -> UsageError {
    UsageError(text.to_string())
}

const NAME: &str = "spdy-proxy";
/// How long a join code is good for.
const VALID: Duration = Duration::from_secs(3_600);
/// A year: anything longer is a slip.
const SECONDS_MAX: u64 = 366 * 86_400;
const THREADS_MAX: usize = 256;
const SWITCHES: [&str; 6] = ["tls", "behind-tls", "session", "debug", "allow-anonymous", "standby"];
/// Keys that may stand in several lines.
const LISTS: [&str; 4] = ["listen", "tunnel-listen", "peer", "trusted-front-end"];
const KEYS: [&str; 18] = [
    "trusted-front-end",
    "peer",
    "client-ca",
    "client-crl",
    "standby",
    "listen",
    "tunnel-listen",
    "state-dir",
    "log",
    "threads",
    "grace",
    "hold",
    "spread",
    "tls",
    "behind-tls",
    "session",
    "debug",
    "allow-anonymous",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Command, UsageError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn settings(line: &str) -> Settings {
        match words(line).unwrap() {
            Command::Serve(serve) => serve.settings,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn no_arguments_are_the_originals_ports() {
        let settings = settings("spdy-proxy");
        assert_eq!(settings.listen, [SocketAddr::from(([127, 0, 0, 1], 1443))]);
        assert_eq!(settings.tunnel_listen, [SocketAddr::from(([127, 0, 0, 1], 1444))]);
        assert!(!settings.behind_tls);
        assert!(!settings.tls && !settings.trace && !settings.debug && !settings.allow_anonymous);
        assert!(settings.state_dir.as_os_str().is_empty());
    }

    #[test]
    fn addresses_that_agents_cannot_dial_are_refused() {
        let pair = |rest: &str| words(&format!("spdy-proxy pair nas1 {rest}"));
        for address in [
            "m\u{fc}ller.example:1444",
            "*.example.com:1444",
            "-x.example:1444",
            "[fe80::1%eth0]:1444",
            "example.com",
            "https://example.com:1444",
            "::1:1444",
        ] {
            assert!(pair(&format!("--address {address}")).is_err(), "{address}");
            let served = words(&format!("spdy-proxy --peer {address}"));
            assert!(served.is_err(), "{address}");
        }
        let blank = ["spdy-proxy", "pair", "nas1", "--address", "a b:1444"].map(OsString::from);
        assert!(parse(blank).is_err());
        let hint = pair("--address m\u{fc}ller.example:1444").unwrap_err();
        assert!(hint.to_string().contains("xn--"), "{hint}");
        let many = |count: usize| "--address a.example:1 ".repeat(count);
        assert!(pair(&many(ADDRESSES)).is_ok());
        for count in [ADDRESSES + 1, 256, 300] {
            assert!(pair(&many(count)).is_err(), "{count}");
            let rotate = words(&format!("spdy-proxy rotate nas1 {}", many(count)));
            assert!(rotate.is_err(), "{count}");
        }
    }

    #[test]
    fn front_ends_are_addresses_and_the_command_line_wins() {
        let trusted = |line: &str| {
            let ranges = settings(line).trusted_front_ends;
            ranges.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(trusted("spdy-proxy").is_empty());
        let line = "spdy-proxy --trusted-front-end ::1 --trusted-front-end=10.0.0.0/8";
        assert_eq!(trusted(line), ["::1/128", "10.0.0.0/8"]);
        assert!(words("spdy-proxy --trusted-front-end localhost").is_err());
        let mut flags = Flags::from_args(&[NAME], &["--trusted-front-end", "::1"]).unwrap();
        let text = "trusted-front-end 10.0.0.1\ntrusted-front-end 10.0.0.2\n";
        read_config(&mut flags, text).unwrap();
        assert_eq!(flags.trusted_front_end, ["::1"]);
        let mut flags = Flags::from_args(&[NAME], &[]).unwrap();
        read_config(&mut flags, text).unwrap();
        assert_eq!(flags.trusted_front_end, ["10.0.0.1", "10.0.0.2"]);
    }

    #[test]
    fn flags_take_their_value_in_either_form() {
        for line in [
            "spdy-proxy -t -s --listen=[::]:0 --listen 127.0.0.1:0 --state-dir=/x --threads=2",
            "spdy-proxy --listen [::]:0 --listen=127.0.0.1:0 -t -s --state-dir /x --threads 2",
        ] {
            let settings = settings(line);
            assert_eq!(settings.listen.len(), 2);
            assert!(settings.tls && settings.trace);
            assert_eq!(settings.state_dir, PathBuf::from("/x"));
            assert_eq!(settings.threads, 2);
        }
    }

    #[test]
    fn usage_errors_are_one_line() {
        for line in [
            "spdy-proxy --nonsense",
            "spdy-proxy --listen",
            "spdy-proxy --listen nonsense",
            "spdy-proxy --log loud",
            "spdy-proxy --threads 0",
            "spdy-proxy --grace soon",
            "spdy-proxy --debug=yes",
            "spdy-proxy --state-dir /a --state-dir /b",
            "spdy-proxy --config /nonexistent/file",
            "spdy-proxy nonsense",
            "spdy-proxy pair",
            "spdy-proxy pair NAS",
            "spdy-proxy pair anonymous",
            "spdy-proxy pair nas1 --address nonsense",
            "spdy-proxy pair nas1 --address host:0",
            "spdy-proxy pair nas1 --address ::1:80",
            "spdy-proxy pair nas1 --valid never",
            "spdy-proxy pair nas1 --access closed",
            "spdy-proxy access",
            "spdy-proxy access nas1",
            "spdy-proxy access nas1 closed",
            "spdy-proxy access NAS open",
            "spdy-proxy access anonymous password",
            "spdy-proxy revoke",
            "spdy-proxy revoke NAS",
            "spdy-proxy rotate nas1 --access open",
            "spdy-proxy key",
            "spdy-proxy key spare",
            "spdy-proxy key spare a b",
            "spdy-proxy status --json=yes",
            "spdy-proxy --client-crl /x",
            "spdy-proxy --peer nonsense",
            "spdy-proxy --peer p\u{e4}.example:1",
            "spdy-proxy --peer a:1 --peer a:2 --peer a:3 --peer a:4 --peer a:5 --peer a:6 --peer a:7 \
             --peer a:8 --peer a:9",
        ] {
            let error = words(line).expect_err(line).to_string();
            assert!(!error.is_empty() && !error.contains('\n'), "{line}: {error:?}");
        }
    }

    #[test]
    fn pair_and_list_have_their_own_flags() {
        let Command::Pair(pair) = words(
            "spdy-proxy pair nas1 --address=a.example:1444 --address [::1]:1444 --valid 60 \
             --state-dir /x --access=open",
        )
        .unwrap() else {
            panic!("no pair")
        };
        assert_eq!(pair.name, "nas1");
        assert_eq!(pair.addresses, ["a.example:1444", "[::1]:1444"]);
        assert_eq!(pair.valid, Duration::from_secs(60));
        assert_eq!(pair.access, Some(Choice::Open));
        assert_eq!(pair.state_dir, Some(PathBuf::from("/x")));
        let access = words("spdy-proxy --state-dir /x access nas1 password").unwrap();
        let Command::Access(access) = access else { panic!("no access") };
        assert_eq!((access.name.as_str(), access.access), ("nas1", Choice::Password));
        assert_eq!(access.state_dir, Some(PathBuf::from("/x")));
        let list = words("spdy-proxy --state-dir /x list").unwrap();
        assert!(matches!(list, Command::List { state_dir: Some(_) }));
        let rotate = words("spdy-proxy rotate nas1 --address a.example:1444 --valid=5").unwrap();
        assert!(matches!(rotate, Command::Rotate(Pair { access: None, .. })));
        let revoke = words("spdy-proxy revoke nas1 --state-dir /x").unwrap();
        assert!(matches!(revoke, Command::Revoke { state_dir: Some(_), .. }));
        for (line, wanted) in [
            ("spdy-proxy key spare /a --state-dir /x", KeyChange::Spare("/a".into())),
            ("spdy-proxy key use /a", KeyChange::Use("/a".into())),
            ("spdy-proxy key list", KeyChange::List),
            ("spdy-proxy key --state-dir /x list", KeyChange::List),
        ] {
            let Command::Key { change, .. } = words(line).unwrap() else { panic!("{line}") };
            assert_eq!(change, wanted);
        }
        let status = words("spdy-proxy status --json").unwrap();
        assert!(matches!(status, Command::Status { json: true, state_dir: None }));
        let version = words("spdy-proxy --version").unwrap();
        assert!(matches!(version, Command::Print(text) if text.starts_with("spdy-proxy ")));
        assert!(matches!(words("spdy-proxy --help").unwrap(), Command::Print(_)));
    }

    fn flags() -> Flags {
        Flags::from_args(&[NAME], &["--listen", "127.0.0.1:1", "--log", "warn"]).unwrap()
    }

    #[test]
    fn a_file_fills_in_what_the_command_line_left_open() {
        let mut flags = flags();
        let text = "listen 127.0.0.1:2\ntunnel-listen 127.0.0.1:3\ntunnel-listen 127.0.0.1:4\n\
                    log debug\nstate-dir /x y\ntls\nbehind-tls\ndebug no\nallow-anonymous yes\n\
                    standby\nclient-ca /ca\npeer a:1\npeer b:1\n";
        read_config(&mut flags, text).unwrap();
        assert_eq!(flags.listen, ["127.0.0.1:1"]);
        assert_eq!(flags.tunnel_listen, ["127.0.0.1:3", "127.0.0.1:4"]);
        assert_eq!(flags.log.as_deref(), Some("warn"));
        assert_eq!(flags.state_dir, Some(PathBuf::from("/x y")));
        assert!(flags.tls && flags.behind_tls && !flags.debug && flags.allow_anonymous);
        assert_eq!(flags.peer, ["a:1", "b:1"]);
        assert_eq!((flags.standby, flags.client_ca), (true, Some("/ca".into())));
    }

    #[test]
    fn a_file_is_told_which_line_is_wrong() {
        let error = |text: &str| read_config(&mut flags(), text).unwrap_err();
        assert_eq!(
            error("# x\nlisten-on 1\n"),
            ConfigError::UnknownKey { line: 2, key: "listen-on".to_owned() }
        );
        assert_eq!(
            error("log warn\nlog warn\n"),
            ConfigError::Repeated { line: 2, key: "log".to_owned() }
        );
        assert!(matches!(error("tls maybe"), ConfigError::Value { line: 1, .. }));
        assert!(matches!(error("grace"), ConfigError::Value { line: 1, .. }));
    }
}
