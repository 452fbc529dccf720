//! Sends a request to a replica, and again to another replica where that is safe and within the retry budget.

mod outcome;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, header};
use http_body::Body;
use http_body_util::{BodyExt, Empty};

use self::outcome::{failed, failure, failure_reason, outcome};
use super::replay::Replay;
use super::replicas::ChosenReplica;
use super::retry::{Repeatable, TryOutcome};
use super::transport::{AnyBody, BoxError};
use super::transport::{ErrorKind, ReceivedBody, SendError};
use super::upload_wait::UploadWait;
use super::{Inner, Members, Upstream};
use crate::admission::TimeLimit;
use crate::proxy::body::BodyError;
use lodge_base::telemetry::traces::{ClientSpan, OutboundTrace, ServerAddress};
use lodge_manifest::upstream::Policy;
use lodge_manifest::upstream::protocol::Scheme;

/// Why no replica gave a response.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no replica that can be used.
    #[error("the service is not available")]
    NoReplica,
    /// All connections to the replicas that were tried are in use.
    #[error("the service is overloaded")]
    Overloaded(String),
    /// The request asks to upgrade its connection, and as many connections as allowed are upgraded already.
    #[error("the service is overloaded")]
    TunnelsFull,
    /// The last attempt timed out, or the deadline of the request passed before a replica was selected.
    #[error("the service took too long")]
    TimedOut(String),
    /// The last attempt gave no response, or one that is not valid HTTP.
    #[error("the service failed")]
    Response(String),
    /// The response broke off.
    #[error("the service failed")]
    BrokenOff(String),
    /// The body of the request is at fault.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The request cannot be sent in this form.
    #[error("the request cannot be forwarded to the service")]
    Request(String),
}

/// A response, and the attempt that it belongs to.
pub struct UpstreamResponse {
    /// The head of the response, with its body as a stream.
    pub response: Response<ReceivedBody<AnyBody>>,
    /// To be held until the last byte of the body.
    pub attempt: Attempt,
}

/// An attempt at one replica. The replica counts as busy with the request until this is dropped.
pub struct Attempt {
    inner: Arc<Inner>,
    members: Arc<Members>,
    chosen: ChosenReplica,
    /// Whether another attempt of the request came before.
    is_retry: bool,
    upload: Option<Arc<UploadWait>>,
    lateness: Option<Arc<AtomicBool>>,
    limit: TimeLimit,
}

type AttemptResult = Result<Response<ReceivedBody<AnyBody>>, SendError<AnyBody>>;

/// An attempt with its result.
struct FinishedAttempt {
    attempt: Attempt,
    result: AttemptResult,
}

/// A request with the state of its attempts.
struct Job<'a> {
    inner: &'a Arc<Inner>,
    repeatable: Repeatable,
    key: Option<u64>,
    limit: TimeLimit,
    /// The replicas at the start. `tried` has indexes into this set.
    members: Arc<Members>,
    /// The progress of the client's body, if there is one.
    upload: Option<Arc<UploadWait>>,
    /// Indexes of the replicas that were tried.
    tried: Vec<usize>,
    /// The head, for another attempt.
    spare: Option<Parts>,
    /// The body, for another attempt after a replica refused the request.
    replay: Option<Replay<BoxError>>,
    /// The position in the trace; every attempt has a span below it.
    onward: Option<OutboundTrace>,
    /// Whether an attempt timed out already. Then a further timeout is more likely due to the request than to the
    /// replica. `None` when there can only be one attempt.
    lateness: Option<Arc<AtomicBool>>,
}

/// An attempt that had less time than this before the deadline of the request does not count against its replica.
const MIN_FAIR_TIME: Duration = Duration::from_secs(1);

impl Upstream {
    /// Sends a request whose target is absolute and whose hop-by-hop headers are removed. Returns the head of the last
    /// attempt's response, which may itself report a failure, such as 503.
    ///
    /// # Errors
    /// The last failure, when no replica responds within `limit`.
    pub async fn send(
        &self,
        request: Request<AnyBody>,
        client: IpAddr,
        limit: TimeLimit,
        upload: Option<Arc<UploadWait>>,
        onward: Option<OutboundTrace>,
    ) -> Result<UpstreamResponse, Failure> {
        let inner = &self.inner;
        inner.budget.record_request(Instant::now());
        let (head, body) = request.into_parts();
        let repeatable = Repeatable::new(&head.method, body.is_end_stream());
        let key = if inner.spec.policy == Policy::Hash { inner.spec.hash.key(client, &head.headers) } else { None };
        let again = repeatable.always() && (inner.spec.retry.attempts > 0 || inner.spec.hedge.is_some());
        let refusable = inner.spec.retry.attempts > 0 && inner.settings.may_use_http2();
        let (replay, body) = if refusable && !body.is_end_stream() {
            let (replay, first) = Replay::new(body, &inner.replay_memory);
            (Some(replay), first)
        } else {
            (None, body)
        };
        let spare = (again || refusable).then(|| head.clone());
        let members = inner.members.load_full();
        let (lateness, tried) = (again.then(Arc::default), Vec::new());
        let mut job = Job { inner, repeatable, key, limit, members, upload, tried, spare, replay, onward, lateness };
        job.run(Request::from_parts(head, body)).await
    }
}

