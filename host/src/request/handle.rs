//! The request path, whole. Every step takes what the one before it gave; each can only say no in its own words.

use std::sync::Arc;

use http::{Request, Response, header};

use super::body::RequestBody;
use super::frame::{Handler, Hop};
use super::headers;
use super::instance::Instance;
use super::record::Record;
use super::respond::{self, Body};
use super::route::Missed;
use crate::capabilities::sandbox::Errand;
use crate::error::RequestError;
use crate::guests::snapshot::{Current, Target};
use crate::traces::Phase;

/// Answers one request, or says why not.
///
/// # Errors
/// Every way in which a request fails before the head of its answer is sent.
pub async fn handle<B: RequestBody>(
    handler: &Handler,
    Hop { peer, call }: Hop<'_>,
    request: Request<B>,
    record: &mut Record,
) -> Result<Response<Body>, RequestError> {
    let (mut head, body) = request.into_parts();
    if handler.logs.requests.wanted() {
        record.detail(&handler.logs, peer.address(), &head);
    }
    record.begins(Phase::Route);
    let arrived = headers::arrive(&mut head, peer);
    record.asked(&head, peer.address());
    arrived?;
    let target = find(&handler.current, call.map(|call| call.host), &mut head, record)?;
    if target.guest.service.is_disabled() {
        return Err(RequestError::Disabled);
    }
    let depth = call.map_or(0, |call| call.depth);
    if depth > target.guest.limits().call_depth {
        return Err(RequestError::CallDepth);
    }
    fits(&target, &head.headers, &body)?;
    let method = head.method.clone();

    record.begins(Phase::Queue);
    let permit = target.admission.admit().await?;
    let own = record.admitted(&permit) + target.guest.limits().wall;
    let deadline = call.map_or(own, |call| own.min(call.deadline));
    record.begins(Phase::Instantiate);
    let instance = Instance::take(&target.guest, deadline).await?;
    record.begins(Phase::Guest);
    let onward = if target.guest.sends() { handler.tracer.onward(&head.headers) } else { None };
    let errand = Errand { request_id: Arc::clone(record.request_id()), deadline, depth, onward };
    let answer = instance.call(Arc::clone(&target.guest), Request::from_parts(head, body), errand).await?;
    respond::holding(permit, answer, &method, deadline)
}

/// One snapshot per request, let go before the first wait: an old one must not be kept alive by a slow guest.
fn find(
    current: &Current,
    host: Option<&str>,
    head: &mut http::request::Parts,
    record: &mut Record,
) -> Result<Arc<Target>, RequestError> {
    let snapshot = current.snapshot();
    let authority = host.or_else(|| Some(head.uri.authority()?.as_str())).unwrap_or_default();
    match snapshot.router.find(authority, head.uri.path(), &head.method) {
        Ok(found) => {
            if found.prefix > 0 {
                headers::strip_prefix(head, found.prefix)?;
            }
            record.found(&found.target.guest, found.route);
            Ok(Arc::clone(found.target))
        }
        Err(Missed::Method(allow)) => Err(RequestError::MethodNotAllowed(allow)),
        Err(Missed::Route) if !snapshot.complete => Err(RequestError::Starting),
        Err(Missed::Route) => Err(RequestError::NoRoute),
    }
}

/// A body that says it is too large is refused before a sandbox is made for it.
fn fits<B: RequestBody>(target: &Target, headers: &http::HeaderMap, body: &B) -> Result<(), RequestError> {
    let limit = target.guest.limits().request_body as u64;
    let announced = body.size_hint().exact().filter(|_| headers.contains_key(header::CONTENT_LENGTH));
    if announced.is_some_and(|size| size > limit) { Err(RequestError::BodyTooLarge) } else { Ok(()) }
}
