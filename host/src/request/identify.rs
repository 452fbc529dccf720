//! Finds out whose request it is, where its route needs credentials. Before the cache is asked: a stored response is not
//! for everybody either.

use std::net::IpAddr;
use std::time::SystemTime;

use http::{HeaderMap, Request, Response};

use super::admit::{Routed, admit_and_dispatch};
use super::cached::{self, CacheUse};
use super::record::Record;
use super::respond::Body;
use crate::request::error::RequestError;
use lodge_base::telemetry::traces::Phase;
use lodge_runtime::body::RequestBody;
use lodge_traffic::admission::rate::FailedAttempts;
use lodge_traffic::auth::PendingVerification;
use lodge_traffic::auth::denial::DenialKind;

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
    if let Some((attempts, client)) = attempts(routed).filter(|_| checks.is_needed(routed.route)) {
        attempts.check(client, record.start()).map_err(RequestError::AuthLimited)?;
    }
    let identity = checks.check(routed.route, headers, routed.caller.sender(), SystemTime::now())?;
    if let Some(identity) = &identity {
        record.set_identity(identity);
    }
    routed.identity = identity;
    Ok(())
}

/// Returns the failed attempts that count for a request, and its client. Those of services of this host do not count.
fn attempts<'a>(routed: &Routed<'a>) -> Option<(&'a FailedAttempts, IpAddr)> {
    let attempts = routed.handler.failed_attempts.as_ref().filter(|_| routed.caller.call.is_none())?;
    Some((attempts, routed.caller.client))
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
    pending.ok_or_else(|| counted(routed, error, record))
}

/// Counts an error as a failed attempt of its client, if the credentials were not valid.
fn counted(routed: &Routed<'_>, error: RequestError, record: &Record) -> RequestError {
    if let RequestError::Denied(denial) = &error
        && denial.cause.kind() == DenialKind::Invalid
        && let Some((attempts, client)) = attempts(routed)
    {
        attempts.count(client, record.start());
    }
    error
}

impl<B: RequestBody> Unidentified<'_, B> {
    /// Returns the response to the request, after the keys were fetched.
    ///
    /// # Errors
    /// Those of [`super::handle::handle`].
    pub(super) async fn handle(self, record: &mut Record) -> Result<Response<Body>, RequestError> {
        let Self { pending, mut routed, mut request, cache } = self;
        record.begin_phase(Phase::Queue);
        pending.resolve().await;
        if let Err(error) = identify(&mut routed, request.headers_mut(), record) {
            return Err(counted(&routed, error, record));
        }
        match cache {
            None => admit_and_dispatch(routed, request, None, record).await,
            Some(cache) => Box::pin(cached::handle(routed, request, cache, record)).await,
        }
    }
}
