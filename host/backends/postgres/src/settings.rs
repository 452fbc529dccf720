//! How PostgreSQL is reached.

use std::sync::Arc;

use lodge_remote::{ServerUrl, Tls, TlsError, UrlError, UrlScheme};
use rustls::ClientConfig;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

const SCHEMES: [UrlScheme; 2] =
    [UrlScheme { name: "postgres", tls: true }, UrlScheme { name: "postgresql", tls: true }];
const PORT: u16 = 5432;
/// Connections, at most: each is a process of the server.
const MAX_CONNECTIONS: usize = 16;
/// How long the server works on a statement. No deadline of a request is later.
const OPTIONS: &str = "-c statement_timeout=60s -c lock_timeout=30s -c client_min_messages=warning";

/// Where PostgreSQL is, and how connections to it are made.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) config: Config,
    connections: usize,
}

/// Why settings are not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostgresSettingsError {
    /// The URL.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// Certificates or keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No user.
    #[error("the URL names no user: write it as postgres://USER:PASSWORD@HOST/DATABASE")]
    NoUser,
}

impl PostgresSettings {
    /// Reads `postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE`. The port is 5432 without one. Connections have TLS, and the
    /// certificate is verified, unless the URL ends with `?sslmode=disable`. `connections` is from 1 to 16.
    ///
    /// # Errors
    /// What is wrong, and what would be valid.
    pub fn new(url: &str, tls: &Tls, connections: usize) -> Result<PostgresSettings, PostgresSettingsError> {
        let url = ServerUrl::parse(url, &SCHEMES, PORT)?;
        let mut secure = true;
        for (name, value) in url.parameters {
            let problem = match (name.as_str(), value.as_str()) {
                ("sslmode", "verify-full") => continue,
                ("sslmode", "disable") => {
                    secure = false;
                    continue;
                }
                ("sslmode", _) => "must be verify-full or disable: the other modes do not verify the server",
                _ => "is not known: remove it",
            };
            return Err(UrlError::Parameter { name, problem }.into());
        }
        if url.path.is_empty() || url.path.contains('/') {
            let problem = "is not the name of a database: write it as postgres://USER:PASSWORD@HOST/DATABASE";
            return Err(UrlError::Path { problem }.into());
        }
        let mut config = Config::new();
        config.user(url.user.ok_or(PostgresSettingsError::NoUser)?).dbname(url.path);
        if let Some(password) = &url.password {
            config.password(password.reveal());
        }
        config.application_name("lodge").options(OPTIONS);
        config.ssl_mode(if secure { SslMode::Require } else { SslMode::Disable });
        let tls = secure.then(|| tls.config()).transpose()?;
        let connections = connections.clamp(1, MAX_CONNECTIONS);
        Ok(PostgresSettings { host: url.host, port: url.port, tls, config, connections })
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
        let settings = |url: &str| PostgresSettings::new(url, &Tls::default(), 4);
        let plain = settings("postgres://me:w%40rd@db:7000/state?sslmode=disable").unwrap();
        assert_eq!((plain.host.as_str(), plain.port, plain.tls.is_none()), ("db", 7000, true));
        assert_eq!((plain.config.get_user(), plain.config.get_dbname()), (Some("me"), Some("state")));
        assert_eq!(plain.config.get_password(), Some(&b"w@rd"[..]));
        assert!(!format!("{plain:?}").contains("w@rd"));
        for (url, text) in [
            ("mysql://db/x", "postgres:// or postgresql://"),
            ("postgres://me@db", "the name of a database"),
            ("postgres://me@db/a/b", "the name of a database"),
            ("postgres://db/x?sslmode=disable", "names no user"),
            ("postgres://me@db/x?sslmode=require", "verify-full or disable"),
            ("postgres://me@db/x?x=1", "\"x\""),
        ] {
            let error = settings(url).unwrap_err().to_string();
            assert!(error.contains(text), "{url}: {error}");
        }
    }
}
