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

use super::memory::Answer;

/// The longest that a question may take, over all servers, tries and search domains.
const ASK: Duration = Duration::from_secs(15);
/// Servers that are asked only because somebody says so answer within this, or are asked once more.
const TRY: Duration = Duration::from_secs(2);

/// How long the addresses of one family are waited for when those of the other are there.
const OTHER: Duration = Duration::from_secs(2);
/// When a name is asked for again of which one family could not be looked up.
const SOON: Duration = Duration::from_secs(10);

/// Who is asked for names. Where nobody can be, the reason is what every question is answered with: replicas that are
/// known by their addresses need no names.
pub struct Names(Result<TokioResolver, String>);

/// A target of a service record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    pub(super) name: String,
}

impl Names {
    /// Asks the servers that `/etc/resolv.conf` names now.
    pub fn system() -> Self {
        let builder = TokioResolver::builder_tokio();
        Self(built(builder.map_err(|error| format!("no names can be looked up: /etc/resolv.conf: {error}"))))
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
        builder.options_mut().timeout = TRY;
        Self(built(Ok(builder)))
    }

    /// All addresses of a name, in order, those of IPv4 first. `known` are addresses that it had before: where one family
    /// cannot be looked up, those of that family stay.
    pub(super) async fn addresses(&self, name: &str, known: &[IpAddr]) -> Answer<Vec<IpAddr>> {
        let (v4, v6) = self.both(name).await;
        let (mut addresses, lasts) = match (v4, v6) {
            (Answer::Good(mut v4, long), Answer::Good(v6, short)) => {
                v4.extend(v6);
                (v4, long.min(short))
            }
            (Answer::Good(found, lasts), Answer::Empty(_)) | (Answer::Empty(_), Answer::Good(found, lasts)) => {
                (found, lasts)
            }
            (Answer::Good(mut v4, lasts), Answer::Failed(why)) => {
                tracing::debug!("{why}; the addresses of IPv6 stay as they were");
                v4.extend(known.iter().filter(|known| known.is_ipv6()));
                (v4, lasts.min(SOON))
            }
            (Answer::Failed(why), Answer::Good(mut v6, lasts)) => {
                tracing::debug!("{why}; the addresses of IPv4 stay as they were");
                v6.extend(known.iter().filter(|known| known.is_ipv4()));
                (v6, lasts.min(SOON))
            }
            (Answer::Empty(why), Answer::Empty(_)) => return Answer::Empty(why),
            (Answer::Failed(why), _) | (_, Answer::Failed(why)) => return Answer::Failed(why),
        };
        // Servers answer in another order every time.
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            Answer::Empty(format!("{name} has no address"))
        } else {
            Answer::Good(addresses, lasts)
        }
    }

    /// What is said of both families, asked for at once. Some servers do not answer for the one that they do not have: when
    /// the other is there, it is waited for no longer than [`OTHER`].
    async fn both(&self, name: &str) -> (Answer<Vec<IpAddr>>, Answer<Vec<IpAddr>>) {
        let (mut v4, mut v6) = (pin!(self.family(name, RecordType::A)), pin!(self.family(name, RecordType::AAAA)));
        let late = |kind: RecordType| Answer::Failed(format!("{name}: no answer for {kind}"));
        tokio::select! {
            first = &mut v4 => {
                let wait = if matches!(first, Answer::Good(..)) { OTHER } else { ASK };
                let second = tokio::time::timeout(wait, v6).await.unwrap_or_else(|_| late(RecordType::AAAA));
                (first, second)
            }
            first = &mut v6 => {
                let wait = if matches!(first, Answer::Good(..)) { OTHER } else { ASK };
                let second = tokio::time::timeout(wait, v4).await.unwrap_or_else(|_| late(RecordType::A));
                (second, first)
            }
        }
    }

    async fn family(&self, name: &str, kind: RecordType) -> Answer<Vec<IpAddr>> {
        match self.ask(name, kind).await {
            Answer::Good(lookup, lasts) => {
                let addresses = lookup.answers().iter().filter_map(|record| record.data.ip_addr());
                Answer::Good(addresses.collect(), lasts)
            }
            Answer::Empty(why) => Answer::Empty(why),
            Answer::Failed(why) => Answer::Failed(why),
        }
    }

    /// The targets of a service, best priority first.
    pub(super) async fn services(&self, name: &str) -> Answer<Vec<Service>> {
        let (lookup, lasts) = match self.ask(name, RecordType::SRV).await {
            Answer::Good(lookup, lasts) => (lookup, lasts),
            Answer::Empty(why) => return Answer::Empty(why),
            Answer::Failed(why) => return Answer::Failed(why),
        };
        let services = targets(lookup.answers());
        if services.is_empty() {
            Answer::Empty(format!("{name} has no targets"))
        } else {
            Answer::Good(services, lasts)
        }
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Answer<Lookup> {
        let resolver = match &self.0 {
            Ok(resolver) => resolver,
            Err(why) => return Answer::Failed(why.clone()),
        };
        match tokio::time::timeout(ASK, resolver.lookup(name, kind)).await {
            Ok(Ok(lookup)) => {
                let lasts = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or_default();
                Answer::Good(lookup, Duration::from_secs(lasts.into()))
            }
            Ok(Err(error)) => refused(name, kind, &error),
            Err(_) => Answer::Failed(format!("{name}: no answer within {}", humantime::format_duration(ASK))),
        }
    }
}

/// The targets that service records name, best priority first.
pub(super) fn targets(records: &[Record]) -> Vec<Service> {
    let service = |data: &RData| match data {
        // The root stands for "decidedly not here" (RFC 2782).
        RData::SRV(srv) if !srv.target.is_root() => {
            let (priority, weight, port) = (srv.priority, srv.weight, srv.port);
            Some(Service { priority, weight, port, name: srv.target.to_ascii() })
        }
        _ => None,
    };
    let mut services: Vec<_> = records.iter().filter_map(|record| service(&record.data)).collect();
    services.sort_by(|a, b| (a.priority, &a.name, a.port).cmp(&(b.priority, &b.name, b.port)));
    services
}

fn built(builder: Result<ResolverBuilder<TokioRuntimeProvider>, String>) -> Result<TokioResolver, String> {
    let mut builder = builder?;
    // Whoever asks knows when, by the same TTLs.
    builder.options_mut().cache_size = 0;
    builder.build().map_err(|error| format!("no names can be looked up: {error}"))
}

fn refused<T>(name: &str, kind: RecordType, error: &NetError) -> Answer<T> {
    if error.is_nx_domain() {
        Answer::Empty(format!("there is no name {name}"))
    } else if error.is_no_records_found() {
        Answer::Empty(format!("{name} has no {kind} record"))
    } else {
        Answer::Failed(format!("{name}: {error}"))
    }
}
