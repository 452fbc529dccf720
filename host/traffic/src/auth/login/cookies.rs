//! The cookies of the host. No service sees them: it could use the session of a sender at another service of the same origin.

use http::header::{COOKIE, HeaderMap, HeaderValue, SET_COOKIE};

/// The start of their names. Browsers take such a cookie only from this host, by HTTPS, and for all of its paths. Cookies know no
/// ports: a server at another port of the host receives it and can set it.
const PREFIX: &str = "__Host-lodge-";

/// The most bytes of a cookie with its attributes, which all browsers keep (RFC 6265 6.1).
pub(super) const MOST: usize = 4096;

/// Whether a cookie of this name is one of the host.
pub fn is_host_cookie(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// The cookies of the host in a request: names and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostCookies(Vec<(Vec<u8>, Vec<u8>)>);

impl HostCookies {
    /// Takes them out of the headers.
    pub fn take(headers: &mut HeaderMap) -> Self {
        let mut taken = Vec::new();
        let lines = || headers.get_all(COOKIE).iter();
        if !lines().any(|line| pairs(line).any(is_own)) {
            return Self(taken);
        }
        let mut left = Vec::new();
        for pair in lines().flat_map(pairs) {
            if !is_own(pair) {
                left.push(pair);
            } else if let Some(at) = pair.iter().position(|byte| *byte == b'=') {
                let (name, value) = pair.split_at(at);
                taken.push((name.to_vec(), value.get(1..).unwrap_or_default().to_vec()));
            }
        }
        let left = HeaderValue::from_bytes(&left.join(&b"; "[..])).ok().filter(|left| !left.is_empty());
        match left {
            Some(left) => drop(headers.insert(COOKIE, left)),
            None => drop(headers.remove(COOKIE)),
        }
        Self(taken)
    }

    /// Returns the value of a cookie; `None` if it is absent, empty or there twice.
    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.0.iter().filter(|(own, _)| own == name.as_bytes()).map(|(_, value)| value.as_slice());
        match (values.next(), values.next()) {
            (Some(value), None) if !value.is_empty() => Some(value),
            _ => None,
        }
    }
}

fn pairs(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty())
}

fn is_own(pair: &[u8]) -> bool {
    pair.starts_with(PREFIX.as_bytes())
}

/// Removes the fields of a service's response that would set cookies of the host: it could log a browser out, or in as somebody else.
pub fn remove_set(headers: &mut HeaderMap) {
    // A cookie without a name is sent back as its value alone, and browsers differ in what they skip before a name.
    let sets_own = |line: &HeaderValue| {
        let is_skipped = |byte: &&u8| byte.is_ascii_whitespace() || byte.is_ascii_control() || **byte == b'=';
        let start = line.as_bytes().iter().skip_while(is_skipped).take(PREFIX.len());
        start.copied().map(|byte| byte.to_ascii_lowercase()).eq(PREFIX.bytes().map(|byte| byte.to_ascii_lowercase()))
    };
    if !headers.get_all(SET_COOKIE).iter().any(sets_own) {
        return;
    }
    let left: Vec<_> = headers.get_all(SET_COOKIE).iter().filter(|line| !sets_own(line)).cloned().collect();
    headers.remove(SET_COOKIE);
    for line in left {
        headers.append(SET_COOKIE, line);
    }
}

/// Returns the name of a cookie of this kind and service.
pub(super) fn name(kind: &str, service: &str) -> String {
    format!("{PREFIX}{kind}-{service}")
}

/// Returns a cookie that a browser keeps for `seconds`; with 0 it forgets it. `None` if it is too large, or no value of a header.
pub(super) fn set(name: &str, value: &str, seconds: u64) -> Option<HeaderValue> {
    let text = format!("{name}={value}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Lax");
    let mut cookie = HeaderValue::try_from(text).ok().filter(|text| text.len() <= MOST)?;
    cookie.set_sensitive(true);
    Some(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_do_not_see_them() {
        for (lines, left, value) in [
            (&["a=1; __Host-lodge-session-x=v; b=2"][..], Some("a=1; b=2"), Some("v")),
            (&["__Host-lodge-session-x=v"], None, Some("v")),
            (&["a=1", " __Host-lodge-session-x=v ;b=2"], Some("a=1; b=2"), Some("v")),
            (&["a=1", "b=2"], Some("a=1"), None),
            (&["__Host-lodge-session-x=v; __Host-lodge-session-x=w; a"], Some("a"), None),
            (&["__Host-lodge-session-x; __Host-lodge-=; __Host-lodge-other=w;;"], None, None),
            (&["__Host-lodge-session-x=; x__Host-lodge-session-x=v"], Some("x__Host-lodge-session-x=v"), None),
            (&["a=__Host-lodge-session-x=v"], Some("a=__Host-lodge-session-x=v"), None),
            (&["__Host-lodge-session-x=a=b"], None, Some("a=b")),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(COOKIE, HeaderValue::from_static(line));
            }
            let cookies = HostCookies::take(&mut headers);
            let shown = headers.get(COOKIE).map(|line| line.to_str().unwrap());
            let found = cookies.get("__Host-lodge-session-x");
            assert_eq!((shown, found), (left, value.map(str::as_bytes)), "{lines:?}");
        }
    }

    #[test]
    fn services_do_not_set_them() {
        for (lines, left) in [
            (&["a=1", "__Host-lodge-session-x=v; Path=/", "b=2"][..], &["a=1", "b=2"][..]),
            (&["  __HOST-LODGE-login-x=; Max-Age=0", "__Host-lodge-", "=__Host-lodge-session-x=v"], &[]),
            (&[" = \t__host-lodge-session-x"], &[]),
            (
                &["__Host-other=v", "x__Host-lodge-a=v", "a=__Host-lodge-a=v", ""],
                &["__Host-other=v", "x__Host-lodge-a=v", "a=__Host-lodge-a=v", ""],
            ),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(SET_COOKIE, HeaderValue::from_static(line));
            }
            remove_set(&mut headers);
            assert_eq!(headers.get_all(SET_COOKIE).iter().collect::<Vec<_>>(), left, "{lines:?}");
        }
    }

    #[test]
    fn attributes() {
        let cookie = set(&name("session", "shop"), "v", 60).unwrap();
        let expected = "__Host-lodge-session-shop=v; Path=/; Max-Age=60; Secure; HttpOnly; SameSite=Lax";
        assert_eq!((cookie.to_str().unwrap(), cookie.is_sensitive()), (expected, true));
        assert_eq!(set("n", &"v".repeat(MOST), 60), None);
        assert_eq!(set("n", "a\nb", 60), None);
    }
}
