//! Errors as responses with problem details (RFC 9457).

use bytes::Bytes;
use http::Response;
use http::header::{self, HeaderValue};

use super::{Body, Last};
use crate::request::error::RequestError;
use lodge_traffic::proxy::headers::Malformed;
use lodge_traffic::routing::router::Missed;

/// Converts an error to a response with problem details (RFC 9457).
pub fn problem(error: &RequestError, request_id: &str) -> Response<Body> {
    // A rule that says 404 is not to show that there is something.
    let unknown = RequestError::from(Missed::Route);
    let error = if error.denies_existence() { &unknown } else { error };
    let status = error.status();
    if let Some(redirect) = error.login() {
        return super::login(redirect, status);
    }
    let mut text = serde_json::json!({
        "type": format!("urn:lodge:problem:{}", error.reason()),
        "title": error.to_string(),
        "status": status.as_u16(),
        "request_id": request_id,
    });
    if let (Some(why), Some(members)) = (error.explanation(), text.as_object_mut()) {
        members.insert("detail".into(), why.into());
    }
    let errors = error.errors().iter().map(|it| serde_json::json!({ "pointer": it.pointer, "message": it.message }));
    let errors: Vec<_> = errors.collect();
    if let (false, Some(members)) = (errors.is_empty(), text.as_object_mut()) {
        members.insert("errors".into(), errors.into());
    }
    let mut response = Response::new(Body::text(Some(Bytes::from(text.to_string()))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
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
