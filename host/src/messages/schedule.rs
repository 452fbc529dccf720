//! The schedules of services: each calls its service when it is due, once among all hosts that share their state.
//!
//! Each occurrence is claimed in the store by compare-and-swap before it is run, so no other host runs it. While it runs, a lock
//! with a lease keeps later ones away. Clocks may be wrong, and be set at any time: see [`record`] and [`timeline`].

mod record;
mod state;
mod timeline;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::state::{OPERATION, ScheduleState};
use self::timeline::{DueStep, MOST_MISSED, Timeline, occurrences};
use crate::guests::stores::Stores;
use crate::request::handler::Handler;
use crate::request::message::MessageSender;
use lodge_base::config::limits::Limits;
use lodge_base::lock::lock;
use lodge_base::time::rfc3339;
use lodge_manifest::schedule::Schedule;
use lodge_manifest::spec::host_of;
use lodge_traffic::proxy::headers::Peer;
use lodge_traffic::service::Service;
use lodge_traffic::service::schedules::CallOutcome;

/// The header with the time at which the call was due.
const TIME: &str = "schedule-time";

/// How late a call may be. After that it is missed. Also how far clocks of hosts may differ.
const LATE: Duration = Duration::from_secs(60);

/// The pause before an operation on the store is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// The time between two looks at the claims of hosts whose clocks are far ahead, besides those before each call, and between two lines about them.
const LOOK: Duration = LATE;
const QUIET: Duration = Duration::from_secs(60 * 60);

/// The longest time of a call, and what it has beyond the limits of the service.
const LONGEST: Duration = Duration::from_secs(60 * 60);
const MARGIN: Duration = Duration::from_secs(15);

/// Why calls are missed at start.
const NOT_FOLLOWED: &str = "no host ran this schedule then";

/// Why calls are missed later.
const JUMPED: &str = "the host was suspended or busy, its clock was set, or the store was away";

/// One schedule of a service.
pub(super) struct Scheduler {
    shared: Arc<Shared>,
    stores: Arc<Stores>,
    /// Whether this host has run schedules of the service before: then what was due meanwhile was not to be called.
    resumed: bool,
}

/// What this host has run of the service before.
#[derive(Default)]
pub(super) enum ScheduleHistory {
    /// No schedules.
    #[default]
    New,
    /// Schedules. This one has taken the place of those with these paths.
    Resumed(Vec<String>),
}

