//! A model of hosts and their server: every host is the real code, with a clock of its own; the server is a map with a clock. Messages
//! are late or lost, and come in any order of hosts.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use lodge_manifest::rate::Settings;

use super::super::super::{Rate, RateStatus};
use super::super::{BucketCharge, BucketExchange, ClusterRates};
use crate::admission::RequestView;

/// The server of the state.
#[derive(Default)]
pub(super) struct Server {
    /// Revision, record, and when it expires.
    records: HashMap<String, (u64, String, Duration)>,
    revision: u64,
    pub(super) writes: usize,
}

/// A message of a host that the server has not received yet, or its response.
enum Message {
    Request(BucketExchange, Option<BucketCharge>),
    Response(BucketExchange, Option<u64>, Option<(u64, String)>),
}

pub(super) struct SimulatedHost {
    pub(super) rates: Arc<ClusterRates>,
    pub(super) rate: Rate,
    /// When the model began, by the clock of this host.
    pub(super) start: Instant,
    messages: VecDeque<Message>,
}

pub(super) struct Model {
    pub(super) hosts: Vec<SimulatedHost>,
    pub(super) server: Server,
    pub(super) now: Duration,
    /// When which client was admitted.
    pub(super) admitted: [Vec<Duration>; 2],
}

impl Model {
    /// `skews` has the clock of each host.
    pub(super) fn new(settings: &Settings, skews: &[u64]) -> Self {
        let base = Instant::now();
        let host = |skew: &u64| {
            let (rates, start) = (Arc::<ClusterRates>::default(), base + Duration::from_secs(*skew));
            rates.join();
            rates.set_hosts(skews.len());
            let rate = Rate::new(settings, "", start).in_cluster(&rates, "users", "");
            SimulatedHost { rates, rate, start, messages: VecDeque::new() }
        };
        let hosts = skews.iter().map(host).collect();
        Self { hosts, server: Server::default(), now: Duration::ZERO, admitted: Default::default() }
    }

    pub(super) fn request(&mut self, host: usize, client: usize) -> Result<RateStatus, RateStatus> {
        let (headers, host) = (HeaderMap::new(), &self.hosts[host]);
        let view = RequestView::new([192, 0, 2, client as u8].into(), &headers);
        let taken = host.rate.take(&view, host.start + self.now);
        if taken.is_ok() {
            self.admitted[client].push(self.now);
        }
        taken
    }

    /// All hosts get these settings.
    pub(super) fn edit(&mut self, settings: &Settings) {
        for host in &mut self.hosts {
            let now = host.start + self.now;
            host.rate = host.rate.with_settings(settings, "", now).in_cluster(&host.rates, "users", "");
            host.rate.activate(now);
        }
    }

    /// A host begins the exchanges that are due.
    pub(super) fn begin(&mut self, host: usize) {
        let host = &mut self.hosts[host];
        for mut exchange in host.rates.due(8) {
            let charge = exchange.charge(host.start + self.now);
            host.messages.push_back(Message::Request(exchange, charge));
        }
    }

    /// The next message of a host arrives: at the server, or at the host.
    pub(super) fn deliver(&mut self, host: usize) {
        let host = &mut self.hosts[host];
        match host.messages.pop_front() {
            Some(Message::Request(exchange, charge)) => {
                let (written, found) = self.server.receive(&exchange.key(), charge, self.now);
                host.messages.push_front(Message::Response(exchange, written, found));
            }
            Some(Message::Response(exchange, Some(version), _)) => exchange.wrote(version, host.start + self.now),
            Some(Message::Response(exchange, None, found)) => {
                let found = found.as_ref().map(|(version, text)| (*version, text.as_bytes()));
                exchange.found(found, host.start + self.now);
            }
            None => {}
        }
    }

    /// The next message is lost.
    pub(super) fn lose(&mut self, host: usize) {
        drop(self.hosts[host].messages.pop_front());
    }

    /// All that is due is exchanged at once.
    pub(super) fn settle(&mut self, host: usize) {
        self.begin(host);
        while !self.hosts[host].messages.is_empty() {
            self.deliver(host);
        }
    }

    /// Returns the first period in which more were admitted than the bound, which is `base` requests and `times` the rate.
    pub(super) fn exceeds(&self, settings: &Settings, base: u64, times: u128) -> Option<String> {
        for times_of_client in &self.admitted {
            for (first, from) in times_of_client.iter().enumerate() {
                for (last, until) in times_of_client.iter().enumerate().skip(first) {
                    let count = (last - first + 1) as u128;
                    let nanos = (*until - *from).as_nanos() * times;
                    let most = u128::from(base) + nanos * u128::from(settings.count) / settings.per.as_nanos();
                    if count > most {
                        return Some(format!("{count} of {most} from {from:?} until {until:?}"));
                    }
                }
            }
        }
        None
    }
}

impl Server {
    /// Returns how many requests all records have together.
    pub(super) fn charged(&self) -> u64 {
        let charged = |(_, text, _): &(u64, String, Duration)| text.split(' ').nth(1).unwrap().parse::<u64>().unwrap();
        self.records.values().map(charged).sum()
    }

    /// Returns the revision of what was written, or else what is there.
    fn receive(
        &mut self,
        key: &str,
        charge: Option<BucketCharge>,
        now: Duration,
    ) -> (Option<u64>, Option<(u64, String)>) {
        self.records.retain(|_, (_, _, expires)| *expires > now);
        let found = self.records.get(key).map(|(version, text, _)| (*version, text.clone()));
        let Some(charge) = charge else { return (None, found) };
        if charge.version != found.as_ref().map(|(version, _)| *version) {
            return (None, found);
        }
        (self.revision, self.writes) = (self.revision + 1, self.writes + 1);
        self.records.insert(key.into(), (self.revision, charge.value, now + charge.ttl));
        (Some(self.revision), None)
    }
}
