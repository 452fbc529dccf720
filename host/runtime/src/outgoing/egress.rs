//! What the guests of one service may send, and its limits.

use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use http::uri::{Scheme, Uri};
use http::{Method, Request};
use http_body_util::BodyExt;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::LocalCalls;
use super::client::{PermittedResponse, WorldClient};
use super::response_deadline;
use super::timeouts::TimedBody;
use crate::capabilities::http::Sender;
use crate::capabilities::outbox::{SendFuture, complete, refuse};
use crate::capabilities::sandbox::{RequestContext, Sandbox};
use lodge_base::config::limits::Limits;
use lodge_base::lock::lock;
use lodge_base::telemetry::logs::throttle::LogThrottle;
use lodge_manifest::grants::Grants;
use lodge_traffic::proxy::headers::Peer;
use lodge_traffic::service::Service;

/// The outcome of denied requests in the metrics.
const DENIED: &str = "denied";

/// The grants and limits of a service for sending requests, with its client.
pub struct Egress {
    /// The sending service.
    pub service: Arc<Service>,
    grants: Grants,
    /// `limits.outgoing` and `limits.outgoing_rate`.
    limits: (usize, usize),
    /// The identity of this service in requests to other services.
    pub peer: Peer,
    calls: Weak<dyn LocalCalls>,
    suffix: Arc<str>,
    /// `None` if the manifest lists no origin.
    client: Option<WorldClient>,
    log_throttle: Mutex<LogThrottle>,
}

/// The destination in a request's URL.
struct TargetOrigin<'a> {
    scheme: &'a Scheme,
    host: &'a str,
    port: u16,
}

impl Egress {
    pub(super) fn new(
        service: &Arc<Service>,
        grants: &Grants,
        limits: &Limits,
        calls: Weak<dyn LocalCalls>,
        suffix: Arc<str>,
        client: Option<WorldClient>,
    ) -> Self {
        Self {
            service: Arc::clone(service),
            grants: grants.clone(),
            limits: (limits.outgoing, limits.outgoing_rate),
            peer: Peer::service(&service.name),
            calls,
            suffix,
            client,
            log_throttle: Mutex::default(),
        }
    }

    /// Returns whether a version with these grants and limits can take this over.
    pub(super) fn can_be_reused(&self, grants: &Grants, limits: &Limits) -> bool {
        self.grants == *grants && self.limits == (limits.outgoing, limits.outgoing_rate)
    }

    /// Returns the service that a host name denotes: one label before the suffix.
    fn callee<'a>(&self, host: &'a str) -> Option<&'a str> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let (name, rest) = host.split_at_checked(host.len().checked_sub(self.suffix.len())?)?;
        (rest.eq_ignore_ascii_case(&self.suffix) && !name.is_empty() && !name.contains('.')).then_some(name)
    }

    /// Denies a request, and logs which key would allow it.
    fn deny(&self, (sandbox, context): (&Sandbox, &RequestContext), what: &str, line: &str, why: Error) -> Error {
        sandbox.deny(context);
        let Some(unsaid) = lock(&self.log_throttle).record(Instant::now()) else { return why };
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

    /// Sends a request to the world, if the manifest allows it.
    async fn send_outside(
        &self,
        from: (&Sandbox, &RequestContext),
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<PermittedResponse, Error> {
        let uri = request.uri().clone();
        let at = TargetOrigin::of(&uri).ok_or(Error::HttpRequestUriInvalid)?;
        if request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let Some(client) = self.client.as_ref().filter(|_| self.grants.asks(at.scheme, at.host, at.port)) else {
            let origin = at.origin(at.host);
            let line = format!("`http = [\"{origin}\"]`");
            self.service.metrics.outgoing.count(DENIED);
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
                let what = format!("{shown}, which resolves to {address}, not a public address");
                Err(self.deny(from, &what, &line, failure.into()))
            }
            Ok(response) => Ok(response),
        }
    }
}

impl<'a> TargetOrigin<'a> {
    fn of(uri: &'a Uri) -> Option<Self> {
        let (scheme, authority) = (uri.scheme()?, uri.authority()?);
        let usual = if *scheme == Scheme::HTTPS { 443 } else { 80 };
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            // An empty or invalid port is an error.
            None if authority.as_str() == authority.host() => usual,
            None => return None,
        };
        // A URL with a user is refused: before the host, it is mostly an attempt to deceive.
        let plain = !authority.as_str().contains('@') && !authority.host().is_empty();
        plain.then_some(Self { scheme, host: authority.host(), port })
    }

    /// Returns the origin as a manifest lists it.
    fn origin(&self, host: &str) -> String {
        let usual = if *self.scheme == Scheme::HTTPS { 443 } else { 80 };
        let port = if self.port == usual { String::new() } else { format!(":{}", self.port) };
        format!("{}://{}{port}", self.scheme, host.to_ascii_lowercase())
    }
}

impl Sender for Egress {
    fn send(
        self: Arc<Self>,
        (sandbox, context): (Arc<Sandbox>, RequestContext),
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> SendFuture {
        let Some(name) = request.uri().host().and_then(|host| self.callee(host)) else {
            return Box::new(async move {
                let (response, slot) = self.send_outside((&sandbox, &context), request, options).await?;
                let held = (slot, sandbox.hold_response_body());
                complete(response.map(|body| {
                    TimedBody::new(body, options.between_bytes_timeout, response_deadline(&context), held)
                        .boxed_unsync()
                }))
            });
        };
        if self.grants.calls(name) {
            let host = lodge_manifest::spec::host_of(name);
            let Some(calls) = self.calls.upgrade() else { return refuse(Error::DestinationUnavailable) };
            return calls.call(self, host, (sandbox, context), request, options);
        }
        let line = format!("`calls = [\"{name}\"]`");
        self.service.metrics.outgoing.count(DENIED);
        refuse(self.deny((&sandbox, &context), &format!("the service {name}"), &line, Error::HttpRequestDenied))
    }
}

#[cfg(test)]
mod tests;
