//! Applies the `[[rules]]` of a service, once it is known whose the request is: before the cache, so that a stored response is not
//! for a request that is denied, and before a sandbox is made.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use http::Request;

use super::admit::{Routed, check_limits};
use super::cached::CacheUse;
use super::record::Record;
use crate::guests::target::Target;
use crate::request::error::RequestError;
use lodge_base::canonical;
use lodge_runtime::body::RequestBody;
use lodge_traffic::routing::router::Missed;
use lodge_traffic::routing::split::Split;
use lodge_traffic::rules::input::RuleInput;
use lodge_traffic::rules::{RefusalCause, RuleRefusal};

/// Applies the rules to a request. One that gets headers, or a version of its own, neither gets a stored response nor leaves one:
/// its response may differ from that to another request in a way that the cache does not know of.
///
/// # Errors
/// If a rule denies the request or cannot be evaluated, if the address of its client is not allowed, or if a rule needs its path
/// and a service may read that in several ways.
pub(super) fn apply<B: RequestBody>(
    routed: &mut Routed<'_>,
    request: &mut Request<B>,
    cache: &mut Option<CacheUse<'_>>,
    record: &mut Record,
) -> Result<(), RequestError> {
    let Some(ruled) = routed.ruled.take() else { return Ok(()) };
    let Some(rules) = &ruled.service.deployment().rules else { return Ok(()) };
    routed.target.admission.check_client(&routed.view(request.headers()))?;
    rules.remove_forged(request.headers_mut());
    let uses = rules.uses();
    // In the form in which routes are compared, so that a rule cannot be avoided by another spelling.
    let only = || canonical::only_reading(ruled.uri.path()).ok_or(Missed::Ambiguous);
    let path = if uses.path { only()? } else { Cow::Borrowed("") };
    let input = RuleInput {
        method: request.method(),
        uri: &ruled.uri,
        path: &path,
        headers: request.headers(),
        size: request.body().size_hint().exact(),
        identity: routed.identity.as_deref(),
        sender: routed.caller.sender(),
        client: routed.caller.client,
        claimed: routed.caller.peer.claimed(),
        now: if uses.clock { SystemTime::now() } else { SystemTime::UNIX_EPOCH },
    };
    let decision = rules.decide(routed.route, &input).map_err(|refusal| {
        if matches!(refusal.cause, RefusalCause::Failed(_)) && rules.may_log(SystemTime::now()) {
            log(&ruled.service, &refusal, record);
        }
        RequestError::Rule(Box::new(refusal))
    })?;
    if decision.is_personal() && request.method().is_safe() {
        *cache = None;
    }
    for (name, value) in decision.set {
        request.headers_mut().insert(name, value);
    }
    let label = |target: &Target| decision.version == target.deployment().spec.version_of().map(|(_, label)| label);
    let split = ruled.service.split.as_ref().filter(|_| decision.version.is_some());
    if let Some((version, judged)) = split.and_then(|split: &Split<Target>| split.named(label)) {
        (routed.target, routed.judged) = (Arc::clone(version), judged);
        routed.mirror = routed.mirror.take().filter(|(mirror, _)| !Arc::ptr_eq(mirror, version));
        record.set_route(version.deployment(), &ruled.route);
        check_limits(routed, request.headers(), request.body())?;
    }
    Ok(())
}

fn log(service: &Target, refusal: &RuleRefusal, record: &Record) {
    let (service, request_id, detail) = (&*service.deployment().name, &**record.request_id(), refusal.detail());
    tracing::warn!(
        service,
        request_id,
        detail,
        "denied a request, because a rule could not be evaluated for it; said once a minute"
    );
}
