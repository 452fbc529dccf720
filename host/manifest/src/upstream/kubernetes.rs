//! The source `k8s://NAMESPACE/SERVICE:PORT`: the endpoints of a Service of Kubernetes. Pure.

use std::fmt;
use std::sync::Arc;

use crate::upstream::protocol::Scheme;

/// The longest name of a namespace, a Service or a port (RFC 1123).
const LABEL: usize = 63;

/// The endpoints of a Service that have a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEndpoints {
    /// The scheme: with TLS or without.
    pub scheme: Scheme,
    /// The namespace; `None` for that of the pod in which the host runs.
    pub namespace: Option<Arc<str>>,
    /// The name of the Service.
    pub service: Arc<str>,
    /// The port of the endpoints.
    pub port: EndpointPort,
}

/// A port of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointPort {
    /// The port that has this name in the Service.
    Name(Arc<str>),
    /// This port of the pods, never 0. EndpointSlices do not have the port numbers of the Service.
    Number(u16),
}

impl ServiceEndpoints {
    /// Parses what follows the scheme: `//namespace/service:port` or `//service:port`, optionally with a slash at the
    /// end.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn parse(scheme: Scheme, rest: &str) -> Result<Self, String> {
        let rest = rest.strip_prefix("//").ok_or("has no // after its scheme")?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (place, port) = rest.split_once(':').ok_or("has no port: write k8s://NAMESPACE/SERVICE:PORT")?;
        let (namespace, service) = match place.split_once('/') {
            Some((namespace, service)) => (Some(label(namespace, "a namespace")?), service),
            None => (None, place),
        };
        let service = label(service, "a Service")?;
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let read = if is_number {
            port.parse().ok().filter(|port| *port != 0).map(EndpointPort::Number)
        } else {
            label(port, "a port").ok().map(EndpointPort::Name)
        };
        let wrong = || format!("{port:?} is not a port: write its name in the Service, or its number in the pods");
        Ok(Self { scheme, namespace, service, port: read.ok_or_else(wrong)? })
    }
}

impl EndpointPort {
    /// Whether this is the port with this name and number.
    pub fn is(&self, name: &str, number: u16) -> bool {
        match self {
            Self::Name(wanted) => **wanted == *name,
            Self::Number(wanted) => *wanted == number,
        }
    }
}

fn label(text: &str, what: &str) -> Result<Arc<str>, String> {
    let letters = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let fits = (1..=LABEL).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-');
    let why = || format!("{text:?} is not the name of {what}: lower-case letters, digits and - between them");
    if letters && fits { Ok(text.into()) } else { Err(why()) }
}

impl fmt::Display for EndpointPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl fmt::Display for ServiceEndpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plus = if self.scheme == Scheme::Https { "+https" } else { "" };
        write!(f, "k8s{plus}://")?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        write!(f, "{}:{}", self.service, self.port)
    }
}
