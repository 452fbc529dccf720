//! Settings of distributed tracing: which requests are recorded, and where spans are sent.

use std::time::Duration;

use http::Uri;
use http::header::{HeaderName, HeaderValue};

use super::key::{Key, count, duration, word};
use crate::canonical;

/// The settings of tracing. Fields have the names of their keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// The exporter of spans.
    pub exporter: Exporter,
    /// The URL to send spans to; `None` is the usual port of the exporter on this machine.
    pub endpoint: Option<Endpoint>,
    /// The transport of OTLP.
    pub protocol: Protocol,
    /// Headers of every export, such as an API key. The values are marked as sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Time for one batch, including all attempts to send it.
    pub timeout: Duration,
    /// The `service.name` of this host; if empty, that of `resource`, or `lodge`.
    pub service: String,
    /// Further attributes of this host.
    pub resource: Vec<(String, String)>,
    /// Share of requests that are recorded, 0 to 1.
    pub sample: f64,
    /// Whether the sampling decision of the caller overrides `sample`.
    pub follow_parent: bool,
    /// The most spans that wait to be exported.
    pub queue: usize,
    /// The most spans of one export.
    pub batch: usize,
    /// The longest time that a span waits for a batch to fill.
    pub delay: Duration,
}

/// The exporter of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exporter {
    /// None: nothing is recorded, and headers pass unchanged.
    Off,
    /// OTLP, to an OpenTelemetry collector or a compatible server.
    Otlp,
    /// Zipkin v2 JSON, to a Zipkin server.
    Zipkin,
}

/// The transport of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// Protobuf in the body of a POST.
    HttpProtobuf,
}

/// The URL of a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    uri: Uri,
    /// Whether the URL ends with its authority, so that the usual path of the exporter applies.
    bare: bool,
}

/// Every setting of `[traces]`, in the order of the docs.
pub const TRACES: &[Key<Traces>] = &[
    Key {
        name: "exporter",
        default: "off",
        help: "where spans are exported to: `otlp`, `zipkin`, or `off`",
        set: |t, text| {
            let words = [("off", Exporter::Off), ("otlp", Exporter::Otlp), ("zipkin", Exporter::Zipkin)];
            word(text, &words).map(|value| t.exporter = value)
        },
    },
    Key {
        name: "endpoint",
        default: "",
        help: "URL of the collector; empty is this machine at the standard port; without a path the standard path is added",
        set: |t, text| {
            t.endpoint = if text.is_empty() { None } else { Some(endpoint(text)?) };
            Ok(())
        },
    },
    Key {
        name: "protocol",
        default: "http/protobuf",
        help: "the transport of OTLP: `http/protobuf` or `grpc`",
        set: |t, text| {
            let words = [("http/protobuf", Protocol::HttpProtobuf), ("grpc", Protocol::Grpc)];
            word(text, &words).map(|value| t.protocol = value)
        },
    },
    Key {
        name: "headers",
        default: "",
        help: "headers of every export, such as an API key: `name=value`, comma-separated, values percent-encoded",
        set: |t, text| pairs(text)?.into_iter().map(header).collect::<Result<_, _>>().map(|value| t.headers = value),
    },
    Key {
        name: "timeout",
        default: "10s",
        help: "time for one export, all attempts together; spans that have not arrived by then are lost, and counted",
        set: |t, text| duration(text, MS..=HOUR).map(|value| t.timeout = value),
    },
    Key {
        name: "service",
        default: "",
        help: "service.name of this host in traces; empty is that of `traces.resource`, or else lodge",
        set: |t, text| {
            text.clone_into(&mut t.service);
            Ok(())
        },
    },
    Key {
        name: "resource",
        default: "",
        help: "attributes of this host: `name=value`, comma-separated, values percent-encoded",
        set: |t, text| pairs(text).map(|value| t.resource = value),
    },
    Key {
        name: "sample",
        default: "1",
        help: "share of requests that are traced, 0 to 1; decided by the trace id, so that all hosts agree",
        set: |t, text| share(text).map(|value| t.sample = value),
    },
    Key {
        name: "follow_parent",
        default: "true",
        help: "whether a caller's own decision to trace comes before `traces.sample`",
        set: |t, text| word(text, &[("true", true), ("false", false)]).map(|value| t.follow_parent = value),
    },
    Key {
        name: "queue",
        default: "2048",
        help: "spans that wait to be exported, six for a request and as many for a forwarded one; further ones are lost, and counted",
        set: |t, text| count(text, 1..=1_000_000).map(|value| t.queue = value),
    },
    Key {
        name: "batch",
        default: "512",
        help: "spans of one export; never more than the queue holds",
        set: |t, text| count(text, 1..=100_000).map(|value| t.batch = value),
    },
    Key {
        name: "delay",
        default: "5s",
        help: "how long a span waits for others of its batch",
        set: |t, text| duration(text, MS..=HOUR).map(|value| t.delay = value),
    },
];

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(60 * 60);

