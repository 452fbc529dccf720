//! HTTP with registries: connections, TLS, and bounds of responses.

use std::error::Error as _;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use rustls::RootCertStore;
use serde::Deserialize;
use tokio::time::timeout;

use super::RegistryError;
use super::destination::{self, AddressResolver};
use lodge_base::config::pull::Pull;
use lodge_base::http1::{self, Http1Client, Http1Settings};
use lodge_base::telemetry::logs::foreign_line;
use lodge_base::tls::{self, pem};

/// The most bytes of the head of a response.
const HEAD: usize = 64 << 10;

/// The time for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// The time without any progress after which an exchange is given up.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// The longest time that a registry can ask for before the next request.
const MOST_AFTER: Duration = Duration::from_secs(60 * 60);

/// The most bytes of a response that explains an error.
const MOST_ERROR: usize = 16 << 10;

/// The most characters of the registry's own words in a message.
const MOST_WORDS: usize = 200;

type Connections = Http1Client<Full<Bytes>, AddressResolver>;

/// The connections to registries, and to the hosts that they name.
pub(super) struct RegistryHttp {
    pub(super) settings: Pull,
    /// To registries.
    any: Connections,
    /// To hosts that a registry names.
    public: Connections,
    /// Why no certificate can be verified.
    no_roots: Option<String>,
}

impl RegistryHttp {
    /// Reads certificates from disk.
    ///
    /// # Errors
    /// One line, if the settings name a file that is not one of certificates.
    pub(super) fn new(settings: &Pull) -> Result<Self, String> {
        let (mut roots, mut no_roots) = match tls::system_roots() {
            Ok(roots) => (roots, None),
            Err(why) => (RootCertStore::empty(), Some(why)),
        };
        if let Some(path) = &settings.ca {
            let pem = pem::read(path).map_err(|why| format!("pull.ca: {why}"))?;
            pem::add_authorities(&mut roots, &pem).map_err(|why| format!("pull.ca: {}: {why}", path.display()))?;
            no_roots = None;
        }
        let (any, public) = (connections(roots.clone(), false)?, connections(roots, true)?);
        Ok(Self { settings: settings.clone(), any, public, no_roots })
    }

    /// Sends a request of an exchange with `registry`, and returns the response once its head has arrived.
    ///
    /// # Errors
    /// If the destination is not allowed, or there is no response in time.
    pub(super) async fn send(
        &self,
        registry: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let url = request.uri().clone();
        let public = destination::check(&self.settings, registry, &url)?;
        if let Some(why) = self.no_roots.as_ref().filter(|_| url.scheme_str() == Some("https")) {
            return Err(RegistryError::new(why));
        }
        let connections = if public { &self.public } else { &self.any };
        // A large upload takes its time; the caller bounds the whole.
        let time = if request.body().is_empty() { STALL } else { self.settings.timeout };
        let place = url.authority().map_or("", |authority| authority.as_str());
        match timeout(time, connections.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(RegistryError::new(format!("{place} does not respond: {}", innermost(&error)))),
            Err(_) => {
                Err(RegistryError::new(format!("{place} does not respond within {}", humantime::format_duration(time))))
            }
        }
    }
}

trait IsEmpty {
    fn is_empty(&self) -> bool;
}

impl IsEmpty for Full<Bytes> {
    fn is_empty(&self) -> bool {
        http_body::Body::size_hint(self).exact() == Some(0)
    }
}

fn connections(roots: RootCertStore, public: bool) -> Result<Connections, String> {
    let resolver = AddressResolver { public };
    Http1Settings { resolver, roots, https_only: false, connect: Some(CONNECT), head: HEAD, idle: (4, STALL) }.client()
}

/// The cause of an error: the outer ones only say that there was one.
fn innermost(error: &hyper_util::client::legacy::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    shown(&text)
}

