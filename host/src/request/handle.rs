//! The request path, whole. Every step takes what the one before it gave; each can only say no in its own words.

use std::sync::Arc;

use http::{Request, Response, Uri, header};

use super::body::RequestBody;
use super::headers::{self, Peer};
use super::instance::Instance;
use super::record::Record;
use super::respond::{self, Body};
use super::route::Missed;
use super::serve::Server;
use crate::error::RequestError;
use crate::guests::deployment::Backend;
use crate::guests::manifest::cache::Rules;
use crate::guests::snapshot::{Current, Target};
use crate::responses::Found;
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
    let (target, cached) = find(&server.current, &mut head, peer, record)?;
    fits(&target, &head.headers, &body)?;
    let mut request = Request::from_parts(head, body);
    let mut errand = None;
    if let (Some(responses), Some((rules, uri))) = (&server.responses, cached) {
        match responses.look(rules, &uri, &target.backend, &mut request, record).await {
            Found::Kept(response) => return Ok(response),
            Found::Ask(asks) => errand = Some(asks),
        }
    }
    let result = ask(&target, request, record).await;
    match errand {
        Some(errand) => errand.settle(result, record),
        None => result,
    }
}

/// Has a request answered by its service.
async fn ask<B: RequestBody>(
    target: &Target,
    request: Request<B>,
    record: &mut Record,
) -> Result<Response<Body>, RequestError> {
    let method = request.method().clone();
    record.begins(Phase::Queue);
    let permit = target.admission.admit().await?;
    let deadline = record.admitted(&permit) + target.backend.limits().wall;
    let guest = match &target.backend {
        Backend::Guest(guest) => guest,
        Backend::Upstream(_) => return Err(RequestError::NoAnswer),
    };
    record.begins(Phase::Instantiate);
    let instance = Instance::take(guest, deadline).await?;
    record.begins(Phase::Guest);
    let answer = instance.call(Arc::clone(guest), request, Arc::clone(record.request_id()), deadline).await?;
    respond::holding(permit, answer, &method, deadline)
}

/// What becomes of the answers to a URI, as the client has it.
type Cached = Option<(Rules, Uri)>;

/// One snapshot per request, let go before the first wait: an old one must not be kept alive by a slow guest.
fn find(
    current: &Current,
    head: &mut http::request::Parts,
    peer: &Peer,
    record: &mut Record,
) -> Result<(Arc<Target>, Cached), RequestError> {
    let snapshot = current.snapshot();
    let authority = head.uri.authority().map_or("", |authority| authority.as_str());
    match snapshot.router.find(authority, head.uri.path(), &head.method) {
        Ok(found) => {
            let cached = found.cache.map(|rules| (rules, head.uri.clone()));
            if found.prefix > 0 {
                headers::strip_prefix(head, found.prefix)?;
            }
            let service = found.target;
            let chosen = service.split.as_ref().and_then(|split| split.choose(&head.headers, peer.address()));
            let target = chosen.unwrap_or(service);
            record.found(&target.backend, found.route);
            // Its versions are switched off with it.
            if service.backend.service.is_disabled() {
                Err(RequestError::Disabled)
            } else {
                Ok((Arc::clone(target), cached))
            }
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
