//! The API under `/v1/`: the state of the host as JSON, and actions of operators.
//!
//! Every change is a POST, PUT or DELETE, and is logged. `openapi.json` describes the API, and
//! [`contract`](super::contract) has its types.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::Admin;
use super::access::Requester;
use super::body::{Body, Events, events, json, problem, typed};
use super::contract::{ActionResult, DrainResult, LevelRequest, LogLevel, PurgeResult};
use super::parameters::{BAD_QUERY, QueryParameters};
use super::record::OperatorRecord;
use super::routes::{Action, ApiRoute, Unrouted};
use super::{compare, data, deploy, report};
use crate::guests::target::Target;
use crate::listener::intake::Upload;
use lodge_base::canonical;
use lodge_base::telemetry::logs::CHANGE;
use lodge_base::telemetry::logs::tail::{Line, LineKind};

/// The number of log lines by default.
const TAIL: usize = 100;

/// The most bytes of a request body.
const BODY: usize = 4 << 10;

/// The interval between two reports of all services to a follower.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The interval between two comments that show that a stream is alive.
const BEAT: Duration = Duration::from_secs(5);

/// Responds to a request of an operator who may use the API.
pub(super) async fn respond(
    admin: &Arc<Admin>,
    operator: &Requester,
    request: Request<Upload<Incoming>>,
    record: &mut OperatorRecord,
) -> Response<Body> {
    // `@` is the only character of a name that clients such as browsers escape.
    let path = request.uri().path().replace("%40", "@");
    let parts: Vec<_> = path.strip_prefix("/v1/").unwrap_or_default().split('/').collect();
    let route = match ApiRoute::of(request.method(), &parts) {
        Ok(route) => route,
        Err(Unrouted::Path) => {
            return problem(StatusCode::NOT_FOUND, "not-found", "see /v1/openapi.json for the paths");
        }
        Err(Unrouted::Method) => {
            let why = "see /v1/openapi.json for the methods";
            return problem(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", why);
        }
    };
    if let Some(why) = operator.lacks(route.needs()) {
        admin.note_refused(&operator.shown(), request.uri(), &why);
        return problem(StatusCode::FORBIDDEN, "scope", &why);
    }
    let known = route.parameters(request.method());
    let parameters = match QueryParameters::read(request.uri().query().unwrap_or_default(), known) {
        Ok(parameters) => parameters,
        Err(why) => return problem(StatusCode::BAD_REQUEST, BAD_QUERY, &why),
    };
    match route {
        ApiRoute::Services => json(&report::statuses(&admin.current.snapshot())),
        ApiRoute::Service(name) => {
            with(admin, name, |target| json(&report::details(&admin.current.snapshot(), target, &admin.elsewhere)))
        }
        ApiRoute::Errors(name) => with(admin, name, |target| json(&target.deployment().service.failures())),
        ApiRoute::Compare(name) => compare::respond(admin, operator, name, request.into_body()).await,
        ApiRoute::Act(name, action) => with(admin, name, |target| self::act(target, action, operator)),
        ApiRoute::Component(name) => deploy::component(admin, operator, name, (&parameters, request, record)).await,
        ApiRoute::Promote(name) => deploy::promote(admin, operator, name, &parameters).await,
        ApiRoute::Rollback(name) => deploy::rollback(admin, operator, name).await,
        ApiRoute::Purge(name) => {
            let path = parameters.get("path").unwrap_or("/");
            with(admin, name, |target| purge(admin, target, path, operator))
        }
        ApiRoute::ServiceData(name, rest) => data::respond(admin, operator, (name, rest), (&parameters, request)).await,
        ApiRoute::Data => data::all(admin).await,
        ApiRoute::Backup => data::backup(admin).await,
        ApiRoute::Logs => logs(admin, &parameters),
        ApiRoute::Events => changes(admin, &parameters),
        ApiRoute::Stream => {
            let all = Arc::clone(admin);
            following(admin, move |events| stream(all, events))
        }
        ApiRoute::Host => json(&admin.host()),
        ApiRoute::Cluster => admin.cluster().await,
        ApiRoute::LogLevel => json(&LogLevel { level: admin.logs.level() }),
        ApiRoute::SetLogLevel => set_level(admin, operator, request.into_body()).await,
        ApiRoute::Drain => {
            tracing::info!(target: CHANGE, "stopping, by {}", operator.shown());
            admin.stop.notify_one();
            let mut response = json(&DrainResult { stopping: true });
            *response.status_mut() = StatusCode::ACCEPTED;
            response
        }
        ApiRoute::OpenApi => typed("application/json", include_str!("openapi.json")),
    }
}

/// Responds with `response` of the service `name`; with 404 if there is none, or 503 if the host has not read all files yet.
fn with(admin: &Admin, name: &str, response: impl FnOnce(&Target) -> Response<Body>) -> Response<Body> {
    let snapshot = admin.current.snapshot();
    match snapshot.targets.iter().find(|target| &*target.deployment().name == name) {
        Some(target) => response(target),
        None if !snapshot.complete => {
            let why = "the host starts, and has not read all of its files yet; try again";
            problem(StatusCode::SERVICE_UNAVAILABLE, "starting", why)
        }
        None => problem(StatusCode::NOT_FOUND, "no-service", "no service of this name is served"),
    }
}

fn act(target: &Target, action: Action, operator: &Requester) -> Response<Body> {
    let (service, name) = (&target.deployment().service, &*target.deployment().name);
    let done = match action {
        Action::Unload if target.backend.guest().is_none_or(|guest| !guest.unload()) => {
            let why = "the compile cache does not have its machine code, so it stays in memory";
            return problem(StatusCode::CONFLICT, "not-cached", why);
        }
        Action::Unload => "unloaded",
        Action::Disable => {
            service.set_disabled(true);
            "disabled"
        }
        Action::Enable => {
            service.set_disabled(false);
            "enabled"
        }
    };
    tracing::info!(target: CHANGE, service = name, "{name}: {done} by {}", operator.shown());
    json(&ActionResult { service: name.to_owned(), state: report::state(target).into(), ..ActionResult::default() })
}

/// Removes the stored responses of a service at a path and below.
fn purge(admin: &Admin, target: &Target, path: &str, operator: &Requester) -> Response<Body> {
    // Responses are stored under the normal form of their path, whatever clients write.
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let Some(path) = canonical::normal(path).filter(|_| path.starts_with('/')) else {
        return problem(
            StatusCode::BAD_REQUEST,
            "bad-path",
            "`path` must be a path as clients write it, beginning with /",
        );
    };
    let path = path + query;
    let name = &*target.deployment().name;
    let purged = admin.responses.as_ref().map_or(0, |responses| responses.purge(name, &path));
    let who = operator.shown();
    tracing::info!(target: CHANGE, service = name, "{name}: removed {purged} stored responses at {path} and below, by {who}");
    json(&PurgeResult { service: name.to_owned(), path, purged })
}

async fn set_level(admin: &Admin, operator: &Requester, body: Upload<Incoming>) -> Response<Body> {
    let bad = |why: &str| problem(StatusCode::BAD_REQUEST, "bad-level", why);
    let read = tokio::time::timeout(admin.config.listener.header_read, Limited::new(body, BODY).collect());
    let Ok(Ok(body)) = read.await else { return bad("the body is too large, or did not arrive in time") };
    let Ok(wanted) = serde_json::from_slice::<LevelRequest>(&body.to_bytes()) else {
        return bad("the body must be {\"level\": \"info\"}");
    };
    match admin.logs.set_level(&wanted.level) {
        Ok(()) => {
            tracing::info!(target: CHANGE, "set the log level to {}, by {}", wanted.level, operator.shown());
            json(&LogLevel { level: wanted.level })
        }
        Err(why) => bad(&why),
    }
}

fn logs(admin: &Arc<Admin>, parameters: &QueryParameters) -> Response<Body> {
    let service = parameters.get("service").map(str::to_owned);
    let most = parameters.get("tail").map_or(Ok(TAIL), str::parse::<usize>);
    let Ok(most) = most else {
        return problem(StatusCode::BAD_REQUEST, "bad-tail", "`tail` must be a whole number");
    };
    match parameters.flag("follow") {
        Ok(true) => {}
        Ok(false) => return json(&admin.logs.tail.lines(service.as_deref(), most)),
        Err(why) => return problem(StatusCode::BAD_REQUEST, BAD_QUERY, &why),
    }
    let tail = Arc::clone(&admin.logs.tail);
    following(admin, async move |events| {
        let mut follower = tail.follow();
        let mut last = 0;
        for line in tail.lines(service.as_deref(), most) {
            last = line.seq;
            if !events.send("log", &*line).await {
                return;
            }
        }
        let wanted = |line: &Line| line.seq > last && (service.is_none() || line.service == service);
        follow(&mut follower, &events, wanted, "log").await;
    })
}

fn changes(admin: &Arc<Admin>, parameters: &QueryParameters) -> Response<Body> {
    match parameters.flag("follow") {
        Ok(true) => {}
        Ok(false) => return json(&admin.logs.tail.changes()),
        Err(why) => return problem(StatusCode::BAD_REQUEST, BAD_QUERY, &why),
    }
    let tail = Arc::clone(&admin.logs.tail);
    following(admin, async move |events| {
        let mut follower = tail.follow();
        let mut last = 0;
        for line in tail.changes() {
            last = line.seq;
            if !events.send("change", &*line).await {
                return;
            }
        }
        follow(&mut follower, &events, |line| line.seq > last && line.kind == LineKind::Change, "change").await;
    })
}

/// Responds with a stream of events, if there is a permit for another follower.
fn following<F: Future<Output = ()> + Send + 'static>(
    admin: &Admin,
    write: impl FnOnce(Events) -> F + Send + 'static,
) -> Response<Body> {
    match Arc::clone(&admin.followers).try_acquire_owned() {
        Ok(permit) => events(move |events| {
            let written = write(events);
            async move {
                written.await;
                drop(permit);
            }
        }),
        Err(_) => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "too-many-followers",
            "all streams of this listener are in use; try again later",
        ),
    }
}

