//! The request path, whole. Every step takes what the one before it gave; each can only say no in its own words.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Request, Response, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt, Empty};

use super::dispatch::dispatch;
use super::mirror;
use super::record::Record;
use super::respond::{Body, Reserve};
use crate::guests::absent::Why;
use crate::guests::snapshot::Snapshot;
use crate::guests::target::Target;
use crate::request::handler::{Handler, Hop};
use lodge_base::telemetry::traces::Phase;
use lodge_manifest::cache::Rules;
use lodge_runtime::body::RequestBody;
use lodge_runtime::capabilities::sandbox::RequestContext;
use lodge_traffic::admission::Refusal;
use lodge_traffic::cache;
use lodge_traffic::cache::{Found, Settled};
use lodge_traffic::error::RequestError;
use lodge_traffic::proxy::headers;
use lodge_traffic::proxy::headers::Arrival;
use lodge_traffic::routing::router::{Match, Missed};
use lodge_traffic::routing::split::Split;

/// Methods that a service can be asked for; CONNECT is for proxies.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE";

/// Answers one request, or says why not.
///
/// # Errors
/// Every way in which a request fails before the head of its answer is sent.
pub async fn handle<B: RequestBody>(
    handler: &Handler,
    hop: Hop<'_>,
    request: Request<B>,
    record: &mut Record,
) -> Result<Response<Body>, RequestError> {
    let Hop { peer, call } = hop;
    let (mut head, body) = request.into_parts();
    if handler.logs.requests.wanted() {
        record.detail(&handler.logs, peer.address(), &head);
    }
    record.begins(Phase::Route);
    let arrived = headers::normalize(&mut head, peer);
    record.asked(&head, peer.address());
    let arrival = arrived?;
    if head.extensions.get::<headers::TooManyFields>().is_some() {
        return Err(RequestError::TooManyFields);
    }
    if head.uri.path() == "*" {
        return Ok(options(handler, record));
    }
    let bound = find(handler, hop, arrival, &mut head, record)?;
    // Who came back over the network is as deep as one that was called so often.
    let depth = call.map_or(0, |call| call.depth).max(handler.via.count(&head.headers));
    if depth > bound.target.backend.limits().call_depth {
        return Err(RequestError::CallDepth);
    }
    fits(&bound.target, &head.headers, &body)?;
    let (version, mut request) = (head.version, Request::from_parts(head, body));
    // In boxes, here and below, is whatever only some requests need: all that is awaited is part of a future that is moved for
    // each of them, and with these it was 11 KB and not 5.
    let mut errand = match (&handler.responses, &bound.cached) {
        (Some(responses), Some((rules, uri))) => {
            bound.target.admission.check_client(&handler.asked(hop, request.headers(), bound.route))?;
            let at = (uri, bound.route);
            match Box::pin(responses.look(*rules, at, &bound.target.backend, &mut request, record)).await {
                Found::Kept(response) => return stored(handler, &bound.target, version, response, None, record),
                Found::Ask(errand) => errand,
            }
        }
        (Some(responses), None) if hop.call.is_some() => responses.called(&bound.target.backend, &request),
        _ => return ask(handler, hop, bound, request, depth, None, record).await,
    };
    let (target, route) = (Arc::clone(&bound.target), bound.route);
    let again = errand.unconditional(&request);
    let result = Box::pin(ask(handler, hop, bound, request, depth, Some(&mut errand), record)).await;
    let deadline = errand.deadline();
    let response = match (errand.settle(result, record.request_id()), again) {
        (Settled::Done(result), _) => result?,
        (Settled::Again(errand), Some(head)) => {
            Box::pin(ask_again(handler, hop, (head, &target, route), depth, errand, record)).await?
        }
        (Settled::Again(_), None) => return Err(cache::unconditional()),
    };
    stored(handler, &target, version, response, deadline, record)
}

