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

/// Connects to the server of `url`. Returns at once: the server need not be there yet.
///
/// # Errors
/// If the URL or a file is not valid, or this program has no backend for the URL.
pub(super) fn connect(url: &str, state: &State) -> Result<Arc<dyn Backend>, String> {
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
            let settings = lodge_redis::RedisSettings::new(url, &tls(state)?, CONNECTIONS).map_err(wrong)?;
            Ok(Arc::new(lodge_redis::Redis::new(settings, &tokio::runtime::Handle::current())))
        }
        #[cfg(feature = "nats")]
        "nats" | "tls" => {
            let credentials = read("state.credentials", state.credentials.as_deref())?;
            let credentials = credentials.map(String::from_utf8).transpose();
            let credentials = credentials.map_err(|_| "state.credentials: the file is not text")?;
            let settings = lodge_nats::NatsSettings::new(url, &tls(state)?, credentials.as_deref(), state.replicas);
            Ok(Arc::new(lodge_nats::Nats::new(settings.map_err(wrong)?, &tokio::runtime::Handle::current())))
        }
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => {
            let settings = lodge_postgres::PostgresSettings::new(url, &tls(state)?, CONNECTIONS).map_err(wrong)?;
            Ok(Arc::new(lodge_postgres::Postgres::new(settings, &tokio::runtime::Handle::current())))
        }
        scheme if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphabetic()) => {
            Err(wrong("it is not a URL such as `redis://HOST:6379`"))
        }
        _ => Err(wrong(format_args!(
            "this program has no backend for `{scheme}://`; build it with `--features redis,nats,postgres`, or remove the key"
        ))),
    }
}

/// Names the key of a problem with the URL.
fn wrong(problem: impl std::fmt::Display) -> String {
    format!("state.url: {problem}")
}

/// Reads the certificates and the key.
#[cfg(any(feature = "redis", feature = "nats", feature = "postgres"))]
fn tls(state: &State) -> Result<lodge_remote::Tls, String> {
    let authorities = read("state.ca", state.ca.as_deref())?;
    let certificate = read("state.certificate", state.certificate.as_deref())?;
    let identity = certificate.zip(read("state.key", state.key.as_deref())?);
    Ok(lodge_remote::Tls { authorities, identity })
}

/// Reads the file of a key, if it is set.
#[cfg(any(feature = "redis", feature = "nats", feature = "postgres"))]
fn read(key: &str, path: Option<&std::path::Path>) -> Result<Option<Vec<u8>>, String> {
    let Some(path) = path else { return Ok(None) };
    let read = lodge_base::files::read(path, MAX_FILE);
    read.map(Some).map_err(|error| format!("{key}: {} cannot be read: {error}", path.display()))
}
