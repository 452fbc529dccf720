//! Finds out whose request it is, where its route needs credentials. Before the cache is asked: a stored response is not
//! for everybody either.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, Request, Response};

use super::admit::{Routed, admit_and_dispatch};
use super::cached::{self, CacheUse};
use super::record::Record;
use super::respond::Body;
use crate::request::error::RequestError;
use lodge_base::telemetry::traces::Phase;
use lodge_runtime::body::RequestBody;
use lodge_traffic::auth::remote::Remote;

/// A request with a token that names a key which the host does not know. The issuer may have made it since the last fetch.
pub(super) struct Unidentified<'a, B> {
    /// The server of the keys.
    pub(super) remote: Arc<Remote>,
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
    let identity = checks.check(routed.route, headers, routed.caller.sender(), SystemTime::now())?;
    if let Some(identity) = &identity {
        record.set_identity(identity);
    }
    routed.identity = identity;
    Ok(())
}

/// Returns the server of the issuer's keys, if the next fetch from it may turn this error into a success.
pub(super) fn may_change(routed: &Routed<'_>, error: &RequestError) -> Option<Arc<Remote>> {
    let RequestError::Denied(denial) = error else { return None };
    routed.target.auth()?.may_change(routed.route, denial)
}

impl<B: RequestBody> Unidentified<'_, B> {
    /// Returns the response to the request, after the keys were fetched.
    ///
    /// # Errors
    /// Those of [`super::handle::handle`].
    pub(super) async fn handle(self, record: &mut Record) -> Result<Response<Body>, RequestError> {
        let Self { remote, mut routed, mut request, cache } = self;
        record.begin_phase(Phase::Queue);
        remote.refetch().await;
        identify(&mut routed, request.headers_mut(), record)?;
        match cache {
            None => admit_and_dispatch(routed, request, None, record).await,
            Some(cache) => Box::pin(cached::handle(routed, request, cache, record)).await,
        }
    }
}
