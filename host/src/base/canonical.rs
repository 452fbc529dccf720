//! The canonical forms of a request's host and path. Pure.
//!
//! [`headers::normalize`](crate::proxy::headers::normalize) brings every request into them once; routes, policies, the cache, guests,
//! replicas and spans see only these.
//!
//! * **Host**: lower case, without one trailing dot (RFC 3986 3.2.2, RFC 1034 3.1), an address as RFC 5952 writes it, an
//!   IPv4-mapped IPv6 address as IPv4. The port is a number, and absent where the scheme has it by default
//!   (RFC 3986 6.2.3). A percent-encoded host is invalid: DNS names need no encoding.
//! * **Path**: the normal form of RFC 3986 6.2.2: unreserved characters are decoded, hexadecimal digits are in upper case,
//!   dot segments are removed. Reserved characters stay encoded: `%2F` is not `/`. Empty segments stay: `//` is not `/`.
//!
//! What RFC 3986 keeps apart, software often does not. [`readings`] are the other paths for which a service may take the
//! normal form: with `%2F` or `\` for `/`, without empty segments, without `;parameters`, in every combination. The router
//! compares them.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

use http::uri::{Authority, Scheme};

/// Bytes of a host. DNS has 255 at most.
const HOST: usize = 255;

/// The canonical form of an authority; `None` when it is not a host with an optional port.
pub fn authority(given: &[u8], scheme: &Scheme) -> Option<Authority> {
    let given = str::from_utf8(given).ok()?;
    let (host, port) = split(given)?;
    let host = canonical_host(host)?;
    let usual = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    let text = match port.filter(|port| *port != usual) {
        Some(port) => Cow::Owned(format!("{host}:{port}")),
        None => host,
    };
    Authority::try_from(text.as_ref()).ok()
}

/// The host of an authority, an IPv6 address with its brackets: `[::1]:80` is `[::1]`, `a.b:80` is `a.b`.
pub fn host(authority: &str) -> &str {
    let port = authority.rfind(':').filter(|colon| !authority.get(*colon..).unwrap_or_default().contains(']'));
    port.and_then(|colon| authority.get(..colon)).unwrap_or(authority)
}

/// Host and port. An empty port is none (RFC 3986 6.2.3).
fn split(authority: &str) -> Option<(&str, Option<u16>)> {
    let host = host(authority);
    match authority.get(host.len()..)?.strip_prefix(':') {
        None | Some("") => Some((host, None)),
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some((host, Some(port.parse().ok()?))),
        Some(_) => None,
    }
}

/// The canonical form of a host without a port; `None` when it is not one.
pub fn canonical_host(given: &str) -> Option<Cow<'_, str>> {
    if let Some(address) = given.strip_prefix('[') {
        let address: Ipv6Addr = address.strip_suffix(']')?.parse().ok()?;
        return Some(Cow::Owned(match address.to_canonical() {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        }));
    }
    let name = given.strip_suffix('.').unwrap_or(given);
    let sound = |label: &str| !label.is_empty() && label.bytes().all(is_name_byte);
    if name.len() > HOST || !name.split('.').all(sound) {
        return None;
    }
    Some(match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    })
}

/// `reg-name` of RFC 3986 3.2.2 without percent-encoding and the dot between labels.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') || is_sub_delimiter(byte)
}

fn is_sub_delimiter(byte: u8) -> bool {
    matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

/// `unreserved` of RFC 3986 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `pchar` of RFC 3986 3.3, but for percent-encoded ones.
fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte) || is_sub_delimiter(byte) || matches!(byte, b':' | b'@')
}

/// Whether a path is in its normal form and every server reads it alike. One pass, for every request.
pub fn is_plain(path: &str) -> bool {
    let mut last = 0;
    path.bytes().all(|byte| {
        let doubtful = matches!(byte, b'/' | b'.') && last == b'/';
        last = byte;
        !doubtful && byte != b';' && (byte == b'/' || is_path_byte(byte))
    })
}

/// The normal form of an absolute path (RFC 3986 6.2.2). `None` when it has an encoded NUL (RFC 3986 7.3). A percent sign
/// that begins no encoding is encoded itself, or what is decoded behind it could make it begin one (`%%361`).
pub fn normal(path: &str) -> Option<String> {
    let mut text = String::with_capacity(path.len());
    for piece in pieces(path) {
        match piece {
            Piece::Encoded(0) => return None,
            Piece::Encoded(byte) if is_unreserved(byte) => text.push(char::from(byte)),
            Piece::Encoded(byte) => encode(byte, &mut text),
            Piece::Plain('%') => encode(b'%', &mut text),
            Piece::Plain(plain) => text.push(plain),
        }
    }
    Some(without_dots(text.strip_prefix('/').unwrap_or(&text).split('/')).0)
}

/// A normal path as routes are compared: every character that may stand in a segment is decoded, every other one is
/// encoded, so that a segment is written in one way only. The segments are those of `normal`.
pub fn comparable(normal: &str) -> String {
    let mut text = String::with_capacity(normal.len());
    for piece in pieces(normal) {
        match piece {
            Piece::Encoded(byte) if is_path_byte(byte) => text.push(char::from(byte)),
            Piece::Encoded(byte) => encode(byte, &mut text),
            Piece::Plain(plain) => match u8::try_from(plain) {
                Ok(byte) if byte == b'/' || is_path_byte(byte) => text.push(plain),
                _ => plain.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| encode(byte, &mut text)),
            },
        }
    }
    text
}

