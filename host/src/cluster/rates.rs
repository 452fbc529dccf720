//! Rates that hold for the whole cluster: what this host has admitted is charged at the server, for what it may admit from now on.
//!
//! No request waits for an exchange. They are made one after the other, each for many keys.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant as Time};

use lodge_base::lock::lock;
use lodge_state::{Batch, Change, Condition, Error, Expiry, Key, Quota, Store, Ttl, Value, Version, Write, limits};
use lodge_traffic::admission::ClusterRates;
use lodge_traffic::admission::rate::{BucketCharge, BucketExchange};
use tokio::time::{Instant, timeout};

use super::{Cluster, RATES};
use crate::guests::stores::Stores;

/// The namespace of the rates of all clusters. No service has such a name. It is not that of the hosts, which keys of clients must not
/// fill.
const NAMESPACE: &str = "@rates";

/// What the rates of all clusters with one server may have.
const QUOTA: Quota = Quota { keys: 200_000, bytes: 64 << 20 };

/// The least time between two exchanges.
const PACE: Duration = Duration::from_millis(5);

/// The time after which all that was admitted is charged, and after which a server that was away is tried again.
const SWEEP: Duration = Duration::from_secs(1);

/// Attempts at an exchange while other hosts write.
const ATTEMPTS: usize = 4;

/// A key that is read to find out whether the server can be used. No limit has it.
const PROBE: &str = "probe";

impl Cluster {
    /// Exchanges with the server what rates of the cluster have admitted, for as long as the host serves.
    pub(super) async fn share_rates(&self, stores: &Stores) {
        let (mut store, mut swept) = (None, Instant::now());
        loop {
            let _ = timeout(SWEEP.saturating_sub(swept.elapsed()), self.rates.wanted()).await;
            let (is_away, mut is_due) = (self.rates.is_away(), true);
            if swept.elapsed() >= SWEEP {
                (is_due, swept) = (self.rates.sweep(Time::now()), Instant::now());
                // A rate that is used up needs no exchange for long, and is divided all the same.
                is_due |= self.rates.is_used() && lock(&self.view).failing.iter().any(Option::is_some);
            }
            if !(is_due || is_away) {
                continue;
            }
            let done = self.exchange(stores, &mut store).await;
            let failed = done.is_err();
            if failed || is_away {
                self.report_reason(RATES, done, Instant::now());
            }
            if self.rates.set_away(failed) {
                self.say_how_rates_are_shared(failed);
            }
            tokio::time::sleep(if failed { SWEEP } else { PACE }).await;
        }
    }

    /// Makes the exchanges that are due. Without any, finds out whether the server can be used.
    async fn exchange(&self, stores: &Stores, store: &mut Option<Arc<dyn Store>>) -> Result<(), String> {
        let store = match store {
            Some(store) => store,
            none => none.insert(stores.of_hosts(NAMESPACE, QUOTA, self.deadline()).await?.0),
        };
        let bucket = &self.names.cluster;
        let done = async {
            let count = exchange_due(&**store, bucket, &self.rates, self.deadline()).await?;
            self.exchanges.fetch_add(count, Relaxed);
            if count > 0 { Ok(()) } else { store.get(Key::new(bucket, PROBE)?, self.deadline()).await.map(drop) }
        };
        done.await.map_err(|error| error.for_operators())
    }

    fn say_how_rates_are_shared(&self, failed: bool) {
        let (cluster, hosts) = (&self.names.cluster, self.rates.hosts().unwrap_or(1));
        if failed {
            tracing::warn!(
                "cluster {cluster}: rates of all hosts together are divided now: while the server of `state.url` cannot be used, this host \
                 takes its share, 1 of {hosts}"
            );
        } else {
            tracing::info!("cluster {cluster}: rates of all hosts together are shared again by {hosts} hosts");
        }
    }
}

/// Makes the exchanges that are due, and returns how many. What other hosts have written meanwhile is exchanged again at once: a host
/// that waited would find their next writes.
async fn exchange_due(store: &dyn Store, bucket: &str, rates: &ClusterRates, deadline: Instant) -> Result<u64, Error> {
    let mut count = 0;
    for _ in 0..ATTEMPTS {
        let due = rates.due(limits::MAX_BATCH);
        count += due.len() as u64;
        if !exchange(store, bucket, due, deadline).await? {
            break;
        }
    }
    Ok(count)
}

