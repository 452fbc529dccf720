//! The state of a schedule that hosts share: its record, and the lock of the call that runs.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use lodge_state::{Attempt, Change, Condition, Error, Expiry, Holder, Key, Lease, LockName, Locks, Store, Swap, Value};
use tokio::time::Instant;

use super::PAUSE;
use super::record::{CallClaim, CallRecord, Doubts, seconds};
use lodge_base::lock::lock;

/// The bucket with the record of each schedule.
const BUCKET: &str = "schedule";

/// The longest time of an operation on the store.
pub(super) const OPERATION: Duration = Duration::from_secs(5);

/// How long a lock outlives its host, and how often a host that lives renews it.
const LEASE: Duration = Duration::from_secs(30);
const RENEWAL: Duration = Duration::from_secs(8);

/// The state of one schedule.
pub(super) struct ScheduleState {
    store: Arc<dyn Store>,
    locks: Arc<dyn Locks>,
    /// Identifies the schedule.
    id: String,
    /// Identifies this host since this start of the schedule.
    by: u64,
    doubts: Mutex<Doubts>,
    lease: Duration,
    renewal: Duration,
}

impl ScheduleState {
    /// The state of the schedule `id`.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub(super) fn new(store: Arc<dyn Store>, locks: Arc<dyn Locks>, id: String) -> Result<Self, Error> {
        let by = Holder::random()?.bits() as u64;
        Ok(Self { store, locks, id, by, doubts: Mutex::default(), lease: LEASE, renewal: RENEWAL })
    }

    /// Begins with an expression, as [`CallRecord::begin`].
    pub(super) async fn begin(&self, cron: &str, now: SystemTime) -> Result<Option<SystemTime>, Error> {
        self.change(|record| record.begin(cron, now)).await
    }

    /// Claims an occurrence for this host, as [`CallRecord::claim`].
    pub(super) async fn claim(&self, due: SystemTime, now: SystemTime) -> Result<bool, Error> {
        lock(&self.doubts).follow(now, Instant::now());
        self.change(|record| record.claim(self.own(due), &lock(&self.doubts), now)).await
    }

    /// Claims all occurrences up to `until`, as [`CallRecord::miss`].
    pub(super) async fn miss(
        &self,
        after: SystemTime,
        until: SystemTime,
        now: SystemTime,
    ) -> Result<Option<SystemTime>, Error> {
        lock(&self.doubts).follow(now, Instant::now());
        self.change(|record| record.miss(after, self.own(until), &lock(&self.doubts), now)).await
    }

    /// Removes claims of hosts whose clocks are ahead, as [`CallRecord::doubt`].
    pub(super) async fn doubt(&self, now: SystemTime) -> Result<Option<Duration>, Error> {
        let (at, mut far) = (Instant::now(), None);
        lock(&self.doubts).follow(now, at);
        self.change(|record| far = far.max(record.doubt(&mut lock(&self.doubts), now, at))).await?;
        Ok(far)
    }

    fn own(&self, due: SystemTime) -> CallClaim {
        CallClaim { by: self.by, due: seconds(due) }
    }

    /// Changes the record, between the changes of other hosts.
    async fn change<T>(&self, mut change: impl FnMut(&mut CallRecord) -> T) -> Result<T, Error> {
        let key = Key::new(BUCKET, &self.id)?;
        let mut current = self.store.get(key, Instant::now() + OPERATION).await?;
        loop {
            let before =
                current.as_ref().map_or_else(CallRecord::default, |entry| CallRecord::read(entry.value.as_slice()));
            let mut after = before.clone();
            let result = change(&mut after);
            if after == before {
                return Ok(result);
            }
            let condition = current.map_or(Condition::Absent, |entry| Condition::Version(entry.version));
            let put = Change::Put(Value::new(after.to_bytes())?, Expiry::Never);
            match self.store.compare_and_swap(key, condition, put, Instant::now() + OPERATION).await? {
                Swap::Done(_) => return Ok(result),
                Swap::Stale(entry) => current = entry,
            }
        }
    }

    /// Does `work` with the lock of the schedule; `None` while another host has it. It is held until the work ends. If instead
    /// this host ends, it is free after [`LEASE`]. While the store is away, the lock is tried again until `latest`.
    pub(super) async fn alone<T>(&self, latest: Instant, work: impl Future<Output = T>) -> Result<Option<T>, Error> {
        // The same holder each time: the response to an attempt that has acquired the lock may be lost.
        let (name, holder, lease) = (LockName::new(&self.id)?, Holder::random()?, Lease::new(self.lease)?);
        let attempt = || self.locks.attempt(name, holder, lease, Instant::now() + OPERATION);
        let acquired = loop {
            match attempt().await {
                Err(_) if Instant::now() < latest => tokio::time::sleep(PAUSE).await,
                attempted => break attempted?,
            }
        };
        if !matches!(acquired, Attempt::Acquired(_)) {
            return Ok(None);
        }
        let renewed = async || -> Infallible {
            loop {
                tokio::time::sleep(self.renewal).await;
                // The call goes on, also if the store is away for so long that another host gets the lock.
                let _ = attempt().await;
            }
        };
        let done = tokio::select! {
            done = work => done,
            never = renewed() => match never {},
        };
        // If that fails, the lease ends.
        let _ = self.locks.release(name, holder, Instant::now() + OPERATION).await;
        Ok(Some(done))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::time::UNIX_EPOCH;

    use lodge_state::{Backend, ManualClock, Memory, Namespace, Pending, Quota, Timestamp};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// The latest time for an attempt that is made once.
    fn soon() -> Instant {
        Instant::now()
    }

    /// Returns the state of several hosts, and the clock of its locks.
    async fn states(hosts: usize, id: &str) -> (Vec<Arc<ScheduleState>>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(Timestamp::new(NOW * 1000)));
        let backend = Memory::new(1 << 20, clock.clone());
        let (namespace, soon) = (Namespace::new("@schedules").unwrap(), Instant::now() + OPERATION);
        let store = backend.open(&namespace, Quota::default(), soon).await.unwrap();
        let locks = backend.locks(&namespace, soon).await.unwrap();
        let state = |_| Arc::new(ScheduleState::new(store.clone(), locks.clone(), id.to_owned()).unwrap());
        ((0..hosts).map(state).collect(), clock)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_of_many_hosts_claims_an_occurrence() {
        let (hosts, _) = states(32, "a").await;
        assert_eq!(hosts[0].begin("a", at(NOW)).await, Ok(None));
        for due in [60, 120, 180].map(|seconds| at(NOW + seconds)) {
            let claim = |host: &Arc<ScheduleState>| {
                let host = Arc::clone(host);
                tokio::spawn(async move { host.claim(due, due).await.unwrap() })
            };
            let mut claims = 0;
            for claim in hosts.iter().map(claim).collect::<Vec<_>>() {
                claims += u32::from(claim.await.unwrap());
            }
            assert_eq!((claims, hosts[1].begin("a", due).await), (1, Ok(Some(due))));
        }
        let far = at(NOW + 86_400);
        assert_eq!(hosts[9].claim(far, far).await, Ok(true), "its clock is ahead");
        assert_eq!(hosts[0].doubt(at(NOW + 200)).await, Ok(Some(Duration::from_secs(86_200))));
        assert_eq!(hosts[0].doubt(at(NOW + 200)).await, Ok(None));
        assert_eq!(hosts[0].claim(at(NOW + 240), at(NOW + 240)).await, Ok(true));
        assert_eq!(hosts[1].miss(at(NOW), at(NOW + 240), at(NOW + 300)).await, Ok(None));
    }

    /// The lock is held for as long as the work takes, and not much longer than a host lives that ends meanwhile.
    #[tokio::test]
    async fn a_call_keeps_others_away_until_it_or_its_host_ends() {
        let (mut hosts, clock) = states(2, "a").await;
        let host = Arc::get_mut(&mut hosts[0]).unwrap();
        host.renewal = Duration::from_millis(1);
        let name = LockName::new("a").unwrap();
        let (other, lease) = (Holder::random().unwrap(), Lease::new(LEASE).unwrap());
        let renewed = async || loop {
            match hosts[1].locks.attempt(name, other, lease, Instant::now() + OPERATION).await.unwrap() {
                Attempt::Busy { expires_in } if expires_in == LEASE => break,
                Attempt::Busy { .. } => tokio::time::sleep(Duration::from_millis(1)).await,
                Attempt::Acquired(_) => panic!("the lock was lost"),
            }
        };
        let long = async {
            for _ in 0..10 {
                clock.advance(LEASE / 2);
                renewed().await;
            }
            assert_eq!(hosts[1].alone(soon(), async {}).await, Ok(None));
            7
        };
        assert_eq!(hosts[0].alone(soon(), long).await, Ok(Some(7)));
        assert_eq!(hosts[1].alone(soon(), async { 8 }).await, Ok(Some(8)), "it has ended");
        let ends =
            tokio::time::timeout(Duration::from_millis(20), hosts[0].alone(soon(), std::future::pending::<()>()));
        assert!(ends.await.is_err());
        assert_eq!(hosts[1].alone(soon(), async {}).await, Ok(None));
        clock.advance(LEASE);
        assert_eq!(hosts[1].alone(soon(), async {}).await, Ok(Some(())), "its host has ended");
    }

    /// Locks whose server is away for the next attempts. Half of them reach it, and their responses are lost.
    struct Away(Arc<dyn Locks>, AtomicUsize);

    impl Locks for Away {
        fn attempt<'a>(
            &'a self,
            name: LockName<'a>,
            holder: Holder,
            lease: Lease,
            deadline: Instant,
        ) -> Pending<'a, Attempt> {
            let left = self.1.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).unwrap_or(0);
            Box::pin(async move {
                if left.is_multiple_of(2) {
                    let reached = self.0.attempt(name, holder, lease, deadline).await;
                    return if left == 0 { reached } else { Err(Error::Timeout) };
                }
                Err(Error::unavailable("away"))
            })
        }

        fn renew<'a>(
            &'a self,
            name: LockName<'a>,
            holder: Holder,
            lease: Lease,
            deadline: Instant,
        ) -> Pending<'a, bool> {
            self.0.renew(name, holder, lease, deadline)
        }

        fn release<'a>(&'a self, name: LockName<'a>, holder: Holder, deadline: Instant) -> Pending<'a, bool> {
            self.0.release(name, holder, deadline)
        }
    }

    /// A claimed call is not lost because the store is away between the claim and the lock, nor because a response was lost. It waits
    /// until it would be too late, and no longer.
    #[tokio::test(start_paused = true)]
    async fn the_lock_is_tried_until_it_is_too_late() {
        let (mut hosts, _) = states(1, "a").await;
        let host = Arc::get_mut(&mut hosts[0]).unwrap();
        host.locks = Arc::new(Away(Arc::clone(&host.locks), AtomicUsize::new(4)));
        assert_eq!(host.alone(Instant::now() + 10 * PAUSE, async { 7 }).await, Ok(Some(7)));
        host.locks = Arc::new(Away(Arc::clone(&host.locks), AtomicUsize::new(1_000)));
        let start = Instant::now();
        assert!(host.alone(start + 10 * PAUSE, async { 8 }).await.is_err());
        assert!((10 * PAUSE..12 * PAUSE).contains(&start.elapsed()), "{:?}", start.elapsed());
    }
}
