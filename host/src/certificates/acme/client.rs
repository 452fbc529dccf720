//! The HTTP client for an authority: HTTPS only, without redirects, and bounded in time and size.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::Full;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tokio::time::timeout;

use lodge_base::http1::{self, Http1Client, Http1Settings};
use lodge_base::lock::lock;
use lodge_base::tls::{self, pem};

/// The longest time of a request and its response.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes of a response: a chain has some thousand.
const MOST_BYTES: usize = 256 << 10;

/// The most bytes of the head of a response.
const HEAD: usize = 16 << 10;

/// The longest pause that an authority can ask for.
const MOST_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

/// A client for an authority.
#[derive(Clone)]
pub(super) struct AuthorityClient {
    http: Http1Client<BodyWrapper<Bytes>>,
    /// Whether the authorities of the system verify the server.
    of_system: bool,
    /// The latest time at which the authority wants to be asked again, by `Retry-After` of any response.
    wait: Arc<Mutex<Option<SystemTime>>>,
}

impl AuthorityClient {
    /// Reads the certificates that the authority's server is verified by. Blocking.
    ///
    /// # Errors
    /// One line.
    pub(super) fn new(ca: Option<&Path>) -> Result<Self, String> {
        let roots = match ca {
            None => tls::system_roots()?,
            Some(path) => {
                let unusable = |why: String| format!("tls.acme.ca: {why}");
                let pem = pem::read(path).map_err(unusable)?;
                pem::authorities(&pem).map_err(|why| unusable(format!("{}: {why}", path.display())))?
            }
        };
        let resolver = GaiResolver::new();
        let settings =
            Http1Settings { resolver, roots, https_only: true, connect: None, head: HEAD, idle: (1, TIMEOUT) };
        Ok(Self { http: settings.client()?, of_system: ca.is_none(), wait: Arc::default() })
    }

    /// Returns the latest time at which the authority wants to be asked again, if a response said that.
    pub(super) fn wait(&self) -> Option<SystemTime> {
        *lock(&self.wait)
    }
}

impl HttpClient for AuthorityClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let Self { http, of_system, wait } = self.clone();
        Box::pin(async move {
            let other = |why: String| Error::Other(why.into());
            let to = request.uri().authority().map_or_else(String::new, ToString::to_string);
            // Everything but the directory is sent for with a signature.
            let directory = (request.method() == Method::GET).then(|| request.uri().clone());
            let exchange = async {
                let failed = |error| other(no_response(&to, &http1::with_cause(&error), of_system));
                let (head, body) = http.request(request).await.map_err(failed)?.into_parts();
                if let Some(url) = directory.filter(|_| !head.status.is_success()) {
                    return Err(other(format!("{url} responds {}; is `tls.acme.directory` right?", head.status)));
                }
                let broken = |error| other(format!("the response of {to} broke off, or is too large: {error}"));
                let body = http1::read(body, MOST_BYTES).await.map_err(broken)?;
                Ok::<_, Error>(Response::from_parts(head, Full::new(body)))
            };
            let late =
                |_| other(format!("no complete response of {to} within {}", humantime::format_duration(TIMEOUT)));
            let mut response = timeout(TIMEOUT, exchange).await.map_err(late)??;
            let after = bound_retry_after(response.headers_mut(), SystemTime::now());
            let mut wait = lock(&wait);
            *wait = (*wait).max(after);
            drop(wait);
            Ok(BytesResponse::from(response))
        })
    }
}

/// Returns why there is no response.
fn no_response(to: &str, cause: &str, of_system: bool) -> String {
    // Some causes end with their fields.
    let cause = cause.split(" {").next().unwrap_or(cause);
    let hint = if of_system && cause.contains("invalid peer certificate") {
        "; a private authority needs `tls.acme.ca`, the certificates that its server is verified by"
    } else {
        ""
    };
    format!("no response of {to}: {cause}{hint}")
}

/// Replaces `Retry-After` by one in seconds of at most [`MOST_PAUSE`], or removes it if it is not valid, and returns that time. The
/// library adds any number of seconds to the present time, and panics if there is no such time.
fn bound_retry_after(headers: &mut HeaderMap, now: SystemTime) -> Option<SystemTime> {
    let given = headers.remove(header::RETRY_AFTER)?;
    let at = retry_after(given.to_str().ok()?, now)?;
    let seconds = at.duration_since(now).unwrap_or_default().as_secs();
    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    Some(at)
}

/// Reads `Retry-After` (RFC 9110 10.2.3), at most [`MOST_PAUSE`] from now.
fn retry_after(text: &str, now: SystemTime) -> Option<SystemTime> {
    let most = now.checked_add(MOST_PAUSE)?;
    let text = text.trim();
    let at = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        now.checked_add(Duration::from_secs(text.parse().unwrap_or(u64::MAX))).unwrap_or(most)
    } else {
        httpdate::parse_http_date(text).ok()?
    };
    Some(at.min(most))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_certificate_that_nobody_knows_has_a_way_out() {
        let cause = "client error (Connect): invalid peer certificate: UnsupportedContext { algorithm: [42, 134] }";
        let said = "no response of ca.test: client error (Connect): invalid peer certificate: UnsupportedContext";
        assert_eq!(no_response("ca.test", cause, false), said);
        assert!(
            no_response("ca.test", cause, true)
                .starts_with(&format!("{said}; a private authority needs `tls.acme.ca`"))
        );
        assert_eq!(no_response("ca.test", "refused", true), "no response of ca.test: refused");
    }

    #[test]
    fn pauses_are_bounded() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let read = |text: &str| retry_after(text, now).map(|at| at.duration_since(now).unwrap_or_default().as_secs());
        assert_eq!(read("120"), Some(120));
        assert_eq!(read(" 0 "), Some(0));
        assert_eq!(read("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(read("18446744073709551615"), Some(86_400));
        assert_eq!(read("Sat, 06 Nov 2094 08:50:37 GMT"), Some(86_400));
        for wrong in ["", "-1", "soon", "1e9"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    /// What the library sees is a number of seconds in bounds, or nothing.
    #[test]
    fn headers_are_bounded() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (given, expected) in [
            (&b"18446744073709551615"[..], Some("86400")),
            (b"9223372036854775807", Some("86400")),
            (b"99999999999999999999999999", Some("86400")),
            (b"Fri, 31 Dec 9999 23:59:59 GMT", Some("86400")),
            (b"Sun, 06 Nov 1994 08:50:37 GMT", Some("60")),
            (b"Sun, 06 Nov 1904 08:50:37 GMT", None),
            (b"7", Some("7")),
            (b"\xff", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(header::RETRY_AFTER, HeaderValue::from_bytes(given).unwrap());
            headers.append(header::RETRY_AFTER, HeaderValue::from_static("18446744073709551615"));
            let at = bound_retry_after(&mut headers, now);
            let shown: Vec<_> =
                headers.get_all(header::RETRY_AFTER).iter().map(|value| value.to_str().unwrap()).collect();
            assert_eq!(shown, Vec::from_iter(expected), "{given:?}");
            let waited = at.map(|at| at.duration_since(now).unwrap().as_secs().to_string());
            assert_eq!(waited.as_deref(), expected, "{given:?}");
        }
    }
}
