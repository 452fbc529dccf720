//! Compares a manifest with that of a service, and shows neither: values may be secrets.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::Admin;
use super::access::Requester;
use super::body::{Body, json, problem};
use super::contract::ManifestComparison;
use super::slots::NoSlot;
use crate::guests::scan::MANIFEST;
use crate::listener::intake::Upload;
use lodge_base::files;
use lodge_manifest::compare::{Compared, different_keys};
use lodge_manifest::spec::{is_label, is_name, split};

/// The longest time in which the manifest must arrive.
const UPLOAD: Duration = Duration::from_secs(30);

/// The most keys of a response.
const MOST_KEYS: usize = 1000;

/// Responds with the keys in which the manifest in the body differs from the file of the service or version.
/// A key sees nothing of values that may be secret: no scope is for them.
pub(super) async fn respond(
    admin: &Arc<Admin>,
    sender: &Requester,
    name: &str,
    body: Upload<Incoming>,
) -> Response<Body> {
    let (service, label) = split(name);
    if !is_name(service) || label.is_some_and(|label| !is_label(label)) {
        return problem(StatusCode::BAD_REQUEST, "bad-name", "no service can have this name");
    }
    let bad = |why: &str| problem(StatusCode::BAD_REQUEST, "bad-body", why);
    let _slot = match admin.slots.comparisons.take(sender) {
        Ok(slot) => slot,
        Err(NoSlot::Taken) => {
            return problem(StatusCode::SERVICE_UNAVAILABLE, "busy", "other comparisons are in progress; try again");
        }
        Err(NoSlot::Rate(wait)) => {
            let why = "this key has compared as many manifests as it may in a minute; try again later";
            let mut response = problem(StatusCode::TOO_MANY_REQUESTS, "rate", why);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait));
            return response;
        }
    };
    let values = if sender.is_key() { Compared::NotSecret } else { Compared::All };
    let most = usize::try_from(MANIFEST).unwrap_or(usize::MAX);
    let read = tokio::time::timeout(UPLOAD, Limited::new(body, most).collect()).await;
    let Ok(Ok(body)) = read else { return bad("the manifest is too large, or did not arrive in time") };
    let Ok(own) = files::text(body.to_bytes().into()) else { return bad("the manifest is not UTF-8") };
    let path = admin.config.guests.join(format!("{name}.toml"));
    let turn = Arc::clone(&admin.slots.comparing).acquire_owned().await;
    let compared = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let text = match files::read_text(&path, MANIFEST) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            text => text.map_err(|error| error.to_string())?,
        };
        different_keys(&text, &own, values)
    });
    match compared.await {
        Ok(Ok(mut keys)) => {
            keys.truncate(MOST_KEYS);
            json(&ManifestComparison { keys })
        }
        Ok(Err(why)) => {
            problem(StatusCode::CONFLICT, "not-comparable", &format!("one of the manifests cannot be compared: {why}"))
        }
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "panic", "the comparison failed; see the log"),
    }
}
