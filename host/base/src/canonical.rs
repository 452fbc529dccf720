//! The canonical forms of a request's host and path. Pure.
//!
//! `proxy::headers::normalize` converts every request once. Routes, policies, the cache,
//! guests, replicas and spans see only the canonical forms.
//!
//! * **Host**: in lower case and without one trailing dot (RFC 3986 3.2.2, RFC 1034 3.1). IPv6 addresses have the form
//!   of RFC 5952, and IPv4-mapped ones become IPv4. The port is a number; the default port of the scheme is omitted
//!   (RFC 3986 6.2.3). A percent-encoded host is invalid, because DNS names need no encoding.
//! * **Path**: normalized by RFC 3986 6.2.2: unreserved characters are decoded, hexadecimal digits are in upper case,
//!   and dot segments are removed. Reserved characters stay encoded: `%2F` is not `/`. Empty segments stay: `//` is not
//!   `/`.
//!
//! Software often treats paths as equal that RFC 3986 distinguishes. [`readings`] are the paths that a service may read
//! instead of the normal form: with `%2F` or `\` as `/`, without empty segments, without `;parameters`, in every
//! combination. The router compares them, so that none of them bypasses the policies of a route.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

use http::uri::{Authority, Scheme};

/// The longest host in bytes, as in DNS.
const HOST: usize = 255;

/// Returns the canonical form of an authority, or `None` if it is not a host with an optional port.
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

/// Returns the host of an authority. An IPv6 address keeps its brackets: `[::1]:80` gives `[::1]`, `a.b:80` gives
/// `a.b`.
pub fn host(authority: &str) -> &str {
    let port = authority.rfind(':').filter(|colon| !authority.get(*colon..).unwrap_or_default().contains(']'));
    port.and_then(|colon| authority.get(..colon)).unwrap_or(authority)
}

/// Splits an authority into host and port. An empty port counts as absent (RFC 3986 6.2.3).
fn split(authority: &str) -> Option<(&str, Option<u16>)> {
    let host = host(authority);
    match authority.get(host.len()..)?.strip_prefix(':') {
        None | Some("") => Some((host, None)),
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some((host, Some(port.parse().ok()?))),
        Some(_) => None,
    }
}

/// Returns the canonical form of a host without a port, or `None` if the text is not a host.
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

/// Whether a byte may be in a label: `reg-name` of RFC 3986 3.2.2, without percent-encoding and dots.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') || is_sub_delimiter(byte)
}

#[inline]
fn is_sub_delimiter(byte: u8) -> bool {
    matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

/// `unreserved` of RFC 3986 2.3.
#[inline]
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `pchar` of RFC 3986 3.3, without percent-encoding.
#[inline]
fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte) || is_sub_delimiter(byte) || matches!(byte, b':' | b'@')
}

/// Whether a path is in its normal form and has no other [reading](readings). A single pass, as it runs for every
/// request.
pub fn is_plain(path: &str) -> bool {
    let mut last = 0;
    path.bytes().all(|byte| {
        let doubtful = matches!(byte, b'/' | b'.') && last == b'/';
        last = byte;
        !doubtful && byte != b';' && (byte == b'/' || is_path_byte(byte))
    })
}

/// Returns the normal form of an absolute path (RFC 3986 6.2.2), or `None` if it has an encoded NUL (RFC 3986 7.3). A
/// percent sign that begins no encoding is encoded itself; otherwise the decoded characters after it could complete an
/// encoding (`%%361`).
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

/// Returns the form of a normal path in which routes are compared: every character that a segment may contain is
/// decoded and every other one encoded, so each segment has one spelling. The number of segments is that of `normal`.
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

/// A path that a service may read in place of a normal one.
#[derive(Debug, PartialEq, Eq)]
pub struct Reading {
    /// The path, in the form of [`comparable`].
    pub path: String,
    /// Whether a `..` leaves a segment that the normal form does not separate.
    pub climbs: bool,
    /// The characters that separate its segments besides `/`.
    pub separators: Separators,
}

/// The characters that some software treats as `/`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Separators {
    /// `%2F`.
    pub slash: bool,
    /// `\` and `%5C`.
    pub backslash: bool,
}

impl Separators {
    /// The number of combinations.
    pub const COUNT: usize = 4;

    fn all() -> [Self; Self::COUNT] {
        let of = |slash, backslash| Self { slash, backslash };
        [of(false, false), of(true, false), of(false, true), of(true, true)]
    }

    /// The index of this combination, below [`COUNT`](Self::COUNT).
    pub fn index(self) -> usize {
        usize::from(self.slash) + 2 * usize::from(self.backslash)
    }

    /// Returns a [`comparable`] path with these characters replaced by `/`.
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

/// Returns the paths that a service may read in place of a [`comparable`] one: every combination of `%2F` as a
/// separator or not, `\` as a separator or not, empty segments kept or dropped, and `;parameters` kept, removed before
/// the segments are separated, or removed after that. At most 24, and only combinations that can differ: one for a
/// [plain](is_plain) path.
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

/// Whether a [`comparable`] path has more than one of the [`readings`].
pub fn has_readings(comparable: &str) -> bool {
    ["//", ";", "%2F", "%5C"].iter().any(|doubtful| comparable.contains(doubtful))
}

/// Returns a [normal] path in the form of [`comparable`]; `None` if it has more than one of the [`readings`].
pub fn only_reading(normal: &str) -> Option<Cow<'_, str>> {
    if is_plain(normal) {
        return Some(Cow::Borrowed(normal));
    }
    Some(Cow::Owned(comparable(normal))).filter(|path| !has_readings(path))
}

/// Returns a path without the text after a `;` in each segment.
fn without_parameters(path: &str) -> String {
    let names = path.split('/').map(|segment| segment.split_once(';').map_or(segment, |(name, _)| name));
    names.collect::<Vec<_>>().join("/")
}

/// Returns the length in bytes of the segments of `path` that correspond to the first `length` bytes of `comparable`.
pub fn same_segments(path: &str, comparable: &str, length: usize) -> usize {
    let segments = comparable.get(..length).unwrap_or_default().matches('/').count();
    path.match_indices('/').nth(segments).map_or(path.len(), |(at, _)| at)
}

/// Joins segments into a path without `.` and `..` (RFC 3986 5.2.4). Also returns whether there was a `..`.
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

/// Parses two hexadecimal digits.
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
