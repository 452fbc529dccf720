//! Masking of secrets in what a log line shows of a request: values of query parameters and of headers.

use std::borrow::Cow;

use http::HeaderName;
use http::header;

/// Written in place of a masked value.
const MASK: &str = "***";

/// Headers whose values are never shown.
const SECRET: [HeaderName; 5] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
    header::SET_COOKIE,
    HeaderName::from_static("x-api-key"),
];

/// The names from `log_mask`, in lower case.
pub(super) struct Mask {
    names: Vec<String>,
}

impl Mask {
    /// A mask for the parameters and headers with these names, compared without regard to case.
    pub(super) fn new(names: &[String]) -> Self {
        Self { names: names.iter().map(|name| name.to_lowercase()).collect() }
    }

    /// The value of a header as a log line shows it. A value that holds a URL, such as that of Referer, has the query
    /// of that URL masked.
    pub(super) fn header(&self, name: &HeaderName, value: &[u8]) -> String {
        if SECRET.contains(name) || self.names.iter().any(|masked| masked == name.as_str()) {
            return MASK.into();
        }
        self.url(&String::from_utf8_lossy(value)).into_owned()
    }

    /// The value of a field as a log line shows it.
    pub(super) fn field<'a>(&self, name: &str, value: &'a str) -> &'a str {
        if self.names.iter().any(|masked| masked == name) { MASK } else { value }
    }

    /// A URL or a path with its query, without the values of masked parameters. Parameters are separated by `&` or
    /// `;`; their names are compared after percent-decoding. What follows `#` is masked like a query: OAuth puts tokens
    /// there.
    pub(super) fn url<'a>(&self, url: &'a str) -> Cow<'a, str> {
        let Some(begin) = url.find(['?', '#']) else { return url.into() };
        let mut shown = String::with_capacity(url.len());
        let (path, mut rest) = url.split_at(begin);
        shown.push_str(path);
        while let Some(separator) = rest.chars().next() {
            let parameter = rest.get(separator.len_utf8()..).unwrap_or_default();
            let (parameter, after) =
                parameter.split_at(parameter.find(['&', ';', '?', '#']).unwrap_or(parameter.len()));
            shown.push(separator);
            match parameter.split_once('=') {
                Some((name, _)) if self.masks(name) => {
                    shown.push_str(name);
                    shown.push('=');
                    shown.push_str(MASK);
                }
                _ => shown.push_str(parameter),
            }
            rest = after;
        }
        shown.into()
    }

    fn masks(&self, name: &str) -> bool {
        let is_masked = |name: &str| self.names.iter().any(|masked| name.eq_ignore_ascii_case(masked));
        if !name.contains(['%', '+']) {
            return is_masked(name);
        }
        // The form decoding that servers apply to a query.
        form_urlencoded::parse(name.as_bytes()).next().is_some_and(|(name, _)| is_masked(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_masked_parameters() {
        let mask = Mask::new(&["Token".to_owned(), "id_token".to_owned()]);
        for (url, shown) in [
            ("/a", "/a"),
            ("/a?", "/a?"),
            ("/a?token=1&b=2&TOKEN=3&tokens=4&token", "/a?token=***&b=2&TOKEN=***&tokens=4&token"),
            ("/a?tok%65n=1&b=2", "/a?tok%65n=***&b=2"),
            ("/a?%74%6f%6B%65%6e=1", "/a?%74%6f%6B%65%6e=***"),
            ("/a?id%5Ftoken=1", "/a?id%5Ftoken=***"),
            ("/a?b=2;token=1;c=3", "/a?b=2;token=***;c=3"),
            ("/a?b=2?token=1", "/a?b=2?token=***"),
            ("/a?token=1=2&b", "/a?token=***&b"),
            ("https://h/p?token=1#id_token=2&b=3", "https://h/p?token=***#id_token=***&b=3"),
            ("/a#token=1", "/a#token=***"),
            ("/a?%ff=1&%=2&token=\u{e9}", "/a?%ff=1&%=2&token=***"),
        ] {
            assert_eq!(mask.url(url), shown);
        }
    }

    #[test]
    fn values_of_headers() {
        let mask = Mask::new(&["x-key".to_owned(), "token".to_owned()]);
        let shown = |name: HeaderName, value: &str| mask.header(&name, value.as_bytes());
        for secret in SECRET {
            assert_eq!(shown(secret, "s"), "***");
        }
        assert_eq!(shown(HeaderName::from_static("x-key"), "s"), "***");
        assert_eq!(shown(header::ACCEPT, "*/*"), "*/*");
        assert_eq!(shown(header::REFERER, "https://h/p?token=s&a=1"), "https://h/p?token=***&a=1");
    }
}
