//! How NATS is reached.

use async_nats::ConnectOptions;
use lodge_remote::{ServerUrl, Tls, TlsError, UrlError, UrlScheme};
use rustls::ClientConfig;

const SCHEMES: [UrlScheme; 2] = [UrlScheme { name: "nats", tls: false }, UrlScheme { name: "tls", tls: true }];
const PORT: u16 = 4222;

/// Where NATS is, and how connections to it are made.
#[derive(Clone, Debug)]
pub struct NatsSettings {
    pub(crate) servers: Vec<ServerUrl>,
    pub(crate) tls: Option<ClientConfig>,
    credentials: Option<String>,
    pub(crate) replicas: usize,
}

/// Why settings are not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NatsSettingsError {
    /// A URL.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// Certificates or keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A credentials file.
    #[error("the credentials are not those of a file that `nsc` writes: give a .creds file with a JWT and a seed")]
    Credentials,
    /// A number of replicas.
    #[error("a stream has 1, 3 or 5 replicas, and not {0}")]
    Replicas(usize),
}

impl NatsSettings {
    /// Reads `nats://[USER:PASSWORD@|TOKEN@]HOST[:PORT]`, or `tls://…` for TLS; several, separated by commas, are servers of one
    /// cluster. The port is 4222 without one. `credentials` is the text of a `.creds` file. `replicas` is how many servers of
    /// the cluster have each stream.
    ///
    /// # Errors
    /// What is wrong, and what would be valid.
    pub fn new(
        urls: &str,
        tls: &Tls,
        credentials: Option<&str>,
        replicas: usize,
    ) -> Result<NatsSettings, NatsSettingsError> {
        let parse = |url: &str| ServerUrl::parse(url.trim(), &SCHEMES, PORT);
        let servers = urls.split(',').map(parse).collect::<Result<Vec<_>, _>>()?;
        for server in &servers {
            if !server.path.is_empty() {
                return Err(UrlError::Path { problem: "must be empty: NATS has no databases" }.into());
            }
            if let Some((name, _)) = server.parameters.first() {
                return Err(UrlError::Parameter { name: name.clone(), problem: "is not known: remove it" }.into());
            }
        }
        if let Some(credentials) = credentials {
            ConnectOptions::with_credentials(credentials).map_err(|_| NatsSettingsError::Credentials)?;
        }
        if !matches!(replicas, 1 | 3 | 5) {
            return Err(NatsSettingsError::Replicas(replicas));
        }
        // A server can also demand TLS of nats:// URLs.
        let wanted = tls.authorities.is_some() || tls.identity.is_some() || servers.iter().any(|server| server.tls);
        let tls = if wanted { Some(tls.config()?.as_ref().clone()) } else { None };
        Ok(NatsSettings { servers, tls, credentials: credentials.map(str::to_owned), replicas })
    }

    /// Options of a connection to `server`.
    pub(crate) fn options(&self, server: &ServerUrl) -> ConnectOptions {
        let given = self.credentials.as_ref().and_then(|text| ConnectOptions::with_credentials(text).ok());
        let mut options = given.unwrap_or_default();
        options = match (&server.user, &server.password) {
            (Some(user), Some(password)) => options.user_and_password(user.clone(), password.reveal().to_owned()),
            (Some(token), None) => options.token(token.clone()),
            _ => options,
        };
        if let Some(config) = &self.tls {
            options = options.tls_client_config(config.clone());
        }
        options.require_tls(server.tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let settings = |urls: &str| NatsSettings::new(urls, &Tls::default(), None, 1);
        let cluster = settings("nats://me:word@a, nats://b:5000").unwrap();
        let addresses: Vec<_> = cluster.servers.iter().map(|server| (server.host.as_str(), server.port)).collect();
        assert_eq!(addresses, [("a", 4222), ("b", 5000)]);
        for (urls, text) in [
            ("http://a", "nats:// or tls://"),
            ("nats://a,", "nats:// or tls://"),
            ("nats://a/x", "must be empty"),
            ("nats://a?x=1", "\"x\""),
        ] {
            let error = settings(urls).unwrap_err().to_string();
            assert!(error.contains(text), "{urls}: {error}");
        }
        assert_eq!(
            NatsSettings::new("nats://a", &Tls::default(), None, 2).unwrap_err(),
            NatsSettingsError::Replicas(2)
        );
        let error = NatsSettings::new("nats://a", &Tls::default(), Some("x"), 1).unwrap_err();
        assert_eq!(error, NatsSettingsError::Credentials);
    }
}
