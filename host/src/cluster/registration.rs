//! The record of this host in the store: made, renewed and removed by compare-and-swap, so that two hosts with one name notice it.

use std::time::Duration;

use bytes::Bytes;
use lodge_state::{Change, Condition, Entry, Error, Expiry, Key, Store, Swap, Ttl, Value, Version, Write};
use tokio::time::Instant;

use super::record::HostRecord;

/// Attempts to write a record that changes meanwhile.
const ATTEMPTS: usize = 4;

/// What a renewal has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// The record is that of this host.
    Done {
        /// Whether the record that this host had written was gone: it has expired, or the store has lost its data.
        missing: bool,
    },
    /// Another process has the name.
    Taken {
        /// Where it is, if its record says so.
        by: Option<String>,
        /// Whether it has renewed its record since this host looked before, so that it is no host that has ended.
        alive: bool,
    },
}

/// The record of this host.
pub(crate) struct Registration {
    id: String,
    ttl: Ttl,
    /// The revision that this host wrote last.
    own: Option<Version>,
    /// The last revision of another process, and whether there were several.
    other: Option<(Version, bool)>,
}

impl Registration {
    /// Creates the registration of the process `id`, whose record lasts for `ttl`.
    ///
    /// # Errors
    /// If the store cannot keep a record for so long.
    pub(crate) fn new(id: String, ttl: Duration) -> Result<Self, Error> {
        Ok(Self { id, ttl: Ttl::new(ttl)?, own: None, other: None })
    }

    /// Writes the record `bytes`, unless another process has the name.
    ///
    /// # Errors
    /// Those of the store. The record may have been written, which the next renewal finds out by its id.
    pub(crate) async fn renew(
        &mut self,
        store: &dyn Store,
        key: Key<'_>,
        bytes: Bytes,
        deadline: Instant,
    ) -> Result<Renewal, Error> {
        let put = Change::Put(Value::new(bytes)?, Expiry::After(self.ttl));
        let mut condition = self.own.map_or(Condition::Absent, Condition::Version);
        let mut missing = false;
        for _ in 0..ATTEMPTS {
            match store.compare_and_swap(key, condition, put.clone(), deadline).await? {
                Swap::Done(version) => {
                    (self.own, self.other) = (version, None);
                    return Ok(Renewal::Done { missing });
                }
                Swap::Stale(None) => (condition, missing) = (Condition::Absent, self.own.is_some()),
                Swap::Stale(Some(entry)) => {
                    let record = HostRecord::read(entry.value.as_slice());
                    // The result of an earlier write was lost.
                    if record.as_ref().is_some_and(|record| record.id == self.id) {
                        condition = Condition::Version(entry.version);
                        continue;
                    }
                    let alive = self.other.is_some_and(|(version, alive)| alive || version != entry.version);
                    (self.own, self.other) = (None, Some((entry.version, alive)));
                    return Ok(Renewal::Taken { by: record.and_then(|record| record.address), alive });
                }
            }
        }
        Err(Error::Conflict)
    }

    /// Removes the record, if it is still that of this host.
    ///
    /// # Errors
    /// Those of the store. The record expires then.
    pub(crate) async fn leave(&mut self, store: &dyn Store, key: Key<'_>, deadline: Instant) -> Result<(), Error> {
        let mut own = self.own.take();
        if own.is_none() {
            own = self.revision(store.get(key, deadline).await?);
        }
        for _ in 0..ATTEMPTS {
            let Some(version) = own else { return Ok(()) };
            let write = Write { key, condition: Condition::Version(version), change: Change::Remove };
            let outcome = store.write(write, deadline).await?;
            // The result of the last renewal was lost.
            own = if outcome.applied { None } else { self.revision(outcome.after) };
        }
        Err(Error::Conflict)
    }

