//! An upstream as a whole, with names that are really looked up.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use hickory_resolver::proto::rr::RecordType;
use http::Request;
use http_body_util::{BodyExt, Empty};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::discover::server::{LONG, Says, Server};
use super::*;
use crate::config;
use crate::guests::digest::Digest;
use crate::guests::load::GuestSpec;
use crate::guests::manifest::Manifest;
use crate::service::Services;
use crate::turns::Turns;

/// Replicas on these addresses of the loopback network and one port, each of which answers with its own.
async fn replicas(addresses: &[&str]) -> u16 {
    'port: loop {
        let mut listeners: Vec<TcpListener> = Vec::new();
        for address in addresses {
            let port = listeners.first().map_or(0, |first| first.local_addr().unwrap().port());
            // Taken at another of the addresses: the next one, then.
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
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
    while let Ok((mut stream, _)) = listener.accept().await {
        let answer = answer.clone();
        tokio::spawn(async move {
            let mut head = Vec::new();
            while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                if head.ends_with(b"\r\n\r\n") {
                    head.clear();
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
    }
}

async fn upstream(text: &str, shared: &Shared) -> Upstream {
    let limits = config::resolve(&[]).unwrap().config.limits;
    let manifest = Manifest::read("far", text, &limits, 1 << 30).unwrap();
    let spec = manifest.upstream.clone().unwrap();
    let file = GuestSpec { name: "far".into(), path: "far.toml".into(), digest: Digest::of(b""), size: 0, manifest };
    let deployment = Deployment::new(file, &Services::new(Turns::new(1)));
    Upstream::new(deployment, spec, Path::new("."), shared, None).await.unwrap()
}

/// Who answers a request.
async fn ask(upstream: &Upstream) -> String {
    let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::get("http://far.test/").body(body).unwrap();
    let client = IpAddr::from(Ipv4Addr::LOCALHOST);
    let answer = upstream.send(request, client, Instant::now() + LONG, None, None).await.expect("no request is lost");
    assert_eq!(answer.response.status(), 200);
    let body = answer.response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// A name that fails, has no addresses, is gone, or says something else each time, under load: no request is lost, and
/// whoever answers is one that the name has, or had last.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_flaps_loses_nothing() {
    let all = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
    let (port, (server, names)) = (replicas(&all).await, Server::start().await);
    server.addresses("far.test", &all[..1]);
    let ms = Duration::from_millis;
    let pace = Pace { least: ms(20), most: ms(100), grace: Duration::from_secs(60), file: ms(20) };
    let shared = Shared { names: OnceLock::from(names), pace, ..Shared::default() };
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
            server.asked(2).await;
            server.says("far.test", RecordType::A, Says::Records(vec![]));
            server.asked(2).await;
            server.forgets();
            server.asked(2).await;
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
