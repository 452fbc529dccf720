//! Benchmarks of the steps of a request, one by one: `cargo bench -p lodge`. `peers` measures whole requests, also of
//! other servers.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a benchmark ends at the first thing that is wrong; criterion's macros document nothing"
)]

use std::future::poll_fn;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use lodge::guests::deployer::Deployer;
use lodge::guests::scan::{FileState, Scanner};
use lodge_base::config::{self, Config, Origin};
use lodge_manifest::Manifest;
use lodge_manifest::route::{Pattern, Route};
use lodge_manifest::spec::GuestSpec;
use lodge_runtime::capabilities::sandbox::RequestContext;
use lodge_runtime::guest::Guest;
use lodge_traffic::admission::{Admission, Concurrency, RequestView, SharedLimits, Upload};
use lodge_traffic::auth::RequestSender;
use lodge_traffic::routing::router::Router;
use lodge_traffic::rules::RuleSet;
use lodge_traffic::rules::input::RuleInput;
use lodge_traffic::validation::json::{Json, JsonBounds};
use lodge_traffic::validation::schema::Schema;

/// A deadline that no benchmark reaches.
fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn route(c: &mut Criterion) {
    for services in [10, 1000] {
        let mut router = Router::default();
        for n in 0..services {
            let routes = [Route::of(Pattern::read(&format!("/s{n}")).unwrap()), Route::host(format!("s{n}.localhost"))];
            router.insert(routes.iter(), &n, false).unwrap();
        }
        c.bench_function(&format!("route among {services} services"), |b| {
            b.iter(|| router.find("127.0.0.1:8080", "/s7/and/more", &Method::GET, true).is_ok());
        });
    }
}

fn admit(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = config::resolve(&[]).unwrap().config;
    let places = Concurrency::new(config.engine.instances, config.engine.queue, config.limits.queue_wait);
    let shared_limits = Arc::new(SharedLimits::new(Arc::new(places)));
    let (name, headers, start) = (Arc::from("users"), HeaderMap::new(), Instant::now());
    for (what, manifest) in [
        ("admit", ""),
        ("admit, networks", "allow = ['127.0.0.0/8', '::1']"),
        ("admit, rate by service", "rate = { limit = '1000000/s', burst = 1000000, by = 'service' }"),
        ("admit, rate by client", "rate = { limit = '1000000/s', burst = 1000000 }"),
        ("admit, refused by rate", "rate = { limit = '1/h' }"),
        ("admit, breaker", "breaker = {}"),
        ("admit, adaptive", "adaptive.latency = '1s'"),
    ] {
        let manifest = Manifest::read("users", manifest, &config.limits, config.engine.max_memory).unwrap();
        let admission = Admission::new(&name, (&manifest.limits, &manifest.policies), &shared_limits, None, start);
        let asked = RequestView::new([127, 0, 0, 1].into(), &headers);
        c.bench_function(what, |b| {
            b.iter(|| {
                let mut permit = runtime.block_on(admission.admit(&asked, Instant::now()));
                if let Ok(permit) = &mut permit {
                    permit.record_response(StatusCode::OK, Upload::default(), Instant::now);
                }
                permit.is_ok()
            });
        });
    }
}

/// A rule that asks for the method and the scopes, and one that asks for the path and the address.
fn rules(c: &mut Criterion) {
    let config = config::resolve(&[]).unwrap().config;
    let (method, uri, headers) = (Method::GET, Uri::from_static("http://127.0.0.1:8080/users/7"), HeaderMap::new());
    for (what, when) in [
        ("rule, method and scopes", "request.method == \"DELETE\" && !(\"admin\" in identity.scopes)"),
        (
            "rule, path and address",
            "request.path.startsWith(\"/users/\") && cidr(\"10.0.0.0/8\").containsIP(client.address)",
        ),
    ] {
        let manifest = format!("[[rules]]\nwhen = '{when}'\ndeny = 403");
        let manifest = Manifest::read("users", &manifest, &config.limits, config.engine.max_memory).unwrap();
        let rules = RuleSet::new(&manifest.policies).unwrap();
        let input = RuleInput {
            method: &method,
            uri: &uri,
            path: uri.path(),
            headers: &headers,
            size: Some(0),
            identity: None,
            sender: RequestSender::Client(None),
            client: [127, 0, 0, 1].into(),
            claimed: None,
            now: SystemTime::UNIX_EPOCH,
        };
        c.bench_function(what, |b| b.iter(|| rules.decide(0, &input).is_ok()));
    }
}

