//! A key that distinguishes clients by a part of the request: a header, a cookie or the client's address.

use std::fmt;
use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName};

use lodge_base::ids::hash_of;

/// The part of a request whose value is the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestKey {
    /// The first value of this header.
    Header(HeaderName),
    /// The cookie of this name.
    Cookie(String),
    /// The client's address.
    Client,
}

impl RequestKey {
    /// Reads `client`, `header:NAME` or `cookie:NAME`.
    ///
    /// # Errors
    /// The forms that are expected.
    pub fn read(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not one of `client`, `header:NAME`, `cookie:NAME`");
        match text.split_once(':') {
            None if text == "client" => Ok(Self::Client),
            Some(("header", name)) => name.parse().map(Self::Header).map_err(|_| wrong()),
            Some(("cookie", name)) if is_cookie(name) => Ok(Self::Cookie(name.to_owned())),
            _ => Err(wrong()),
        }
    }

    /// Returns the value in the headers; `None` if it is absent or not a part of the headers.
    pub fn value<'a>(&self, headers: &'a HeaderMap) -> Option<&'a [u8]> {
        match self {
            Self::Header(name) => headers.get(name).map(http::HeaderValue::as_bytes),
            Self::Cookie(name) => {
                let lines = headers.get_all(header::COOKIE).into_iter().map(http::HeaderValue::as_bytes);
                let mut pairs = lines.flat_map(|line| line.split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
                pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
            }
            Self::Client => None,
        }
    }

    /// Returns the name of the header, if the key is a header.
    pub fn header(&self) -> Option<&HeaderName> {
        if let Self::Header(name) = self { Some(name) } else { None }
    }

    /// Returns a hash of the value, the same on every host.
    pub fn key(&self, client: IpAddr, headers: &HeaderMap) -> Option<u64> {
        match self {
            Self::Client => Some(match client.to_canonical() {
                IpAddr::V4(address) => hash_of(&address.octets()),
                IpAddr::V6(address) => hash_of(&address.octets()),
            }),
            place => place.value(headers).map(hash_of),
        }
    }
}

/// The form that [`RequestKey::read`] accepts.
impl fmt::Display for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Client => f.write_str("client"),
        }
    }
}

/// Whether this is a valid name of a cookie (RFC 6265).
fn is_cookie(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&byte);
    !name.is_empty() && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn keys_of_requests() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; xsid=3; sid"));
        headers.append(header::COOKIE, HeaderValue::from_static("b=2;sid=4=4 ; sid=5"));
        headers.append("x-user", HeaderValue::from_static("ann"));
        headers.append("x-user", HeaderValue::from_static("bob"));
        let client: IpAddr = "10.1.2.3".parse().unwrap();
        let key = |text: &str| RequestKey::read(text).unwrap().key(client, &headers);
        assert_eq!(key("client"), Some(hash_of(&[10, 1, 2, 3])));
        assert_eq!(RequestKey::Client.key("::ffff:10.1.2.3".parse().unwrap(), &headers), key("client"));
        assert_ne!(RequestKey::Client.key("::1".parse().unwrap(), &headers), key("client"));
        assert_eq!(key("header:X-User"), Some(hash_of(b"ann")));
        assert_eq!(key("header:x-other"), None);
        assert_eq!(key("cookie:sid"), Some(hash_of(b"4=4")));
        assert_eq!(key("cookie:id"), None);
        for text in ["client", "header:x-user", "cookie:sid"] {
            assert_eq!(RequestKey::read(text).unwrap().to_string(), text);
        }
        for wrong in ["", "clients", "header:", "header:a b", "cookie:a=b", "cookie:", "x-user"] {
            assert!(RequestKey::read(wrong).unwrap_err().contains("is not one of `client`"), "{wrong}");
        }
    }
}
