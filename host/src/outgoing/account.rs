//! What the guests of one service may send, and what they have under way.

use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use http::uri::{Scheme, Uri};
use http::{Method, Request};
use http_body_util::BodyExt;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::LocalCalls;
use super::client::{Asked, Client};
use super::denials::Denials;
use super::end;
use super::paced::Paced;
use crate::base::lock::lock;
use crate::capabilities::http::Sender;
use crate::capabilities::outbox::{SendFuture, complete, refuse};
use crate::capabilities::sandbox::{RequestContext, Sandbox};
use crate::config::limits::Limits;
use crate::manifest::grants::Grants;
use crate::proxy::headers::Peer;
use crate::service::Service;

/// What is denied, as metrics have it.
const DENIED: &str = "denied";

/// What a service may send, and the means to do so.
pub struct Account {
    /// The service.
    pub service: Arc<Service>,
    grants: Grants,
    /// Requests at once, and in a second.
    quotas: (usize, usize),
    /// What those that it calls are told of it.
    pub peer: Peer,
    calls: Weak<dyn LocalCalls>,
    suffix: Arc<str>,
    /// None if there is nothing in the world that it may ask.
    client: Option<Client>,
    denials: Mutex<Denials>,
}

/// Where a request is to go, as its URL says.
struct Destination<'a> {
    scheme: &'a Scheme,
    host: &'a str,
    port: u16,
}

impl Account {
    pub(super) fn new(
        service: &Arc<Service>,
        grants: &Grants,
        limits: &Limits,
        calls: Weak<dyn LocalCalls>,
        suffix: Arc<str>,
        client: Option<Client>,
    ) -> Self {
        Self {
            service: Arc::clone(service),
            grants: grants.clone(),
            quotas: (limits.outgoing, limits.outgoing_rate),
            peer: Peer::service(&service.name),
            calls,
            suffix,
            client,
            denials: Mutex::default(),
        }
    }

    /// Whether a version with these grants and limits can go on with it.
    pub(super) fn suits(&self, grants: &Grants, limits: &Limits) -> bool {
        self.grants == *grants && self.quotas == (limits.outgoing, limits.outgoing_rate)
    }

    /// The service that a host is the name of: one label before the suffix.
    fn callee<'a>(&self, host: &'a str) -> Option<&'a str> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let (name, rest) = host.split_at_checked(host.len().checked_sub(self.suffix.len())?)?;
        (rest.eq_ignore_ascii_case(&self.suffix) && !name.is_empty() && !name.contains('.')).then_some(name)
    }

    /// Not sent, and the operator is told what would allow it.
    fn deny(&self, (sandbox, context): (&Sandbox, &RequestContext), what: &str, line: &str, why: Error) -> Error {
        sandbox.deny(context);
        let Some(unsaid) = lock(&self.denials).say(Instant::now()) else { return why };
        let (service, request_id) = (&*self.service.name, &*context.request_id);
        let unsaid = (unsaid > 0).then_some(unsaid);
        tracing::warn!(
            service,
            request_id,
            unsaid,
            "denied to send a request to {what}; {line} in {service}.toml, above its first [section], would allow it"
        );
        why
    }

    /// The world would be asked: whether it may, and how it went.
    async fn ask(
        &self,
        from: (&Sandbox, &RequestContext),
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Asked, Error> {
        let uri = request.uri().clone();
        let at = Destination::of(&uri).ok_or(Error::HttpRequestUriInvalid)?;
        if request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let Some(client) = self.client.as_ref().filter(|_| self.grants.asks(at.scheme, at.host, at.port)) else {
            let origin = at.origin(at.host);
            let line = format!("`http = [\"{origin}\"]`");
            self.service.figures.outgoing.count(DENIED);
            return Err(self.deny(from, &origin, &line, Error::HttpRequestDenied));
        };
        match client.send(&self.service, from.1, request, options).await {
            Err(failure) => {
                let Some(address) = failure.prohibited() else { return Err(failure.into()) };
                let host = match address {
                    std::net::IpAddr::V4(v4) => v4.to_string(),
                    std::net::IpAddr::V6(v6) => format!("[{v6}]"),
                };
                let (shown, reached) = (at.origin(at.host), at.origin(&host));
                let line = format!("`http = [\"{shown}\", \"{reached}\"]`");
                let what = format!("{shown}, which is at {address}, no public address");
                Err(self.deny(from, &what, &line, failure.into()))
            }
            Ok(response) => Ok(response),
        }
    }
}

impl<'a> Destination<'a> {
    fn of(uri: &'a Uri) -> Option<Self> {
        let (scheme, authority) = (uri.scheme()?, uri.authority()?);
        let usual = if *scheme == Scheme::HTTPS { 443 } else { 80 };
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            // What looks like a port and is none has no place in it.
            None if authority.as_str() == authority.host() => usual,
            None => return None,
        };
        // Nor has a user: a name before the host is a trick more often than that.
        let plain = !authority.as_str().contains('@') && !authority.host().is_empty();
        plain.then_some(Self { scheme, host: authority.host(), port })
    }

    /// As a manifest lists it.
    fn origin(&self, host: &str) -> String {
        let usual = if *self.scheme == Scheme::HTTPS { 443 } else { 80 };
        let port = if self.port == usual { String::new() } else { format!(":{}", self.port) };
        format!("{}://{}{port}", self.scheme, host.to_ascii_lowercase())
    }
}

impl Sender for Account {
    fn send(
        self: Arc<Self>,
        (sandbox, context): (Arc<Sandbox>, RequestContext),
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> SendFuture {
        let Some(name) = request.uri().host().and_then(|host| self.callee(host)) else {
            return Box::new(async move {
                let (response, place) = self.ask((&sandbox, &context), request, options).await?;
                let held = (place, sandbox.hold());
                complete(
                    response.map(|body| {
                        Paced::new(body, options.between_bytes_timeout, end(&context), held).boxed_unsync()
                    }),
                )
            });
        };
        if self.grants.calls(name) {
            let host = crate::manifest::spec::host_of(name);
            let Some(calls) = self.calls.upgrade() else { return refuse(Error::DestinationUnavailable) };
            return calls.call(self, host, (sandbox, context), request, options);
        }
        let line = format!("`calls = [\"{name}\"]`");
        self.service.figures.outgoing.count(DENIED);
        refuse(self.deny((&sandbox, &context), &format!("the service {name}"), &line, Error::HttpRequestDenied))
    }
}

#[cfg(test)]
mod tests;