/// What the runs of a schedule share.
struct Shared {
    handler: Arc<Handler>,
    service: Arc<Service>,
    host: String,
    peer: Peer,
    schedule: Schedule,
    /// The paths of schedules in whose place it is. Their calls that still run count as its own.
    replaces: Vec<String>,
    /// The longest time of a call.
    time: Duration,
    /// When a line about the clocks of hosts was written last.
    told: Mutex<Option<Instant>>,
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
        (schedule, limits, history): (Schedule, &Limits, ScheduleHistory),
    ) -> Self {
        let time = limits.wall.saturating_add(limits.queue_wait.saturating_mul(2)).saturating_add(MARGIN);
        let (host, peer) = (host_of(&service.name), Peer::service("@schedule"));
        let (resumed, replaces) = match history {
            ScheduleHistory::New => (false, Vec::new()),
            ScheduleHistory::Resumed(replaces) => (true, replaces),
        };
        let (time, told) = (time.min(LONGEST), Mutex::default());
        let shared = Shared { handler, service, host, peer, schedule, replaces, time, told };
        Self { shared: Arc::new(shared), stores, resumed }
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
        let begun = SystemTime::now();
        let (state, last) = self.open(begun).await;
        let after = match last {
            None => begun,
            Some(last) if self.resumed => begun.checked_sub(LATE).map_or(last, |late| last.max(late)),
            Some(last) => last,
        };
        let mut timeline = Timeline::new(self.shared.schedule.clone(), after);
        let mut why = if last.is_some() && !self.resumed { NOT_FOLLOWED } else { JUMPED };
        let mut look = Instant::now();
        let doubt = |runs: &mut JoinSet<()>| {
            let (shared, state, now) = (Arc::clone(&self.shared), Arc::clone(&state), SystemTime::now());
            runs.spawn(async move { shared.doubt(&state, now).await });
        };
        loop {
            while runs.try_join_next().is_some() {}
            if look <= Instant::now() {
                look = Instant::now() + LOOK;
                doubt(runs);
            }
            match timeline.step(SystemTime::now()) {
                DueStep::Wait(wait) => tokio::time::sleep(wait).await,
                DueStep::Look => {
                    doubt(runs);
                    continue;
                }
                DueStep::Call(due) => {
                    let (shared, state) = (Arc::clone(&self.shared), Arc::clone(&state));
                    runs.spawn(async move { shared.run(&state, due).await });
                }
                DueStep::Miss(after, until) => self.miss(&state, (after, until), why).await,
                DueStep::SetBack(back) => self.shared.warn(&format!(
                    "the clock of this host was set back by {}: calls are made as it says now",
                    humantime::format_duration(Duration::from_secs(back.as_secs()))
                )),
            }
            why = JUMPED;
        }
    }

    /// Opens the state, as soon as that is possible. Returns it with the last occurrence that was called, if any was.
    async fn open(&self, begun: SystemTime) -> (Arc<ScheduleState>, Option<SystemTime>) {
        let (mut failed, shared) = (false, &self.shared);
        let id = || format!("{}{}", shared.service.name, shared.schedule.path);
        loop {
            let opened = async {
                let (store, locks) = self.stores.schedules(Instant::now() + OPERATION).await?;
                let state = ScheduleState::new(store, locks, id()).map_err(|error| error.to_string())?;
                let last = state.begin(shared.schedule.expression(), begun).await;
                Ok::<_, String>((Arc::new(state), last.map_err(|error| error.for_operators())?))
            };
            match opened.await {
                Ok(opened) => return opened,
                Err(error) if !std::mem::replace(&mut failed, true) => {
                    shared.warn(&format!("it is not called: {error}; trying again"));
                }
                Err(_) => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Counts the calls that were due in a time, unless another host has made or counted them.
    async fn miss(&self, state: &ScheduleState, (after, until): (SystemTime, SystemTime), why: &str) {
        let after = match state.miss(after, until, SystemTime::now()).await {
            Ok(None) => return,
            Ok(Some(after)) => after,
            Err(_) => after,
        };
        let missed = occurrences(&self.shared.schedule, after, until);
        if missed > 0 && !self.shared.service.is_disabled() {
            self.shared.missed(missed, why);
        }
    }
}

impl Shared {
    /// Looks for claims that are ahead at `now`, and tells of them from time to time.
    async fn doubt(&self, state: &ScheduleState, now: SystemTime) {
        let Ok(Some(far)) = state.doubt(now).await else { return };
        {
            let mut told = lock(&self.told);
            if told.is_some_and(|told| told.elapsed() <= QUIET) {
                return;
            }
            *told = Some(Instant::now());
        }
        self.warn(&format!(
            "a host has taken a call that is due in {}: its clock is ahead, or that of this host behind; the hosts whose clocks are \
             right go on",
            humantime::format_duration(far)
        ));
    }

    /// Runs the call that is due at `due`, unless another host does.
    async fn run(&self, state: &ScheduleState, due: SystemTime) {
        // Where it is enabled, another host calls it.
        if self.service.is_disabled() {
            return;
        }
        let claimed = loop {
            match state.claim(due, SystemTime::now()).await {
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
        if self.replaces.iter().any(|path| self.service.schedules.is_running(path)) {
            self.record(CallOutcome::Overlapped);
            return self.warn("it is not called: the last call of the schedule before it has not ended");
        }
        let running = self.service.schedules.begin(&self.schedule.path);
        let late = due.elapsed().unwrap_or_default();
        match state.alone(Instant::now() + LATE.saturating_sub(late), self.call(due)).await {
            Ok(Some(())) => {}
            Ok(None) => {
                self.record(CallOutcome::Overlapped);
                self.warn("it is not called: the last call has not ended, or the host that made it ended just now");
            }
            Err(error) => self.missed(1, &error.to_string()),
        }
        drop(running);
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
        let deadline = std::time::Instant::now() + self.time;
        let sender = MessageSender { peer: &self.peer, request_id: None, depth: 0, deadline };
        let handled = self.handler.send_message(&self.host, sender, request, 0).await;
        let status = handled.status.as_u16();
        match handled.status {
            success if success.is_success() && handled.complete => {
                self.record(CallOutcome::Ok(status));
            }
            // As for messages, a call that did not reach the service is no failure of it.
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS if !handled.reached => {
                self.missed(1, &format!("the service was full, starting or disabled (status {status})"));
            }
            _ => {
                self.record(CallOutcome::Failed(status));
                self.warn(&format!("the call has failed with status {status}"));
            }
        }
    }

    /// Counts calls that were not made, and says why.
    fn missed(&self, calls: u64, why: &str) {
        for _ in 0..calls {
            self.record(CallOutcome::Missed);
        }
        let (more, what) =
            (if calls >= MOST_MISSED { " or more" } else { "" }, if calls == 1 { "call was" } else { "calls were" });
        self.warn(&format!("{calls}{more} {what} missed: {why}"));
    }

    /// Counts a call, and remembers it as the last one.
    fn record(&self, outcome: CallOutcome) {
        self.service.metrics.messages.scheduled.count(outcome.name());
        self.service.schedules.record(&self.schedule.path, outcome, SystemTime::now());
    }

    /// Writes a line about the schedule.
    fn warn(&self, what: &str) {
        let (name, path) = (&*self.service.name, &*self.schedule.path);
        tracing::warn!(service = name, path, "the schedule of {name} at {path}: {what}");
    }
}
