use lodge_base::config;

use super::*;
use crate::registry::testing::{FakeRegistry, component, response, settings};

const PATIENCE: Duration = Duration::from_secs(60);

/// Pulls into a directory, which stays when they are dropped.
struct Following {
    pulls: Arc<Pulls>,
    _tasks: JoinSet<()>,
}

impl Following {
    fn start(directory: &tempfile::TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config::resolve(&[]).unwrap().config;
        config.pull = config::pull::Pull { interval: Duration::from_millis(50), ..settings() };
        config.cache.directory = config::CacheDirectory::At(directory.path().join("cache"));
        change(&mut config);
        let pulls = Pulls::new(Arc::new(config), Arc::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&pulls).run());
        Self { pulls, _tasks: tasks }
    }

    fn scan(&self, reference: &Reference) -> Pulled {
        let pulled = self.pulls.component(reference);
        self.pulls.end_scan();
        pulled
    }

    /// Scans on every change until the result is as wanted.
    async fn until(&self, reference: &Reference, wanted: impl Fn(&Pulled) -> bool) -> Pulled {
        let waiting = timeout(PATIENCE, async {
            loop {
                let pulled = self.scan(reference);
                if wanted(&pulled) {
                    return pulled;
                }
                self.pulls.changed().await;
            }
        });
        waiting.await.unwrap_or_else(|_| panic!("it stays {:?}", self.scan(reference)))
    }

    /// Waits for this component, without a problem or with one.
    async fn here(&self, reference: &Reference, bytes: &[u8], fails: bool) {
        let found = self
            .until(reference, |it| matches!(it, Pulled::Here(_, digest, why) if *digest == Digest::of(bytes) && why.is_some() == fails))
            .await;
        let Pulled::Here(path, ..) = found else { panic!("{found:?}") };
        assert_eq!(std::fs::read(path).unwrap(), bytes);
    }
}

/// A tag is followed; a registry that is away takes nothing out of service, also not at the next start.
#[tokio::test]
async fn a_tag_is_followed_through_an_outage() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), FakeRegistry::start().await);
    let (one, two) = (component(b"1"), component(b"2"));
    registry.put("latest", &one);
    let (tag, following) = (registry.reference(":latest"), Following::start(&directory, |_| {}));
    assert_eq!(following.scan(&tag), Pulled::Coming);
    assert!(following.pulls.is_pulling());
    following.here(&tag, &one, false).await;
    registry.put("latest", &two);
    following.here(&tag, &two, false).await;
    registry.habit(|_| Some(response("500 Internal Server Error", "", b"")));
    following.here(&tag, &two, true).await;
    drop(following);
    let following = Following::start(&directory, |_| {});
    assert!(matches!(following.scan(&tag), Pulled::Here(_, digest, None) if digest == Digest::of(&two)));
    following.here(&tag, &two, true).await;
    registry.reform();
    following.here(&tag, &two, false).await;
    let counts = following.pulls.metrics.pulls.read();
    let has = |wanted: &str| counts.iter().any(|(result, _)| *result == wanted);
    assert!(has("failed") && has("unchanged") && !has("ok"), "{counts:?}");
}

/// What was never pulled is repeated until it is there. A digest is then never requested again.
#[tokio::test]
async fn a_digest_is_pulled_once() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), FakeRegistry::start().await);
    let bytes = component(b"1");
    let digest = registry.put("1", &bytes);
    registry.habit(|_| Some(response("503 Service Unavailable", "", b"")));
    let pinned = registry.reference(&format!("@sha256:{digest}"));
    let following = Following::start(&directory, |_| {});
    following.until(&pinned, |it| matches!(it, Pulled::Failed(why) if why.contains("503"))).await;
    registry.reform();
    following.here(&pinned, &bytes, false).await;
    let asked = registry.asked("x").len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(registry.asked("x").len(), asked);
    // At the next start, it is there at once.
    drop(following);
    registry.stop();
    let following = Following::start(&directory, |_| {});
    assert!(matches!(following.scan(&pinned), Pulled::Here(.., None)));
}

/// A component that is damaged on disk, or gone, is pulled again.
#[tokio::test]
async fn a_damaged_store_is_repaired() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), FakeRegistry::start().await);
    let bytes = component(b"1");
    let digest = registry.put("1", &bytes);
    let pinned = registry.reference(&format!("@sha256:{digest}"));
    let following = Following::start(&directory, |_| {});
    following.here(&pinned, &bytes, false).await;
    let Pulled::Here(path, component, _) = following.scan(&pinned) else { panic!() };
    std::fs::write(&path, vec![b'x'; bytes.len()]).unwrap();
    following.pulls.discard(&pinned, component);
    following.here(&pinned, &bytes, false).await;
    std::fs::remove_file(&path).unwrap();
    following.here(&pinned, &bytes, false).await;
}

