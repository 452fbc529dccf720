//! The fuzz target of PROXY protocol headers.

use super::header::{MOST, Source, parse};

/// What follows a header does not change it, no part of a header is one, and a header within the bound is never waited for longer.
pub(crate) fn header(bytes: &[u8]) {
    match parse(bytes) {
        Ok(Some((source, length))) => {
            assert!((1..=MOST).contains(&length) && length <= bytes.len());
            let (header, _) = bytes.split_at_checked(length).unwrap_or_default();
            assert_eq!(parse(header), Ok(Some((source, length))));
            assert!((0..length).all(|end| parse(header.get(..end).unwrap_or_default()) == Ok(None)));
            assert!(!matches!(source, Source::Client(address) if address.ip().is_ipv4() && header.len() < 28));
        }
        Ok(None) => assert!(bytes.len() < MOST),
        Err(why) => assert!(!why.contains('\n')),
    }
}
