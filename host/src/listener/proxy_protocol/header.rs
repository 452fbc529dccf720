//! Parses headers of the PROXY protocol, versions 1 and 2, as HAProxy specifies it. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The most bytes of a header of version 1, with its line break.
const MOST_V1: usize = 107;

/// The most bytes of a header of version 2: what comes before its addresses, and 520 bytes of addresses and extensions.
pub(super) const MOST: usize = 536;

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The bytes of a header of version 2 before its addresses.
const FIXED: usize = 16;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A client's.
    Client(SocketAddr),
    /// A client's whose address the proxy does not know.
    Unknown,
    /// The proxy's own, as for a health check.
    Local,
}

/// Returns what the header at the beginning of `bytes` says, and its length; `None` if more bytes are needed, which are at most
/// [`MOST`] in all.
///
/// # Errors
/// Why there is no valid header, whatever follows.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Source, usize)>, &'static str> {
    let begins = |signature: &[u8]| bytes.iter().zip(signature).all(|(one, other)| one == other);
    match () {
        () if begins(V2) => version_2(bytes),
        () if begins(V1) => version_1(bytes),
        () => Err("it does not begin with a PROXY protocol header"),
    }
}

fn version_1(bytes: &[u8]) -> Result<Option<(Source, usize)>, &'static str> {
    let line = bytes.get(..MOST_V1).unwrap_or(bytes);
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return if line.len() < MOST_V1 { Ok(None) } else { Err("its PROXY protocol header is longer than 107 bytes") };
    };
    let invalid = "its PROXY protocol header is not valid";
    let line = line.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(invalid)?;
    let mut words = line.split(|byte| *byte == b' ').skip(1);
    let mut word = || words.next().and_then(|word| std::str::from_utf8(word).ok());
    let source = match word() {
        // What follows has no meaning.
        Some("UNKNOWN") => Source::Unknown,
        Some(family @ ("TCP4" | "TCP6")) => {
            let address = |word: Option<&str>| match family {
                "TCP4" => word?.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
                _ => word?.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            };
            let addresses = (address(word()), address(word()));
            match (addresses, port(word()), port(word()), words.next()) {
                ((Some(source), Some(_)), Some(port), Some(_), None) => Source::Client((source, port).into()),
                _ => return Err(invalid),
            }
        }
        _ => return Err(invalid),
    };
    Ok(Some((source, end + 1)))
}

/// Parses a port, which has no sign and no leading zero.
fn port(word: Option<&str>) -> Option<u16> {
    let word = word.filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()))?;
    word.parse().ok().filter(|_| word == "0" || !word.starts_with('0'))
}

fn version_2(bytes: &[u8]) -> Result<Option<(Source, usize)>, &'static str> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else { return Ok(None) };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err("its PROXY protocol header has an unknown version or command"),
    };
    let addresses = match family {
        _ if is_local => 0,
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 | 0x32 => return Err("its PROXY protocol header is for a UNIX socket, which has no address for policies"),
        0x12 | 0x22 => return Err("its PROXY protocol header is for UDP"),
        _ => return Err("its PROXY protocol header has an unknown family"),
    };
    if length < addresses {
        return Err("its PROXY protocol header is too short for its addresses");
    }
    if FIXED + length > MOST {
        return Err("its PROXY protocol header is longer than 536 bytes");
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let source = match body {
        _ if is_local => Source::Local,
        [a, b, c, d, _, _, _, _, high, low, ..] if family == 0x11 => {
            Source::Client((Ipv4Addr::new(*a, *b, *c, *d), u16::from_be_bytes([*high, *low])).into())
        }
        _ => match (body.first_chunk::<16>(), body.get(32..34)) {
            (Some(address), Some([high, low])) if family == 0x21 => {
                Source::Client((Ipv6Addr::from(*address), u16::from_be_bytes([*high, *low])).into())
            }
            _ => Source::Unknown,
        },
    };
    Ok(Some((source, FIXED + length)))
}

#[cfg(test)]
mod tests;