/// Reads and writes the records of these buckets. What is left out by an error has failed, and so has what finds the quota used up: its
/// keys have no bucket at the server for now. Returns whether another host was faster for any of them.
async fn exchange(store: &dyn Store, bucket: &str, due: Vec<BucketExchange>, deadline: Instant) -> Result<bool, Error> {
    let (mut reads, mut charges, mut was_late) = (Vec::new(), Vec::new(), false);
    for mut exchange in due {
        let key = exchange.key();
        match exchange.charge(Time::now()) {
            None => reads.push((key, exchange)),
            Some(charge) => charges.push((key, exchange, charge)),
        }
    }
    if !reads.is_empty() {
        let keys = reads.iter().map(|(key, _)| Key::new(bucket, key)).collect::<Result<Vec<_>, _>>()?;
        let entries = store.get_many(Batch::new(keys)?, deadline).await?;
        for ((_, exchange), entry) in reads.into_iter().zip(entries) {
            let found = entry.as_ref().map(|entry| (entry.version.number(), entry.value.as_slice()));
            exchange.found(found, Time::now());
        }
    }
    // New records by themselves, which a used up quota has no room for: those that there are need no more of it.
    let (new, known): (Vec<_>, Vec<_>) = charges.into_iter().partition(|(_, _, charge)| charge.version.is_none());
    for charges in [known, new] {
        was_late |= write_charges(store, bucket, charges, deadline).await?;
    }
    Ok(was_late)
}

/// Writes the records of these buckets. Returns whether another host was faster for any of them.
async fn write_charges(
    store: &dyn Store,
    bucket: &str,
    charges: Vec<(String, BucketExchange, BucketCharge)>,
    deadline: Instant,
) -> Result<bool, Error> {
    if charges.is_empty() {
        return Ok(false);
    }
    let writes = charges.iter().map(|(key, _, charge)| write(Key::new(bucket, key)?, charge));
    let writes = writes.collect::<Result<Vec<_>, Error>>()?;
    let outcomes = match store.write_many(Batch::new(writes)?, deadline).await {
        Err(Error::QuotaExceeded { .. }) => {
            find_written(store, bucket, charges, deadline).await?;
            return Ok(false);
        }
        outcomes => outcomes?,
    };
    let mut was_late = false;
    for ((_, exchange, _), outcome) in charges.into_iter().zip(outcomes) {
        let after = outcome.after.as_ref().map(|entry| (entry.version.number(), entry.value.as_slice()));
        match after.filter(|_| outcome.applied) {
            Some((version, _)) => exchange.wrote(version, Time::now()),
            None => {
                was_late = true;
                exchange.found(after, Time::now());
            }
        }
    }
    Ok(was_late)
}

/// Ends exchanges of which the store has made some, until it had no room for one. Without a look at which these are, they would be charged
/// again.
async fn find_written(
    store: &dyn Store,
    bucket: &str,
    charges: Vec<(String, BucketExchange, BucketCharge)>,
    deadline: Instant,
) -> Result<(), Error> {
    let keys = charges.iter().map(|(key, _, _)| Key::new(bucket, key)).collect::<Result<Vec<_>, _>>()?;
    let entries = store.get_many(Batch::new(keys)?, deadline).await?;
    for ((_, exchange, _), entry) in charges.into_iter().zip(entries) {
        let found = entry.as_ref().map(|entry| (entry.version.number(), entry.value.as_slice()));
        exchange.found_after_failure(found, Time::now());
    }
    Ok(())
}

