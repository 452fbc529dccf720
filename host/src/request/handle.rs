//! The request path, whole. Every step takes what the one before it gave; each can only say no in its own words.

use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response, header};

use super::answer::Answer;
use super::body::RequestBody;
use super::headers::{self, Peer};
use super::instance::Instance;
use super::record::Record;
use super::respond::{self, Body};
use super::route::Missed;
use super::serve::Server;
use crate::admission::Asked;
use crate::error::RequestError;
use crate::guests::guest::Guest;
use crate::guests::snapshot::{Current, Target};
use crate::traces::Phase;

/// Answers one request, or says why not.
///
/// # Errors
/// Every way in which a request fails before the head of its answer is sent.
pub async fn handle<B: RequestBody>(
    server: &Server,
    peer: &Peer,
    request: Request<B>,
    record: &mut Record,
) -> Result<Response<Body>, RequestError> {
    let (mut head, body) = request.into_parts();
    if server.logs.requests.wanted() {
        record.detail(&server.logs, peer.address(), &head);
    }
    record.begins(Phase::Route);
    let arrived = headers::arrive(&mut head, peer);
    record.asked(&head, peer.address());
    arrived?;
    let (target, route) = find(&server.current, &mut head, record)?;
    if target.guest.service.is_disabled() {
        return Err(RequestError::Disabled);
    }
    fits(&target, &head.headers, &body)?;
    let method = head.method.clone();

    record.begins(Phase::Queue);
    let asked = Asked {
        peer: peer.address(),
        proxies: peer.is_trusted().then_some(&*server.trusted_proxies),
        headers: &head.headers,
        route,
    };
    let permit = target.admission.admit(&asked, record.start()).await?;
    let deadline = record.admitted(&permit) + target.guest.limits().wall;
    let answer = answer(&target.guest, Request::from_parts(head, body), record, deadline).await;
    respond::holding(permit, answer, &method, deadline)
}

/// Runs the guest in a sandbox of its own until the head of its answer is there.
async fn answer<B: RequestBody>(
    guest: &Arc<Guest>,
    request: Request<B>,
    record: &mut Record,
    deadline: Instant,
) -> Result<Answer, RequestError> {
    record.begins(Phase::Instantiate);
    let instance = Instance::take(guest, deadline).await?;
    record.begins(Phase::Guest);
    instance.call(Arc::clone(guest), request, Arc::clone(record.request_id()), deadline).await
}

/// One snapshot per request, let go before the first wait: an old one must not be kept alive by a slow guest.
fn find(
    current: &Current,
    head: &mut http::request::Parts,
    record: &mut Record,
) -> Result<(Arc<Target>, usize), RequestError> {
    let snapshot = current.snapshot();
    let authority = head.uri.authority().map_or("", |authority| authority.as_str());
    match snapshot.router.find(authority, head.uri.path(), &head.method) {
        Ok(found) => {
            if found.prefix > 0 {
                headers::strip_prefix(head, found.prefix)?;
            }
            record.found(&found.target.guest, found.route);
            Ok((Arc::clone(found.target), found.number))
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
