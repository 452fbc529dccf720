//! Follows the EndpointSlices of one Service: a list in pages, then a watch from there on, again and again.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};

use super::api_client::{ApiBody, ApiClient};
use super::events::{self, KnownSlices};
use super::failure::{Failures, WatchFailure};
use super::lines::EventLines;
use super::slices::SliceMap;
use crate::upstreams::discover::follow::jitter;

/// EndpointSlices per page of a list.
const PAGE: usize = 50;
/// The most pages of a list.
const PAGES: usize = 200;
/// The most bytes of all pages of a list.
const LIST: usize = 16 << 20;
/// The most bytes of the list of versions.
const GROUP: usize = 64 << 10;
/// The most bytes of an event. An object has at most 1.5 MiB in the store, where it is shorter than as JSON.
const EVENT: usize = 4 << 20;

/// An event with more bytes has a permit while it arrives.
const LARGE: usize = 64 << 10;

/// How long the requests to the API server take.
#[derive(Clone, Debug)]
pub struct WatchPace {
    /// The first pause after a failure, and the shortest time from one watch to the next.
    pub least: Duration,
    /// How long the server keeps a watch open, in whole seconds. By a tenth less for some, so that not all end together.
    pub watch: Duration,
    /// After this time without an event or a bookmark, which servers send every minute, a new list and watch begin.
    pub silence: Duration,
    /// A watch that was open for this time was a good one, even if it breaks off.
    pub steady: Duration,
    /// The time for all pages of a list.
    pub list: Duration,
    /// The shortest time between two changes that are passed on. The first one is passed on at once.
    pub publish: Duration,
}

impl Default for WatchPace {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            least: seconds(1),
            watch: seconds(300),
            silence: seconds(150),
            steady: seconds(10),
            list: seconds(60),
            publish: Duration::from_millis(200),
        }
    }
}

/// A Service with its namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ServiceName {
    pub(super) namespace: Arc<str>,
    pub(super) service: Arc<str>,
}

/// What is known of a Service.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceView {
    /// Its slices; `None` before the first list.
    pub(super) slices: Option<Arc<SliceMap>>,
    /// Why the last request failed.
    pub(super) error: Option<String>,
}

/// The task that follows a Service.
pub(super) struct ServiceFollower {
    pub(super) client: Arc<ApiClient>,
    pub(super) name: ServiceName,
    pub(super) pace: WatchPace,
    pub(super) view: Arc<watch::Sender<ServiceView>>,
}

/// When changes are passed on: the first at once, and those that follow soon after it together.
#[derive(Debug, Default)]
struct Publications {
    last: Option<Instant>,
    /// Whether there is a change since then.
    is_due: bool,
}

impl Publications {
    /// Returns when the changes are to be passed on, if there are any.
    fn due(&self, now: Instant, least: Duration) -> Option<Instant> {
        self.is_due.then(|| self.last.map_or(now, |last| last + least))
    }
}