fn write<'a>(key: Key<'a>, charge: &BucketCharge) -> Result<Write<'a>, Error> {
    let condition = charge.version.map_or(Condition::Absent, |version| Condition::Version(Version::new(version)));
    let value = Value::new(charge.value.clone())?;
    Ok(Write { key, condition, change: Change::Put(value, Expiry::After(Ttl::new(charge.ttl)?)) })
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use lodge_manifest::rate::{By, Scope, Settings};
    use lodge_state::{Backend, Listing, ManualClock, Memory, Namespace, Timestamp};
    use lodge_traffic::admission::{Rate, RequestView};

    use super::*;

    struct Fixture {
        store: Arc<dyn Store>,
        clock: Arc<ManualClock>,
        start: Time,
    }

    impl Fixture {
        async fn new() -> Self {
            Self::within(Quota::default()).await
        }

        async fn within(quota: Quota) -> Self {
            let clock = Arc::new(ManualClock::new(Timestamp::new(1)));
            let memory = Memory::new(1 << 20, Arc::clone(&clock) as Arc<_>);
            let namespace = Namespace::new(NAMESPACE).unwrap();
            let store = memory.open(&namespace, quota, Instant::now()).await.unwrap();
            Self { store, clock, start: Time::now() }
        }

        /// One of two hosts, with a limit of 16 an hour: each may have two of them ahead.
        fn host(&self) -> (Arc<ClusterRates>, Rate) {
            let rates = Arc::<ClusterRates>::default();
            rates.join();
            rates.set_hosts(2);
            let rate = self.rate(&rates, "users");
            (rates, rate)
        }

        fn rate(&self, rates: &Arc<ClusterRates>, service: &str) -> Rate {
            let per = Duration::from_secs(60 * 60);
            let settings = Settings { count: 16, per, burst: 16, by: By::Service, scope: Scope::Cluster };
            Rate::new(&settings, "", self.start).in_cluster(rates, service, "")
        }

        async fn exchange(&self, rates: &ClusterRates) {
            let deadline = Instant::now() + Duration::from_secs(5);
            exchange_due(&*self.store, "shop", rates, deadline).await.unwrap();
        }

        fn admits(&self, rate: &Rate) -> bool {
            let (client, headers) = ([192, 0, 2, 1].into(), HeaderMap::new());
            let view = RequestView {
                client,
                claimed: None,
                calling: None,
                inside: false,
                headers: &headers,
                route: 0,
                identity: None,
            };
            rate.take(&view, self.start).is_ok()
        }

        /// The requests with which each bucket is charged.
        async fn charged(&self) -> Vec<u64> {
            let deadline = Instant::now() + Duration::from_secs(5);
            let listing = Listing::new("shop", "", 100).unwrap();
            let mut charged = Vec::new();
            for key in self.store.list(listing, deadline).await.unwrap().keys {
                let entry = self.store.get(Key::new("shop", &key).unwrap(), deadline).await.unwrap().unwrap();
                let text = std::str::from_utf8(entry.value.as_slice()).unwrap().to_owned();
                charged.push(text.split(' ').nth(1).unwrap().parse().unwrap());
            }
            charged
        }

        async fn records(&self) -> u64 {
            self.store.usage(Instant::now() + Duration::from_secs(5)).await.unwrap().keys
        }
    }

    /// Two hosts with one store admit a burst together, and what each has ahead. A record expires when its bucket is full.
    #[tokio::test]
    async fn two_hosts_share_a_bucket() {
        let all = Fixture::new().await;
        let [(a, of_a), (b, of_b)] = [all.host(), all.host()];
        let mut admitted = [0; 2];
        for _ in 0..40 {
            for (host, (rates, rate)) in [(&a, &of_a), (&b, &of_b)].into_iter().enumerate() {
                admitted[host] += usize::from(all.admits(rate));
                all.exchange(rates).await;
            }
        }
        let sum = admitted.iter().sum::<usize>();
        assert!((16 + 4..=16 + 8).contains(&sum) && admitted.iter().all(|own| *own >= 9), "{admitted:?}");
        assert_eq!(all.records().await, 1);
        all.clock.advance(Duration::from_secs(2 * 60 * 60));
        assert_eq!(all.records().await, 0);
    }

    /// A key for which the quota has no room has what is this host's own, and a lead that cannot be charged. The others go on.
    #[tokio::test]
    async fn a_used_up_quota_concerns_new_keys() {
        let all = Fixture::within(Quota { keys: 1, ..Quota::default() }).await;
        let (rates, users) = all.host();
        for _ in 0..6 {
            assert!(all.admits(&users));
            all.exchange(&rates).await;
        }
        assert_eq!(all.records().await, 1);
        let (orders, mut admitted) = (all.rate(&rates, "orders"), [0; 2]);
        for _ in 0..20 {
            for (rate, admitted) in [&users, &orders].into_iter().zip(&mut admitted) {
                *admitted += usize::from(all.admits(rate));
            }
            all.exchange(&rates).await;
        }
        assert!(admitted[0] >= 8 && admitted[1] == 4, "{admitted:?}");
        assert_eq!(all.records().await, 1);
    }

    /// Of several new keys, some find room, and are charged once. The others are not charged.
    #[tokio::test]
    async fn what_found_room_is_charged_once() {
        let all = Fixture::within(Quota { keys: 2, ..Quota::default() }).await;
        let (rates, first) = all.host();
        let mut limits = vec![first];
        limits.extend(["orders", "carts", "items"].map(|service| all.rate(&rates, service)));
        // Two each of what is the host's own, and then one that is to be charged.
        for limit in &limits {
            assert!((0..3).all(|_| all.admits(limit)));
        }
        all.exchange(&rates).await;
        assert_eq!(all.charged().await, [1, 1]);
        assert!(limits.iter().all(|limit| all.admits(limit)));
        rates.sweep(all.start);
        all.exchange(&rates).await;
        assert_eq!(all.charged().await, [2, 2]);
    }

    /// What somebody else writes refuses requests for a time at most, and is replaced.
    #[tokio::test]
    async fn nonsense_is_replaced() {
        let all = Fixture::new().await;
        let (rates, rate) = all.host();
        while all.admits(&rate) {}
        let key = {
            let due = rates.due(1);
            let key = due[0].key();
            drop(due);
            key
        };
        let at = Key::new("shop", &key).unwrap();
        let nonsense = Value::new(&b"\x00nonsense"[..]).unwrap();
        all.store.set(at, nonsense, Default::default(), Instant::now() + Duration::from_secs(5)).await.unwrap();
        for _ in 0..8 {
            all.admits(&rate);
            all.exchange(&rates).await;
        }
        let entry = all.store.get(at, Instant::now() + Duration::from_secs(5)).await.unwrap().unwrap();
        assert!(entry.value.as_slice().is_ascii() && entry.expires.is_some(), "{entry:?}");
    }
}
