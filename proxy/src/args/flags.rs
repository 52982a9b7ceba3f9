//! What argh reads: flags and subcommands with their help.
//!
//! It owns their words. It does not check values ([`super`]).

use std::path::PathBuf;

use argh::FromArgs;

use super::Choice;

/// SPDY/3.1 reverse proxy: serves over HTTP what agents behind NAT offer.
#[derive(Debug, FromArgs)]
#[argh(help_triggers("-h", "--help"))]
pub(super) struct Flags {
    /// address and port for visitors, may be repeated (127.0.0.1:1443)
    #[argh(option)]
    pub(super) listen: Vec<String>,

    /// address and port for agents, may be repeated (127.0.0.1:1444)
    #[argh(option)]
    pub(super) tunnel_listen: Vec<String>,

    /// folder for keys and origins ($STATE_DIRECTORY, /var/lib/spdy-proxy or the user's)
    #[argh(option)]
    pub(super) state_dir: Option<PathBuf>,

    /// file of `key value` lines, keys as the flags; flags win
    #[argh(option)]
    pub(super) config: Option<PathBuf>,

    /// TLS for visitors, with http-key.pem and http-cert.pem of the state folder
    #[argh(switch, short = 't')]
    pub(super) tls: bool,

    /// a front end speaks TLS for the HTTP port: ask for passwords on addresses that are not
    /// loopback
    #[argh(switch)]
    pub(super) behind_tls: bool,

    /// ADDR or ADDR/PREFIX of a front end whose X-Forwarded headers are believed, may be repeated
    #[argh(option)]
    pub(super) trusted_front_end: Vec<String>,

    /// log each exchange and the counters of each session
    #[argh(switch, short = 's')]
    pub(super) session: bool,

    /// show what `status` prints at /debug of the HTTP port, to everybody
    #[argh(switch)]
    pub(super) debug: bool,

    /// take agents without credentials, as the origin `anonymous`
    #[argh(switch)]
    pub(super) allow_anonymous: bool,

    /// PEM file of the authority whose certificates agents may show instead of tokens
    #[argh(option)]
    pub(super) client_ca: Option<PathBuf>,

    /// PEM file of that authority's revocation lists
    #[argh(option)]
    pub(super) client_crl: Option<PathBuf>,

    /// let a second agent of a name wait, connected, behind the first
    #[argh(switch)]
    pub(super) standby: bool,

    /// error, warn, info or debug (info)
    #[argh(option)]
    pub(super) log: Option<String>,

    /// threads that serve (1)
    #[argh(option)]
    pub(super) threads: Option<String>,

    /// seconds for what runs when told to stop (30)
    #[argh(option)]
    pub(super) grace: Option<String>,

    /// seconds over which agents come back when told to go elsewhere (15)
    #[argh(option)]
    pub(super) spread: Option<String>,

    /// seconds that requests wait for an agent that has just gone (10); 0: nor do downloads
    #[argh(option)]
    pub(super) hold: Option<String>,

    /// HOST:PORT of another proxy that agents with --follow-peers are told of, may be repeated
    #[argh(option)]
    pub(super) peer: Vec<String>,

    /// print the version
    #[argh(switch)]
    pub(super) version: bool,

    #[argh(subcommand)]
    pub(super) command: Option<Subcommand>,
}

#[derive(Debug, FromArgs)]
#[argh(subcommand)]
pub(super) enum Subcommand {
    Pair(PairFlags),
    Rotate(RotateFlags),
    Access(AccessFlags),
    Revoke(RevokeFlags),
    Key(KeyFlags),
    List(ListFlags),
    Status(StatusFlags),
}

/// Make a join code for an agent and print it, alone, as the last line; before it the user and the
/// password for visitors, if one was made.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "pair", help_triggers("-h", "--help"))]
pub(super) struct PairFlags {
    /// name of the origin: [a-z0-9-], 1 to 63 characters
    #[argh(positional)]
    pub(super) name: String,

    /// HOST:PORT of the tunnel port as agents reach it, may be repeated
    #[argh(option)]
    pub(super) address: Vec<String>,

