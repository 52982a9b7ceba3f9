//! The dictionary that SPDY/3 header compression is preset with (SPDY/3.1 2.6.10.1).
//!
//! It owns the octets only; what is done with them is in [`crate::headers`].

/// The 1423 octets of the SPDY/3 dictionary.
pub static DICTIONARY: &[u8; 1423] = include_bytes!("spdy3-dictionary.bin");

/// Adler-32 of [`DICTIONARY`]: the DICTID in the zlib header of a session's first header block.
pub const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

#[cfg(test)]
mod tests {
    use super::{DICTIONARY, DICTIONARY_ID};

    #[test]
    fn dictionary_has_the_checksum_that_every_peer_expects() {
        let (low, high) = DICTIONARY.iter().fold((1u32, 0u32), |(low, high), &octet| {
            let low = (low + u32::from(octet)) % 65_521;
            (low, (high + low) % 65_521)
        });
        assert_eq!(high << 16 | low, DICTIONARY_ID);
        assert!(DICTIONARY.ends_with(b",utf-,*,enq=0."));
    }
}