#[tokio::test]
async fn only_listed_registries_are_contacted() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), FakeRegistry::start().await);
    let bytes = component(b"1");
    registry.put("1", &bytes);
    let tag = registry.reference(":1");
    let following = Following::start(&directory, |config| config.pull.registries = vec!["r.example".into()]);
    assert!(matches!(following.scan(&tag), Pulled::Failed(why) if why.contains("not in pull.registries")));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(registry.asked("x").is_empty());
    let listed = registry.address.clone();
    let following = Following::start(&directory, |config| config.pull.registries = vec![listed]);
    following.here(&tag, &bytes, false).await;
    let following = Following::start(&directory, |config| config.cache.directory = config::CacheDirectory::Off);
    assert!(matches!(following.scan(&tag), Pulled::Failed(why) if why.contains("cache.directory")));
}

/// A pull whose reference no manifest names any more is ended, and its bytes are there for the next one.
#[tokio::test]
async fn a_pull_ends_with_its_reference() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), FakeRegistry::start().await);
    let bytes = component(&[1; 1000]);
    registry.put("1", &bytes);
    let half = response("200 OK", "", &bytes)[..500].to_vec();
    let (begun, silent) = (Arc::new(Notify::new()), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let quiet = Reference::read(&format!("oci://{}/team/users:1", silent.local_addr().unwrap())).unwrap();
    let following = Following::start(&directory, |config| config.pull.concurrent = 1);
    assert_eq!(following.scan(&quiet), Pulled::Coming);
    // It has the only place, until it is not wanted any more.
    let accepting = Arc::clone(&begun);
    std::thread::spawn(move || {
        let connection = silent.accept();
        accepting.notify_one();
        std::thread::park();
        drop(connection);
    });
    timeout(PATIENCE, begun.notified()).await.unwrap();
    registry.habit(move |head| (head.contains("/blobs/") && !head.contains("range: ")).then(|| half.clone()));
    following.here(&registry.reference(":1"), &bytes, false).await;
    assert!(registry.asked("range").iter().any(|line| line.contains("bytes=")), "{:?}", registry.asked("range"));
}

/// A digest may be that of an index: what it leads to is kept like anything else.
#[tokio::test]
async fn the_digest_of_an_index_is_kept() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), FakeRegistry::start().await);
    let bytes = component(b"1");
    let manifest = registry.put("1", &bytes);
    let platform = r#""platform": {"architecture": "wasm", "os": "wasip2"}"#;
    let index = format!(r#"{{"schemaVersion": 2, "manifests": [{{"digest": "sha256:{manifest}", {platform}}}]}}"#);
    let digest = registry.manifest("index", index.as_bytes());
    let pinned = registry.reference(&format!("@sha256:{digest}"));
    let following = Following::start(&directory, |_| {});
    following.here(&pinned, &bytes, false).await;
    drop(following);
    registry.stop();
    let following = Following::start(&directory, |_| {});
    assert!(matches!(following.scan(&pinned), Pulled::Here(.., None)));
}

fn components(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("cache/registry/components")
}

/// As if nothing in the store had been in use for days.
fn age(directory: &tempfile::TempDir) {
    let old = SystemTime::now() - Duration::from_secs(5 * 24 * 60 * 60);
    for folder in [components(directory), directory.path().join("cache/registry/references")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let file = std::fs::File::options().append(true).open(entry.unwrap().path()).unwrap();
            file.set_modified(old).unwrap();
        }
    }
}

/// At a start, nothing is removed before a scan has seen what is in use; then what is not in use is.
#[tokio::test]
async fn a_start_removes_nothing_that_is_in_use() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), FakeRegistry::start().await);
    let (one, two, other) = (component(b"1"), component(b"2"), component(b"3"));
    registry.put("latest", &one);
    let pinned = registry.reference(&format!("@sha256:{}", registry.put("other", &other)));
    let (tag, gone) = (registry.reference(":latest"), registry.reference(":none"));
    let small = |config: &mut Config| config.pull.size = 0;
    let following = Following::start(&directory, small);
    following.here(&tag, &one, false).await;
    following.here(&pinned, &other, false).await;
    drop(following);
    age(&directory);
    registry.put("latest", &two);
    let following = Following::start(&directory, small);
    // A scan that has not come to the others.
    let _ = (following.pulls.component(&tag), following.pulls.component(&gone));
    timeout(PATIENCE, following.pulls.looked()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    registry.habit(|_| Some(response("500 Internal Server Error", "", b"")));
    assert!(matches!(following.pulls.component(&pinned), Pulled::Here(.., None)));
    let _ = (following.pulls.component(&tag), following.pulls.component(&gone));
    // A part of a reference that nobody names, which a failed pull removes.
    following.pulls.end_scan();
    let part = components(&directory).join(format!("{}.{}.part", Digest::of(b"a"), Digest::of(b"b")));
    std::fs::write(&part, b"part").unwrap();
    let removed = async {
        while part.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, removed).await.unwrap();
    assert!(matches!(following.pulls.component(&pinned), Pulled::Here(.., None)));
}

