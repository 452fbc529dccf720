//! Responses that send a client elsewhere.

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

use super::Body;
use lodge_traffic::auth::redirect::LoginRedirect;

/// Returns the response that sends a client to another URL.
pub fn moved(status: StatusCode, location: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::text(None));
    *response.status_mut() = status;
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// Returns the response that sends a browser elsewhere during a login.
pub fn login(redirect: &LoginRedirect, status: StatusCode) -> Response<Body> {
    let mut response = moved(status, redirect.location.clone());
    let headers = response.headers_mut();
    for cookie in &redirect.cookies {
        headers.append(header::SET_COOKIE, cookie.clone());
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // The URL of the request may have a code.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
