//! A host in memory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use wasmtime_wasi_http::Error;

use crate::guests::backend::Backend;
use crate::guests::publisher::Publisher;
use crate::guests::target::Target;
use crate::request::admit::Routed;
use crate::request::error::RequestError;
use crate::request::handler::{Call, Caller, Handler};
use crate::request::mirror::AnyBody;
use crate::request::record::Record;
use crate::request::respond::Body;
use lodge_base::budget::Budget;
use lodge_base::config::{self, Config, ServiceHosts};
use lodge_base::cpu::scheduler::CpuScheduler;
use lodge_base::ids::Ids;
use lodge_base::telemetry::logs::Logs;
use lodge_base::telemetry::traces::{Trace, Tracer};
use lodge_manifest::Manifest;
use lodge_manifest::cache::Rules;
use lodge_manifest::digest::Digest;
use lodge_manifest::spec::GuestSpec;
use lodge_traffic::admission::Concurrency;
use lodge_traffic::cache::{Lookup, ResponseCache, Settled};
use lodge_traffic::error_pages::PageSet;
use lodge_traffic::proxy::compression::memory::encoder_memory;
use lodge_traffic::proxy::headers::{self, Peer};
use lodge_traffic::service::deployment::Deployment;
use lodge_traffic::service::{Service, Services};
use lodge_traffic::upstreams::{SharedUpstreams, Upstream};
use lodge_traffic::validation::room::ValidationRoom;
use lodge_traffic::validation::sources::SchemaSources;

/// The address of the client.
pub(super) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Longer than any test takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host that serves upstreams without replicas.
pub(super) struct Fixture {
    pub(super) handler: Handler,
    /// The limit of all services together.
    pub(super) slots: Arc<Concurrency>,
    config: Config,
    publisher: Publisher,
    services: Services,
    upstreams: SharedUpstreams,
    pub(super) peer: Peer,
}

/// A response that was read to its end.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// The reason in a problem response that has a body; otherwise the body.
    pub(super) text: String,
}

impl Fixture {
    /// A host that has not looked at its directory yet.
    pub(super) fn starting() -> Self {
        let config = config::resolve(&[]).unwrap().config;
        let slots = Arc::new(Concurrency::new(8, 8, config.limits.queue_wait));
        let publisher = Publisher::new(Arc::clone(&slots));
        let (services, upstreams) = (Services::new(CpuScheduler::new(1)), SharedUpstreams::new(8, &Default::default()));
        let handler = Handler {
            remote: OnceLock::new(),
            cluster: Some(upstreams.serving_hosts()),
            current: publisher.current(),
            trusted_proxies: Vec::new(),
            proofs: None,
            redirect: None,
            hsts: None,
            audit: None,
            failed_attempts: None,
            service_hosts: ServiceHosts::Local,
            ids: Ids::new(),
            unmatched: services.get_or_create(""),
            metrics: Arc::default(),
            tracer: Tracer::off(),
            logs: Logs::detached(&config),
            via: upstreams.via(),
            explains: false,
            responses: ResponseCache::new(1 << 20, 1 << 16),
            unsent: Budget::new(1 << 20),
            compression: encoder_memory(4 << 20),
            validation: ValidationRoom::new(4 << 20),
            pages: PageSet::default(),
        };
        let peer = Peer::new(SocketAddr::new(CLIENT, 9), SocketAddr::from(([192, 0, 2, 2], 80)), &[]);
        Self { handler, slots, config, publisher, services, upstreams, peer }
    }

    /// A host with these services: their names, and what their manifests have besides the replicas.
    pub(super) async fn with(services: &[(&str, &str)]) -> Self {
        let host = Self::starting();
        let mut backends = Vec::new();
        for (name, text) in services {
            backends.push(host.backend(name, text).await);
        }
        host.publisher.publish(backends, Vec::new(), true);
        assert!(host.handler.current.snapshot().refusals.is_empty(), "{:?}", host.handler.current.snapshot().refusals);
        host
    }

    async fn backend(&self, name: &str, text: &str) -> Backend {
        // The file does not exist, so there are no replicas.
        let none = if text.contains("[upstream]") { "" } else { "[upstream]\nreplicas_file = 'none.list'" };
        let text = format!("{text}\n{none}");
        let manifest = match name.split_once('@') {
            None => Manifest::read(name, &text, &self.config.limits, 1 << 30).unwrap(),
            Some((service, _)) => {
                let service = Manifest::read(service, "", &self.config.limits, 1 << 30).unwrap();
                service.version(&text, 1 << 30).unwrap()
            }
        };
        let upstream = manifest.upstream.clone().unwrap();
        let path = format!("{name}.toml").into();
        let spec = GuestSpec {
            name: name.to_owned(),
            path,
            content: None,
            digest: Digest::of(text.as_bytes()),
            size: 0,
            middleware: Vec::new(),
            manifest,
        };
        let mut deployment = Deployment::new(spec, &self.services);
        if let Some(checks) = &mut deployment.validation {
            SchemaSources::default().open(checks, "users", Path::new("")).await.unwrap();
        }
        let deployment = Arc::new(deployment);
        let directory = Path::new("/nonexistent");
        Arc::new(Upstream::new(deployment, upstream, directory, &self.upstreams, None).await.unwrap()).into()
    }

    pub(super) fn target(&self, name: &str) -> Arc<Target> {
        Arc::clone(self.handler.current.snapshot().target(name).unwrap())
    }

