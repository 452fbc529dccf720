use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::net::TcpListener;

use super::*;
use lodge_base::config;
use lodge_manifest::Manifest;

/// Returns the grants of a manifest with this `http` key.
fn grants(http: &str) -> Grants {
    let limits = config::resolve(&[]).unwrap().config.limits;
    Manifest::read("x", &format!("http = {http}"), &limits, 1 << 30).unwrap().grants
}

/// A resolver with these addresses for every name, and the number of its lookups.
fn resolver(addresses: &'static [&'static str]) -> (NameResolver, Arc<AtomicUsize>) {
    let asked = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&asked);
    let resolver: NameResolver = Arc::new(move |_, _| {
        counted.fetch_add(1, Relaxed);
        let found = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Box::pin(std::future::ready(Ok(found)))
    });
    (resolver, asked)
}

/// A server that counts its connections.
async fn stand_in() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, seen) = (listener.local_addr().unwrap().port(), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&seen);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Relaxed);
        }
    });
    (port, seen)
}

async fn dial(resolver: NameResolver, http: &str, target: String) -> Result<DialedStream, OutgoingFailure> {
    Dialer::new(resolver, &grants(http), 2).connect(target.parse().unwrap()).await
}

/// A listed name that resolves to this machine is refused, and nothing is sent.
#[tokio::test]
async fn a_listed_name_with_a_private_address_is_refused() {
    let (port, seen) = stand_in().await;
    for inside in [&["127.0.0.1"][..], &["::ffff:127.0.0.1"], &["127.0.0.1", "127.0.0.2"]] {
        let list = format!("['http://rebound.test:{port}', 'http://*:{port}', 'http://*:*']");
        let (resolver, asked) = resolver(inside);
        let refused = dial(resolver, &list, format!("http://rebound.test:{port}/")).await;
        assert!(matches!(refused, Err(OutgoingFailure::Prohibited(_))), "{inside:?}");
        assert_eq!(asked.load(Relaxed), 1);
    }
    let literal = dial(system(), &format!("['http://*:{port}']"), format!("http://127.0.0.1:{port}/")).await;
    assert!(matches!(literal, Err(OutgoingFailure::Prohibited(_))));
    let mapped = dial(system(), "['http://*:*']", format!("http://[::ffff:127.0.0.1]:{port}/")).await;
    assert!(matches!(mapped, Err(OutgoingFailure::Prohibited(_))));
    assert_eq!(seen.load(Relaxed), 0, "a connection was made");
}

/// With its address listed as well, the name is reached, with the one lookup that was checked.
#[tokio::test]
async fn a_listed_address_is_reached() {
    let (port, seen) = stand_in().await;
    let (resolver, asked) = resolver(&["127.0.0.1"]);
    let list = format!("['http://near.test:{port}', 'http://127.0.0.0:{port}/8']");
    let line = dial(Arc::clone(&resolver), &list, format!("http://near.test:{port}/")).await;
    assert!(line.is_ok() && asked.load(Relaxed) == 1);
    while seen.load(Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    // Only at the listed port and scheme.
    let other = format!("['http://near.test:{port}', 'http://127.0.0.1:1', 'https://127.0.0.1:{port}']");
    let refused = dial(resolver, &other, format!("http://near.test:{port}/")).await;
    assert!(matches!(refused, Err(OutgoingFailure::Prohibited(_))));
}

/// Only the addresses that passed are tried.
#[tokio::test]
async fn refused_addresses_are_not_tried() {
    let (port, seen) = stand_in().await;
    let (resolver, _) = resolver(&["127.0.0.1", "127.0.0.2"]);
    let list = format!("['http://both.test:{port}', 'http://127.0.0.2:{port}']");
    let target = format!("http://both.test:{port}/");
    // Nothing listens at 127.0.0.2, the only address allowed.
    assert!(matches!(dial(resolver, &list, target).await, Err(OutgoingFailure::Refused)));
    assert_eq!(seen.load(Relaxed), 0);
}

#[tokio::test]
async fn connections_are_bounded() {
    let (port, _) = stand_in().await;
    let (resolver, _) = resolver(&["127.0.0.1"]);
    let dial = Dialer::new(resolver, &grants(&format!("['http://127.0.0.1:{port}']")), 2);
    let target: Uri = format!("http://a.test:{port}/").parse().unwrap();
    let one = dial.clone().connect(target.clone()).await.unwrap();
    let _two = dial.clone().connect(target.clone()).await.unwrap();
    assert!(matches!(dial.clone().connect(target.clone()).await, Err(OutgoingFailure::Connections)));
    drop(one);
    assert!(dial.connect(target).await.is_ok());
}

#[tokio::test]
async fn resolution_errors_are_reported() {
    let (empty, _) = resolver(&[]);
    assert!(matches!(dial(empty, "['http://a.test']", "http://a.test/".into()).await, Err(OutgoingFailure::Dns(_))));
    let broken: NameResolver = Arc::new(|_, _| Box::pin(std::future::ready(Err(io::Error::other("no such host")))));
    assert!(
        matches!(dial(broken, "['http://a.test']", "http://a.test/".into()).await, Err(OutgoingFailure::Dns(why)) if why.contains("no such"))
    );
}