    /// Whether the store has the record of this host.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn is_stored(&self, store: &dyn Store, key: Key<'_>, deadline: Instant) -> Result<bool, Error> {
        Ok(self.revision(store.get(key, deadline).await?).is_some())
    }

    /// Returns the revision of a record, if it is that of this host.
    fn revision(&self, entry: Option<Entry>) -> Option<Version> {
        let entry = entry?;
        HostRecord::read(entry.value.as_slice()).filter(|record| record.id == self.id)?;
        Some(entry.version)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lodge_state::{Backend, ManualClock, Memory, Namespace, Quota, Timestamp};

    use super::*;

    struct Fixture {
        store: Arc<dyn Store>,
        clock: Arc<ManualClock>,
    }

    const TTL: Duration = Duration::from_secs(15);

    impl Fixture {
        async fn new() -> Self {
            let clock = Arc::new(ManualClock::new(Timestamp::new(1)));
            let memory = Memory::new(1 << 20, Arc::clone(&clock) as Arc<_>);
            let namespace = Namespace::new("@cluster").unwrap();
            Self { store: memory.open(&namespace, Quota::default(), Instant::now()).await.unwrap(), clock }
        }

        fn host(id: char) -> Registration {
            Registration::new(id.to_string().repeat(32), TTL).unwrap()
        }

        async fn renew(&self, host: &mut Registration) -> Renewal {
            let record = HostRecord {
                id: host.id.clone(),
                version: "1".into(),
                address: Some(format!("http://{}.example", &host.id[..1])),
                ..HostRecord::default()
            };
            host.renew(&*self.store, self.key(), record.write().into(), Instant::now()).await.unwrap()
        }

        fn key(&self) -> Key<'static> {
            Key::new("members/c", "h").unwrap()
        }

        async fn id(&self) -> Option<String> {
            let entry = self.store.get(self.key(), Instant::now()).await.unwrap();
            entry.map(|entry| HostRecord::read(entry.value.as_slice()).unwrap().id)
        }
    }

    fn taken(by: &str, alive: bool) -> Renewal {
        Renewal::Taken { by: Some(format!("http://{by}.example/")), alive }
    }

    /// The second host of a name never replaces the first; it says whether the first still lives, and takes over when it does not.
    #[tokio::test]
    async fn one_host_has_a_name() {
        let (all, mut a, mut b) = (Fixture::new().await, Fixture::host('a'), Fixture::host('b'));
        assert_eq!(all.renew(&mut a).await, Renewal::Done { missing: false });
        assert_eq!(all.renew(&mut b).await, taken("a", false));
        assert_eq!(all.renew(&mut b).await, taken("a", false), "it may have ended");
        assert_eq!(all.renew(&mut a).await, Renewal::Done { missing: false });
        assert_eq!(all.renew(&mut b).await, taken("a", true));
        assert_eq!(all.renew(&mut b).await, taken("a", true), "it stays known that it lives");
        all.clock.advance(TTL);
        assert_eq!(all.renew(&mut b).await, Renewal::Done { missing: false });
        // The first was suspended.
        assert_eq!(all.renew(&mut a).await, taken("b", false));
        assert_eq!(all.id().await, Some("b".repeat(32)));
    }

    #[tokio::test]
    async fn a_lost_result_and_an_expired_record_are_no_conflict() {
        let (all, mut a) = (Fixture::new().await, Fixture::host('a'));
        assert_eq!(all.renew(&mut a).await, Renewal::Done { missing: false });
        a.own = None;
        assert_eq!(
            all.renew(&mut a).await,
            Renewal::Done { missing: false },
            "the write was done, and its result lost"
        );
        all.clock.advance(TTL);
        assert_eq!(all.id().await, None);
        assert_eq!(all.renew(&mut a).await, Renewal::Done { missing: true });
        assert!(a.is_stored(&*all.store, all.key(), Instant::now()).await.unwrap());
    }

    /// A host that leaves removes its record, and not that of the host which has the name now.
    #[tokio::test]
    async fn leaving_removes_the_own_record() {
        let (all, mut a, mut b) = (Fixture::new().await, Fixture::host('a'), Fixture::host('b'));
        all.renew(&mut a).await;
        a.leave(&*all.store, all.key(), Instant::now()).await.unwrap();
        assert_eq!(all.id().await, None);
        // The result of the last renewal was lost, or that of the first one.
        for lost in [Some(Version::new(1)), None] {
            all.renew(&mut a).await;
            a.own = lost;
            a.leave(&*all.store, all.key(), Instant::now()).await.unwrap();
            assert_eq!(all.id().await, None);
        }
        all.renew(&mut a).await;
        all.clock.advance(TTL);
        all.renew(&mut b).await;
        assert!(!a.is_stored(&*all.store, all.key(), Instant::now()).await.unwrap());
        a.leave(&*all.store, all.key(), Instant::now()).await.unwrap();
        assert_eq!(all.id().await, Some("b".repeat(32)));
    }

    /// Bytes that are no record, under the name of this host, are those of another process.
    #[tokio::test]
    async fn a_broken_record_is_not_replaced() {
        let (all, mut a) = (Fixture::new().await, Fixture::host('a'));
        let value = Value::new(&b"\x00nonsense"[..]).unwrap();
        all.store.set(all.key(), value, Default::default(), Instant::now()).await.unwrap();
        assert_eq!(all.renew(&mut a).await, Renewal::Taken { by: None, alive: false });
    }
}