/// Sends the wanted lines until the client disconnects.
async fn follow(
    follower: &mut lodge_base::telemetry::logs::tail::Follower,
    events: &Events,
    wanted: impl Fn(&Line) -> bool,
    name: &str,
) {
    let mut beat = tokio::time::interval(BEAT);
    loop {
        let sent = tokio::select! {
            () = events.closed() => return,
            next = follower.next() => match next {
                None => return,
                Some((line, lost)) => {
                    (lost == 0 || events.send(name, &Line::lost(lost)).await)
                        && (!wanted(&line) || events.send(name, &*line).await)
                }
            },
            _ = beat.tick() => events.beat().await,
        };
        if !sent {
            return;
        }
    }
}

/// Sends everything that the page shows, as it changes.
async fn stream(admin: Arc<Admin>, events: Events) {
    let mut follower = admin.logs.tail.follow();
    let mut every = tokio::time::interval(REPORT_INTERVAL);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let sent = tokio::select! {
            // The present state comes before the changes.
            biased;
            () = events.closed() => return,
            _ = every.tick() => {
                let reports = report::statuses(&admin.current.snapshot());
                events.send("services", &reports).await && events.send("host", &admin.host()).await
            }
            next = follower.next() => match next {
                None => return,
                Some((line, lost)) => {
                    let name = if line.kind == LineKind::Change { "change" } else { "log" };
                    (lost == 0 || events.send("log", &Line::lost(lost)).await) && events.send(name, &*line).await
                }
            },
        };
        if !sent {
            return;
        }
    }
}
