//! The paths of a login: the provider sends browsers back, and sessions end. No service handles them.

use std::time::SystemTime;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, request};

use super::admit::Routed;
use super::front::ClientFront;
use super::identify::{attempter, attempts, limited};
use super::record::Record;
use super::respond::{self, Body};
use crate::guests::target::Target;
use crate::request::error::RequestError;
use crate::request::handler::Caller;
use lodge_base::telemetry::traces::Phase;
use lodge_traffic::auth::login::LoginPath;
use lodge_traffic::auth::login::browser::BrowserRequest;
use lodge_traffic::auth::login::cookies::HostCookies;
use lodge_traffic::proxy::upgrade::OfferedProtocols;
use lodge_traffic::routing::router::Missed;

/// Headers by which servers decide before `Cache-Control` whether to store a response.
const TARGETED: [HeaderName; 2] =
    [HeaderName::from_static("cdn-cache-control"), HeaderName::from_static("surrogate-control")];

/// A request for a path of a login.
pub(super) struct LoginRequest<'a> {
    path: LoginPath,
    routed: Routed<'a>,
    headers: HeaderMap,
}

/// Takes the cookies of the host out of a request, as no service sees them. Returns what a login needs of it, if browsers can log in
/// at its service.
pub(super) fn browser(
    target: &Target,
    caller: &Caller<'_>,
    head: &mut request::Parts,
    front: Option<&ClientFront>,
) -> Option<Box<BrowserRequest>> {
    let cookies = HostCookies::take(&mut head.headers);
    let logins = target.auth().and_then(|checks| checks.logins());
    let logins = logins.filter(|_| caller.call.is_none())?;
    let target = head.uri.path_and_query()?.clone();
    let is_elsewhere = head.uri.authority().is_some_and(|authority| !logins.is_at(authority.as_str()));
    let reads = matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
    let changes = !reads || head.extensions.get::<OfferedProtocols>().is_some();
    let mut browser = Box::new(BrowserRequest::new(target, cookies, &head.method, &head.headers));
    browser.is_elsewhere = is_elsewhere;
    browser.is_foreign =
        changes && !logins.is_own_page(&head.headers) && !front.is_some_and(ClientFront::allows_credentials);
    Some(browser)
}

/// Returns which path of a login a request is for, if it is for one.
///
/// # Errors
/// If the path has another method.
pub(super) fn path(routed: &Routed<'_>, method: &Method) -> Result<Option<LoginPath>, RequestError> {
    let checks = routed.target.auth().zip(routed.browser.as_ref());
    let path = checks.and_then(|(checks, browser)| checks.login_path(browser.target.path(), method));
    path.transpose().map_err(|allow| Missed::Method(allow.to_owned()).into())
}

impl<'a> LoginRequest<'a> {
    /// Returns the request with these headers.
    pub(super) fn new(path: LoginPath, routed: Routed<'a>, headers: HeaderMap) -> Self {
        Self { path, routed, headers }
    }

    /// Returns the response.
    ///
    /// # Errors
    /// If the client's address is not allowed, or the login fails.
    pub(super) async fn handle(self, record: &mut Record) -> Result<Response<Body>, RequestError> {
        let Self { path, routed, headers } = self;
        let (Some(checks), Some(browser)) = (routed.target.auth(), &routed.browser) else {
            return Err(Missed::Route.into());
        };
        let Some(logins) = checks.logins() else { return Err(Missed::Route.into()) };
        routed.target.admission.check_client(&routed.view(&headers))?;
        let redirect = match path {
            LoginPath::Logout => logins.end(&headers, browser).map_err(|cause| checks.login_denial(cause))?,
            LoginPath::Callback => {
                let (attempts, client, start) = (attempts(&routed), attempter(&routed), record.start());
                // Counted before the code is exchanged, and given back after it, as with passwords.
                if let Some(attempts) = attempts {
                    attempts.take(client, start).map_err(|wait| limited(attempts, client, start, wait))?;
                }
                record.begin_phase(Phase::Queue);
                let completed = logins.complete(browser, client.keys().collect(), SystemTime::now()).await;
                let result = completed.as_ref().map_or_else(|cause| Err(*cause), |login| login.result.clone());
                if let Some(attempts) = attempts.filter(|_| !result.as_ref().is_err_and(|cause| cause.is_guess())) {
                    attempts.give_back(client);
                }
                if let Ok(identity) = &result {
                    record.set_identity(identity);
                }
                completed.map_err(|cause| checks.login_denial(cause))?.redirect
            }
        };
        record.set_allowed();
        Ok(respond::login(&redirect, if path == LoginPath::Logout { StatusCode::SEE_OTHER } else { StatusCode::FOUND }))
    }
}

/// Adds the cookie of a session to a response, which no cache may store then: others would get the session.
pub(super) fn add_session(headers: &mut HeaderMap, cookie: HeaderValue) {
    headers.append(header::SET_COOKIE, cookie);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    TARGETED.iter().for_each(|name| drop(headers.remove(name)));
}
