//! Backends for state on servers. Each is a feature of this crate.

use std::sync::Arc;

use lodge_state::Backend;

/// The connections to a server, as far as it does not multiplex one.
#[cfg(any(feature = "redis", feature = "postgres"))]
const CONNECTIONS: usize = 8;

/// The servers of a NATS cluster that have each stream.
#[cfg(feature = "nats")]
const REPLICAS: usize = 1;

/// Connects to the server of `url`. Returns at once: the server need not be there yet.
///
/// # Errors
/// If the URL is not valid, or this program has no backend for it.
pub(super) fn connect(url: &str) -> Result<Arc<dyn Backend>, String> {
    let scheme = url.split("://").next().unwrap_or_default();
    match scheme {
        #[cfg(feature = "redis")]
        "redis" | "rediss" => {
            let settings = lodge_redis::RedisSettings::new(url, &lodge_remote::Tls::default(), CONNECTIONS);
            Ok(Arc::new(lodge_redis::Redis::new(settings.map_err(wrong)?, &tokio::runtime::Handle::current())))
        }
        #[cfg(feature = "nats")]
        "nats" | "tls" => {
            let settings = lodge_nats::NatsSettings::new(url, &lodge_remote::Tls::default(), None, REPLICAS);
            Ok(Arc::new(lodge_nats::Nats::new(settings.map_err(wrong)?, &tokio::runtime::Handle::current())))
        }
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => {
            let settings = lodge_postgres::PostgresSettings::new(url, &lodge_remote::Tls::default(), CONNECTIONS);
            Ok(Arc::new(lodge_postgres::Postgres::new(settings.map_err(wrong)?, &tokio::runtime::Handle::current())))
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