/// A response whose body may be a stored one, which other responses share. While there is no room for it in
/// `listener.unsent` it takes a place of its service, until the `deadline` of the request, or for `limits.wall` where the
/// service was not asked.
///
/// # Errors
/// When there is no such place, or no time left.
fn stored(
    handler: &Handler,
    target: &Target,
    version: Version,
    response: Response<Body>,
    deadline: Option<Instant>,
    record: &Record,
) -> Result<Response<Body>, RequestError> {
    let (head, mut body) = response.into_parts();
    let reserve = Reserve { version, unsent: &handler.unsent };
    if !body.count(0, reserve) {
        let now = Instant::now();
        let deadline = deadline.unwrap_or_else(|| now + target.backend.limits().wall);
        if deadline <= now {
            return Err(RequestError::QueueTimeout);
        }
        body = body.permitted(target.admission.try_admit(record.start())?, deadline, reserve);
    }
    Ok(Response::from_parts(head, body))
}

/// Sends a request once more, after its service has confirmed another response than the one that the cache asked about.
/// It uses its rate only once, and has what is left of its first `limits.wall`, queues included.
async fn ask_again(
    handler: &Handler,
    hop: Hop<'_>,
    (head, target, route): (http::request::Parts, &Target, usize),
    depth: usize,
    mut errand: cache::Errand,
    record: &mut Record,
) -> Result<Response<Body>, RequestError> {
    let body: mirror::AnyBody = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::from_parts(head, body);
    let asked = handler.asked(hop, request.headers(), route);
    let client = asked.client();
    let deadline = errand.deadline().unwrap_or_else(|| record.start() + target.backend.limits().wall);
    let admitted = tokio::time::timeout_at(deadline.into(), target.admission.admit_again(&asked, Instant::now())).await;
    let result = match admitted.unwrap_or(Err(Refusal::QueueTimeout)) {
        Ok(permit) => {
            record.admitted(&permit);
            errand.begins(deadline);
            let to = RequestContext { request_id: Arc::clone(record.request_id()), deadline, depth, onward: None };
            dispatch((&handler.tracer, &handler.unsent), target, permit, request, client, to, record).await
        }
        Err(refusal) => Err(refusal.into()),
    };
    match errand.settle(result, record.request_id()) {
        Settled::Done(result) => result,
        Settled::Again(_) => Err(cache::unconditional()),
    }
}

/// Has a request that so many calls led to answered by its service.
#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice, and the request with them")]
fn ask<B: RequestBody>(
    handler: &Handler,
    hop: Hop<'_>,
    bound: Bound,
    request: Request<B>,
    depth: usize,
    cached: Option<&mut cache::Errand>,
    record: &mut Record,
) -> impl Future<Output = Result<Response<Body>, RequestError>> {
    async move {
        let Bound { target, route, mirror, judged, .. } = bound;
        record.begins(Phase::Queue);
        let asked = handler.asked(hop, request.headers(), route);
        let mut permit = target.admission.admit(&asked, record.start()).await?;
        if judged {
            permit.judge(&target.backend.service.figures.judged, record.start());
        }
        let client = asked.client();
        let own = record.admitted(&permit) + target.backend.limits().wall;
        let deadline = hop.call.map_or(own, |call| own.min(call.deadline));
        cached.into_iter().for_each(|cached| cached.begins(deadline));
        let context = RequestContext { request_id: Arc::clone(record.request_id()), deadline, depth, onward: None };
        let Some((version, route)) = mirror else {
            return dispatch((&handler.tracer, &handler.unsent), &target, permit, request, client, context, record)
                .await;
        };
        let (request, copy) = mirror::doubled(request);
        let shown = mirror::show((version, route, judged), copy, client, context.clone(), Arc::clone(&handler.unsent));
        tokio::spawn(shown);
        Box::pin(dispatch((&handler.tracer, &handler.unsent), &target, permit, request, client, context, record)).await
    }
}

/// Where a request is bound for: who answers it, by which of the service's routes, whose answers are kept or not, and who
/// is shown it besides.
struct Bound {
    target: Arc<Target>,
    route: usize,
    cached: Cached,
    mirror: Option<(Arc<Target>, Arc<str>)>,
    /// How it goes says something of how versions compare.
    judged: bool,
}

/// What becomes of the responses to a URI, as it was routed.
type Cached = Option<(Rules, Uri)>;

