//! Finds out whose request it is, where its route needs credentials. Before the cache is asked: a stored response is not
//! for everybody either.

use std::time::{Instant, SystemTime};

use http::{HeaderMap, Request, Response};

use super::admit::{Routed, admit_and_dispatch};
use super::cached::{self, CacheUse};
use super::record::Record;
use super::respond::Body;
use super::rules;
use super::validate::{self, Unvalidated};
use crate::request::error::RequestError;
use lodge_base::telemetry::traces::Phase;
use lodge_runtime::body::RequestBody;
use lodge_traffic::admission::rate::{Attempter, FailedAttempts};
use lodge_traffic::auth::PendingVerification;
use lodge_traffic::auth::passwords::HashPayer;

/// A request with credentials that the host cannot verify yet: a token by a key that the issuer may have made since the last fetch, or
/// a password whose hash takes long.
pub(super) struct Unidentified<'a, B> {
    /// What has to be done before.
    pub(super) pending: PendingVerification,
    pub(super) routed: Routed<'a>,
    pub(super) request: Request<B>,
    /// How the request uses the cache, if it does.
    pub(super) cache: Option<CacheUse<'a>>,
}

/// Verifies the credentials of a request, and writes the headers that say whose it is.
///
/// # Errors
/// If the client's address is not allowed, or its credentials are not.
pub(super) fn identify(
    routed: &mut Routed<'_>,
    headers: &mut HeaderMap,
    record: &mut Record,
) -> Result<(), RequestError> {
    let Some(checks) = routed.target.auth() else { return Ok(()) };
    if let Some(name) = checks.key_header(routed.route) {
        record.hide_header(name);
    }
    // The verification of credentials costs more than that of an address.
    routed.target.admission.check_client(&routed.view(headers))?;
    // So that secrets cannot be guessed, and attempts cost little.
    if let Some(attempts) = attempts(routed).filter(|_| checks.is_needed(routed.route)) {
        let (client, now) = (attempter(routed), record.start());
        attempts.check(client, now).map_err(|wait| limited(attempts, client, now, wait))?;
    }
    verify(routed, headers, record)
}

/// Verifies the credentials of a request whose client may try.
fn verify(routed: &mut Routed<'_>, headers: &mut HeaderMap, record: &mut Record) -> Result<(), RequestError> {
    let Some(checks) = routed.target.auth() else { return Ok(()) };
    let sender = (routed.caller.sender(), routed.browser.as_deref_mut());
    let identity = checks.check(routed.route, headers, sender, SystemTime::now())?;
    record.renewed = routed.browser.as_mut().and_then(|browser| browser.renewed.take()).map(Box::new);
    if let Some(identity) = &identity {
        record.set_identity(identity);
    }
    routed.identity = identity;
    Ok(())
}

/// Returns the failed attempts that count for a request. Those of services of this host do not count.
pub(super) fn attempts<'a>(routed: &Routed<'a>) -> Option<&'a FailedAttempts> {
    routed.handler.failed_attempts.as_ref().filter(|_| routed.caller.call.is_none())
}

/// Returns the error of a client that has to wait, and tells the log of it.
pub(super) fn limited(attempts: &FailedAttempts, client: Attempter, now: Instant, wait: u32) -> RequestError {
    if let Some(line) = attempts.tell(client, now) {
        tracing::warn!("{line}");
    }
    RequestError::AuthLimited(wait)
}

/// Returns who tries credentials by a request.
pub(super) fn attempter(routed: &Routed<'_>) -> Attempter {
    Attempter::new(routed.caller.client, routed.caller.peer.claimed()).calling(routed.calling())
}

/// Returns whom a hash for this request is charged to.
fn payers(routed: &Routed<'_>, client: Attempter) -> Vec<HashPayer> {
    match routed.caller.call.and_then(|call| call.from) {
        Some(service) => vec![HashPayer::Service(service.to_owned())],
        None => client.keys().map(HashPayer::Client).collect(),
    }
}

/// Returns what may turn this error into a success, or the error itself.
pub(super) fn may_change(
    routed: &Routed<'_>,
    headers: &HeaderMap,
    error: RequestError,
    record: &Record,
) -> Result<PendingVerification, RequestError> {
    let RequestError::Denied(denial) = &error else { return Err(error) };
    let pending = routed.target.auth().and_then(|checks| checks.may_change(routed.route, denial, headers));
    pending.ok_or_else(|| {
        if let Some(attempts) = attempts(routed).filter(|_| is_guess(&error)) {
            attempts.count(attempter(routed), record.start());
        }
        error
    })
}

/// Whether an error is a failed attempt of its client.
fn is_guess(error: &RequestError) -> bool {
    matches!(error, RequestError::Denied(denial) if denial.cause.is_guess())
}

impl<B: RequestBody> Unidentified<'_, B> {
    /// Returns the response to the request, after the keys were fetched or the hash was computed.
    ///
    /// # Errors
    /// Those of [`super::handle::handle`].
    pub(super) async fn handle(self, record: &mut Record) -> Result<Response<Body>, RequestError> {
        let Self { pending, mut routed, mut request, mut cache } = self;
        record.begin_phase(Phase::Queue);
        let (attempts, client, start) = (attempts(&routed), attempter(&routed), record.start());
        // Counted before the hash, and given back after it: a client that goes away meanwhile has used an attempt.
        let take = move || attempts.map_or(Ok(()), |attempts| attempts.take(client, start));
        let refused = |wait| match attempts {
            Some(attempts) => limited(attempts, client, start, wait),
            None => RequestError::AuthLimited(wait),
        };
        let taken = pending.resolve(payers(&routed, client), take).await.map_err(refused)?;
        let verified = verify(&mut routed, request.headers_mut(), record);
        match (attempts, verified.as_ref().is_err_and(is_guess)) {
            (Some(attempts), true) if !taken => attempts.count(client, start),
            (Some(attempts), false) if taken => attempts.give_back(client),
            _ => {}
        }
        verified?;
        rules::apply(&mut routed, &mut request, &mut cache, record)?;
        if let Some(expected) = validate::expected(&routed, &request, record)? {
            return Box::pin(Unvalidated { expected, routed, request, cache }.handle(record)).await;
        }
        match cache {
            None => admit_and_dispatch(routed, request, None, record).await,
            Some(cache) => Box::pin(cached::handle(routed, request, cache, record)).await,
        }
    }
}
