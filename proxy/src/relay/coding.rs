//! Transfer codings of a request: `chunked`, once, or none.

use http::{HeaderMap, header};

use super::failure::Failure;

/// Checks what hyper does not: it looks at the last coding alone, and takes the body off the
/// `chunked` of `gzip, chunked` as if it were the content.
///
/// # Errors
/// [`Failure::Coding`] for a coding that we do not have (RFC 9112 6.1), [`Failure::Request`] if
/// `chunked` stands twice or is not the last (RFC 9112 7).
pub(super) fn check(headers: &HeaderMap) -> Result<(), Failure> {
    let values = headers.get_all(header::TRANSFER_ENCODING).iter();
    let codings = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut codings = codings.map(<[u8]>::trim_ascii).filter(|coding| !coding.is_empty());
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let Some(first) = codings.next() else { return Ok(()) };
    let mut is_ended = is_chunked(first);
    let mut is_known = is_ended;
    for coding in codings {
        if is_ended {
            return Err(Failure::Request("a coding after chunked"));
        }
        is_ended = is_chunked(coding);
        is_known = false;
    }
    if is_known { Ok(()) } else { Err(Failure::Coding) }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_chunked_alone_is_taken() {
        let twice = Err(Failure::Request("a coding after chunked"));
        for (lines, expected) in [
            (&[][..], Ok(())),
            (&["chunked"], Ok(())),
            (&[" Chunked , "], Ok(())),
            (&["", ",", "chunked"], Ok(())),
            (&["gzip, chunked"], Err(Failure::Coding)),
            (&["gzip", "chunked"], Err(Failure::Coding)),
            (&["identity, chunked"], Err(Failure::Coding)),
            (&["foo;a=b, chunked"], Err(Failure::Coding)),
            (&["foo;a=\",chunked\", chunked"], Err(Failure::Coding)),
            (&["xchunked, chunked"], Err(Failure::Coding)),
            (&["gzip"], Err(Failure::Coding)),
            (&["chunked, chunked"], twice.clone()),
            (&["chunked", "chunked"], twice.clone()),
            (&["chunked, gzip"], twice.clone()),
            (&["chunked, gzip, chunked"], twice.clone()),
            (&["gzip, chunked", "chunked"], twice),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::TRANSFER_ENCODING, HeaderValue::from_static(line));
            }
            assert_eq!(check(&headers), expected, "{lines:?}");
        }
    }
}