impl Job<'_> {
    async fn run(&mut self, mut request: Request<AnyBody>) -> Result<UpstreamResponse, Failure> {
        loop {
            let FinishedAttempt { attempt, result } = self.attempt_with_hedge(request).await?;
            let now = Instant::now();
            let outcome = attempt.judge(&result, now);
            let SendError { kind, cause, never_sent, .. } = match result {
                Ok(response) => {
                    match self.next_request(self.may_retry(outcome, now), None, now) {
                        Some(next) => request = next,
                        None => return Ok(UpstreamResponse { response, attempt }),
                    }
                    continue;
                }
                Err(error) => error,
            };
            let may = match kind {
                ErrorKind::Unsendable | ErrorKind::Upload => false,
                // Nothing was sent, and another replica may have a free connection.
                ErrorKind::Overloaded => self.tried.len() <= self.inner.spec.retry.attempts,
                _ => self.may_retry(outcome, now),
            };
            match self.next_request(may, never_sent, now) {
                Some(next) => request = next,
                None => return Err(failure(kind, self.explained(cause))),
            }
        }
    }

    /// Returns whether another attempt is allowed and useful after this outcome.
    fn may_retry(&self, last: TryOutcome, now: Instant) -> bool {
        self.repeatable.again(self.tried.len(), last, now, self.limit.deadline, &self.inner.spec.retry)
            && (!last.needs_another() || self.has_another(now))
    }

    /// Adds to the cause of the last failure where the request was tried before.
    fn explained(&self, cause: String) -> String {
        let before = self.tried.iter().rev().skip(1).rev();
        let replicas = before.filter_map(|at| self.members.replicas.iter().nth(*at));
        let before: Vec<_> = replicas.map(|(replica, _)| replica.address.to_string()).collect();
        if before.is_empty() { cause } else { format!("{cause}; tried before: {}", before.join(", ")) }
    }

    fn has_another(&self, now: Instant) -> bool {
        self.members.replicas.has_another(now, &self.tried)
    }

    /// Returns the request for the next attempt and takes a retry from the budget; `None` if there is no next attempt.
    fn next_request(&self, may: bool, kept: Option<Box<Request<AnyBody>>>, now: Instant) -> Option<Request<AnyBody>> {
        if !may {
            return None;
        }
        let next = kept.map(|kept| *kept).or_else(|| self.rebuild())?;
        let counts = &self.inner.counts;
        if self.inner.budget.take_retry(now, &self.inner.spec.retry) {
            counts.retries.fetch_add(1, Relaxed);
            Some(next)
        } else {
            counts.unaffordable.fetch_add(1, Relaxed);
            None
        }
    }

    fn rebuild(&self) -> Option<Request<AnyBody>> {
        let head = self.spare.clone()?;
        let body = match &self.replay {
            Some(replay) => replay.next()?,
            None => Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync(),
        };
        Some(Request::from_parts(head, body))
    }

    /// Makes one attempt or, when the first is slow and hedging is on, two at once, of which the first good response
    /// counts. The other one continues up to the head of its response: if it were dropped, a hanging replica would
    /// never be noticed.
    async fn attempt_with_hedge(&mut self, mut request: Request<AnyBody>) -> Result<FinishedAttempt, Failure> {
        let first = self.choose()?;
        let span = self.span(&mut request, &first);
        let hedge = self.inner.spec.hedge.filter(|_| self.tried.len() == 1 && self.repeatable.hedges());
        let Some(patience) = hedge else { return first.send(request, span).await };
        let mut first = Box::pin(first.send(request, span));
        if let Ok(done) = tokio::time::timeout(patience, &mut first).await {
            return done;
        }
        let now = Instant::now();
        let Some(mut again) = self.next_request(self.has_another(now), None, now) else { return first.await };
        let Ok(second) = self.choose() else { return first.await };
        let span = self.span(&mut again, &second);
        let mut second = Box::pin(second.send(again, span));
        let (done, other) = tokio::select! {
            done = &mut first => (done, second),
            done = &mut second => (done, first),
        };
        match done {
            Ok(FinishedAttempt { attempt, result }) if result.is_err() || outcome(&result).verdict() == Some(false) => {
                attempt.judge(&result, Instant::now());
                other.await
            }
            Ok(good) => {
                tokio::spawn(async {
                    if let Ok(FinishedAttempt { attempt, result }) = other.await {
                        attempt.judge(&result, Instant::now());
                    }
                });
                Ok(good)
            }
            Err(_) => other.await,
        }
    }

    /// Starts the span of an attempt and adds its context to the request.
    fn span(&self, request: &mut Request<AnyBody>, attempt: &Attempt) -> ClientSpan {
        let Some(onward) = &self.onward else { return ClientSpan::off() };
        let target = &attempt.chosen.replica().address;
        let https = target.scheme == Scheme::Https;
        let to = ServerAddress { https, host: &target.host, port: target.address.port() };
        onward.begin_attempt(request, &self.inner.service, to, self.tried.len().saturating_sub(1))
    }

    fn choose(&mut self) -> Result<Attempt, Failure> {
        let members = Arc::clone(&self.members);
        let chosen = members.replicas.choose(Instant::now(), self.key, self.inner.random(), &self.tried);
        let chosen = chosen.ok_or(Failure::NoReplica)?;
        self.inner.log_panic_change(chosen.panic_change);
        let is_retry = !self.tried.is_empty();
        self.tried.push(chosen.index);
        let (upload, lateness, limit) = (self.upload.clone(), self.lateness.clone(), self.limit);
        Ok(Attempt { inner: Arc::clone(self.inner), members, chosen, is_retry, upload, lateness, limit })
    }
}

