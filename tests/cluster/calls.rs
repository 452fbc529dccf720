//! Promise: calls to services that only other hosts of the cluster have go there, near ones first. Neither a kill, nor a rolling restart,
//! nor an outage of the server loses more of them than is said, and nothing is forwarded twice.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::Method;
use rustix::process::Signal;
use tokio::task::JoinHandle;

use crate::harness::authority::Authority;
use crate::harness::{Connection, PATIENCE, Process, cache, free_port, get, lodge, until, wasm};
use crate::state::servers::with_redis::Redis;

/// A host of the cluster, which can be started again at its address.
struct Place {
    name: &'static str,
    directory: tempfile::TempDir,
    ports: [u16; 2],
    server: String,
    /// Whether others reach it over TLS.
    tls: bool,
    calls: &'static str,
}

impl Place {
    fn new(name: &'static str, server: &str, tls: bool, files: &[(&str, &str)]) -> Self {
        let (directory, ports) = (tempfile::tempdir().unwrap(), [free_port(), free_port()]);
        for (file, content) in files {
            match file.strip_suffix(".wasm") {
                Some(name) => {
                    std::fs::copy(wasm(content), directory.path().join(format!("{name}.wasm"))).unwrap();
                }
                None => std::fs::write(directory.path().join(file), content).unwrap(),
            }
        }
        let calls = if name == "c" { "off" } else { "any" };
        Self { name, directory, ports, server: server.to_owned(), tls, calls }
    }

    async fn start(&self, certificates: &Path) -> Process {
        let [plain, secure] = self.ports.map(|port| format!("127.0.0.1:{port}"));
        let path = self.directory.path().display().to_string();
        let at = if self.tls { format!("https://{secure}") } else { format!("http://{plain}") };
        let (certificate, ca) = (certificates.join("host.pem"), certificates.join("ca.pem"));
        let mut args = vec!["serve", &path, "--listen", &plain, "--admin", "127.0.0.1:0", "--cache-directory", cache()];
        args.extend(["--engine-instances", "64", "--state-url", &self.server, "--state-timeout", "500ms"]);
        args.extend(["--cluster-name", "shop", "--cluster-host", self.name, "--cluster-advertise", &at]);
        args.extend(["--cluster-interval", "100ms", "--cluster-ttl", "2s", "--cluster-calls", self.calls]);
        args.extend(["--stop-delay", "500ms"]);
        let certificate = certificate.display().to_string();
        if self.tls {
            args.extend(["--tls-listen", &secure, "--tls-certificates", &certificate]);
        }
        let mut command = lodge(&args);
        command.env("SSL_CERT_FILE", ca).env("SSL_CERT_DIR", "/nowhere");
        Process::of(command).await
    }
}

/// Services of `b`. Host `a` has files of these names as well, and serves none of them.
const HERE: [&str; 4] = ["disabled", "orphan", "taken", "refused"];

