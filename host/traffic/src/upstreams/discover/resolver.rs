//! DNS lookups: the addresses of a name and the targets of a service record, each with its TTL.
//!
//! The system's resolver reports no TTLs and knows no SRV records, so this queries the same servers itself, with the
//! same search list and hosts file. It caches nothing: the TTL determines when the caller resolves again.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use hickory_resolver::{ResolverBuilder, TokioResolver};

use super::source_state::Resolution;

/// The timeout of a lookup, over all servers, attempts and search domains.
const MAX_LOOKUP: Duration = Duration::from_secs(15);
/// The timeout of one attempt at an explicitly configured server.
const ATTEMPT: Duration = Duration::from_secs(2);

/// How long to wait for the addresses of one family after the other one was resolved.
const OTHER_FAMILY: Duration = Duration::from_secs(2);
/// When to resolve a name again if the lookup of one family failed.
const RETRY_FAMILY: Duration = Duration::from_secs(10);

/// A DNS resolver. If it cannot be set up, every lookup fails with the reason: replicas with fixed addresses need no
/// DNS.
pub struct Resolver(Result<TokioResolver, String>);

/// A target of an SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SrvTarget {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    pub(super) name: String,
}

impl Resolver {
    /// Creates a resolver for the servers that `/etc/resolv.conf` names now.
    pub fn system() -> Self {
        let builder = TokioResolver::builder_tokio();
        Self(build(builder.map_err(|error| format!("DNS is not available: /etc/resolv.conf: {error}"))))
    }

