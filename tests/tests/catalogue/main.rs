//! What the agent must answer, request by request: each case has its id in the name of its test.
//! Everything goes through both programs with real TLS between them.
//!
//! Letters: `g` general, `r` one range, `m` several, `p` preconditions, `i` If-Range, `d` folders,
//! `s` safety, `l` large, `t` time, `y` types, `z` compression, `k` connections, `h` parsers, `w`
//! writing. docs/testing.md says what was chosen where HTTP leaves a choice. What has no id is about
//! files and folders that want to do harm.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

/// Tests that are a row each: the check, then the name and arguments of each test.
macro_rules! cases {
    ($check:ident: $($name:ident($($argument:expr),* $(,)?);)*) => {
        $(
            #[test]
            fn $name() {
                $check($($argument),*);
            }
        )*
    };
}

mod compression;

mod connection;

mod directories;

mod files;

mod general;

mod if_range;

mod large;

mod multiple;

mod parser;

mod preconditions;

mod ranges;

mod safety;

mod site;

mod time;

mod types;

mod write;
