//! The command line.
//!
//! It owns the flags and turns them into a [`Command`]. What they mean together is
//! [`crate::config`]'s.

use std::{ffi::OsString, path::PathBuf};

use argh::FromArgs;

use crate::config::{Access, Options};

/// What the program is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve a folder.
    Serve {
        /// What the flags say.
        options: Box<Options>,
        /// `--config`.
        config: Option<PathBuf>,
    },
    /// Read the settings and say what is wrong with them.
    Check {
        /// What the flags say.
        options: Box<Options>,
        /// `--config`.
        config: Option<PathBuf>,
    },
    /// Register with a proxy.
    Join {
        /// The code, if it was given.
        code: Option<String>,
        /// `--config`.
        config: Option<PathBuf>,
    },
    /// Make the service fit the configuration: only the package for systemd can.
    Setup,
    /// Say how running agents are.
    Status {
        /// As JSON.
        json: bool,
        /// `--config`: only the agent of this file.
        config: Option<PathBuf>,
    },
    /// Find out what is wrong.
    Doctor {
        /// `--config`.
        config: Option<PathBuf>,
    },
    /// Take new tokens.
    Rotate {
        /// `--config`.
        config: Option<PathBuf>,
    },
    /// Print this and end with success: `--help`, `--version`.
    Print(String),
}