    /// Creates a resolver for one server, over UDP and, for long responses, TCP.
    pub fn server(address: SocketAddr) -> Self {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        let server = NameServerConfig::new(address.ip(), true, connections.into());
        let config = ResolverConfig::from_name_servers(vec![server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().timeout = ATTEMPT;
        Self(build(Ok(builder)))
    }

    /// Resolves a name to all its addresses, sorted, IPv4 first. `known` are its previous addresses: if the lookup of
    /// one family fails, the known ones of that family stay.
    pub(super) async fn addresses(&self, name: &str, known: &[IpAddr]) -> Resolution<Vec<IpAddr>> {
        let (v4, v6) = self.both_families(name).await;
        let (mut addresses, lasts) = match (v4, v6) {
            (Resolution::Good(mut v4, long), Resolution::Good(v6, short)) => {
                v4.extend(v6);
                (v4, long.min(short))
            }
            (Resolution::Good(found, lasts), Resolution::Empty(_))
            | (Resolution::Empty(_), Resolution::Good(found, lasts)) => (found, lasts),
            (Resolution::Good(mut v4, lasts), Resolution::Failed(why)) => {
                tracing::debug!("{why}; keeping the known IPv6 addresses");
                v4.extend(known.iter().filter(|known| known.is_ipv6()));
                (v4, lasts.min(RETRY_FAMILY))
            }
            (Resolution::Failed(why), Resolution::Good(mut v6, lasts)) => {
                tracing::debug!("{why}; keeping the known IPv4 addresses");
                v6.extend(known.iter().filter(|known| known.is_ipv4()));
                (v6, lasts.min(RETRY_FAMILY))
            }
            (Resolution::Empty(why), Resolution::Empty(_)) => return Resolution::Empty(why),
            (Resolution::Failed(why), _) | (_, Resolution::Failed(why)) => return Resolution::Failed(why),
        };
        // Servers rotate the order.
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            Resolution::Empty(format!("{name} has no address"))
        } else {
            Resolution::Good(addresses, lasts)
        }
    }

    /// Looks up both families at once. Some servers never respond for a family that they do not have, so once one is
    /// resolved, the other is awaited no longer than [`OTHER_FAMILY`].
    async fn both_families(&self, name: &str) -> (Resolution<Vec<IpAddr>>, Resolution<Vec<IpAddr>>) {
        let (mut v4, mut v6) = (pin!(self.family(name, RecordType::A)), pin!(self.family(name, RecordType::AAAA)));
        let late = |kind: RecordType| Resolution::Failed(format!("{name}: no response for {kind}"));
        tokio::select! {
            first = &mut v4 => {
                let wait = if matches!(first, Resolution::Good(..)) { OTHER_FAMILY } else { MAX_LOOKUP };
                let second = tokio::time::timeout(wait, v6).await.unwrap_or_else(|_| late(RecordType::AAAA));
                (first, second)
            }
            first = &mut v6 => {
                let wait = if matches!(first, Resolution::Good(..)) { OTHER_FAMILY } else { MAX_LOOKUP };
                let second = tokio::time::timeout(wait, v4).await.unwrap_or_else(|_| late(RecordType::A));
                (second, first)
            }
        }
    }

    async fn family(&self, name: &str, kind: RecordType) -> Resolution<Vec<IpAddr>> {
        match self.lookup(name, kind).await {
            Resolution::Good(lookup, lasts) => {
                let addresses = lookup.answers().iter().filter_map(|record| record.data.ip_addr());
                Resolution::Good(addresses.collect(), lasts)
            }
            Resolution::Empty(why) => Resolution::Empty(why),
            Resolution::Failed(why) => Resolution::Failed(why),
        }
    }

    /// Resolves a service to its targets, best priority first.
    pub(super) async fn services(&self, name: &str) -> Resolution<Vec<SrvTarget>> {
        let (lookup, lasts) = match self.lookup(name, RecordType::SRV).await {
            Resolution::Good(lookup, lasts) => (lookup, lasts),
            Resolution::Empty(why) => return Resolution::Empty(why),
            Resolution::Failed(why) => return Resolution::Failed(why),
        };
        let services = targets(lookup.answers());
        if services.is_empty() {
            Resolution::Empty(format!("{name} has no targets"))
        } else {
            Resolution::Good(services, lasts)
        }
    }

    async fn lookup(&self, name: &str, kind: RecordType) -> Resolution<Lookup> {
        let resolver = match &self.0 {
            Ok(resolver) => resolver,
            Err(why) => return Resolution::Failed(why.clone()),
        };
        match tokio::time::timeout(MAX_LOOKUP, resolver.lookup(name, kind)).await {
            Ok(Ok(lookup)) => {
                let lasts = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or_default();
                Resolution::Good(lookup, Duration::from_secs(lasts.into()))
            }
            Ok(Err(error)) => failed(name, kind, &error),
            Err(_) => {
                Resolution::Failed(format!("{name}: no response within {}", humantime::format_duration(MAX_LOOKUP)))
            }
        }
    }
}

/// Extracts the targets of SRV records, best priority first.
pub(super) fn targets(records: &[Record]) -> Vec<SrvTarget> {
    let service = |data: &RData| match data {
        // The root as target means that the service is not available (RFC 2782).
        RData::SRV(srv) if !srv.target.is_root() => {
            let (priority, weight, port) = (srv.priority, srv.weight, srv.port);
            Some(SrvTarget { priority, weight, port, name: srv.target.to_ascii() })
        }
        _ => None,
    };
    let mut services: Vec<_> = records.iter().filter_map(|record| service(&record.data)).collect();
    services.sort_by(|a, b| (a.priority, &a.name, a.port).cmp(&(b.priority, &b.name, b.port)));
    services
}

fn build(builder: Result<ResolverBuilder<TokioRuntimeProvider>, String>) -> Result<TokioResolver, String> {
    let mut builder = builder?;
    // The callers follow the TTLs themselves.
    builder.options_mut().cache_size = 0;
    builder.build().map_err(|error| format!("DNS is not available: {error}"))
}

fn failed<T>(name: &str, kind: RecordType, error: &NetError) -> Resolution<T> {
    if error.is_nx_domain() {
        Resolution::Empty(format!("DNS has no name {name}"))
    } else if error.is_no_records_found() {
        Resolution::Empty(format!("{name} has no {kind} record"))
    } else {
        Resolution::Failed(format!("{name}: {error}"))
    }
}
