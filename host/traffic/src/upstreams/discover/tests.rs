//! Discovery against a DNS server on loopback and real files.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use hickory_resolver::proto::rr::RecordType;

use super::server::{LONG, Says, Server};
use super::*;
use lodge_manifest::upstream::protocol::Scheme;

fn quick() -> Pace {
    let ms = Duration::from_millis;
    Pace { least: ms(20), most: ms(100), grace: Duration::from_secs(60), file: ms(50) }
}

fn start(sources: &[&str], resolver: &Arc<Resolver>, pace: Pace) -> Discovery {
    let sources = sources.iter().map(|text| Source::parse(text).unwrap()).collect();
    let watches = ServiceWatches::new(&Default::default(), Default::default());
    Discovery::start(sources, Arc::clone(resolver), (&Arc::new(watches), &Default::default()), pace, false)
}

/// Formats replicas, with weights other than 1.
fn shown(endpoints: &[Endpoint]) -> Vec<String> {
    let text = |endpoint: &Endpoint| match endpoint.weight {
        1 => endpoint.target.to_string(),
        weight => format!("{} x{weight}", endpoint.target),
    };
    endpoints.iter().map(text).collect()
}

async fn becomes(discovery: &Discovery, expected: &[&str]) {
    let mut endpoints = discovery.endpoints();
    let waited = tokio::time::timeout(LONG, endpoints.wait_for(|list| shown(list) == expected)).await.is_ok();
    assert!(waited, "{:?} and not {expected:?}", shown(&discovery.endpoints().borrow()));
}

#[tokio::test]
async fn a_name_is_resolved_repeatedly() {
    let (server, resolver) = Server::start().await;
    server.addresses("users.test", &["10.0.0.2", "10.0.0.1"]);
    let discovery = start(&["dns://users.test:8080"], &resolver, quick());
    becomes(&discovery, &["http://users.test:8080 (10.0.0.1)", "http://users.test:8080 (10.0.0.2)"]).await;
    let mut endpoints = discovery.endpoints();
    endpoints.mark_unchanged();
    // The same addresses in another order are no change.
    server.addresses("users.test", &["10.0.0.1", "10.0.0.2"]);
    server.asked(6).await;
    assert!(!endpoints.has_changed().unwrap());
    server.addresses("users.test", &["10.0.0.3"]);
    becomes(&discovery, &["http://users.test:8080 (10.0.0.3)"]).await;
    let host = endpoints.borrow_and_update()[0].target.host.clone();
    assert_eq!(&*host, "users.test");
    drop(discovery);
    // The task has ended, so nothing can change the list.
    tokio::time::timeout(LONG, endpoints.changed()).await.unwrap().unwrap_err();
}

