//! DNS: the addresses of a name and the targets of a service, each with how long that is true.
//!
//! The system's resolver does not tell TTLs and knows no service records, so this asks the same servers, with the same
//! search list and hosts file, itself. Nothing is kept here: who asks knows when to ask again.

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

/// The longest that a question may take, over all servers, tries and search domains.
const MAX_LOOKUP: Duration = Duration::from_secs(15);
/// Servers that are asked only because somebody says so answer within this, or are asked once more.
const ATTEMPT: Duration = Duration::from_secs(2);

/// How long the addresses of one family are waited for when those of the other are there.
const OTHER_FAMILY: Duration = Duration::from_secs(2);
/// When a name is asked for again of which one family could not be looked up.
const RETRY_FAMILY: Duration = Duration::from_secs(10);

/// Who is asked for names. Where nobody can be, the reason is what every question is answered with: replicas that are
/// known by their addresses need no names.
pub struct Resolver(Result<TokioResolver, String>);

/// A target of a service record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SrvTarget {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    pub(super) name: String,
}

impl Resolver {
    /// Asks the servers that `/etc/resolv.conf` names now.
    pub fn system() -> Self {
        let builder = TokioResolver::builder_tokio();
        Self(build(builder.map_err(|error| format!("no names can be looked up: /etc/resolv.conf: {error}"))))
    }

    /// Asks this server only, by UDP and, for long answers, TCP.
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

    /// All addresses of a name, in order, those of IPv4 first. `known` are addresses that it had before: where one family
    /// cannot be looked up, those of that family stay.
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
                tracing::debug!("{why}; the addresses of IPv6 stay as they were");
                v4.extend(known.iter().filter(|known| known.is_ipv6()));
                (v4, lasts.min(RETRY_FAMILY))
            }
            (Resolution::Failed(why), Resolution::Good(mut v6, lasts)) => {
                tracing::debug!("{why}; the addresses of IPv4 stay as they were");
                v6.extend(known.iter().filter(|known| known.is_ipv4()));
                (v6, lasts.min(RETRY_FAMILY))
            }
            (Resolution::Empty(why), Resolution::Empty(_)) => return Resolution::Empty(why),
            (Resolution::Failed(why), _) | (_, Resolution::Failed(why)) => return Resolution::Failed(why),
        };
        // Servers answer in another order every time.
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            Resolution::Empty(format!("{name} has no address"))
        } else {
            Resolution::Good(addresses, lasts)
        }
    }

    /// What is said of both families, asked for at once. Some servers do not answer for the one that they do not have: when
    /// the other is there, it is waited for no longer than [`OTHER_FAMILY`].
    async fn both_families(&self, name: &str) -> (Resolution<Vec<IpAddr>>, Resolution<Vec<IpAddr>>) {
        let (mut v4, mut v6) = (pin!(self.family(name, RecordType::A)), pin!(self.family(name, RecordType::AAAA)));
        let late = |kind: RecordType| Resolution::Failed(format!("{name}: no answer for {kind}"));
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

    /// The targets of a service, best priority first.
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
                Resolution::Failed(format!("{name}: no answer within {}", humantime::format_duration(MAX_LOOKUP)))
            }
        }
    }
}

/// The targets that service records name, best priority first.
pub(super) fn targets(records: &[Record]) -> Vec<SrvTarget> {
    let service = |data: &RData| match data {
        // The root stands for "decidedly not here" (RFC 2782).
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
    // Whoever asks knows when, by the same TTLs.
    builder.options_mut().cache_size = 0;
    builder.build().map_err(|error| format!("no names can be looked up: {error}"))
}

fn failed<T>(name: &str, kind: RecordType, error: &NetError) -> Resolution<T> {
    if error.is_nx_domain() {
        Resolution::Empty(format!("there is no name {name}"))
    } else if error.is_no_records_found() {
        Resolution::Empty(format!("{name} has no {kind} record"))
    } else {
        Resolution::Failed(format!("{name}: {error}"))
    }
}
