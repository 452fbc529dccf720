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