/// Waits until a host knows these others.
async fn until_known(host: &Process, expected: &[&str]) {
    let start = Instant::now();
    loop {
        let status: serde_json::Value = serde_json::from_slice(&get(host.admin, "/v1/cluster").await.body).unwrap();
        let members = status["members"].as_array().unwrap();
        let all = |member: &serde_json::Value| if member["name"] == "b" { &HERE[..] } else { &[] };
        let serves = |member: &&serde_json::Value| {
            std::iter::once(&"echo").chain(all(member)).all(|name| member["services"][name].is_string())
        };
        let names: Vec<_> = members.iter().filter(serves).map(|member| member["name"].as_str().unwrap()).collect();
        if names == expected {
            // What only forwards is not counted as served.
            assert!(members.iter().all(|member| member["services"]["far"].is_null()), "{status:#}");
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{expected:?}: {status:#}\n{}", host.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Calls a URL through the guest of a host, and returns the status and the body or the error that the guest got.
async fn call(client: &mut Connection, url: &str) -> (u16, String) {
    let response = client.ask(Method::GET, "/caller", &[("x-to", url)], "").await;
    let error = response.header("x-error");
    (response.status, if error.is_empty() { response.text() } else { error })
}

/// How many requests were sent, and when which failed.
type SentRequests = (usize, Vec<(Instant, String)>);

/// Four clients that send requests until `stop`. Returns how many there were, and when which failed.
fn clients(address: SocketAddr, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<SentRequests>> {
    let client = |_| {
        let stop = Arc::clone(stop);
        tokio::spawn(async move {
            let (mut client, mut sent, mut failed) = (Connection::http1(address).await, 0, Vec::new());
            while !stop.load(Relaxed) {
                sent += 1;
                // The guest sends a GET without a body, and says how long the response was.
                let headers = [("x-times", "1"), ("x-to", "http://echo.internal/echo/some-path")];
                let response = client.ask(Method::GET, "/caller", &headers, "").await;
                let (right, text) = (response.status == 200 && response.text() == RIGHT, response.text());
                if !right {
                    failed.push((Instant::now(), format!("{} {text}", response.status)));
                }
            }
            (sent, failed)
        })
    };
    (0..4).map(client).collect()
}

/// The length of the response of `echo` to an empty request.
const RIGHT: &str = "0";

async fn join(clients: Vec<JoinHandle<SentRequests>>) -> SentRequests {
    let (mut sent, mut failed) = (0, Vec::new());
    for client in clients {
        let (its, failures) = client.await.unwrap();
        sent += its;
        failed.extend(failures);
    }
    (sent, failed)
}

/// What is granted leads to the service and nowhere else, and not at all where calls are off, which is the default.
async fn calls_lead_where_they_may(host: &Process, other: &Process) {
    let client = &mut Connection::http1(host.address).await;
    for (url, expected) in [
        ("http://echo.internal/echo", (200, "")),
        ("http://echo.internal/hi", (404, "no-route")),
        ("http://hello.internal/hi", (200, "Hello")),
        ("http://hello.internal/elsewhere", (404, "no-route")),
        ("http://nobody.internal/", (404, "no-route")),
        ("http://disabled.internal/disabled", (404, "no-route")),
        ("http://orphan.internal/orphan", (503, "refused")),
        ("http://taken.internal/taken", (503, "refused")),
        ("http://refused.internal/refused", (503, "refused")),
        ("http://counter.internal/", (200, "HttpRequestDenied")),
    ] {
        let (status, text) = call(client, url).await;
        assert!(status == expected.0 && text.contains(expected.1), "{url}: {status} {text}\n{}", host.log());
    }
    let (status, text) = call(&mut Connection::http1(other.address).await, "http://hello.internal/hi").await;
    assert!(status == 404 && text.contains("no-route"), "{status} {text}");
    let (said, why) =
        ("the service is on host b (http://127.0.0.1:", "), but `cluster.calls` is off, and its address is http");
    until("the log says why", || other.log().contains(said) && other.log().contains(why)).await;
    let details = get(other.admin, "/v1/services/caller").await.body;
    let details: serde_json::Value = serde_json::from_slice(&details).unwrap();
    let remote = details["remote_calls"].as_array().unwrap();
    let hello = remote.iter().find(|call| call["name"] == "hello").unwrap();
    assert!(hello["state"].as_str().unwrap().starts_with("on host b (http://127.0.0.1:"), "{details:#}");
    let unknown = details["unknown_calls"].as_array().unwrap();
    assert!(unknown.contains(&"nobody".into()) && !unknown.contains(&"hello".into()), "{details:#}");
    // Clients reach what a manifest says, and what is forwarded is not forwarded again.
    assert_eq!(get(host.address, "/echo").await.status, 200);
    assert_eq!(get(host.address, "/hi").await.status, 404);
    let forwarded = client.ask(Method::GET, "/echo", &[("lodge-call", "far;calls=0;ms=9000")], "").await;
    assert_eq!((forwarded.status, forwarded.problem()), (508, "call-depth".to_owned()));
}

/// Whoever forges the header restricts only requests of its own.
async fn forging_is_in_vain(other: &Process) {
    let client = &mut Connection::http1(other.address).await;
    for _ in 0..20 {
        // A service that never waits is faster than no time at all.
        let forged = client.ask(Method::GET, "/hi", &[("lodge-call", "hello;calls=0;ms=0")], "").await;
        assert!(forged.status == 200 || forged.problem() == "caller-deadline", "{}", other.log());
    }
    assert_eq!(client.ask(Method::GET, "/hi", &[], "").await.status, 200);
    assert!(!other.log().contains("caller-deadline"), "{}", other.log());
}

/// Waits until a host knows another one that serves this.
async fn until_served(host: &Process, service: &str) {
    let start = Instant::now();
    loop {
        let status: serde_json::Value = serde_json::from_slice(&get(host.admin, "/v1/cluster").await.body).unwrap();
        let serves = |member: &serde_json::Value| member["services"][service].is_string() && member["this"] == false;
        if status["members"].as_array().unwrap().iter().any(serves) {
            return;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "{service}: {status:#}
{}",
            host.log()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Two services that call each other, each on a host of its own, end at the depth of calls, and every request is sent once.
async fn a_loop_over_hosts_ends(host: &Process, other: &Process) {
    until_served(host, "pong").await;
    until_served(other, "ping").await;
    let client = &mut Connection::http1(host.address).await;
    let round = "http://pong.internal/pong http://ping.internal/ping ";
    let response = client.ask(Method::GET, "/ping", &[("x-to", round.repeat(20).trim_end())], "").await;
    // The problem passes through services, with the request id of the host that has refused.
    let text = response.text();
    assert!(response.status == 508 && text.contains("urn:lodge:problem:call-depth"), "{text}\n{}", host.log());
    // The first request, and eight calls. The next one is refused before it is sent.
    let sent = async |host: &Process, service| {
        let status: serde_json::Value = serde_json::from_slice(&get(host.admin, "/v1/cluster").await.body).unwrap();
        let of_it = |call: &&serde_json::Value| call["service"] == service;
        status["calls"].as_array().unwrap().iter().filter(of_it).map(|call| call["sent"].as_u64().unwrap()).sum::<u64>()
    };
    // What operators see may be some tenths of a second old.
    let start = Instant::now();
    while (sent(host, "pong").await, sent(other, "ping").await) != (4, 4) {
        assert!(start.elapsed() < PATIENCE, "{}", get(host.admin, "/v1/cluster").await.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let is_counted =
        |metrics: &str| metrics.contains("lodge_cluster_call_failures_total{service=\"pong\",host=\"http://127");
    while !is_counted(&get(host.admin, "/metrics").await.text()) {
        assert!(start.elapsed() < PATIENCE, "{}", host.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let metrics = get(host.admin, "/metrics").await.text();
    let line = metrics
        .lines()
        .find(|line| line.starts_with("lodge_cluster_call_failures_total{service=\"pong\",host=\"http://127"));
    assert!(line.is_some_and(|line| line.ends_with(" 4")), "{line:?}");
    assert!(metrics.contains("lodge_cluster_call_seconds_count{service=\"pong\",host=\"http://127"), "{metrics}");
    let admin = host.admin.to_string();
    let (code, text, problem) = crate::harness::output(&mut lodge(&["cluster", "--admin", &admin]));
    let line = text.lines().find(|line| line.starts_with("pong ") && line.contains("  b  "));
    assert!(code == Some(0) && line.is_some(), "{text}{problem}");
}

/// Of requests while a host is killed, at most one in a thousand fails, and none later than two seconds after it.
async fn a_kill_loses_little(host: &Process, other: &mut Process) {
    let stop = Arc::new(AtomicBool::new(false));
    let sending = clients(host.address, &stop);
    tokio::time::sleep(Duration::from_millis(700)).await;
    other.signal(Signal::KILL);
    let killed = Instant::now();
    other.ended().await;
    tokio::time::sleep(Duration::from_millis(2_300)).await;
    stop.store(true, Relaxed);
    let (sent, failed) = join(sending).await;
    let late = failed.iter().any(|(at, _)| *at > killed + Duration::from_secs(2));
    assert!(failed.len() * 1_000 <= sent && !late, "{} of {sent}: {failed:?}\n{}", failed.len(), host.log());
    // What the killed host did not take was sent to the other one.
    let retries = crate::harness::sum(host.admin, "lodge_cluster_call_retries_total{service=\"echo\"").await;
    assert!(retries >= 1.0, "{}", get(host.admin, "/metrics").await.text());
}

/// No request is lost while the hosts are started again one after the other.
async fn restarts_lose_nothing(host: &Process, others: [(&Place, &mut Process); 2], certificates: &Path) {
    let stop = Arc::new(AtomicBool::new(false));
    let sending = clients(host.address, &stop);
    for (place, process) in others {
        process.signal(Signal::TERM);
        assert!(process.ended().await.success(), "{}", process.log());
        // When it is ready, the others find it with all that it serves.
        *process = place.start(certificates).await;
    }
    until_known(host, &["b", "c"]).await;
    stop.store(true, Relaxed);
    let (sent, failed) = join(sending).await;
    assert!(failed.is_empty() && sent > 100, "{} of {sent}: {failed:?}\n{}", failed.len(), host.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_where_the_service_is() {
    let Some(redis) = Redis::start() else { return };
    let certificates = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let issued = authority.issue(&["127.0.0.1"]);
    std::fs::write(certificates.path().join("ca.pem"), authority.pem()).unwrap();
    std::fs::write(certificates.path().join("host.pem"), format!("{}{}", issued.certificate, issued.key)).unwrap();
    let (url, certificates) = (redis.url(), certificates.path());
    let calls = "calls = ['echo', 'hello', 'far', 'nobody', 'status', 'disabled', 'orphan', 'taken', 'refused']";
    let far = "routes = ['/echo']\n[upstream]\nreplicas = ['cluster://echo', 'cluster+https://echo']";
    let a = [
        ("caller.wasm", "caller"),
        ("caller.toml", calls),
        ("far.toml", far),
        ("disabled.wasm", "echo"),
        ("disabled.toml", "enabled = false"),
        ("orphan.toml", "rate = '1/h'"),
        ("taken.wasm", "echo"),
        ("taken.toml", "routes = ['/caller', '/taken']"),
        ("refused.wasm", "echo"),
        ("refused.toml", "nonsense = true"),
        ("ping.wasm", "caller"),
        ("ping.toml", "calls = ['pong']"),
    ];
    let a = Place::new("a", &url, false, &a);
    let b = HERE.map(|name| (format!("{name}.wasm"), "echo"));
    let b: Vec<_> = b.iter().map(|(file, guest)| (&**file, *guest)).collect();
    let more = [
        ("echo.wasm", "echo"),
        ("hello.wasm", "hello"),
        ("hello.toml", "routes = ['/hi']\n[breaker]\ncalls = 5"),
        ("pong.wasm", "caller"),
        ("pong.toml", "calls = ['ping']"),
    ];
    let b = Place::new("b", &url, false, &[&b[..], &more].concat());
    let c = Place::new("c", &url, true, &[("echo.wasm", "echo"), ("caller.wasm", "caller"), ("caller.toml", calls)]);
    let (host, mut on_b, mut on_c) =
        (a.start(certificates).await, b.start(certificates).await, c.start(certificates).await);
    until_known(&host, &["b", "c"]).await;

    calls_lead_where_they_may(&host, &on_c).await;
    forging_is_in_vain(&on_b).await;
    a_loop_over_hosts_ends(&host, &on_b).await;
    a_kill_loses_little(&host, &mut on_b).await;
    on_b = b.start(certificates).await;
    until_known(&host, &["b", "c"]).await;
    restarts_lose_nothing(&host, [(&b, &mut on_b), (&c, &mut on_c)], certificates).await;

    // Without the server, calls go on by what is known.
    drop(redis);
    let start = Instant::now();
    while !get(host.admin, "/v1/cluster").await.text().contains("\"state\":\"away\"") {
        assert!(start.elapsed() < PATIENCE, "{}", host.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut client = Connection::http1(host.address).await;
    for _ in 0..50 {
        let (status, text) = call(&mut client, "http://echo.internal/echo").await;
        assert_eq!(status, 200, "{text}");
    }
    drop((on_b, on_c));
}
