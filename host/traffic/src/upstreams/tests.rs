//! A whole upstream with real name resolution.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use hickory_resolver::proto::rr::RecordType;
use http::Request;
use http_body_util::{BodyExt, Empty};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::discover::Pace;
use super::discover::server::{LONG, Says, Server};
use super::*;
use crate::admission::TimeLimit;
use crate::service::Services;
use lodge_base::config;
use lodge_base::cpu::scheduler::CpuScheduler;
use lodge_manifest::Manifest;
use lodge_manifest::digest::Digest;
use lodge_manifest::spec::GuestSpec;

/// Starts replicas on these loopback addresses and one port, each of which responds with its own address.
async fn replicas(addresses: &[&str]) -> u16 {
    'port: loop {
        let mut listeners: Vec<TcpListener> = Vec::new();
        for address in addresses {
            let port = listeners.first().map_or(0, |first| first.local_addr().unwrap().port());
            // The port is taken on another of the addresses: try the next one.
            let Ok(listener) = TcpListener::bind((*address, port)).await else { continue 'port };
            listeners.push(listener);
        }
        let port = listeners[0].local_addr().unwrap().port();
        for listener in listeners {
            tokio::spawn(serve(listener));
        }
        return port;
    }
}

async fn serve(listener: TcpListener) {
    let name = listener.local_addr().unwrap().ip().to_string();
    respond(listener, format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len())).await;
}

async fn respond(listener: TcpListener, response: String) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let response = response.clone();
        tokio::spawn(async move {
            let mut head = Vec::new();
            while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                if head.ends_with(b"\r\n\r\n") {
                    head.clear();
                    stream.write_all(response.as_bytes()).await.unwrap();
                }
            }
        });
    }
}

fn shared() -> SharedUpstreams {
    SharedUpstreams::new(1_000, &config::Kubernetes::default())
}

async fn upstream(text: &str, shared: &SharedUpstreams) -> Upstream {
    let limits = config::resolve(&[]).unwrap().config.limits;
    let manifest = Manifest::read("far", text, &limits, 1 << 30).unwrap();
    let spec = manifest.upstream.clone().unwrap();
    let file = GuestSpec {
        name: "far".into(),
        path: "far.toml".into(),
        content: None,
        digest: Digest::of(b""),
        size: 0,
        middleware: Vec::new(),
        manifest,
    };
    let deployment = Arc::new(Deployment::new(file, &Services::new(CpuScheduler::new(1))));
    Upstream::new(deployment, spec, Path::new("."), shared, None).await.unwrap()
}

/// Returns the address of the replica that responds.
async fn ask(upstream: &Upstream) -> String {
    let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::get("http://far.test/").body(body).unwrap();
    let client = IpAddr::from(Ipv4Addr::LOCALHOST);
    let response =
        upstream.send(request, client, (Instant::now() + LONG).into(), None, None).await.expect("no request is lost");
    assert_eq!(response.response.status(), 200);
    let body = response.response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// Under load, a name fails to resolve, has no addresses, disappears, or changes. No request is lost, and each response
/// comes from an address that the name has or had last.
#[tokio::test(flavor = "multi_thread")]
async fn a_flapping_name_loses_no_request() {
    let all = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
    let (port, (server, resolver)) = (replicas(&all).await, Server::start().await);
    server.addresses("far.test", &all[..1]);
    let ms = Duration::from_millis;
    let pace = Pace { least: ms(20), most: ms(100), grace: Duration::from_secs(60), file: ms(20) };
    let shared = SharedUpstreams { resolver: OnceLock::from(resolver), pace, ..shared() };
    let far = Arc::new(upstream(&format!("[upstream]\nreplicas = ['dns://far.test:{port}']"), &shared).await);
    let urls = || far.replicas().into_iter().map(|seen| seen.url).collect::<Vec<_>>();
    let follows = async |addresses: &[&str]| {
        let wanted: Vec<_> = addresses.iter().map(|address| format!("http://far.test:{port} ({address})")).collect();
        let followed = async {
            while urls() != wanted {
                tokio::time::sleep(ms(5)).await;
            }
        };
        assert!(tokio::time::timeout(LONG, followed).await.is_ok(), "{:?} and not {wanted:?}", urls());
    };
    follows(&all[..1]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, far) = (Arc::clone(&stop), Arc::clone(&far));
            tokio::spawn(async move {
                let mut seen = BTreeMap::<String, usize>::new();
                while !stop.load(Relaxed) {
                    *seen.entry(ask(&far).await).or_default() += 1;
                }
                seen
            })
        })
        .collect();
    for round in 0..3 {
        server.addresses("far.test", &all);
        follows(&all).await;
        for address in all {
            let known = urls();
            server.says("far.test", RecordType::A, Says::Broken);
            server.asked(4).await;
            server.says("far.test", RecordType::A, Says::Records(vec![]));
            server.asked(4).await;
            server.forgets();
            server.asked(4).await;
            assert_eq!(urls(), known, "round {round}: what fails was believed");
            server.addresses("far.test", &[address]);
            follows(&[address]).await;
            assert_eq!(ask(&far).await, address);
        }
    }
    stop.store(true, Relaxed);
    for client in clients {
        let seen = client.await.expect("no request was lost");
        assert_eq!(seen.len(), 3, "{seen:?}");
    }
}

