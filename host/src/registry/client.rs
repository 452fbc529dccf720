//! The client of registries: requests about one repository, with authorization and redirects.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;

use super::RegistryError;
use super::authorization::{Access, Authorization};
use super::destination;
use super::exchange::{RegistryHttp, joined};
use lodge_base::config::pull::Pull;
use lodge_manifest::reference::Reference;

/// The most redirects of a request.
const REDIRECTS: usize = 5;

/// How this client names itself.
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("lodge/", env!("CARGO_PKG_VERSION")));

/// A client of registries.
pub struct RegistryClient {
    exchange: RegistryHttp,
}

/// Requests about one repository.
pub struct Session<'a> {
    exchange: &'a RegistryHttp,
    /// The registry.
    pub(super) registry: String,
    repository: String,
    authorization: Authorization,
}

/// A request of a session. It can be sent again.
#[derive(Clone, Default)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Ask {
    pub(super) fn new(method: Method) -> Self {
        Self { method, ..Self::default() }
    }

    pub(super) fn header(mut self, name: header::HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }

    pub(super) fn body(self, body: Bytes) -> Self {
        Self { body, ..self }
    }
}

impl RegistryClient {
    /// Creates a client. Blocking: reads certificates.
    ///
    /// # Errors
    /// One line, if `pull.ca` is not a file of certificates.
    pub fn new(settings: &Pull) -> Result<Self, String> {
        Ok(Self { exchange: RegistryHttp::new(settings)? })
    }

    /// Says what is wrong with the certificates of registries. Components that are here already are served without them.
    pub fn doubt(settings: &Pull) -> Option<String> {
        let why = settings.ca.as_ref().and_then(|_| Self::new(settings).err())?;
        Some(format!("{why}: no component can be pulled"))
    }

    /// Returns a session for the repository of a reference.
    pub fn session(&self, reference: &Reference, access: Access) -> Session<'_> {
        Session {
            exchange: &self.exchange,
            registry: reference.registry.clone(),
            repository: reference.repository.clone(),
            authorization: Authorization::new(&reference.repository, access),
        }
    }
}

impl Session<'_> {
    /// Returns the URL of a part of the repository.
    ///
    /// # Errors
    /// If the registry's name is not the authority of a URL.
    pub(super) fn url(&self, part: &str) -> Result<Uri, RegistryError> {
        let scheme = if destination::is_plain(&self.exchange.settings, &self.registry) { "http" } else { "https" };
        let url = format!("{scheme}://{}/v2/{}/{part}", self.registry, self.repository);
        url.parse().map_err(|error| RegistryError::new(format!("{url}: {error}")))
    }

    /// Sends a request, and follows redirects of those that read. Credentials only go to the registry itself.
    ///
    /// # Errors
    /// If there is no response.
    pub(super) async fn send(&mut self, url: Uri, ask: &Ask) -> Result<Response<Incoming>, RegistryError> {
        let (mut at, mut tried) = (url, false);
        for _ in 0..=REDIRECTS {
            let own = destination::is_of(&at, &self.registry);
            let mut request = Request::new(Full::new(ask.body.clone()));
            (*request.method_mut(), *request.uri_mut()) = (ask.method.clone(), at.clone());
            *request.headers_mut() = ask.headers.clone();
            request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
            if let Some(value) = self.authorization.header().filter(|_| own) {
                request.headers_mut().insert(header::AUTHORIZATION, value.clone());
            }
            let response = self.exchange.send(&self.registry, request).await?;
            if response.status() == StatusCode::UNAUTHORIZED && own && !tried {
                tried = true;
                if self.authorization.renew(self.exchange, &self.registry, response.headers()).await? {
                    continue;
                }
                return Ok(response);
            }
            let reads = matches!(ask.method, Method::GET | Method::HEAD);
            if !(reads && is_redirect(response.status())) {
                return Ok(response);
            }
            at = self.location(&at, response.headers())?;
        }
        Err(RegistryError::new(format!("the registry sends more than {REDIRECTS} redirects")))
    }

    /// Returns the URL in `Location`.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn location(&self, at: &Uri, headers: &HeaderMap) -> Result<Uri, RegistryError> {
        let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let url = location.and_then(|location| joined(at, location));
        url.ok_or_else(|| RegistryError::new("the registry refers to a place without saying which"))
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
