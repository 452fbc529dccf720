//! URLs of servers.

use std::fmt;

use percent_encoding::percent_decode_str;

/// A scheme that a server's URLs may have.
#[derive(Clone, Copy, Debug)]
pub struct UrlScheme {
    /// Its name, as `redis`.
    pub name: &'static str,
    /// Whether it means TLS.
    pub tls: bool,
}

/// Why a URL is not valid. URLs have passwords in them, so only harmless parts are repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("the URL must begin with {expected}")]
    Scheme {
        /// The valid ones.
        expected: String,
    },
    /// No host.
    #[error("the URL has no host: write it as {example}")]
    NoHost {
        /// A valid URL.
        example: String,
    },
    /// A host that is no name and no address.
    #[error(
        "the host of the URL is neither a name nor an address; if the user or the password contains one of `@/:?#%`, \
         percent-encode it, as %40 for @"
    )]
    Host,
    /// A port that is no number from 1 to 65535.
    #[error(
        "the port of the URL is not a number from 1 to 65535; if the password contains one of `@/:?#%`, percent-encode \
         it, as %40 for @"
    )]
    Port,
    /// A `%` that is not followed by two hexadecimal digits, or bytes that are no text.
    #[error("the {part} in the URL is not correctly percent-encoded: write % as %25")]
    Encoding {
        /// Where.
        part: &'static str,
    },
    /// A path that does not name what it should.
    #[error("the path of the URL {problem}")]
    Path {
        /// What is wrong with it, and what would be valid.
        problem: &'static str,
    },
    /// A parameter that is not known, or its value.
    #[error("the parameter {name:?} of the URL {problem}")]
    Parameter {
        /// Its name.
        name: String,
        /// What is wrong with it, and what would be valid.
        problem: &'static str,
    },
}

/// Text that no message, log or debug output contains.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Reads the text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// The parts of a URL. Its debug output does not contain the user, which is the token of some servers.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl {
    /// Whether the scheme means TLS.
    pub tls: bool,
    /// A name or an address; that of IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The user, if there is one.
    pub user: Option<String>,
    /// The password, if there is one.
    pub password: Option<Password>,
    /// The path without its first `/`, decoded; empty if there is none.
    pub path: String,
    /// The parameters of the query, decoded, in their order.
    pub parameters: Vec<(String, String)>,
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tls, host, port, path, .. } = self;
        let mut shown = f.debug_struct("ServerUrl");
        shown.field("tls", tls).field("host", host).field("port", port).field("path", path).finish_non_exhaustive()
    }
}

impl ServerUrl {
    /// Reads `text`, which has one of `schemes`; without a port it has `port`.
    ///
    /// # Errors
    /// What is wrong, and what would be valid.
    pub fn parse(text: &str, schemes: &[UrlScheme], port: u16) -> Result<ServerUrl, UrlError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let Some(scheme) = schemes.iter().find(|known| known.name.eq_ignore_ascii_case(scheme)) else {
            let expected = schemes.iter().map(|scheme| format!("{}://", scheme.name)).collect::<Vec<_>>().join(" or ");
            return Err(UrlError::Scheme { expected });
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if query.contains('@') {
            // The end of credentials with a `?` in them, whose rest looks like parameters, which errors would repeat.
            return Err(UrlError::Host);
        }
        let (credentials, address) =
            authority.rsplit_once('@').map_or((None, authority), |(before, after)| (Some(before), after));
        let (user, password) = match credentials {
            None => (None, None),
            Some(credentials) => {
                let (user, password) =
                    credentials.split_once(':').map_or((credentials, None), |(user, word)| (user, Some(word)));
                let user = decode(user, "user")?;
                let password = password.map(|word| decode(word, "password")).transpose()?.map(Password);
                (Some(user).filter(|user| !user.is_empty()), password)
            }
        };
        if address.is_empty() {
            return Err(UrlError::NoHost { example: format!("{}://localhost:{port}", scheme.name) });
        }
        let (host, port) = split(address, port)?;
        let mut parameters = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            parameters.push((decode(name, "name of a parameter")?, decode(value, "value of a parameter")?));
        }
        Ok(ServerUrl { tls: scheme.tls, host, port, user, password, path: decode(path, "path")?, parameters })
    }
}

