//! Requests that may get a stored response, whose response may be stored, or that may invalidate stored responses.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response, Uri, Version};
use http_body_util::{BodyExt, Empty};

use super::admit::{Routed, admit_and_dispatch};
use super::dispatch::dispatch;
use super::mirror;
use super::record::Record;
use super::respond::{Body, Reserve};
use crate::request::error::RequestError;
use lodge_manifest::cache::Rules;
use lodge_runtime::body::RequestBody;
use lodge_traffic::admission::Refusal;
use lodge_traffic::cache::{CacheFill, Lookup, ResponseCache, Settled, UnexpectedNotModified};

/// How a request uses the cache.
pub(super) struct CacheUse<'a> {
    pub(super) responses: &'a Arc<ResponseCache>,
    /// The rules of the route, and the URI to which they apply. `None` for a call, which gets no stored response but
    /// may invalidate some.
    pub(super) rules: Option<(Rules, Uri)>,
}

/// Returns a stored response, or that of the service.
///
/// # Errors
/// Those of [`super::handle::handle`].
pub(super) async fn handle<B: RequestBody>(
    routed: Routed<'_>,
    mut request: Request<B>,
    CacheUse { responses, rules }: CacheUse<'_>,
    record: &mut Record,
) -> Result<Response<Body>, RequestError> {
    let version = request.version();
    let deployment = routed.target.deployment();
    let mut fill = match rules {
        None => responses.invalidated_by_call(deployment, &request),
        Some((rules, uri)) => {
            routed.target.admission.check_client(&routed.view(request.headers()))?;
            let at = (&uri, routed.route);
            match responses.lookup(rules, at, deployment, &mut request, record).await {
                Lookup::Hit(response) => {
                    record.set_allowed();
                    return with_room(&routed, version, response, None, record);
                }
                Lookup::Miss(fill) => fill,
            }
        }
    };
    let (target, unconditional) = (Arc::clone(&routed.target), fill.unconditional(&request));
    let again = Routed {
        target,
        mirror: None,
        judged: false,
        identity: routed.identity.clone(),
        browser: None,
        ruled: None,
        word: routed.word.clone(),
        ..routed
    };
    let result = admit_and_dispatch(routed, request, Some(&mut fill), record).await;
    let deadline = fill.deadline();
    let response = match (fill.settle(result), unconditional) {
        (Settled::Done(result), _) => result?,
        (Settled::Stale(response, error), _) => stale(response, error, &again, record),
        (Settled::Retry(fill), Some(head)) => dispatch_again(&again, head, fill, record).await?,
        (Settled::Retry(_), None) => return Err(UnexpectedNotModified.into()),
    };
    with_room(&again, version, response, deadline, record)
}

/// Sends a request again, without conditions, after the service has confirmed another response than the one in the
/// cache. The request takes no second rate token, and has what is left of its first `limits.wall`, queues included.
async fn dispatch_again(
    routed: &Routed<'_>,
    head: http::request::Parts,
    mut fill: CacheFill,
    record: &mut Record,
) -> Result<Response<Body>, RequestError> {
    let body: mirror::AnyBody = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
    let mut request = Request::from_parts(head, body);
    let view = routed.view(request.headers());
    let deadline = fill.deadline().unwrap_or_else(|| record.start() + routed.target.deployment().limits().wall);
    let admitting = routed.target.admission.admit_again(&view, Instant::now());
    let admitted = tokio::time::timeout_at(deadline.into(), admitting).await;
    let result = match admitted.unwrap_or(Err(Refusal::QueueTimeout)) {
        Ok(mut permit) => {
            routed.limit(&mut permit, record);
            fill.begin(deadline);
            if let Some(front) = &record.front {
                front.change_request(request.headers_mut());
            }
            dispatch(routed.admitted(permit, deadline, record), request).await
        }
        Err(refusal) => Err(refusal.into()),
    };
    match fill.settle(result) {
        Settled::Done(result) => result,
        Settled::Stale(response, error) => Ok(stale(response, error, routed, record)),
        Settled::Retry(_) => Err(UnexpectedNotModified.into()),
    }
}

/// Returns a stored response in place of the service's failure, and counts the failure.
fn stale(
    response: Response<Body>,
    error: Option<RequestError>,
    routed: &Routed<'_>,
    record: &mut Record,
) -> Response<Body> {
    record.set_allowed();
    if let Some(error) = error {
        error.record(&routed.target.deployment().service, record.request_id(), false);
    }
    response
}

/// Returns the response, whose body may be a stored one that other responses share. While `listener.unsent` has no room
/// for it, it takes a slot of its service, until the `deadline` of the request, or for `limits.wall` if no request was
/// sent to the service.
///
/// # Errors
/// If there is no such slot, or no time left.
fn with_room(
    routed: &Routed<'_>,
    version: Version,
    response: Response<Body>,
    deadline: Option<Instant>,
    record: &Record,
) -> Result<Response<Body>, RequestError> {
    let (head, mut body) = response.into_parts();
    let (target, reserve) = (&routed.target, Reserve { version, unsent: &routed.handler.unsent });
    if !body.count(0, reserve) {
        let now = Instant::now();
        let deadline = deadline.unwrap_or_else(|| now + target.deployment().limits().wall);
        if deadline <= now {
            return Err(Refusal::QueueTimeout.into());
        }
        body = body.permitted(target.admission.try_admit(record.start())?, deadline, reserve);
    }
    Ok(Response::from_parts(head, body))
}