impl Traces {
    /// Returns a value for [`TRACES`] to fill in. It is never used as it is.
    pub(super) fn blank() -> Self {
        Self {
            exporter: Exporter::Off,
            endpoint: None,
            protocol: Protocol::HttpProtobuf,
            headers: Vec::new(),
            timeout: Duration::ZERO,
            service: String::new(),
            resource: Vec::new(),
            sample: 0.0,
            follow_parent: false,
            queue: 0,
            batch: 0,
            delay: Duration::ZERO,
        }
    }

    /// Returns the complete URL that spans are posted to.
    pub fn target(&self) -> Uri {
        let (port, usual) = match (self.exporter, self.protocol) {
            (Exporter::Zipkin, _) => (9411, "/api/v2/spans"),
            (_, Protocol::HttpProtobuf) => (4318, "/v1/traces"),
            (_, Protocol::Grpc) => (4317, "/opentelemetry.proto.collector.trace.v1.TraceService/Export"),
        };
        let grpc = self.exporter != Exporter::Zipkin && self.protocol == Protocol::Grpc;
        let here =
            || Endpoint { uri: Uri::try_from(format!("http://localhost:{port}")).unwrap_or_default(), bare: true };
        let Endpoint { uri, bare } = self.endpoint.clone().unwrap_or_else(here);
        if !bare && !grpc {
            return uri;
        }
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = usual.parse().ok();
        Uri::from_parts(parts).unwrap_or(uri)
    }

    /// Returns `service.name` and the other attributes of this host, each name once.
    pub fn attributes(&self) -> Vec<(String, String)> {
        const NAME: &str = "service.name";
        let mut all = self.resource.clone();
        if !self.service.is_empty() || !all.iter().any(|(name, _)| name == NAME) {
            all.retain(|(name, _)| name != NAME);
            let name = if self.service.is_empty() { "lodge" } else { &self.service };
            all.insert(0, (NAME.into(), name.into()));
        }
        all
    }
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let wrong = || format!("`{text}` is not a URL; write it like http://collector:4318");
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?.as_str();
    if authority.contains('@') {
        return Err("the URL contains a user name or password; put credentials into traces.headers".into());
    }
    let is_host = uri.scheme().is_some_and(|scheme| canonical::authority(authority.as_bytes(), scheme).is_some());
    if !is_host {
        return Err(wrong());
    }
    let after = text.split_once("://").map_or("", |(_, rest)| rest).len();
    match uri.scheme_str() {
        Some("http" | "https") => Ok(Endpoint { bare: after == authority.len(), uri }),
        _ => Err(wrong()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is not a number; write it like 0.1"))?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err("must be between 0 and 1".into()) }
}

/// Parses `name=value,name=value`, the format of W3C Baggage and of the `OTEL_*` variables.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    // The message does not repeat the part, which may be secret.
    const WRONG: &str = "a part between commas is not `name=value`";
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').ok_or(WRONG)?;
            let name = name.trim();
            // A `%` that begins no encoding stays.
            let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8();
            let value = value.map_err(|_| format!("the value of {name} is not percent-encoded text"))?;
            if name.is_empty() { Err(WRONG.into()) } else { Ok((name.to_owned(), value.into_owned())) }
        })
        .collect()
}

fn header((name, value): (String, String)) -> Result<(HeaderName, HeaderValue), String> {
    let parsed = HeaderName::try_from(&name).map_err(|_| format!("`{name}` is not the name of a header"))?;
    let mut value =
        HeaderValue::try_from(value).map_err(|_| format!("the value of {name} cannot be sent as a header"))?;
    value.set_sensitive(true);
    Ok((parsed, value))
}

#[cfg(test)]
mod tests;