    /// The metrics of a service; with an empty name, those of requests that match none.
    pub(super) fn service(&self, name: &str) -> Arc<Service> {
        if name.is_empty() {
            return Arc::clone(&self.handler.unmatched);
        }
        Arc::clone(&self.target(name).deployment().service)
    }

    /// The requests of a service that were refused, by reason.
    pub(super) fn refused(&self, name: &str) -> Vec<(&'static str, u64)> {
        self.service(name).metrics.refused.read()
    }

    /// Sends a request of the client, and reads the response to its end.
    pub(super) async fn send(&self, request: Request<AnyBody>) -> Reply {
        read(within(self.handler.respond(&self.peer, None, request)).await).await
    }

    /// Sends a request of the client, and returns the response without reading its body.
    pub(super) async fn open(&self, request: Request<AnyBody>) -> Response<Body> {
        within(self.handler.respond(&self.peer, None, request)).await
    }

    /// Sends a request of a guest.
    pub(super) async fn call(&self, call: &Call<'_>, request: Request<AnyBody>) -> Reply {
        let peer = Peer::service("caller");
        read(within(self.handler.respond(&peer, Some(call), request)).await).await
    }

    /// The sender of a request: the client, or a guest with this call.
    pub(super) fn caller<'a>(&'a self, call: Option<&'a Call<'a>>) -> Caller<'a> {
        Caller { peer: &self.peer, call, client: CLIENT }
    }

    /// A request of `caller` that was routed to the service `name`.
    pub(super) fn routed<'a>(&'a self, name: &str, caller: &'a Caller<'a>) -> Routed<'a> {
        let (handler, target) = (&self.handler, self.target(name));
        Routed {
            handler,
            caller,
            target,
            route: 0,
            mirror: None,
            judged: false,
            depth: 0,
            word: None,
            identity: None,
            browser: None,
            ruled: None,
        }
    }

    /// Stores `body` as the response to a GET request for `uri`, with this `Cache-Control`.
    pub(super) async fn store(&self, uri: &'static str, cache_control: &str, body: &'static str) {
        let (mut head, content) = get(uri).into_parts();
        headers::normalize(&mut head, &self.peer).unwrap();
        let snapshot = self.handler.current.snapshot();
        let authority = head.uri.authority().unwrap().as_str();
        let found = snapshot.find(authority, head.uri.path(), &head.method, false).unwrap();
        let (number, target, uri) = (found.number, Arc::clone(found.target), head.uri.clone());
        let rules = Rules { keep: true, ttl: Duration::ZERO };
        let (mut request, mut record) = (Request::from_parts(head, content), record());
        let responses = self.handler.responses.as_ref().unwrap();
        let found: Lookup<Body> =
            responses.lookup(rules, (&uri, number), target.deployment(), &mut request, &mut record).await;
        let Lookup::Miss(fill) = found else { panic!("{uri} is stored already") };
        let response = Response::builder().header(header::CACHE_CONTROL, cache_control);
        let response = response.body(Body::text(Some(Bytes::from(body)))).unwrap();
        let Settled::Done(Ok(response)) = fill.settle::<Body, RequestError>(Ok(response)) else { panic!("{uri}") };
        assert_eq!(read(response).await.text, body);
    }

    /// Whether no request holds a slot or waits for one.
    pub(super) fn is_idle(&self) -> bool {
        let snapshot = self.handler.current.snapshot();
        let idle = |target: &Arc<Target>| target.admission.in_flight() == 0 && target.admission.queued() == 0;
        self.slots.taken() == 0 && snapshot.targets.iter().all(idle)
    }
}

/// A GET request of a client.
pub(super) fn get(uri: impl TryInto<Uri, Error: std::fmt::Debug>) -> Request<AnyBody> {
    let uri: Uri = uri.try_into().unwrap();
    with_body(Request::get(uri).body(()).unwrap(), "")
}

/// The request with a body, and with a `Host` header if its target names a host.
pub(super) fn with_body(mut request: Request<()>, body: &'static str) -> Request<AnyBody> {
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str()).unwrap();
        request.headers_mut().insert(header::HOST, host);
    }
    request.map(|()| Full::new(Bytes::from(body)).map_err(|never| -> Error { match never {} }).boxed_unsync())
}

pub(super) fn record() -> Record {
    Record::new(Arc::from("1"), Trace::off())
}

/// A call to `host` of a guest whose own request ends at `deadline`.
pub(super) fn call(host: &str, depth: usize, deadline: Instant) -> Call<'_> {
    Call { host, elsewhere: None, from: Some("caller"), request_id: Arc::from("1"), deadline, depth }
}

pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it ends")
}

/// Waits until `reached`, which another task brings about.
pub(super) async fn until(reached: impl Fn() -> bool) {
    within(async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Reads a response to its end.
pub(super) async fn read(response: Response<Body>) -> Reply {
    let (head, body) = response.into_parts();
    let text = String::from_utf8(within(body.collect()).await.unwrap().to_bytes().to_vec()).unwrap();
    let problem = head.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/problem+json");
    let text = if problem && !text.is_empty() {
        let problem: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(problem["status"], head.status.as_u16());
        assert_eq!(head.headers.get(header::CACHE_CONTROL).unwrap(), "no-store");
        problem["type"].as_str().unwrap().strip_prefix("urn:lodge:problem:").unwrap().to_owned()
    } else {
        text
    };
    Reply { status: head.status.as_u16(), headers: head.headers, text }
}