/// One snapshot per request, let go before the first wait: an old one must not be kept alive by a slow guest.
fn find(
    handler: &Handler,
    hop: Hop<'_>,
    arrival: Arrival,
    head: &mut http::request::Parts,
    record: &mut Record,
) -> Result<Bound, RequestError> {
    let snapshot = handler.current.snapshot();
    let names = handler.service_hosts.admits(arrival.local);
    let found = way(&snapshot, hop, head, names);
    // A catch-all route of another service is no answer for one that does not answer.
    if !snapshot.absent.is_empty()
        && let Some(error) = absent(&snapshot, hop, (head, names, found.is_ok()), handler.explains)
    {
        return Err(error);
    }
    match found {
        Ok(found) => {
            let cached = found.cache.map(|rules| (rules, head.uri.clone()));
            if found.prefix > 0 {
                headers::strip_prefix(head, found.prefix)?;
            }
            let (service, number) = (found.target, found.number);
            let split = service.split.as_ref();
            let choose = |split: &Split<Target>| {
                let client = handler.asked(hop, &head.headers, number).client();
                let choice = split.choose(&head.headers, client, record.start());
                (choice.version.cloned(), choice.judged)
            };
            let (version, judged) = split.map_or((None, false), choose);
            let target = version.unwrap_or_else(|| Arc::clone(service));
            record.found(&target.backend, found.route);
            if service.is_disabled() {
                return Err(RequestError::Disabled);
            }
            let mirror = split.and_then(Split::mirror).filter(|version| !Arc::ptr_eq(version, &target));
            let mirror = mirror.map(|version| (Arc::clone(version), Arc::clone(found.route)));
            Ok(Bound { target, route: number, cached, mirror, judged })
        }
        Err(Missed::Ambiguous) => Err(RequestError::BadRequest(
            "the path has another spelling, under which other rules hold: write it without `//`, `;`, `%2F` and `\\`",
        )),
        Err(Missed::Method(allow)) => Err(RequestError::MethodNotAllowed(allow)),
        // The directory was not looked at yet.
        Err(Missed::Route) if snapshot.generation == 0 => Err(RequestError::Starting),
        Err(Missed::Route) => Err(RequestError::NoRoute),
    }
}

/// Why the service whose request this is does not answer, if it is starting or refused. A call goes by a name, so nothing can
/// be `found` in its place.
fn absent(
    snapshot: &Snapshot,
    hop: Hop<'_>,
    (head, names, found): (&http::request::Parts, bool, bool),
    explains: bool,
) -> Option<RequestError> {
    let authority = head.uri.authority().map_or("", |authority| authority.as_str());
    let why = match hop.call {
        Some(_) if found => return None,
        Some(call) => snapshot.absent.called(call.host),
        None => snapshot.absent.at(authority, head.uri.path(), &head.method, names),
    };
    Some(match why? {
        Why::Starting => RequestError::Starting,
        Why::Refused(why) => RequestError::Refused(why.clone(), explains),
    })
}

/// A client comes by a route, or by the name of the service where `names` says so, and a guest of this host by the name.
fn way<'a>(
    snapshot: &'a Snapshot,
    hop: Hop<'_>,
    head: &http::request::Parts,
    names: bool,
) -> Result<Match<'a, Arc<Target>>, Missed> {
    let Some(call) = hop.call else {
        let authority = head.uri.authority().map_or("", |authority| authority.as_str());
        return snapshot.router.find(authority, head.uri.path(), &head.method, names);
    };
    let target = snapshot.hosts.get(call.host).ok_or(Missed::Route)?;
    // What is kept is kept for clients: an answer to a guest may be another, and says so in no header.
    Ok(Match { target, route: &snapshot.everywhere, number: usize::MAX, prefix: 0, cache: None })
}

/// The answer to `OPTIONS *`, which asks the server and no service of it (RFC 9110 9.3.7).
fn options(handler: &Handler, record: &mut Record) -> Response<Body> {
    record.is_the_hosts(&handler.nobody);
    let mut response = Response::new(Body::text(None));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(METHODS));
    response
}

/// A body that says it is too large is refused before a sandbox is made for it.
fn fits<B: RequestBody>(target: &Target, headers: &http::HeaderMap, body: &B) -> Result<(), RequestError> {
    let limit = target.backend.limits().request_body as u64;
    let announced = body.size_hint().exact().filter(|_| headers.contains_key(header::CONTENT_LENGTH));
    if announced.is_some_and(|size| size > limit) { Err(RequestError::BodyTooLarge) } else { Ok(()) }
}
