//! Backends for state on servers. Each is a feature of this crate.

use std::sync::Arc;

use lodge_base::config::state::State;
use lodge_state::Backend;

/// The connections to a server, as far as it does not multiplex one.
#[cfg(any(feature = "redis", feature = "postgres"))]
const CONNECTIONS: usize = 8;

/// The most bytes of a file with certificates, a key or credentials.
#[cfg(any(feature = "redis", feature = "nats", feature = "postgres"))]
const MAX_FILE: u64 = 1 << 20;

/// The settings of a server, as its backend takes them.
pub(super) enum ServerSettings {
    #[cfg(feature = "redis")]
    Redis(lodge_redis::RedisSettings),
    #[cfg(feature = "nats")]
    Nats(Box<lodge_nats::NatsSettings>),
    #[cfg(feature = "postgres")]
    Postgres(Box<lodge_postgres::PostgresSettings>),
}

/// Reads the settings of the server of `url`, and the files that they name.
///
/// # Errors
/// If the URL or a file is not valid, or this program has no backend for the URL. Names the key.
pub(super) fn read(url: &str, state: &State) -> Result<ServerSettings, String> {
    // What is no scheme may be a password.
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    if state.certificate.is_some() != state.key.is_some() {
        return Err("state.certificate and state.key belong together: set both, or none".into());
    }
    let of_nats = state.credentials.is_some() || state.replicas != 1;
    if of_nats && !matches!(scheme, "nats" | "tls") {
        return Err("state.credentials and state.replicas are for NATS: remove them, or change state.url".into());
    }
    match scheme {
        #[cfg(feature = "redis")]
        "redis" | "rediss" => {
            let settings = lodge_redis::RedisSettings::new(url, &tls(state)?, CONNECTIONS);
            settings.map(ServerSettings::Redis).map_err(wrong)
        }
        #[cfg(feature = "nats")]
        "nats" | "tls" => {
            let credentials = read_file("state.credentials", state.credentials.as_deref())?;
            let credentials = credentials.map(String::from_utf8).transpose();
            let credentials = credentials.map_err(|_| "state.credentials: the file is not text")?;
            let settings = lodge_nats::NatsSettings::new(url, &tls(state)?, credentials.as_deref(), state.replicas);
            settings.map(|settings| ServerSettings::Nats(Box::new(settings))).map_err(wrong)
        }
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => {
            let settings = lodge_postgres::PostgresSettings::new(url, &tls(state)?, CONNECTIONS);
            settings.map(|settings| ServerSettings::Postgres(Box::new(settings))).map_err(wrong)
        }
        scheme if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphabetic()) => {
            Err(wrong("it is not a URL such as `redis://HOST:6379`"))
        }
        _ => Err(wrong(format_args!(
            "this program has no backend for `{scheme}://`; build it with `--features redis,nats,postgres`, or remove the key"
        ))),
    }
}

/// Connects to a server. Returns at once: the server need not be there yet.
pub(super) fn connect(settings: ServerSettings) -> Arc<dyn Backend> {
    match settings {
        #[cfg(feature = "redis")]
        ServerSettings::Redis(settings) => {
            Arc::new(lodge_redis::Redis::new(settings, &tokio::runtime::Handle::current()))
        }
        #[cfg(feature = "nats")]
        ServerSettings::Nats(settings) => {
            Arc::new(lodge_nats::Nats::new(*settings, &tokio::runtime::Handle::current()))
        }
        #[cfg(feature = "postgres")]
        ServerSettings::Postgres(settings) => {
            Arc::new(lodge_postgres::Postgres::new(*settings, &tokio::runtime::Handle::current()))
        }
    }
}

/// Names the key of a problem with the URL.
fn wrong(problem: impl std::fmt::Display) -> String {
    format!("state.url: {problem}")
}

/// Reads the certificates and the key.
#[cfg(any(feature = "redis", feature = "nats", feature = "postgres"))]
fn tls(state: &State) -> Result<lodge_remote::Tls, String> {
    let authorities = read_file("state.ca", state.ca.as_deref())?;
    let certificate = read_file("state.certificate", state.certificate.as_deref())?;
    let identity = certificate.zip(read_file("state.key", state.key.as_deref())?);
    Ok(lodge_remote::Tls { authorities, identity })
}

/// Reads the file of a key, if it is set.
#[cfg(any(feature = "redis", feature = "nats", feature = "postgres"))]
fn read_file(key: &str, path: Option<&std::path::Path>) -> Result<Option<Vec<u8>>, String> {
    let Some(path) = path else { return Ok(None) };
    let read = lodge_base::files::read(path, MAX_FILE);
    read.map(Some).map_err(|error| format!("{key}: {} cannot be read: {error}", path.display()))
}