/// Reads the arguments, the program's own name first.
///
/// # Errors
/// One line that says what is wrong; the exit code is 64.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut words = Vec::new();
    for arg in args.into_iter().skip(1) {
        let arg = arg.into_string().map_err(|arg| {
            format!("argument {} is not UTF-8", arg.to_string_lossy().escape_debug())
        })?;
        // The parser takes no `--flag=value`.
        match arg.split_once('=') {
            Some((flag, value)) if flag.len() > 2 && flag.starts_with("--") => {
                words.extend([flag.to_owned(), value.to_owned()]);
            }
            _ => words.push(arg),
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut flags = match Flags::from_args(&["spdy-agent"], &words) {
        Ok(flags) => flags,
        Err(exit) if exit.status.is_ok() => return Ok(Command::Print(exit.output)),
        Err(exit) => return Err(one_line(&exit.output)),
    };
    if flags.version {
        return Ok(Command::Print(format!("spdy-agent {}\n", env!("CARGO_PKG_VERSION"))));
    }
    let (config, command, check) = (flags.config.clone(), flags.command.take(), flags.check);
    let options = Box::new(Options::from(flags));
    let Some(command) = command else {
        return Ok(match check {
            true => Command::Check { options, config },
            false => Command::Serve { options, config },
        });
    };
    if check || *options != Options::default() {
        return Err("a command takes no flag of the agent but --config".to_owned());
    }
    Ok(match command {
        Subcommand::Join(join) => Command::Join { code: join.code, config: join.config.or(config) },
        Subcommand::Setup(Setup {}) => Command::Setup,
        Subcommand::Status(status) => {
            Command::Status { json: status.json, config: status.config.or(config) }
        }
        Subcommand::Doctor(doctor) => Command::Doctor { config: doctor.config.or(config) },
        Subcommand::Rotate(rotate) => Command::Rotate { config: rotate.config.or(config) },
    })
}

/// Serves a folder of this machine through a tunnel to spdy-proxy.
#[derive(FromArgs)]
#[argh(help_triggers("-h", "--help"))]
struct Flags {
    /// folder to serve as /
    #[argh(option, short = 'r', arg_name = "dir")]
    root: Option<PathBuf>,

    /// proxy to dial, HOST:PORT or [v6]:PORT; may be repeated (default localhost:1444)
    #[argh(option, arg_name = "address")]
    proxy: Vec<String>,

    /// PEM file of authorities that issued the proxy's certificate
    #[argh(option, arg_name = "file")]
    ca: Option<PathBuf>,

    /// dial other proxies, too, that these name and that prove one of their pins
    #[argh(switch)]
    follow_peers: bool,

    /// SHA-256 of the proxy's public key, hexadecimal or base64; may be repeated
    #[argh(option, arg_name = "sha256")]
    pin: Vec<String>,

    /// verify nothing and send no token; only for proxies of the original
    #[argh(switch)]
    insecure: bool,

    /// name this machine is reached by (default: its host name)
    #[argh(option, arg_name = "name")]
    name: Option<String>,

    /// file with the token for the proxy
    #[argh(option, arg_name = "file")]
    token_file: Option<PathBuf>,

    /// PEM file of our certificate, in place of a token
    #[argh(option, arg_name = "file")]
    cert: Option<PathBuf>,

    /// PEM file of the certificate's key
    #[argh(option, arg_name = "file")]
    key: Option<PathBuf>,

    /// pass requests below PREFIX to an HTTP service: PREFIX=URL[,keep-prefix][,keep-host]
    /// [,wait=SECONDS]; may be repeated
    #[argh(option, arg_name = "prefix=url")]
    forward: Vec<String>,

    /// let visitors change what is in the folder of -r
    #[argh(switch)]
    allow_write: bool,

    /// folder to serve as /NAME/, NAME=PATH; may be repeated
    #[argh(option, arg_name = "name=path")]
    share: Vec<String>,

    /// the same, and visitors may change what is in it; may be repeated
    #[argh(option, arg_name = "name=path")]
    share_rw: Vec<String>,

    /// folder outside that links in a served folder may lead into; may be repeated
    #[argh(option, arg_name = "dir")]
    follow_into: Vec<PathBuf>,

    /// octets of the largest file that visitors may put (default: as the disk has room)
    #[argh(option, arg_name = "octets")]
    max_upload: Option<u64>,

    /// whose uploads are, USER[:GROUP]; only root can give files away (default: who runs this)
    #[argh(option, arg_name = "owner")]
    upload_owner: Option<String>,

    /// what nobody may do with uploads, octal: 002 lets the group write (default: the process's)
    #[argh(option, arg_name = "mask")]
    upload_umask: Option<String>,

    /// serve names that begin with a dot, too
    #[argh(switch)]
    show_hidden: bool,

    /// list a folder even if it has an index.html
    #[argh(switch)]
    no_index: bool,

    /// log every request and session to stderr
    #[argh(switch, short = 's')]
    session_debug: bool,

    /// least important lines to log: error, warn, info (default) or debug
    #[argh(option, arg_name = "level")]
    log: Option<String>,

    /// configuration file (default /etc/spdy-agent/agent.conf, else the user's)
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,

    /// read the settings, say what is wrong with them, and end
    #[argh(switch)]
    check: bool,

    /// print the version
    #[argh(switch)]
    version: bool,

    #[argh(subcommand)]
    command: Option<Subcommand>,
}

impl From<Flags> for Options {
    fn from(flags: Flags) -> Self {
        let read = flags.share.into_iter().map(|share| (share, false));
        let shares = read.chain(flags.share_rw.into_iter().map(|share| (share, true))).collect();
        Self {
            root: flags.root,
            proxies: flags.proxy,
            access: Access {
                ca: flags.ca,
                pins: flags.pin,
                insecure: flags.insecure,
                token_file: flags.token_file,
                cert: flags.cert,
                key: flags.key,
            },
            follow_peers: flags.follow_peers,
            name: flags.name,
            forwards: flags.forward,
            allow_write: flags.allow_write,
            shares,
            follow_into: flags.follow_into,
            max_upload: flags.max_upload,
            upload_owner: flags.upload_owner,
            upload_umask: flags.upload_umask,
            show_hidden: flags.show_hidden,
            no_index: flags.no_index,
            session_debug: flags.session_debug,
            log: flags.log,
        }
    }
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Subcommand {
    Join(Join),
    Setup(Setup),
    Status(Status),
    Doctor(Doctor),
    Rotate(Rotate),
}

/// Registers this machine with a proxy and writes the configuration. For root, where the package for
/// systemd is installed, also takes -r, --allow-write, --share, --share-rw and --no-start, or asks
/// what to share, and starts the service.
#[derive(FromArgs)]
#[argh(subcommand, name = "join", help_triggers("-h", "--help"))]
struct Join {
    /// what `spdy-proxy pair` printed; asked for if it is not given
    #[argh(positional)]
    code: Option<String>,

    /// configuration file to write (default /etc/spdy-agent/agent.conf for root, else the user's)
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,
}

/// For root, where the package for systemd is installed: gives the service what the configuration
/// needs and starts it anew. Shares are added by -r DIR [--allow-write], --share NAME=PATH and
/// --share-rw NAME=PATH; --no-start only writes.
#[derive(FromArgs)]
#[argh(subcommand, name = "setup", help_triggers("-h", "--help"))]
struct Setup {}

/// Says how the running agents of this machine are.
#[derive(FromArgs)]
#[argh(subcommand, name = "status", help_triggers("-h", "--help"))]
struct Status {
    /// print JSON, one line for each agent
    #[argh(switch)]
    json: bool,

    /// only the agent that runs with this configuration file
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,
}

/// Finds out what is wrong and says what to do.
#[derive(FromArgs)]
#[argh(subcommand, name = "doctor", help_triggers("-h", "--help"))]
struct Doctor {
    /// configuration file (default /etc/spdy-agent/agent.conf, else the user's)
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,
}

/// Takes a new token from this machine to each proxy; the old one ends when the new one is used.
#[derive(FromArgs)]
#[argh(subcommand, name = "rotate", help_triggers("-h", "--help"))]
struct Rotate {
    /// configuration file (default /etc/spdy-agent/agent.conf, else the user's)
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,
}

/// The parser says what is wrong in its first line and how to get help in others.
fn one_line(output: &str) -> String {
    let lines: Vec<_> = output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Command, String> {
        parse(["spdy-agent"].iter().chain(words).map(OsString::from))
    }

    fn options(words: &[&str]) -> Options {
        match parsed(words) {
            Ok(Command::Serve { options, .. }) => *options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_flags_are_taken_in_both_forms() {
        let wanted = Options {
            root: Some("/srv".into()),
            proxies: vec!["a:1".into(), "[::1]:2".into()],
            access: Access {
                ca: Some("ca.pem".into()),
                pins: vec!["x=".into(), "y".into()],
                insecure: true,
                token_file: Some("t".into()),
                cert: Some("c.pem".into()),
                key: Some("k.pem".into()),
            },
            follow_peers: true,
            name: Some("nas".into()),
            forwards: vec!["/x=http://h".into(), "/y=http://h,keep-host".into()],
            allow_write: true,
            shares: vec![("films=/srv/a=b".into(), false), ("in=/srv/in".into(), true)],
            follow_into: vec!["/mnt/a".into(), "/mnt/b".into()],
            max_upload: Some(5),
            upload_owner: Some("a:b".into()),
            upload_umask: Some("002".into()),
            show_hidden: true,
            no_index: true,
            session_debug: true,
            log: Some("debug".into()),
        };
        let spaced = "-r /srv --proxy a:1 --proxy [::1]:2 --ca ca.pem --pin x= --pin y --insecure \
                      --follow-peers --name nas --token-file t --cert c.pem --key k.pem --allow-write --share films=/srv/a=b \
                      --share-rw in=/srv/in --follow-into /mnt/a \
                      --follow-into /mnt/b --forward /x=http://h \
                      --forward /y=http://h,keep-host --max-upload 5 --upload-owner a:b --upload-umask 002 --show-hidden --no-index -s --log debug";
        let spaced: Vec<_> = spaced.split(' ').filter(|word| !word.is_empty()).collect();
        assert_eq!(options(&spaced), wanted);
        let joined = "--root=/srv --proxy=a:1 --proxy=[::1]:2 --ca=ca.pem --pin=x= --pin=y \
                      --insecure --follow-peers --name=nas --token-file=t --cert=c.pem --key=k.pem --allow-write --share=films=/srv/a=b \
                      --share-rw=in=/srv/in --follow-into=/mnt/a \
                      --follow-into=/mnt/b --forward=/x=http://h \
                      --forward=/y=http://h,keep-host --max-upload=5 --upload-owner=a:b --upload-umask=002 --show-hidden --no-index -s --log=debug";
        let joined: Vec<_> = joined.split(' ').filter(|word| !word.is_empty()).collect();
        assert_eq!(options(&joined), wanted);
        let config = parsed(&["--config=c"]);
        assert!(matches!(config, Ok(Command::Serve { config: Some(_), .. })));
        let config = parsed(&["--check", "--config=c"]);
        assert!(matches!(config, Ok(Command::Check { config: Some(_), .. })));
    }

    #[test]
    fn wrong_words_are_one_line() {
        for words in [
            &["--nonsense"][..],
            &["-r"],
            &["--root"],
            &["extra"],
            &["--forward"],
            &["--allow-write=yes"],
            &["--max-upload", "1G"],
            &["status", "now"],
            &["doctor", "--json"],
            &["-r", "/x", "doctor"],
            &["--check", "doctor"],
            &["rotate", "--pin", "x"],
            &["join", "a", "b"],
            &["join", "--share", "/x"],
            &["setup", "code"],
            &["--root", "/x", "join", "code"],
            &["-r", "/a", "-r", "/b"],
        ] {
            let problem = parsed(words).unwrap_err();
            assert!(!problem.is_empty() && !problem.contains('\n'), "{words:?}: {problem}");
        }
    }

    #[test]
    fn argument_that_is_no_text_is_refused() {
        use std::os::unix::ffi::OsStringExt as _;
        let args = [OsString::from("spdy-agent"), OsString::from_vec(b"\xff".to_vec())];
        assert!(parse(args).is_err());
    }

    #[test]
    fn join_takes_a_code_or_none() {
        let with = |words: &[&str]| match parsed(words) {
            Ok(Command::Join { code, config }) => (code, config),
            other => panic!("{other:?}"),
        };
        assert_eq!(with(&["join"]), (None, None));
        assert_eq!(with(&["join", "CODE"]), (Some("CODE".into()), None));
        assert_eq!(with(&["join", "CODE", "--config=f"]), (Some("CODE".into()), Some("f".into())));
        assert_eq!(with(&["--config", "f", "join"]), (None, Some("f".into())));
    }

    #[test]
    fn commands_take_the_configuration_before_and_behind() {
        let config = Some(PathBuf::from("f"));
        for (name, wanted) in [
            ("status", Command::Status { json: false, config: config.clone() }),
            ("doctor", Command::Doctor { config: config.clone() }),
            ("rotate", Command::Rotate { config: config.clone() }),
        ] {
            assert_eq!(parsed(&[name, "--config", "f"]), Ok(wanted.clone()));
            assert_eq!(parsed(&["--config=f", name]), Ok(wanted));
        }
        let json = parsed(&["status", "--json"]);
        assert_eq!(json, Ok(Command::Status { json: true, config: None }));
    }

    #[test]
    fn help_and_version_succeed() {
        let version = parsed(&["--version"]);
        assert_eq!(
            version,
            Ok(Command::Print(format!("spdy-agent {}\n", env!("CARGO_PKG_VERSION"))))
        );
        for help in ["-h", "--help"] {
            let text = parsed(&[help]);
            assert!(matches!(text, Ok(Command::Print(text)) if text.contains("--root")));
            assert!(matches!(parsed(&["join", help]), Ok(Command::Print(_))));
        }
    }
}