/// A path for which a service may take another one.
#[derive(Debug, PartialEq, Eq)]
pub struct Reading {
    /// In the form of [`comparable`].
    pub path: String,
    /// It leaves a segment by a `..` that the normal form hides.
    pub climbs: bool,
    /// What separates its segments besides `/`.
    pub separators: Separators,
}

/// What software takes for a `/`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Separators {
    /// `%2F` is one.
    pub slash: bool,
    /// `\` and `%5C` are.
    pub backslash: bool,
}

impl Separators {
    /// All that there can be.
    pub const COUNT: usize = 4;

    fn all() -> [Self; Self::COUNT] {
        let of = |slash, backslash| Self { slash, backslash };
        [of(false, false), of(true, false), of(false, true), of(true, true)]
    }

    /// Place of these among all.
    pub fn index(self) -> usize {
        usize::from(self.slash) + 2 * usize::from(self.backslash)
    }

    /// A [`comparable`] path where these are `/`.
    pub fn separated(self, comparable: &str) -> Cow<'_, str> {
        let mut path = Cow::Borrowed(comparable);
        for (separates, encoded) in [(self.slash, "%2F"), (self.backslash, "%5C")] {
            if separates && path.contains(encoded) {
                path = Cow::Owned(path.replace(encoded, "/"));
            }
        }
        path
    }
}

/// What a service may take a [`comparable`] path for: every combination of `%2F` separates segments or does not, `\` does or
/// does not, empty segments count or do not, `;parameters` belong to a segment, are cut off before it is separated, or after.
/// At most 24, and only those in which the path looks different: one for a path that is [plain](is_plain).
pub fn readings(comparable: &str) -> impl Iterator<Item = Reading> {
    let (slash, backslash) = (comparable.contains("%2F"), comparable.contains("%5C"));
    let (cuts, separates) = (comparable.contains(';'), slash || backslash);
    let within = move |it: &Separators| (slash || !it.slash) && (backslash || !it.backslash);
    Separators::all().into_iter().filter(within).flat_map(move |separators| {
        let whole = separators.separated(comparable);
        let after = cuts.then(|| Cow::Owned(without_parameters(&whole)));
        let before = (cuts && separates && separators != Separators::default())
            .then(|| Cow::Owned(separators.separated(&without_parameters(comparable)).into_owned()));
        [Some(whole), after, before].into_iter().flatten().flat_map(move |text| {
            let text: Cow<'_, str> = text;
            let empty = text.contains("//").then(|| {
                let (path, climbs) = without_dots(text.strip_prefix('/').unwrap_or(&text).split('/'));
                Reading { path, climbs, separators }
            });
            let (path, climbs) = without_dots(text.split('/').filter(|segment| !segment.is_empty()));
            empty.into_iter().chain([Reading { path, climbs, separators }])
        })
    })
}

/// A path without what stands behind a `;` in its segments.
fn without_parameters(path: &str) -> String {
    let names = path.split('/').map(|segment| segment.split_once(';').map_or(segment, |(name, _)| name));
    names.collect::<Vec<_>>().join("/")
}

/// Length of as many first segments of `path` as there are in the first `length` bytes of `comparable`.
pub fn same_segments(path: &str, comparable: &str, length: usize) -> usize {
    let segments = comparable.get(..length).unwrap_or_default().matches('/').count();
    path.match_indices('/').nth(segments).map_or(path.len(), |(at, _)| at)
}

/// `/` and these segments without `.` and `..` (RFC 3986 5.2.4), and whether there was a `..`.
fn without_dots<'a>(segments: impl Iterator<Item = &'a str>) -> (String, bool) {
    let (mut path, mut climbs, mut open) = (String::new(), false, false);
    for segment in segments {
        open = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                path.truncate(path.rfind('/').unwrap_or_default());
                climbs = true;
            }
            segment => {
                path.push('/');
                path.push_str(segment);
            }
        }
    }
    if open || path.is_empty() {
        path.push('/');
    }
    (path, climbs)
}

enum Piece {
    Plain(char),
    Encoded(u8),
}

fn pieces(path: &str) -> impl Iterator<Item = Piece> {
    let mut rest = path;
    std::iter::from_fn(move || {
        if let Some(byte) = rest.strip_prefix('%').and_then(|rest| octet(rest.get(..2)?)) {
            rest = rest.get(3..).unwrap_or_default();
            return Some(Piece::Encoded(byte));
        }
        let mut chars = rest.chars();
        let next = chars.next()?;
        rest = chars.as_str();
        Some(Piece::Plain(next))
    })
}

/// Two hexadecimal digits.
fn octet(digits: &str) -> Option<u8> {
    let sound = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| sound)
}

fn encode(byte: u8, text: &mut String) {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0').to_ascii_uppercase();
    text.extend(['%', digit(byte >> 4), digit(byte & 0xf)]);
}

#[cfg(test)]
mod tests;