/// A name is resolved again after its TTL, not before.
#[tokio::test]
async fn names_are_resolved_again_after_their_ttl() {
    let (server, resolver) = Server::start().await;
    server.addresses("users.test", &["10.0.0.1"]);
    server.ttl.store(1, Ordering::Relaxed);
    let pace = Pace { most: LONG, ..quick() };
    let discovery = start(&["dns://users.test:80"], &resolver, pace);
    discovery.first_round().await;
    let begin = std::time::Instant::now();
    server.ttl.store(3600, Ordering::Relaxed);
    server.asked(1).await;
    let after = begin.elapsed();
    assert!(after >= Duration::from_millis(750) && after < Duration::from_secs(5), "{after:?}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(server.asked.load(Ordering::Relaxed), 4, "both families, twice");
}

#[tokio::test]
async fn flapping_changes_nothing() {
    let (server, resolver) = Server::start().await;
    server.says("users.test", RecordType::A, Says::Broken);
    let discovery = start(&["dns://users.test:80"], &resolver, quick());
    discovery.first_round().await;
    assert!(discovery.endpoints().borrow().is_empty());
    server.addresses("users.test", &["10.0.0.1"]);
    becomes(&discovery, &["http://users.test:80 (10.0.0.1)"]).await;
    let mut endpoints = discovery.endpoints();
    endpoints.mark_unchanged();
    for _ in 0..3 {
        server.says("users.test", RecordType::A, Says::Broken);
        server.asked(4).await;
        // No addresses, then no such name.
        server.says("users.test", RecordType::A, Says::Records(vec![]));
        server.asked(4).await;
        server.forgets();
        server.asked(4).await;
        server.addresses("users.test", &["10.0.0.1"]);
        server.asked(4).await;
    }
    assert!(!endpoints.has_changed().unwrap());
    // If the lookup of one family fails, its addresses stay, and the other family is updated.
    server.forgets();
    server.says("users.test", RecordType::A, Says::Broken);
    server.says("users.test", RecordType::AAAA, Says::Records(vec!["::1".parse::<IpAddr>().unwrap().into()]));
    let (v4, v6) = ("http://users.test:80 (10.0.0.1)", "http://users.test:80 (::1)");
    becomes(&discovery, &[v4, v6]).await;
    server.says("users.test", RecordType::AAAA, Says::Broken);
    server.says("users.test", RecordType::A, Says::Records(vec!["10.0.0.2".parse::<IpAddr>().unwrap().into()]));
    becomes(&discovery, &["http://users.test:80 (10.0.0.2)", v6]).await;
    server.addresses("users.test", &["10.0.0.1"]);
    becomes(&discovery, &[v4]).await;
}

#[tokio::test]
async fn a_missing_name_is_removed_after_a_while() {
    let (server, resolver) = Server::start().await;
    server.addresses("users.test", &["10.0.0.1"]);
    let pace = Pace { grace: Duration::from_millis(300), ..quick() };
    let discovery = start(&["dns://users.test:80"], &resolver, pace);
    becomes(&discovery, &["http://users.test:80 (10.0.0.1)"]).await;
    let begin = std::time::Instant::now();
    server.forgets();
    becomes(&discovery, &[]).await;
    assert!(begin.elapsed() >= Duration::from_millis(200), "{:?}", begin.elapsed());
    server.addresses("users.test", &["10.0.0.1"]);
    becomes(&discovery, &["http://users.test:80 (10.0.0.1)"]).await;
}

/// Every address of a `dns://` name is a replica, of either family. A single replica keeps one address of each.
#[tokio::test]
async fn both_families() {
    let (server, resolver) = Server::start().await;
    server.addresses("both.test", &["fd00::1", "10.0.0.1"]);
    server.addresses("six.test", &["fd00::2", "fd00::1"]);
    let sources = ["dns+https://both.test:443", "https://six.test weight=3", "http://both.test"];
    let discovery = start(&sources, &resolver, quick());
    let all = [
        "https://both.test:443 (10.0.0.1)",
        "https://both.test:443 (fd00::1)",
        "https://six.test:443 (fd00::1) x3",
        "http://both.test:80 (10.0.0.1, fd00::1)",
    ];
    becomes(&discovery, &all).await;
    // The lookup of one family fails: the single replica does not change.
    let mut endpoints = discovery.endpoints();
    endpoints.mark_unchanged();
    for family in [RecordType::A, RecordType::AAAA] {
        server.addresses("both.test", &["fd00::1", "10.0.0.1"]);
        server.says("both.test", family, Says::Broken);
        server.asked(12).await;
        assert!(!endpoints.has_changed().unwrap(), "{family}");
    }
}

#[tokio::test]
async fn services() {
    let (server, resolver) = Server::start().await;
    let record = "_http._tcp.users.test";
    server.services(record, &[(20, 1, 1, "late.test"), (10, 5, 8080, "a.test"), (10, 0, 8081, "b.test")]);
    server.addresses("a.test", &["10.0.0.1", "10.0.0.2"]);
    server.addresses("b.test", &["10.0.0.3"]);
    server.addresses("late.test", &["10.0.0.9"]);
    let discovery = start(&[&format!("srv://{record}")], &resolver, quick());
    let (a, b) = ("http://a.test:8080", "http://b.test:8081");
    let all = [format!("{a} (10.0.0.1) x5"), format!("{a} (10.0.0.2) x5"), format!("{b} (10.0.0.3)")];
    becomes(&discovery, &all.each_ref().map(String::as_str)).await;
    // The lookup of one target fails: all replicas stay.
    let mut endpoints = discovery.endpoints();
    endpoints.mark_unchanged();
    server.says("a.test", RecordType::A, Says::Broken);
    server.asked(12).await;
    assert!(!endpoints.has_changed().unwrap());
    // The best priority has no address left, and the next one has one.
    server.services(record, &[(20, 1, 1, "late.test"), (10, 5, 8080, "none.test")]);
    becomes(&discovery, &["http://late.test:1 (10.0.0.9)"]).await;
}

#[tokio::test]
async fn addresses_need_no_names() {
    let (server, resolver) = Server::start().await;
    let list = ["http://10.0.0.1:80", "https://[fd00::1]:8443 weight=2", "http://10.0.0.1:80 weight=9"];
    let discovery = start(&list, &resolver, quick());
    // Known at once; of duplicates, the first one's weight counts.
    assert_eq!(shown(&discovery.endpoints().borrow()), ["http://10.0.0.1:80", "https://[fd00::1]:8443 x2"]);
    tokio::time::timeout(LONG, discovery.first_round()).await.unwrap();
    assert_eq!(server.asked.load(Ordering::Relaxed), 0);
    assert_eq!(discovery.endpoints().borrow()[1].target.scheme, Scheme::Https);
}

/// Where replicas are verified, a file names none that cannot be: what it named before stays in use.
#[tokio::test]
async fn plain_replicas_of_a_file_are_refused() {
    let (_server, resolver) = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("replicas");
    let write = |text: &str| {
        let beside = directory.path().join("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, &path).unwrap();
    };
    write("http://10.0.0.1:80\n");
    let watches = Arc::new(ServiceWatches::new(&Default::default(), Default::default()));
    let discovery =
        Discovery::start(vec![Source::File(path.clone())], resolver, (&watches, &Default::default()), quick(), true);
    let fails = async || {
        let begin = std::time::Instant::now();
        while !discovery.source_errors().of(0).is_some_and(|why| why.contains("upstream.tls is set")) {
            assert!(begin.elapsed() < LONG, "{:?}", discovery.source_errors().of(0));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    fails().await;
    assert!(discovery.endpoints().borrow().is_empty());
    write("https://10.0.0.2:443\n");
    becomes(&discovery, &["https://10.0.0.2:443"]).await;
    assert_eq!(discovery.source_errors().len(), 0);
    write("https://10.0.0.3:443\nhttp://10.0.0.1:80\n");
    fails().await;
    assert_eq!(discovery.source_errors().len(), 1);
    assert_eq!(shown(&discovery.endpoints().borrow()), ["https://10.0.0.2:443"]);
}

#[tokio::test]
async fn a_file() {
    let (server, resolver) = Server::start().await;
    server.addresses("b.test", &["10.0.0.2"]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("replicas");
    let write = |text: &str| {
        let beside = directory.path().join("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, &path).unwrap();
    };
    let discovery = start(&[&format!("file:{}", path.display())], &resolver, quick());
    tokio::time::timeout(LONG, discovery.first_round()).await.unwrap();
    assert!(discovery.endpoints().borrow().is_empty());
    write("http://10.0.0.1:80\nhttp://b.test:81 weight=2\n");
    becomes(&discovery, &["http://10.0.0.1:80", "http://b.test:81 (10.0.0.2) x2"]).await;
    let mut endpoints = discovery.endpoints();
    endpoints.mark_unchanged();
    for mistake in ["http://10.0.0.3:80\nhttp//b", "", "# none\n", "\u{0}"] {
        write(mistake);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    std::fs::remove_file(&path).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!endpoints.has_changed().unwrap(), "{:?}", shown(&endpoints.borrow()));
    // Names in a file are resolved like others.
    server.addresses("b.test", &["10.0.0.4"]);
    becomes(&discovery, &["http://10.0.0.1:80", "http://b.test:81 (10.0.0.4) x2"]).await;
    write("http://b.test:81 weight=3\nhttp://10.0.0.3:80");
    becomes(&discovery, &["http://b.test:81 (10.0.0.4) x3", "http://10.0.0.3:80"]).await;
    // Written in pieces, in place: half of it would name other replicas.
    let half = |text: &str| {
        use std::io::Write;
        std::fs::File::options().append(true).open(&path).unwrap().write_all(text.as_bytes()).unwrap();
    };
    let (begin, pace, mut seen) = (std::time::Instant::now(), quick(), Vec::new());
    std::fs::write(&path, "").unwrap();
    for piece in ["\u{feff}http://10.0.0.1", "1:8", "0\nhttp://b.test:81 weight=3"] {
        tokio::time::sleep(Duration::from_millis(10)).await;
        half(piece);
        seen.extend(shown(&discovery.endpoints().borrow()));
    }
    // On a busy machine two reads may find the same piece, which is correct.
    let quick = begin.elapsed() < pace.file;
    becomes(&discovery, &["http://10.0.0.11:80", "http://b.test:81 (10.0.0.4) x3"]).await;
    assert!(
        !quick || seen.iter().all(|replica| replica.contains("b.test:81 ") || replica == "http://10.0.0.3:80"),
        "{seen:?}"
    );
    // A new file does not drop addresses that cannot be resolved at the moment.
    server.says("b.test", RecordType::A, Says::Broken);
    write("http://b.test:81 weight=3\nhttp://10.0.0.5:80");
    becomes(&discovery, &["http://b.test:81 (10.0.0.4) x3", "http://10.0.0.5:80"]).await;
}
