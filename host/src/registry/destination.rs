//! The hosts that a request may go to.
//!
//! A manifest or an operator names a registry, which may have any address: registries in private networks are usual. The
//! registry names further hosts, in redirects and as servers of tokens. These must have public addresses, so that a
//! registry cannot make the host send requests to its neighbours, unless `pull.registries` lists them.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::vec::IntoIter;

use http::Uri;
use http::uri::Authority;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::task::spawn_blocking;
use tower_service::Service;

use super::RegistryError;
use lodge_base::address::is_public;
use lodge_base::config::pull::{LOOPBACK, Pull};

/// Resolves names by the system's resolver.
#[derive(Clone)]
pub(super) struct AddressResolver {
    /// Only addresses that are public count.
    pub(super) public: bool,
}

impl Service<Name> for AddressResolver {
    type Response = IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<IntoIter<SocketAddr>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let public = self.public;
        Box::pin(async move {
            let resolve = move || (name.as_str(), 0).to_socket_addrs().map(Iterator::collect);
            let mut found: Vec<SocketAddr> = spawn_blocking(resolve).await.map_err(io::Error::other)??;
            let known = found.len();
            found.retain(|address| !public || is_public(address.ip()));
            if found.is_empty() && known > 0 {
                return Err(io::Error::other(PRIVATE));
            }
            Ok(found.into_iter())
        })
    }
}

/// Why a host that a registry names is not contacted.
const PRIVATE: &str = "it has no public address, and is not in pull.registries";

/// Whether the registry itself is the destination of a URL.
pub(super) fn is_of(url: &Uri, registry: &str) -> bool {
    url.authority().is_some_and(|authority| same(authority, registry, url))
}

/// Whether both are one host and port.
fn same(authority: &Authority, registry: &str, url: &Uri) -> bool {
    let usual = if url.scheme_str() == Some("http") { 80 } else { 443 };
    let Ok(registry) = registry.parse::<Authority>() else { return false };
    authority.host().eq_ignore_ascii_case(registry.host())
        && authority.port_u16().unwrap_or(usual) == registry.port_u16().unwrap_or(usual)
}

/// Whether requests to a registry are sent without TLS.
pub(super) fn is_plain(settings: &Pull, registry: &str) -> bool {
    settings.plain_http.iter().any(|plain| match plain.as_str() {
        LOOPBACK => is_loopback(registry),
        plain => plain == registry,
    })
}

fn is_loopback(registry: &str) -> bool {
    let Ok(authority) = registry.parse::<Authority>() else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Checks whether a request may go to a URL. Returns whether only public addresses count.
///
/// # Errors
/// Why it may not.
pub(super) fn check(settings: &Pull, registry: &str, url: &Uri) -> Result<bool, RegistryError> {
    let refused = |why: &str| {
        let place = url.authority().map_or("", Authority::as_str);
        RegistryError::new(format!("the registry refers to {place}: {why}"))
    };
    let Some(authority) = url.authority().filter(|authority| !authority.as_str().contains('@')) else {
        return Err(refused("that is not a host"));
    };
    match url.scheme_str() {
        Some("https") => {}
        Some("http") if is_plain(settings, authority.as_str()) => {}
        Some("http") => return Err(refused("it is plain http, and not in pull.plain_http")),
        _ => return Err(refused("it is neither http nor https")),
    }
    let trusted = same(authority, registry, url) || settings.registries.iter().any(|one| same(authority, one, url));
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(address) if !trusted && !is_public(address) => Err(refused(PRIVATE)),
        _ => Ok(!trusted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_registry_and_listed_hosts_may_be_private() {
        let settings = Pull {
            plain_http: vec![LOOPBACK.into(), "plain.example:5000".into()],
            registries: vec!["10.0.0.9".into()],
            ..Pull::default()
        };
        let check = |url: &str| check(&settings, "10.0.0.1:5000", &url.parse().unwrap()).map_err(|why| why.to_string());
        for (url, public) in [
            ("https://10.0.0.1:5000/v2/", false),
            ("https://10.0.0.9/x", false),
            ("https://10.0.0.9:443/x", false),
            ("https://blobs.example/x", true),
            ("https://1.1.1.1/x", true),
            ("http://plain.example:5000/x", true),
        ] {
            assert_eq!(check(url), Ok(public), "{url}");
        }
        for (url, why) in [
            ("https://10.0.0.1/v2/", PRIVATE),
            ("https://10.0.0.9:8443/x", PRIVATE),
            ("https://[::1]/x", PRIVATE),
            ("https://[::ffff:10.0.0.2]/x", PRIVATE),
            ("http://127.0.0.1/x", PRIVATE),
            ("http://10.0.0.1:5000/v2/", "plain http"),
            ("http://plain.example/x", "plain http"),
            ("ftp://blobs.example/x", "neither"),
            ("https://user@blobs.example/x", "not a host"),
        ] {
            assert!(check(url).is_err_and(|problem| problem.contains(why)), "{url}");
        }
    }

    #[test]
    fn plain_http_is_for_this_machine() {
        let settings = Pull { plain_http: vec![LOOPBACK.into()], ..Pull::default() };
        for (registry, plain) in [
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("[::1]:5000", true),
            ("localhost.example:5000", false),
            ("10.0.0.1", false),
            ("registry.example", false),
        ] {
            assert_eq!(is_plain(&settings, registry), plain, "{registry}");
        }
        assert!(!is_plain(&Pull::default(), "localhost"));
    }

    /// Names count by their addresses, at the time of the connection.
    #[tokio::test]
    async fn names_of_private_addresses_are_not_resolved() {
        let resolve = async |public| {
            let found = AddressResolver { public }.call("localhost".parse().unwrap()).await;
            found.map(Iterator::count).map_err(|error| error.to_string())
        };
        assert!(resolve(false).await.unwrap() > 0);
        assert_eq!(resolve(true).await.unwrap_err(), PRIVATE);
    }
}