/// Host and port of an address.
fn split(address: &str, default: u16) -> Result<(String, u16), UrlError> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or(UrlError::Host)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| UrlError::Host)?;
            let port = if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or(UrlError::Port)?) };
            (host, port)
        }
        None => {
            let (host, port) = address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port)));
            let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            if host.is_empty() || !host.bytes().all(valid) {
                return Err(UrlError::Host);
            }
            (host, port)
        }
    };
    let port = match port {
        None => default,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            port.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Port)?
        }
        Some(_) => return Err(UrlError::Port),
    };
    Ok((host.to_owned(), port))
}

fn decode(text: &str, part: &'static str) -> Result<String, UrlError> {
    let escaped = |rest: &str| rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    if text.split('%').skip(1).any(|rest| !escaped(rest)) {
        return Err(UrlError::Encoding { part });
    }
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(|_| UrlError::Encoding { part })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMES: [UrlScheme; 2] = [UrlScheme { name: "redis", tls: false }, UrlScheme { name: "rediss", tls: true }];

    fn parse(text: &str) -> Result<ServerUrl, UrlError> {
        ServerUrl::parse(text, &SCHEMES, 6379)
    }

    #[test]
    fn parts_are_read_and_decoded() {
        let url = parse("rediss://me:p%40ss%2f@db.example:7000/2?a=b%20c&d").unwrap();
        assert_eq!((url.tls, url.host.as_str(), url.port, url.path.as_str()), (true, "db.example", 7000, "2"));
        assert_eq!(url.user.as_deref(), Some("me"));
        assert_eq!(url.password.as_ref().map(Password::reveal), Some("p@ss/"));
        assert_eq!(url.parameters, [("a".into(), "b c".into()), ("d".into(), String::new())]);
        assert!(!format!("{url:?}").contains("p@ss"), "{url:?}");
        let token = parse("redis://token@host").unwrap();
        assert!(!format!("{token:?}").contains("token"), "{token:?}");
        let url = parse("REDIS://[::1]").unwrap();
        assert_eq!((url.tls, url.host.as_str(), url.port, url.user, url.password), (false, "::1", 6379, None, None));
        let url = parse("redis://:word@[::1]:1").unwrap();
        assert_eq!((url.port, url.user, url.password.as_ref().map(Password::reveal)), (1, None, Some("word")));
    }

    #[test]
    fn errors_say_what_is_wrong_and_repeat_no_password() {
        let scheme = UrlError::Scheme { expected: "redis:// or rediss://".into() };
        for (text, error) in [
            ("", scheme.clone()),
            ("localhost:6379", scheme.clone()),
            ("http://localhost", scheme),
            ("redis://", UrlError::NoHost { example: "redis://localhost:6379".into() }),
            ("redis://me:secret@", UrlError::NoHost { example: "redis://localhost:6379".into() }),
            ("redis://a:b:c", UrlError::Port),
            ("redis://a:0", UrlError::Port),
            ("redis://a:65536", UrlError::Port),
            ("redis://a:+1", UrlError::Port),
            ("redis://me:se/cret@host", UrlError::Port),
            ("redis://a b", UrlError::Host),
            ("redis://me:1?secret@host", UrlError::Host),
            ("redis://[::1", UrlError::Host),
            ("redis://[localhost]", UrlError::Host),
            ("redis://[::1]x", UrlError::Port),
            ("redis://me:100%@host", UrlError::Encoding { part: "password" }),
            ("redis://%ff@host", UrlError::Encoding { part: "user" }),
        ] {
            assert_eq!(parse(text), Err(error.clone()), "{text}");
            assert!(!error.to_string().contains("secret"));
        }
    }
}
