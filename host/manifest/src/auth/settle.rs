//! What routes have from their service, and what contradicts itself.

use http::header::HeaderName;

use super::{Auth, CallCredentials, Settings};
use crate::Manifest;
use crate::key::RequestKey;
use crate::rate::{self, By};
use crate::written::Problems;

/// Gives the routes what they have from their service, and finds what is contradictory.
pub(crate) fn settle(manifest: &mut Manifest, problems: &mut Problems) {
    let nothing = "auth: it accepts no credentials; name `api_keys`, `passwords`, `client_certificates`, [auth.jwt] or [auth.login]";
    let service = match &manifest.policies.service.auth {
        Some(Auth::Identified(settings)) => Some(settings.clone()),
        Some(Auth::Anyone) | None => None,
    };
    if service.as_ref().is_some_and(|service| !service.accepts_any()) {
        return problems.push(nothing.into());
    }
    let unmet = "auth: a client certificate has neither scopes nor claims, so that no request is taken; remove `scopes` and \
                 `claims`, or accept other credentials as well";
    if service.as_ref().is_some_and(|service| service.is_unmet()) {
        problems.push(unmet.into());
    }
    if let Some(login) = service.as_ref().and_then(|service| service.login.as_ref()) {
        login.find_unreachable(&manifest.routes, problems);
    }
    problems.0.extend(service.as_ref().and_then(|service| unmet_by_sessions(service)));
    let by_header = |rate: Option<&rate::Settings>| match rate.map(|rate| &rate.by) {
        Some(By::Header(name)) => Some(name.clone()),
        _ => None,
    };
    let mut check_key = |place: &str, auth: Option<&Settings>, name: Option<HeaderName>| {
        if auth.zip(name).is_some_and(|(auth, name)| auth.removes(&name)) {
            let remedy = "write another key, `identity` for a rate, or `forward = true` in [auth]";
            problems.push(format!("{place}: the header is removed once it is verified; {remedy}"));
        }
    };
    check_key("rate.by", service.as_deref(), by_header(manifest.policies.service.rate.as_ref()));
    if let Some(RequestKey::Header(name)) = manifest.upstream.as_ref().map(|upstream| &upstream.hash) {
        check_key("upstream.hash", service.as_deref(), Some(name.clone()));
    }
    for (route, policies) in &manifest.policies.routes {
        let auth = match &policies.auth {
            Some(Auth::Anyone) => None,
            Some(Auth::Identified(auth)) if auth.accepts_any() => Some(&**auth),
            Some(Auth::Identified(_)) | None => service.as_deref(),
        };
        check_key(&format!("route {route}: rate.by"), auth, by_header(policies.rate.as_ref()));
    }
    let (mut open, mut own) = (false, false);
    for (route, policies) in &mut manifest.policies.routes {
        match &mut policies.auth {
            None => {}
            Some(Auth::Anyone) => open = true,
            Some(Auth::Identified(auth)) => {
                own = true;
                if auth.calls.is_some() {
                    problems.push(format!("route {route}: auth.calls: only the [auth] of the whole service has it"));
                }
                if auth.login.is_some() {
                    problems.push(format!("route {route}: auth.login: only the [auth] of the whole service has it"));
                }
                if let Some(service) = &service {
                    auth.inherit(service);
                }
                problems.0.extend(unmet_by_sessions(auth).map(|problem| format!("route {route}: {problem}")));
                if !auth.accepts_any() {
                    problems.push(format!("route {route}: {nothing}"));
                } else if auth.is_unmet() {
                    problems.push(format!("route {route}: {unmet}"));
                }
            }
        }
    }
    if own && service.as_ref().is_some_and(|service| service.calls() == CallCredentials::Checked) {
        problems.push(
            "auth.calls: calls have every path of a service, so the [auth] of a route does not hold for them; move it \
             to the service"
                .into(),
        );
    }
    // A path that the service reads differently must not lead from a route without credentials to one with them.
    if open && service.is_some() {
        for (route, (_, policies)) in manifest.routes.iter_mut().zip(&manifest.policies.routes) {
            route.guarded |= policies.auth != Some(Auth::Anyone);
        }
    }
}

/// Returns the problem that something is required which no session has.
fn unmet_by_sessions(auth: &Settings) -> Option<String> {
    let login = auth.login.as_ref()?;
    let claim = login.lacks_claim(&auth.claims).map(|claim| ("claim", claim));
    let (what, name) = claim.or_else(|| login.lacks_scope(&auth.scopes).map(|scope| ("scope", scope)))?;
    Some(format!("auth.{what}s: no session has the {what} `{name}`; add it to `auth.login.{what}s`"))
}
