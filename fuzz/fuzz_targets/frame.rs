//! See `tests/src/fuzz.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| spdy_fuzz::frame(octets));