impl Attempt {
    /// Sends the request to this replica.
    async fn send(self, mut request: Request<AnyBody>, span: ClientSpan) -> Result<FinishedAttempt, Failure> {
        let Some(pool) = self.members.pools.get(self.chosen.index) else { return Err(Failure::NoReplica) };
        let target = &self.chosen.replica().address;
        if !self.inner.spec.keeps_host(target.scheme) {
            set_host_to_replica(&mut request, &target.authority());
        }
        let start = Instant::now();
        let calls = self.inner.calls.as_ref().map(|(service, calls)| calls.of(service, target));
        let is_retry = self.is_retry;
        let count = |has_failed| calls.iter().for_each(|calls| calls.count(start.elapsed(), is_retry, has_failed));
        match tokio::time::timeout_at(self.limit.deadline.into(), pool.send(request)).await {
            Ok(result) => {
                match &result {
                    Ok(response) => span.finish(response),
                    Err(error) => span.fail(failed(error.kind)),
                }
                count(result.as_ref().map_or(true, |response| response.status().is_server_error()));
                Ok(FinishedAttempt { attempt: self, result })
            }
            Err(_) => {
                let cause = format!("{target}: no response before the deadline of the request");
                span.fail("timed-out");
                count(true);
                self.inner.counts.failed.count("timed-out");
                if start.elapsed() >= MIN_FAIR_TIME && !self.is_uploading() && self.is_late_first() {
                    self.settle(TryOutcome::TimedOut, &cause);
                }
                Err(Failure::TimedOut(cause))
            }
        }
    }

    /// Counts the result of the attempt, and records it for the health of the replica.
    fn judge(&self, result: &AttemptResult, now: Instant) -> TryOutcome {
        let (outcome, counts) = (outcome(result), &self.inner.counts);
        match failure_reason(result) {
            None => drop(counts.responded.fetch_add(1, Relaxed)),
            Some(word) => drop(counts.failed.count(word)),
        }
        let cause = match result {
            // These failures say nothing about the replica.
            Err(error) if matches!(error.kind, ErrorKind::Unsendable | ErrorKind::Upload) => return outcome,
            Err(_) if outcome == TryOutcome::TimedOut && (self.is_uploading() || !self.is_late_first()) => {
                return outcome;
            }
            // The caller may have left too little time, also for the host that forwards the request to the service.
            _ if outcome.verdict() == Some(false) && self.is_excused(outcome, now) => return outcome,
            result => move || match result {
                Ok(response) => format!("it responded with {}", response.status()),
                Err(error) => error.cause.clone(),
            },
        };
        let change = self.members.replicas.settle(&self.chosen, outcome, now);
        self.inner.log_change(&self.chosen.replica().address, change, cause);
        outcome
    }

    /// Returns whether this is the first attempt of its request that timed out. A second timeout is more likely due to
    /// the request, and one slow path must not eject every replica.
    fn is_late_first(&self) -> bool {
        self.lateness.as_ref().is_none_or(|late| !late.swap(true, Relaxed))
    }

    /// Returns whether most of the time was spent waiting for the client's body.
    fn is_uploading(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.is_client_slow())
    }

    /// Records that the replica broke off the body of its response.
    pub fn record_broken_body(&self, cause: &str) {
        self.inner.counts.failed.count("broken-off");
        self.settle(TryOutcome::Reset, cause);
    }

    /// Whether this outcome may be due to a caller that leaves too little time. A replica without a connection knows no time.
    fn is_excused(&self, outcome: TryOutcome, now: Instant) -> bool {
        outcome != TryOutcome::Unconnected && self.limit.excuses(now)
    }

    fn settle(&self, outcome: TryOutcome, cause: &str) {
        let now = Instant::now();
        if !self.is_excused(outcome, now) {
            let change = self.members.replicas.settle(&self.chosen, outcome, now);
            self.inner.log_change(&self.chosen.replica().address, change, || cause.to_owned());
        }
    }
}

/// Sets the host of the request to the replica's own name.
fn set_host_to_replica(request: &mut Request<AnyBody>, authority: &str) {
    request.headers_mut().remove(header::HOST);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme.get_or_insert(http::uri::Scheme::HTTP);
    if let Ok(authority) = authority.parse() {
        parts.authority = Some(authority);
    }
    if let Ok(uri) = http::Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}