    /// folder for keys and origins
    #[argh(option)]
    pub(super) state_dir: Option<PathBuf>,

    /// seconds that the code is good for (3600)
    #[argh(option)]
    pub(super) valid: Option<String>,

    /// who may visit: password (a new one is printed) or open (password, or as before)
    #[argh(option)]
    pub(super) access: Option<Choice>,
}

/// Change who may visit an origin. A new password is printed once and takes the place of the old
/// one at once.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "access", help_triggers("-h", "--help"))]
pub(super) struct AccessFlags {
    /// name of the origin
    #[argh(positional)]
    pub(super) name: String,

    /// who may visit: password or open
    #[argh(positional)]
    pub(super) access: Choice,

    /// folder for keys and origins
    #[argh(option)]
    pub(super) state_dir: Option<PathBuf>,
}

/// Print the origins and whether they are connected.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "list", help_triggers("-h", "--help"))]
pub(super) struct ListFlags {
    /// folder for keys and origins
    #[argh(option)]
    pub(super) state_dir: Option<PathBuf>,
}

/// Make a join code by which the agent of an origin comes to a new token, and print it, alone, as the
/// last line. The old token is void when the new one is used.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "rotate", help_triggers("-h", "--help"))]
pub(super) struct RotateFlags {
    /// name of the origin
    #[argh(positional)]
    pub(super) name: String,

    /// HOST:PORT of the tunnel port as agents reach it, may be repeated
    #[argh(option)]
    pub(super) address: Vec<String>,

    /// folder for keys and origins
    #[argh(option)]
    pub(super) state_dir: Option<PathBuf>,

    /// seconds that the code is good for (3600)
    #[argh(option)]
    pub(super) valid: Option<String>,
}

/// Void all that the agent of an origin could come in by, and cut its tunnel. The name stays taken
/// until it is paired again.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "revoke", help_triggers("-h", "--help"))]
pub(super) struct RevokeFlags {
    /// name of the origin
    #[argh(positional)]
    pub(super) name: String,

    /// folder for keys and origins
    #[argh(option)]
    pub(super) state_dir: Option<PathBuf>,
}

/// Look after the key that agents pin.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "key", help_triggers("-h", "--help"))]
pub(super) struct KeyFlags {
    #[argh(subcommand)]
    pub(super) command: KeySubcommand,

    /// folder for keys and origins
    #[argh(option)]
    pub(super) state_dir: Option<PathBuf>,
}

#[derive(Debug, FromArgs)]
#[argh(subcommand)]
pub(super) enum KeySubcommand {
    Spare(SpareFlags),
    Use(UseFlags),
    List(KeyListFlags),
}

/// Make a spare key, to be kept elsewhere, and print its pin, which join codes carry from now on.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "spare", help_triggers("-h", "--help"))]
pub(super) struct SpareFlags {
    /// file to write, which must not exist
    #[argh(positional)]
    pub(super) file: PathBuf,

    /// folder for keys and origins
    #[argh(option)]
    pub(super) state_dir: Option<PathBuf>,
}

/// Make a spare key the key of the tunnel port, from the next start on.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "use", help_triggers("-h", "--help"))]
pub(super) struct UseFlags {
    /// file that `key spare` wrote
    #[argh(positional)]
    pub(super) file: PathBuf,

    /// folder for keys and origins
    #[argh(option)]
    pub(super) state_dir: Option<PathBuf>,
}

/// Print the pins of the key in use and of the spare ones.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "list", help_triggers("-h", "--help"))]
pub(super) struct KeyListFlags {
    /// folder for keys and origins
    #[argh(option)]
    pub(super) state_dir: Option<PathBuf>,
}

/// Print what the running proxy counts.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "status", help_triggers("-h", "--help"))]
pub(super) struct StatusFlags {
    /// as one JSON object
    #[argh(switch)]
    pub(super) json: bool,

    /// folder for keys and origins
    #[argh(option)]
    pub(super) state_dir: Option<PathBuf>,
}
