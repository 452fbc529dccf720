//! The request path, whole. Every step takes what the one before it gave; each can only say no in its own words.

use std::net::IpAddr;
use std::sync::Arc;

use http::{Request, Response, header};

use super::body::RequestBody;
use super::forward;
use super::frame::{Handler, Hop};
use super::headers;
use super::instance::Instance;
use super::mirror;
use super::record::Record;
use super::respond::{self, Body};
use super::route::Missed;
use super::split::Split;
use crate::admission::Permit;
use crate::capabilities::sandbox::Errand;
use crate::error::RequestError;
use crate::guests::deployment::Backend;
use crate::guests::snapshot::{Current, Target};
use crate::traces::{Phase, Tracer};

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
    let arrived = headers::arrive(&mut head, peer);
    record.asked(&head, peer.address());
    arrived?;
    let Found { target, mirror } = find(&handler.current, hop, &mut head, record)?;
    let depth = call.map_or(0, |call| call.depth);
    if depth > target.backend.limits().call_depth {
        return Err(RequestError::CallDepth);
    }
    fits(&target, &head.headers, &body)?;

    record.begins(Phase::Queue);
    let permit = target.admission.admit().await?;
    let own = record.admitted(&permit) + target.backend.limits().wall;
    let deadline = call.map_or(own, |call| own.min(call.deadline));
    let errand = Errand { request_id: Arc::clone(record.request_id()), deadline, depth, onward: None };
    let request = Request::from_parts(head, body);
    let Some((version, route)) = mirror else {
        return run(&handler.tracer, &target, permit, request, peer.address(), errand, record).await;
    };
    let (request, copy) = mirror::doubled(request);
    tokio::spawn(mirror::show(handler.tracer.clone(), version, route, copy, peer.address(), errand.clone()));
    run(&handler.tracer, &target, permit, request, peer.address(), errand, record).await
}

/// Has the target answer a request that was admitted.
///
/// # Errors
/// Every way in which it fails to.
pub(super) async fn run<B: RequestBody>(
    tracer: &Tracer,
    target: &Target,
    permit: Permit,
    request: Request<B>,
    client: IpAddr,
    mut errand: Errand,
    record: &mut Record,
) -> Result<Response<Body>, RequestError> {
    let (method, deadline) = (request.method().clone(), errand.deadline);
    let guest = match &target.backend {
        Backend::Guest(guest) => guest,
        Backend::Upstream(upstream) => {
            record.begins(Phase::Guest);
            let (head, body) = forward::forward(upstream, request, client, deadline).await?;
            return Ok(respond::relaying(permit, head, body, &method, deadline));
        }
    };
    record.begins(Phase::Instantiate);
    let instance = Instance::take(guest, deadline).await?;
    record.begins(Phase::Guest);
    if guest.sends() {
        errand.onward = tracer.onward(request.headers());
    }
    let answer = instance.call(Arc::clone(guest), request, errand).await?;
    respond::holding(permit, answer, &method, deadline)
}

/// Who answers, and who is shown the request besides, as on which route.
struct Found {
    target: Arc<Target>,
    mirror: Option<(Arc<Target>, Arc<str>)>,
}

/// One snapshot per request, let go before the first wait: an old one must not be kept alive by a slow guest.
fn find(
    current: &Current,
    hop: Hop<'_>,
    head: &mut http::request::Parts,
    record: &mut Record,
) -> Result<Found, RequestError> {
    let snapshot = current.snapshot();
    let authority = hop.call.map(|call| call.host).or_else(|| Some(head.uri.authority()?.as_str())).unwrap_or_default();
    match snapshot.router.find(authority, head.uri.path(), &head.method) {
        Ok(found) => {
            if found.prefix > 0 {
                headers::strip_prefix(head, found.prefix)?;
            }
            let service = found.target;
            let split = service.split.as_ref();
            let target = split.and_then(|split| split.choose(&head.headers, hop.peer.address())).unwrap_or(service);
            record.found(&target.backend, found.route);
            // Its versions are switched off with it.
            if service.backend.service.is_disabled() {
                return Err(RequestError::Disabled);
            }
            let mirror = split.and_then(Split::mirror).filter(|version| !Arc::ptr_eq(version, target));
            let mirror = mirror.map(|version| (Arc::clone(version), Arc::clone(found.route)));
            Ok(Found { target: Arc::clone(target), mirror })
        }
        Err(Missed::Method(allow)) => Err(RequestError::MethodNotAllowed(allow)),
        Err(Missed::Route) if !snapshot.complete => Err(RequestError::Starting),
        Err(Missed::Route) => Err(RequestError::NoRoute),
    }
}

/// A body that says it is too large is refused before a sandbox is made for it.
fn fits<B: RequestBody>(target: &Target, headers: &http::HeaderMap, body: &B) -> Result<(), RequestError> {
    let limit = target.backend.limits().request_body as u64;
    let announced = body.size_hint().exact().filter(|_| headers.contains_key(header::CONTENT_LENGTH));
    if announced.is_some_and(|size| size > limit) { Err(RequestError::BodyTooLarge) } else { Ok(()) }
}