/// A body of 1 KB, read and checked by its schema.
fn schema(c: &mut Criterion) {
    let schema = r##"{
        "type": "object", "required": ["id", "name", "lines"], "additionalProperties": false,
        "properties": {
            "id": { "type": "integer", "minimum": 1 }, "name": { "type": "string", "minLength": 1, "maxLength": 100 },
            "email": { "type": "string", "pattern": "^[^@ ]+@[^@ ]+$" }, "kind": { "enum": ["private", "company"] },
            "lines": { "type": "array", "minItems": 1, "maxItems": 100, "items": { "$ref": "#/$defs/line" } }
        },
        "$defs": { "line": {
            "type": "object", "required": ["article", "count", "price"], "additionalProperties": false,
            "properties": {
                "article": { "type": "string", "pattern": "^[A-Z0-9-]{1,20}$" }, "count": { "type": "integer", "minimum": 1 },
                "price": { "type": "number", "minimum": 0 }, "note": { "type": ["string", "null"], "maxLength": 200 }
            }
        } }
    }"##;
    let line = r#"{"article":"AB-1234567","count":12,"price":19.99,"note":"to be delivered before noon"}"#;
    let head = r#"{"id":7,"name":"Ada Lovelace","email":"ada@example.com","kind":"private","lines":["#;
    let body = format!("{head}{}]}}", [line; 10].join(","));
    let (schema, bounds) = (Schema::read(schema).unwrap(), JsonBounds { depth: 64, values: 100_000 });
    let check = |body: &str| schema.check(&Json::read(body.as_bytes(), bounds).unwrap(), 20_000).is_ok();
    assert!(check(&body));
    c.bench_function("body of 1 KB, read", |b| b.iter(|| Json::read(body.as_bytes(), bounds).is_ok()));
    c.bench_function("body of 1 KB, schema", |b| b.iter(|| check(&body)));
}

/// A directory with the guests `hello` (0.3) and `deaf` (0.2), and the configuration of a host without a compile cache.
fn built() -> (tempfile::TempDir, Config) {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(root).args([
        "build",
        "--target",
        "wasm32-wasip2",
        "--profile",
        "guest",
        "-p",
        "hello",
        "-p",
        "deaf",
    ]);
    assert!(build.status().unwrap().success(), "the guests do not build");
    let target = Path::new(env!("CARGO_BIN_EXE_lodge")).ancestors().nth(2).unwrap().join("wasm32-wasip2/guest");
    let directory = tempfile::tempdir().unwrap();
    for name in ["hello.wasm", "deaf.wasm"] {
        std::fs::copy(target.join(name), directory.path().join(name)).unwrap();
    }
    let settings = [("guests", directory.path().display().to_string()), ("cache.directory", "off".into())];
    let settings = settings.map(|(name, text)| (name.into(), text)).into();
    let config: Config = config::resolve(&[(Origin::Flag, settings)]).unwrap().config;
    (directory, config)
}

/// The guests of this configuration.
fn specs(config: &Config) -> impl Iterator<Item = GuestSpec> {
    let found = Scanner::new(&config.guests).scan(config).unwrap().found;
    found.into_values().map(|found| match found.state {
        FileState::Ready(spec) => spec,
        _ => panic!("a guest is refused"),
    })
}

/// What a file that is dropped costs until it can serve, with the compiler in the process of the host and in one of its own.
fn compile(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (_directory, mut config) = built();
    let specs: Vec<_> = specs(&config).collect();
    let mut group = c.benchmark_group("compile");
    group.sample_size(30);
    for (place, program) in [("in the host", None), ("by a child", Some(env!("CARGO_BIN_EXE_lodge").into()))] {
        config.program.compiler = program;
        let deployer = Deployer::offline(&config).unwrap();
        for spec in &specs {
            group.bench_function(format!("{}, {place}", spec.name), |b| {
                b.iter(|| runtime.block_on(deployer.deploy_guest(spec.clone())).is_ok());
            });
        }
    }
}

async fn call(guest: &Arc<Guest>, id: &Arc<str>) -> usize {
    let instance = guest.instantiate(deadline()).await.unwrap();
    let request = Request::get("http://localhost/hello").body(Empty::new()).unwrap();
    let mut answer = guest.call(instance, request, RequestContext::new(Arc::clone(id), deadline())).await.unwrap();
    let mut bytes = 0;
    while let Some(frame) = poll_fn(|cx| answer.body.poll_frame(cx)).await {
        bytes += frame.unwrap().data_ref().map_or(0, |data| data.len());
    }
    bytes
}

fn sandbox(c: &mut Criterion) {
    // On a runtime as in the host: timers and guests that yield need one.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (_directory, config) = built();
    let deployer = Deployer::offline(&config).unwrap();
    let guests: Vec<_> = specs(&config).map(|spec| runtime.block_on(deployer.deploy_guest(spec)).unwrap()).collect();
    let id: Arc<str> = Arc::from("00000000000000000000000000000000");
    for (guest, version) in guests.iter().zip(["0.2", "0.3"]) {
        assert_eq!(&*guest.deployment().name, if version == "0.2" { "deaf" } else { "hello" });
        c.bench_function(&format!("instantiate and drop, {version}"), |b| {
            b.iter(|| runtime.block_on(guest.instantiate(deadline())).is_ok());
        });
        c.bench_function(&format!("instantiate, call and drop, {version}"), |b| {
            b.iter(|| assert_eq!(runtime.block_on(call(guest, &id)), 13));
        });
    }
}

criterion_group!(path, route, admit, rules, schema, compile, sandbox);
criterion_main!(path);
