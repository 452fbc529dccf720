//! The schedules of services: each calls its service when it is due, once among all hosts that share their state.
//!
//! Each occurrence is claimed in the store by compare-and-swap before it is run, so no other host runs it. While it runs, a lock
//! with a lease keeps later ones away.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::Full;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::guests::stores::Stores;
use crate::request::handler::Handler;
use crate::request::message::MessageSender;
use lodge_base::config::limits::Limits;
use lodge_base::time::rfc3339;
use lodge_manifest::schedule::Schedule;
use lodge_manifest::spec::host_of;
use lodge_state::limits::MAX_LEASE;
use lodge_state::{Attempt, Change, Condition, Error, Expiry, Holder, Key, Lease, LockName, Locks, Store, Swap, Value};
use lodge_traffic::proxy::headers::Peer;
use lodge_traffic::service::Service;

/// The header with the time at which the call was due.
const TIME: &str = "schedule-time";

/// The bucket with the last occurrence of each schedule.
const BUCKET: &str = "schedule";

/// How late a call may be. After that it is missed.
const LATE: Duration = Duration::from_secs(60);

/// The longest sleep: the clock of the system can be set meanwhile.
const SLEEP: Duration = Duration::from_secs(10);

/// The longest time of an operation on the store, and the pause before it is tried again.
const OPERATION: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);

/// What a lease has beyond the time of the request.
const MARGIN: Duration = Duration::from_secs(30);

/// Missed calls that are counted one by one.
const MOST_MISSED: u64 = 1000;

/// One schedule of a service.
pub(super) struct Scheduler {
    shared: Arc<Shared>,
    stores: Arc<Stores>,
}

/// What the runs of a schedule share.
struct Shared {
    handler: Arc<Handler>,
    service: Arc<Service>,
    host: String,
    peer: Peer,
    schedule: Schedule,
    /// Identifies the schedule in the state that hosts share.
    id: String,
    lease: Duration,
}

/// The state that hosts share.
#[derive(Clone)]
struct ClusterState {
    store: Arc<dyn Store>,
    locks: Arc<dyn Locks>,
}

/// Runs all schedules of a service until the sender of `stop` is dropped, and then waits for their last calls.
pub(super) async fn run(schedulers: Vec<Scheduler>, stop: watch::Receiver<()>) {
    let mut all: JoinSet<_> = schedulers.into_iter().map(|scheduler| scheduler.run(stop.clone())).collect();
    while all.join_next().await.is_some() {}
}

impl Scheduler {
    /// Creates a schedule of a service with these limits.
    pub(super) fn new(
        handler: Arc<Handler>,
        stores: Arc<Stores>,
        service: Arc<Service>,
        (schedule, limits): (Schedule, &Limits),
    ) -> Self {
        let time = limits.wall.saturating_add(limits.queue_wait.saturating_mul(2)).saturating_add(MARGIN);
        let (host, peer) = (host_of(&service.name), Peer::service("@schedule"));
        let id = format!("{}{}", service.name, schedule.path);
        let shared = Shared { handler, service, host, peer, schedule, id, lease: time.min(MAX_LEASE) };
        Self { shared: Arc::new(shared), stores }
    }

    /// Calls the service when it is due, until the sender of `stop` is dropped, and then waits for the last call.
    async fn run(self, mut stop: watch::Receiver<()>) {
        let mut runs = JoinSet::new();
        tokio::select! {
            _ = stop.changed() => {}
            () = self.follow(&mut runs) => {}
        }
        while runs.join_next().await.is_some() {}
    }

