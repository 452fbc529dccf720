//! How Redis is reached.

use std::sync::Arc;

use lodge_remote::{ServerUrl, Tls, TlsError, UrlError, UrlScheme};
use redis::RedisConnectionInfo;
use rustls::ClientConfig;

const SCHEMES: [UrlScheme; 2] = [UrlScheme { name: "redis", tls: false }, UrlScheme { name: "rediss", tls: true }];
const PORT: u16 = 6379;
/// Connections, at most. Operations share them, so a few are enough.
const MAX_CONNECTIONS: usize = 16;

/// Where Redis is, and how connections to it are made.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) login: RedisConnectionInfo,
    connections: usize,
}

/// Why settings are not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisSettingsError {
    /// The URL.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// Certificates or keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl RedisSettings {
    /// Reads `redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]`, or `rediss://…` for TLS. The port is 6379 and the database
    /// 0 without one. `connections` is from 1 to 16.
    ///
    /// # Errors
    /// What is wrong, and what would be valid.
    pub fn new(url: &str, tls: &Tls, connections: usize) -> Result<RedisSettings, RedisSettingsError> {
        let url = ServerUrl::parse(url, &SCHEMES, PORT)?;
        if let Some((name, _)) = url.parameters.into_iter().next() {
            return Err(UrlError::Parameter { name, problem: "is not known: remove it" }.into());
        }
        let digits = |path: &str| path.bytes().all(|byte| byte.is_ascii_digit()).then(|| path.parse().ok()).flatten();
        let database = match url.path.as_str() {
            "" => 0,
            path => digits(path).ok_or(UrlError::Path { problem: "is not the number of a database: write /0" })?,
        };
        let mut login =
            RedisConnectionInfo::default().set_db(database).set_lib_name("lodge", env!("CARGO_PKG_VERSION"));
        if let Some(user) = url.user {
            login = login.set_username(user);
        }
        if let Some(password) = url.password {
            login = login.set_password(password.reveal());
        }
        let tls = url.tls.then(|| tls.config()).transpose()?;
        let connections = connections.clamp(1, MAX_CONNECTIONS);
        Ok(RedisSettings { host: url.host, port: url.port, tls, login, connections })
    }

    pub(crate) const fn connections(&self) -> usize {
        self.connections
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let settings = |url: &str| RedisSettings::new(url, &Tls::default(), 2);
        let plain = settings("redis://me:word@cache:7000/3").unwrap();
        assert_eq!((plain.host.as_str(), plain.port, plain.login.db()), ("cache", 7000, 3));
        assert_eq!((plain.login.username(), plain.login.password()), (Some("me"), Some("word")));
        assert!(plain.tls.is_none());
        let plain = settings("redis://:word@cache").unwrap();
        assert_eq!((plain.port, plain.login.username(), plain.login.password()), (6379, None, Some("word")));
        for (url, text) in [
            ("http://cache", "redis:// or rediss://"),
            ("redis://cache/x", "/0"),
            ("redis://cache/-1", "/0"),
            ("redis://cache/99999999999999999999", "/0"),
            ("redis://cache?x=1", "\"x\""),
        ] {
            let error = settings(url).unwrap_err().to_string();
            assert!(error.contains(text), "{url}: {error}");
        }
    }
}