/// Hosts and commands that share a directory do not remove what another host uses.
#[tokio::test]
async fn hosts_share_a_store() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), FakeRegistry::start().await);
    let (one, two) = (component(b"1"), component(b"2"));
    let first = registry.reference(&format!("@sha256:{}", registry.put("1", &one)));
    let (tag, gone) = (registry.reference(":2"), registry.reference(":none"));
    let small = |config: &mut Config| config.pull.size = 0;
    let following = Following::start(&directory, small);
    following.here(&first, &one, false).await;
    // A command removes nothing, however old.
    age(&directory);
    let command = Pulls::of_command(Arc::clone(&following.pulls.config));
    let run = tokio::spawn(Arc::clone(&command).run());
    command.component(&gone);
    command.end_scan();
    timeout(PATIENCE, command.looked()).await.unwrap();
    command.end_scan();
    run.abort();
    assert_eq!(std::fs::read_dir(components(&directory)).unwrap().count(), 1);
    // Another host removes nothing of what this one has noted as in use.
    following.pulls.touch();
    registry.put("2", &two);
    let second = Following::start(&directory, small);
    second.here(&tag, &two, false).await;
    second.until(&gone, |it| matches!(it, Pulled::Failed(_))).await;
    second.pulls.evict(true);
    assert!(matches!(following.scan(&first), Pulled::Here(.., None)));
}

/// A registry that does not respond leaves a place for others.
#[tokio::test]
async fn slow_registries_leave_a_place() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), FakeRegistry::start().await);
    let bytes = component(b"1");
    registry.put("1", &bytes);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let following = Following::start(&directory, |config| config.pull.concurrent = 2);
    let scan = || {
        for n in 0..5 {
            let slow = format!("oci://{}/team/users:{n}", silent.local_addr().unwrap());
            assert_eq!(following.pulls.component(&Reference::read(&slow).unwrap()), Pulled::Coming);
        }
    };
    scan();
    let tag = registry.reference(":1");
    let pulled = timeout(PATIENCE, async {
        loop {
            if let Pulled::Here(..) = following.pulls.component(&tag) {
                return;
            }
            following.pulls.changed().await;
        }
    });
    pulled.await.unwrap();
    scan();
}

/// The host is not kept from being ready by a first component that takes long.
#[tokio::test]
async fn a_long_first_pull_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let slow = Reference::read(&format!("oci://{}/team/users:1", silent.local_addr().unwrap())).unwrap();
    let following = Following::start(&directory, |_| {});
    assert_eq!(following.scan(&slow), Pulled::Coming);
    let past = Instant::now().checked_sub(LATE).unwrap();
    lock(&following.pulls.references).get_mut(&slow).unwrap().since = past;
    following.pulls.wanted.notify_one();
    timeout(PATIENCE, following.pulls.changed()).await.unwrap();
    assert!(matches!(following.scan(&slow), Pulled::Failed(why) if why.contains("the pull goes on")));
    assert!(following.pulls.is_pulling(), "a command waits for it");
}

/// What is known of a tag does not spare the look at it.
#[tokio::test]
async fn known_tags_are_looked_at_once_more() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), FakeRegistry::start().await);
    let bytes = component(b"1");
    registry.put("1", &bytes);
    let tag = registry.reference(":1");
    let following = Following::start(&directory, |_| {});
    following.here(&tag, &bytes, false).await;
    drop(following);
    registry.habit(|_| Some(response("404 Not Found", "", b"")));
    let following = Following::start(&directory, |_| {});
    assert!(matches!(following.scan(&tag), Pulled::Here(.., None)));
    assert!(following.pulls.is_pulling());
    timeout(PATIENCE, following.pulls.looked()).await.unwrap();
    assert!(matches!(following.scan(&tag), Pulled::Here(.., Some(why)) if why.contains("the registry has no")));
}

/// What prevents the use of the store can be mended while the host runs.
#[tokio::test]
async fn a_store_is_opened_again() {
    use std::os::unix::fs::PermissionsExt;
    let (directory, registry) = (tempfile::tempdir().unwrap(), FakeRegistry::start().await);
    let bytes = component(b"1");
    registry.put("1", &bytes);
    let cache = directory.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o777)).unwrap();
    let following = Following::start(&directory, |_| {});
    let tag = registry.reference(":1");
    assert!(matches!(following.scan(&tag), Pulled::Failed(why) if why.contains("other users can write to it")));
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o755)).unwrap();
    following.here(&tag, &bytes, false).await;
}