/// A caller ejects no replica by giving it little time. What fails long before its end counts, and so does a replica that is gone.
#[tokio::test]
async fn a_short_time_is_no_failure_of_the_replica() {
    let gone = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (now, ms) = (Instant::now(), Duration::from_millis);
    let minute = ms(60_000);
    // Begun 50 seconds ago, with 51 of 60 seconds: what fails now may be due to that. Then begun now, with 51 seconds.
    let near = TimeLimit::new(now - ms(50_000), minute, Some(now + ms(1_000)));
    let far_off = TimeLimit::new(now, minute, Some(now + ms(51_000)));
    for (limit, is_gone, state) in
        [(near, false, "available"), (far_off, false, "ejected"), (near, true, "ejected"), (far_off, true, "ejected")]
    {
        let [one, two] = if is_gone { [gone(), gone()] } else { [unavailable().await, unavailable().await] };
        let text = format!(
            "[upstream]\nreplicas = ['http://{one}', 'http://{two}']\nejection = {{ failures = 2, share = '100%' }}\n\
             retry.attempts = 0"
        );
        let far = upstream(&text, &shared()).await;
        for _ in 0..8 {
            let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
            let request = Request::get("http://far.test/").body(body).unwrap();
            let sent = far.send(request, IpAddr::from(Ipv4Addr::LOCALHOST), limit, None, None).await;
            assert!(sent.is_err() || sent.is_ok_and(|sent| sent.response.status() == 503));
        }
        let seen: Vec<_> = far.replicas().into_iter().map(|replica| replica.state).collect();
        assert_eq!(seen, [state; 2], "{is_gone}");
    }
}

/// Starts a replica that responds with 503, as another host does that has too little time.
async fn unavailable() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(respond(listener, "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".into()));
    address
}

/// Starts an HTTP/2 server that refuses the first request on its first connection in this way and echoes all others.
/// Counts the requests that it answered.
async fn refusing(how: Refusal) -> (std::net::SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, responded) = (listener.local_addr().unwrap(), Arc::<AtomicU64>::default());
    let counts = Arc::clone(&responded);
    tokio::spawn(async move {
        let mut first = Some(how);
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let counts = Arc::clone(&counts);
            match first.take() {
                Some(Refusal::Away(code)) => drop(tokio::spawn(goes_away(stream, code))),
                refuses => drop(tokio::spawn(echoes(stream, refuses.is_some(), counts))),
            }
        }
    });
    (address, responded)
}

#[derive(Clone, Copy)]
enum Refusal {
    /// `REFUSED_STREAM`.
    Stream,
    /// `GOAWAY` with this code, and 0 as the last stream processed.
    Away(u8),
}

async fn echoes(stream: tokio::net::TcpStream, mut refuses: bool, responded: Arc<AtomicU64>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        if std::mem::take(&mut refuses) {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            continue;
        }
        responded.fetch_add(1, Relaxed);
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut to = respond.send_response(http::Response::new(()), false).unwrap();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
                to.send_data(data, false).unwrap();
            }
            to.send_data(Bytes::new(), true).unwrap();
        });
    }
}

/// Reads a request and some of its body, then sends a frame that no HTTP library would send.
async fn goes_away(mut stream: tokio::net::TcpStream, code: u8) {
    let (mut bytes, preface, data) = (Vec::new(), 24, 0);
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    loop {
        stream.read_buf(&mut bytes).await.unwrap();
        let mut frames = bytes.get(preface..).unwrap_or_default();
        while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = frames {
            if *kind == data {
                let away = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, code];
                stream.write_all(&away).await.unwrap();
                // Closes after the client, so that the client does not see a reset of the connection first.
                while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {}
                return;
            }
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            let Some(next) = rest.get(length..) else { break };
            frames = next;
        }
    }
}

/// A request that a replica refused unprocessed is sent again whatever its method, as long as its body is held.
#[tokio::test(flavor = "multi_thread")]
async fn refused_requests_are_retried() {
    for (how, method, size) in [
        (Refusal::Stream, "POST", 0),
        (Refusal::Stream, "POST", 10),
        (Refusal::Stream, "PUT", replay::MAX_HELD),
        (Refusal::Away(0), "POST", 5),
        (Refusal::Away(11), "POST", 5),
    ] {
        let (address, responded) = refusing(how).await;
        let text = format!("[upstream]\nreplicas = ['http://{address}']\nprotocol = 'h2c'");
        let far = upstream(&text, &shared()).await;
        let sent = Bytes::from(vec![b'x'; size]);
        let body = http_body_util::Full::new(sent.clone()).map_err(|never| match never {}).boxed_unsync();
        let request = Request::builder().method(method).uri("http://far.test/").body(body).unwrap();
        let client = IpAddr::from(Ipv4Addr::LOCALHOST);
        let response = far.send(request, client, (Instant::now() + LONG).into(), None, None).await;
        let response = response.unwrap_or_else(|failure| panic!("{method} of {size} bytes is lost: {failure:?}"));
        let body = response.response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, sent);
        assert_eq!((responded.load(Relaxed), far.counts().retries.load(Relaxed)), (1, 1), "{method} {size}");
    }
}