    async fn follow(&self, runs: &mut JoinSet<()>) {
        let state = self.open().await;
        let mut after = SystemTime::now();
        self.report_missed(&state, after).await;
        loop {
            let Some(due) = self.shared.schedule.next(after) else { return std::future::pending().await };
            let now = SystemTime::now();
            if let Ok(wait) = due.duration_since(now)
                && !wait.is_zero()
            {
                tokio::time::sleep(wait.min(SLEEP)).await;
                continue;
            }
            after = due;
            while runs.try_join_next().is_some() {}
            if now.duration_since(due).is_ok_and(|late| late > LATE) {
                self.shared.missed(1, "the host was suspended, or its clock was set");
                continue;
            }
            let (shared, state) = (Arc::clone(&self.shared), state.clone());
            runs.spawn(async move { shared.run(&state, due).await });
        }
    }

    /// Opens the state, as soon as that is possible.
    async fn open(&self) -> ClusterState {
        let mut failed = false;
        loop {
            match self.stores.schedules(Instant::now() + OPERATION).await {
                Ok((store, locks)) => return ClusterState { store, locks },
                Err(error) if !std::mem::replace(&mut failed, true) => {
                    let name = &*self.shared.service.name;
                    tracing::warn!(service = name, "{name} is not called by its schedule: {error}; trying again");
                }
                Err(_) => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Counts the calls that were due while no host was there to make them.
    async fn report_missed(&self, state: &ClusterState, now: SystemTime) {
        let Ok(Some(last)) = state.last(&self.shared.id).await else { return };
        let (mut missed, mut latest) = (0, last);
        while let Some(due) = self.shared.schedule.next(latest).filter(|due| *due <= now) {
            (missed, latest) = (missed + 1, due);
            if missed >= MOST_MISSED {
                break;
            }
        }
        // Of several hosts that start, one counts.
        if missed > 0 && state.claim(&self.shared.id, latest).await.unwrap_or(false) {
            self.shared.missed(missed, "no host was running");
        }
    }
}

impl ClusterState {
    /// Acquires the lock for a call of the schedule `id`, and returns its holder; `None` while another call runs.
    async fn lock(&self, id: &str, lease: Duration) -> Result<Option<Holder>, Error> {
        let (name, holder) = (LockName::new(id)?, Holder::random()?);
        let attempt = self.locks.attempt(name, holder, Lease::new(lease)?, Instant::now() + OPERATION).await?;
        Ok(matches!(attempt, Attempt::Acquired(_)).then_some(holder))
    }

    /// Releases the lock.
    async fn unlock(&self, id: &str, holder: Holder) {
        if let Ok(name) = LockName::new(id) {
            // If that fails, the lease ends.
            let _ = self.locks.release(name, holder, Instant::now() + OPERATION).await;
        }
    }

    /// The last occurrence that was claimed.
    async fn last(&self, id: &str) -> Result<Option<SystemTime>, Error> {
        let entry = self.store.get(Key::new(BUCKET, id)?, Instant::now() + OPERATION).await?;
        let seconds = entry.map(|entry| entry.value.to_number()).transpose()?;
        Ok(seconds.and_then(|seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds.try_into().ok()?))))
    }

    /// Claims an occurrence for this host. Returns whether nobody had claimed it, or a later one.
    async fn claim(&self, id: &str, due: SystemTime) -> Result<bool, Error> {
        let key = Key::new(BUCKET, id)?;
        let since = due.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let number = i64::try_from(since).map_err(|_| Error::Overflow)?;
        let mut current = self.store.get(key, Instant::now() + OPERATION).await?;
        loop {
            let condition = match &current {
                Some(entry) if entry.value.to_number()? >= number => return Ok(false),
                Some(entry) => Condition::Version(entry.version),
                None => Condition::Absent,
            };
            let put = Change::Put(Value::number(number), Expiry::Never);
            match self.store.compare_and_swap(key, condition, put, Instant::now() + OPERATION).await? {
                Swap::Done(_) => return Ok(true),
                Swap::Stale(entry) => current = entry,
            }
        }
    }
}

impl Shared {
    /// Runs the call that is due at `due`, unless another host does.
    async fn run(&self, state: &ClusterState, due: SystemTime) {
        let name = &*self.service.name;
        let claimed = loop {
            match state.claim(&self.id, due).await {
                Ok(claimed) => break claimed,
                Err(error) if due.elapsed().is_ok_and(|late| late > LATE) => {
                    return self.missed(1, &error.to_string());
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        if !claimed {
            return;
        }
        match state.lock(&self.id, self.lease).await {
            Ok(Some(holder)) => {
                self.call(due).await;
                state.unlock(&self.id, holder).await;
            }
            Ok(None) => {
                self.service.metrics.messages.scheduled.count("overlapped");
                let path = &self.schedule.path;
                tracing::warn!(
                    service = name,
                    "{name} is not called at {path} by its schedule: the last call has not ended"
                );
            }
            Err(error) => self.missed(1, &error.to_string()),
        }
    }

    /// Calls the service.
    async fn call(&self, due: SystemTime) {
        let name = &*self.service.name;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{}", self.host, self.schedule.path))
            .header(TIME, rfc3339(due))
            .header(header::CONTENT_LENGTH, 0)
            .body(Full::<Bytes>::default());
        let request = match request {
            Ok(request) => request,
            Err(error) => return tracing::error!(service = name, "the call of the schedule cannot be sent: {error}"),
        };
        let deadline = std::time::Instant::now() + self.lease.saturating_sub(MARGIN / 2);
        let sender = MessageSender { peer: &self.peer, request_id: None, depth: 0, deadline };
        let handled = self.handler.send_message(&self.host, sender, request, 0).await;
        if handled.status.is_success() && handled.complete {
            self.service.metrics.messages.scheduled.count("ok");
        } else {
            self.service.metrics.messages.scheduled.count("failed");
            let (path, status) = (&self.schedule.path, handled.status.as_u16());
            tracing::warn!(
                service = name,
                "the call of {name} at {path} by its schedule has failed with status {status}"
            );
        }
    }

    /// Counts calls that were not made, and says why.
    fn missed(&self, calls: u64, why: &str) {
        for _ in 0..calls {
            self.service.metrics.messages.scheduled.count("missed");
        }
        let (name, path) = (&*self.service.name, &self.schedule.path);
        tracing::warn!(service = name, calls, "{calls} calls of {name} at {path} by its schedule were missed: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lodge_state::{Backend, Memory, Namespace, Quota, SystemClock};

    async fn state() -> ClusterState {
        let backend = Memory::new(1 << 20, Arc::new(SystemClock::new()));
        let (namespace, soon) = (Namespace::new("@schedules").unwrap(), Instant::now() + OPERATION);
        let store = backend.open(&namespace, Quota::default(), soon).await.unwrap();
        ClusterState { store, locks: backend.locks(&namespace, soon).await.unwrap() }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_of_many_claims_an_occurrence() {
        let state = state().await;
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(state.last("a").await, Ok(None));
        for occurrence in [60, 120, 180] {
            let claim = |_| {
                let state = state.clone();
                tokio::spawn(async move { state.claim("a", at(occurrence)).await.unwrap() })
            };
            let mut claims = 0;
            for claim in (0..32).map(claim).collect::<Vec<_>>() {
                claims += u32::from(claim.await.unwrap());
            }
            assert_eq!((claims, state.last("a").await), (1, Ok(Some(at(occurrence)))));
        }
        assert_eq!(state.claim("a", at(120)).await, Ok(false), "an earlier one is over");
        assert_eq!(state.claim("b", at(120)).await, Ok(true), "another service");
    }

    #[tokio::test]
    async fn a_call_keeps_others_away_until_it_ends() {
        let state = state().await;
        let holder = state.lock("a", OPERATION).await.unwrap().unwrap();
        assert_eq!(state.lock("a", OPERATION).await, Ok(None));
        assert!(state.lock("b", OPERATION).await.unwrap().is_some());
        state.unlock("a", holder).await;
        assert!(state.lock("a", OPERATION).await.unwrap().is_some());
    }
}