impl ServiceFollower {
    /// Follows the Service for ever.
    pub(super) async fn run(self) {
        let (mut position, mut failures) = (None, Failures::default());
        loop {
            let begun = Instant::now();
            let pause = match self.turn(&mut position, &mut failures).await {
                Ok(()) => {
                    failures.clear();
                    self.pace.least.saturating_sub(begun.elapsed())
                }
                Err(failure) => {
                    let (pause, fails) = failures.add(&failure, self.pace.least, jitter());
                    if !failure.can_resume || failures.are_many() {
                        position = None;
                    }
                    tracing::debug!("{}: {}; next request in {pause:?}", self.name, failure.why);
                    if fails {
                        self.view.send_modify(|view| view.error = Some(failure.why));
                    }
                    pause
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Lists, unless a watch can go on, and watches until the server ends that.
    async fn turn(&self, position: &mut Option<KnownSlices>, failures: &mut Failures) -> Result<(), WatchFailure> {
        let position = match position {
            Some(position) => position,
            None => {
                let listed = self.list().await?;
                self.publish(&listed, failures);
                position.insert(listed)
            }
        };
        self.watch(position, failures).await
    }

    fn publish(&self, followed: &KnownSlices, failures: &Failures) {
        let (slices, error) = (Arc::new(followed.slices.clone()), failures.silence().cloned());
        self.view.send_modify(|view| *view = ServiceView { slices: Some(slices), error });
    }

    /// The path of the slices of the Service.
    fn path(&self, version: &str) -> String {
        let ServiceName { namespace, service } = &self.name;
        format!(
            "/apis/discovery.k8s.io/{version}/namespaces/{namespace}/endpointslices\
             ?labelSelector=kubernetes.io%2Fservice-name%3D{service}"
        )
    }

    /// The rights that a Role must give.
    fn needs(&self) -> String {
        format!(
            "get, list and watch endpointslices (discovery.k8s.io) in the namespace {}: add a Role and a RoleBinding there",
            self.name.namespace
        )
    }

    async fn version(&self) -> Result<&'static str, WatchFailure> {
        let what = "cannot read the versions of discovery.k8s.io";
        match self.client.get("/apis/discovery.k8s.io", what, "read /apis/discovery.k8s.io").await {
            Ok(found) => events::version(&self.body(found.body, GROUP, what).await?),
            // Some clusters hide the versions; every one that is maintained has this.
            Err(failure) if failure.is(StatusCode::FORBIDDEN) => Ok("v1"),
            Err(failure) => Err(failure),
        }
    }

    async fn list(&self) -> Result<KnownSlices, WatchFailure> {
        let closed = |_| WatchFailure::new("the host ends".into());
        let _permit = self.client.lists.acquire().await.map_err(closed)?;
        let what = format!("cannot list the EndpointSlices of {}", self.name);
        let late = |_| WatchFailure::new(format!("{what}: no complete response within {:?}", self.pace.list));
        timeout(self.pace.list, self.pages(&what)).await.map_err(late)?
    }

    async fn pages(&self, what: &str) -> Result<KnownSlices, WatchFailure> {
        let mut followed = KnownSlices::new(self.version().await?, &self.client.kept);
        let (mut left, mut next) = (LIST, None);
        for _ in 0..PAGES {
            let more = next.map_or_else(String::new, |next: String| {
                format!("&continue={}", utf8_percent_encode(&next, NON_ALPHANUMERIC))
            });
            let path = format!("{}&limit={PAGE}{more}", self.path(followed.version));
            let found = self.client.get(&path, what, &self.needs()).await?;
            let body = self.body(found.body, left, what).await?;
            left = left.saturating_sub(body.len());
            let zone = self.client.zone.clone();
            // A large page takes longer than a thread of requests may be busy.
            let parsed = spawn_blocking(move || {
                let next = followed.add_page(&body, zone.as_deref());
                (followed, next)
            });
            let (known, more) = parsed.await.map_err(|error| WatchFailure::new(format!("{what}: {error}")))?;
            (followed, next) = (known, more?);
            if next.is_none() {
                return Ok(followed);
            }
        }
        Err(WatchFailure::new(format!("{what}: it has more than {PAGES} pages")))
    }

    /// Reads a body of at most `most` bytes.
    async fn body(&self, body: hyper::body::Incoming, most: usize, what: &str) -> Result<bytes::Bytes, WatchFailure> {
        let broken = |error| {
            WatchFailure::new(format!("{what}: the response broke off, or has more than {most} bytes: {error}"))
        };
        Ok(Limited::new(body, most).collect().await.map_err(broken)?.to_bytes())
    }

    /// Watches until the server ends the watch, which it does after [`WatchPace::watch`].
    async fn watch(&self, followed: &mut KnownSlices, failures: &mut Failures) -> Result<(), WatchFailure> {
        let what = format!("cannot watch the EndpointSlices of {}", self.name);
        let time = self.pace.watch - self.pace.watch / 10 * (jitter() % 1024) / 1024;
        let path = format!(
            "{}&watch=1&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={}",
            self.path(followed.version),
            time.as_secs().max(1),
            utf8_percent_encode(&followed.revision, NON_ALPHANUMERIC),
        );
        let found = match self.client.get(&path, &what, &self.needs()).await {
            Ok(found) => found,
            // A server that is away or busy may still have all changes.
            Err(failure) if failure.is_passing() => return Err(failure.and_resume()),
            Err(failure) => return Err(failure),
        };
        let lasting = failures.silence().cloned();
        self.view.send_if_modified(|view| std::mem::replace(&mut view.error, lasting.clone()) != lasting);
        let (begun, mut changes) = (Instant::now(), Publications::default());
        let ends = begun + time + self.pace.silence;
        let ended = self.events(found, ends, &what, (&mut *followed, &mut *failures, &mut changes)).await;
        if changes.is_due {
            self.publish(followed, failures);
        }
        match ended {
            Err(failure) if failure.can_resume && begun.elapsed() >= self.pace.steady => Ok(()),
            ended => ended,
        }
    }

    /// Applies events in turn with those of other watches. Returns whether at least one was good, and why one was not.
    async fn apply(
        &self,
        followed: &mut KnownSlices,
        events: Vec<Vec<u8>>,
        changes: &mut Publications,
    ) -> (bool, Result<(), WatchFailure>) {
        let mut known = std::mem::replace(followed, KnownSlices::new(followed.version, &self.client.kept));
        let zone = self.client.zone.clone();
        let applied = self.client.turn.take(move || {
            let (mut good, mut changed) = (false, false);
            let ended = events.iter().try_for_each(|event| {
                changed |= known.apply(event, zone.as_deref())?;
                good = true;
                Ok(())
            });
            (known, good, changed, ended)
        });
        match applied.await {
            Ok((known, good, changed, ended)) => {
                *followed = known;
                changes.is_due |= changed;
                (good, ended)
            }
            Err(panicked) => {
                // What was known is gone; a list follows, and what is in use stays so until then.
                changes.is_due = false;
                (false, Err(panicked))
            }
        }
    }

    /// Applies the events of a watch until that ends, at `ends` at the latest.
    async fn events(
        &self,
        mut found: ApiBody,
        ends: Instant,
        what: &str,
        (followed, failures, changes): (&mut KnownSlices, &mut Failures, &mut Publications),
    ) -> Result<(), WatchFailure> {
        let silence = self.pace.silence;
        let (mut lines, mut heard, mut large) = (EventLines::new(EVENT), Instant::now(), None);
        loop {
            let (now, quiet) = (Instant::now(), heard + silence);
            let due = changes.due(now, self.pace.publish);
            if due.is_some_and(|due| due <= now) {
                self.publish(followed, failures);
                *changes = Publications { last: Some(now), is_due: false };
                continue;
            }
            let frame = match timeout_at(due.unwrap_or(ends).min(ends).min(quiet), found.body.frame()).await {
                // The connection may be dead without a sign of it, or lead to something that is no API server any more.
                Err(_) if Instant::now() >= quiet => {
                    let long = humantime::format_duration(silence);
                    return Err(WatchFailure::silent(format!("{what}: neither an event nor a bookmark within {long}")));
                }
                Err(_) if Instant::now() >= ends => return Ok(()),
                Err(_) => continue,
                Ok(None) if lines.is_within() => {
                    return Err(WatchFailure::broke_off(format!("{what}: an event broke off")));
                }
                Ok(None) => return Ok(()),
                Ok(Some(Err(error))) => return Err(WatchFailure::broke_off(format!("{what}: it broke off: {error}"))),
                Ok(Some(Ok(frame))) => frame,
            };
            let Some(bytes) = frame.data_ref() else { continue };
            if large.is_none() && lines.held() + bytes.len() > LARGE {
                let permit = timeout_at(ends.min(quiet), Arc::clone(&self.client.large_events).acquire_owned()).await;
                let late = || WatchFailure::new(format!("{what}: large events of other Services arrive")).and_resume();
                large = Some(permit.ok().and_then(Result::ok).ok_or_else(late)?);
            }
            let mut complete = Vec::new();
            let fed = lines.feed(bytes, |line| {
                complete.push(line);
                Ok::<_, WatchFailure>(())
            });
            if !complete.is_empty() {
                let (good, applied) = self.apply(followed, complete, changes).await;
                if good {
                    heard = Instant::now();
                    failures.clear();
                }
                applied?;
            }
            fed?;
            large = large.filter(|_| lines.held() > LARGE);
            // A bookmark is enough.
            self.view.send_if_modified(|view| failures.silence().is_none() && view.error.take().is_some());
        }
    }
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many events there are, changes are passed on at this pace, and none is lost.
    #[test]
    fn changes_are_passed_on_together() {
        let (start, least) = (Instant::now(), Duration::from_millis(200));
        let (mut changes, mut published) = (Publications::default(), Vec::new());
        assert_eq!(changes.due(start, least), None);
        for millis in 0..1_000 {
            let now = start + Duration::from_millis(millis);
            if millis < 500 {
                changes.is_due = true;
            }
            if changes.due(now, least).is_some_and(|due| due <= now) {
                published.push(millis);
                changes = Publications { last: Some(now), is_due: false };
            }
        }
        assert_eq!(published, [0, 200, 400, 600]);
    }
}