/// Returns the body of a response, of at most `most` bytes.
///
/// # Errors
/// If it breaks off, is larger or stalls.
pub(super) async fn body(response: Response<Incoming>, most: usize) -> Result<Bytes, RegistryError> {
    let body = timeout(STALL, http1::read(response.into_body(), most)).await;
    let body = body.map_err(|_| RegistryError::new("a response did not arrive in time"))?;
    let broken = |_| RegistryError::new(format!("a response broke off, or has more than {most} bytes"));
    body.map_err(broken)
}

/// The error that a response stands for. `what` was requested.
pub(super) async fn failure(what: &str, response: Response<Incoming>) -> RegistryError {
    let status = response.status();
    let seconds = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let after = seconds.map(|seconds| Duration::from_secs(seconds).min(MOST_AFTER));
    let text = body(response, MOST_ERROR).await.unwrap_or_default();
    let problems = serde_json::from_slice::<RegistryProblems>(&text).unwrap_or_default().errors;
    // A registry's own words could contain the request's credentials.
    let code = problems.iter().find_map(|problem| CODES.iter().find(|code| **code == problem.code));
    let words = code.map_or(String::new(), |code| format!(" ({})", code.to_ascii_lowercase().replace('_', " ")));
    let why = match status {
        StatusCode::NOT_FOUND => format!("the registry has no {what}{words}"),
        StatusCode::UNAUTHORIZED => format!("the registry does not accept the credentials for {what}{words}"),
        StatusCode::FORBIDDEN => format!("the registry denies access to {what}{words}"),
        StatusCode::TOO_MANY_REQUESTS => format!("the registry has had too many requests, and refuses {what}{words}"),
        status => format!("the registry responds to the request of {what} with {status}{words}"),
    };
    RegistryError { after, ..RegistryError::new(why) }
}

/// What a registry says about an error.
#[derive(Default, Deserialize)]
#[serde(default)]
struct RegistryProblems {
    errors: Vec<RegistryProblem>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RegistryProblem {
    code: String,
}

/// The codes of errors (OCI Distribution Specification, and those of docker's registry).
const CODES: [&str; 17] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DENIED",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "MANIFEST_UNVERIFIED",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "TAG_INVALID",
    "TOOMANYREQUESTS",
    "UNAUTHORIZED",
    "UNAVAILABLE",
    "UNSUPPORTED",
];

/// A text of another host as a message may contain it.
pub(super) fn shown(text: &str) -> String {
    foreign_line(text, MOST_WORDS)
}

/// Resolves a reference to another URL (RFC 3986): an absolute URL, or an absolute path.
pub(super) fn joined(base: &Uri, reference: &str) -> Option<Uri> {
    if reference.starts_with('/') && !reference.starts_with("//") {
        let mut parts = base.clone().into_parts();
        parts.path_and_query = Some(reference.parse().ok()?);
        return Uri::from_parts(parts).ok();
    }
    // A fragment is not sent.
    let reference = reference.split('#').next().unwrap_or_default();
    reference.parse().ok().filter(|url: &Uri| url.scheme().is_some() && url.authority().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_to_other_urls() {
        let base = "https://r.example:5000/v2/users/blobs/uploads/".parse().unwrap();
        for (reference, expected) in [
            ("/v2/users/blobs/uploads/1?state=x", Some("https://r.example:5000/v2/users/blobs/uploads/1?state=x")),
            ("https://b.example/1", Some("https://b.example/1")),
            ("https://b.example/1#part", Some("https://b.example/1")),
            ("//b.example/1", None),
            ("1", None),
            ("", None),
            ("https://b example/1", None),
        ] {
            assert_eq!(joined(&base, reference).map(|url| url.to_string()).as_deref(), expected, "{reference}");
        }
    }

    #[test]
    fn words_of_others_are_bounded_and_plain() {
        assert_eq!(shown("a\x1b[2J\nb"), "a [2J b");
        assert_eq!(shown("a\u{202e}b\u{2066}c"), "a b c");
        assert_eq!(shown(&"x".repeat(1000)).len(), MOST_WORDS);
    }
}
