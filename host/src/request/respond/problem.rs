//! Errors as responses: problem details (RFC 9457), or a page for browsers.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

use super::{Body, Last};
use crate::request::error::RequestError;
use crate::request::pages::ErrorPages;
use lodge_traffic::proxy::headers::Malformed;
use lodge_traffic::routing::router::Missed;
use lodge_traffic::validation::evaluation::{ParameterName, SchemaError};

/// Converts an error to a response with problem details (RFC 9457) or, for a browser, one of `pages`.
pub fn problem(error: &RequestError, request_id: &str, pages: ErrorPages<'_>) -> Response<Body> {
    // A rule that says 404 is not to show that there is something.
    let unknown = RequestError::from(Missed::Route);
    let (error, pages) = if error.denies_existence() { (&unknown, pages.without_route()) } else { (error, pages) };
    let status = error.status();
    if let Some(redirect) = error.login() {
        return super::login(redirect, status);
    }
    let page = pages.find(status);
    let (kind, text) = match page.filter(|_| pages.browser) {
        Some(page) => ("text/html; charset=utf-8", page.load().render(status, request_id)),
        None => ("application/problem+json", details(error, status, request_id)),
    };
    let mut response = Response::new(Body::text(Some(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // It has the id of one request, and some statuses, such as 404, may be stored without being asked to.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Also on the form that this client does not get, or a cache would send the other one to all.
    if page.is_some() {
        headers.append(header::VARY, HeaderValue::from_static("accept"));
    }
    if let Some(allow) = error.allow().and_then(|allow| HeaderValue::from_str(allow).ok()) {
        headers.insert(header::ALLOW, allow);
    }
    if let Some((name, value)) = error.accepts() {
        headers.insert(name, value);
    }
    for challenge in error.challenges() {
        headers.append(header::WWW_AUTHENTICATE, challenge.clone());
    }
    if let Some(seconds) = error.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(size) = error.size() {
        headers.insert(header::CONTENT_RANGE, size);
    }
    if let Some(standing) = error.rate_status() {
        standing.write(headers);
    }
    if matches!(error, RequestError::Malformed(Malformed::Framing)) {
        response.extensions_mut().insert(Last);
    }
    response
}

/// Returns the problem details of an error.
fn details(error: &RequestError, status: StatusCode, request_id: &str) -> Bytes {
    let mut text = serde_json::json!({
        "type": format!("urn:lodge:problem:{}", error.reason()),
        "title": error.to_string(),
        "status": status.as_u16(),
        "request_id": request_id,
    });
    if let (Some(why), Some(members)) = (error.explanation(), text.as_object_mut()) {
        members.insert("detail".into(), why.into());
    }
    let errors: Vec<_> = error.errors().iter().map(one_error).collect();
    if let (false, Some(members)) = (errors.is_empty(), text.as_object_mut()) {
        members.insert("errors".into(), errors.into());
    }
    Bytes::from(text.to_string())
}

/// Returns what is wrong with a part of the body, or with a parameter.
fn one_error(of: &SchemaError) -> serde_json::Value {
    let (pointer, message) = (&of.pointer, &of.message);
    match &of.parameter {
        None => serde_json::json!({ "pointer": pointer, "message": message }),
        Some(ParameterName { place, name }) => {
            serde_json::json!({ "in": place, "name": &**name, "pointer": pointer, "message": message })
        }
    }
}
