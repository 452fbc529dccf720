//! The keys of an issuer on its server. They are fetched again at intervals, and when a token names a key that is not
//! among them. While the server does not respond, the last good keys are used, for a bounded time.

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use http::Uri;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::jwt::keys::{self, KeySet};
use crate::live_files::LiveValue;
use lodge_base::fetch;
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::Metrics;
use lodge_manifest::auth::jwt::Jwt;

/// The time for one fetch.
const FETCH: Duration = Duration::from_secs(5);

/// The least time between fetches for tokens that name an unknown key. Anybody can send such tokens.
const ASKED: Duration = Duration::from_secs(60);

/// The pause after the first failure, and the longest one.
pub(super) const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The keys of an issuer on its server.
#[derive(Debug)]
pub struct Remote {
    /// Why the keys could not be fetched the last time.
    problem: Mutex<Option<String>>,
    /// The keys in force.
    pub(super) keys: Arc<LiveValue<KeySet>>,
    asked: Mutex<Asked>,
    signals: Arc<Signals>,
}

/// The fetches that tokens have caused.
#[derive(Debug, Default)]
struct Asked {
    /// When the last one began.
    last: Option<Instant>,
    /// Whether it is not complete yet.
    running: bool,
}

/// How the task that fetches and those that wait for it find each other.
#[derive(Debug)]
struct Signals {
    wanted: Notify,
    fetched: watch::Sender<()>,
}

impl Remote {
    /// Begins to fetch the keys, and returns after the first attempt, whether it succeeds or not: until there are keys,
    /// tokens cannot be verified.
    pub(super) async fn open(url: Uri, settings: &Jwt, metrics: Arc<Metrics>) -> Arc<Self> {
        let signals = Arc::new(Signals { wanted: Notify::new(), fetched: watch::channel(()).0 });
        let keys = Arc::new(LiveValue::new(KeySet::none(Instant::now())));
        let this =
            Arc::new(Self { problem: Mutex::default(), keys, asked: Mutex::default(), signals: Arc::clone(&signals) });
        let mut fetched = signals.fetched.subscribe();
        let task = Fetching {
            url,
            refresh: settings.refresh,
            stale: settings.stale,
            metrics,
            signals,
            remote: Arc::downgrade(&this),
        };
        tokio::spawn(task.run());
        let _ = timeout(FETCH, fetched.changed()).await;
        this
    }

    /// Returns why the keys could not be fetched the last time.
    pub(super) fn problem(&self) -> Option<String> {
        lock(&self.problem).clone()
    }

    /// Whether a fetch for an unknown key may begin, or is in progress.
    pub(super) fn may_change(&self) -> bool {
        let asked = lock(&self.asked);
        asked.running || asked.last.is_none_or(|last| last.elapsed() >= ASKED)
    }

    /// Waits for a fetch, which begins now unless one is in progress. Returns at once if the last one was too recent.
    pub async fn refetch(&self) {
        let mut fetched = self.signals.fetched.subscribe();
        {
            let mut asked = lock(&self.asked);
            if !asked.running {
                if asked.last.is_some_and(|last| last.elapsed() < ASKED) {
                    return;
                }
                *asked = Asked { last: Some(Instant::now()), running: true };
                self.signals.wanted.notify_one();
            }
        }
        let _ = timeout(FETCH, fetched.changed()).await;
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // The task notices that nobody needs the keys any more.
        self.signals.wanted.notify_one();
    }
}

/// The task that fetches.
struct Fetching {
    url: Uri,
    refresh: Duration,
    stale: Duration,
    metrics: Arc<Metrics>,
    signals: Arc<Signals>,
    remote: Weak<Remote>,
}

impl Fetching {
    async fn run(self) {
        let mut pause = PAUSE.0;
        loop {
            let fetched = self.fetch().await;
            let Some(remote) = self.remote.upgrade() else { return };
            let next = match fetched {
                Ok(keys) => {
                    self.metrics.key_fetches.count("ok");
                    match keys.count() {
                        _ if keys.mark() == remote.keys.load().mark() => {}
                        0 => tracing::warn!(
                            "{}: it has no key that can verify a signature (RSA from 2048 bits, P-256, P-384, Ed25519)",
                            self.shown()
                        ),
                        count => tracing::info!("{}: {count} keys of the issuer are in force", self.shown()),
                    }
                    remote.keys.replace(keys);
                    (pause, *lock(&remote.problem)) = (PAUSE.0, None);
                    self.refresh
                }
                Err(why) => {
                    self.metrics.key_fetches.count("failed");
                    let problem = format!("{}: the keys of the issuer cannot be fetched: {why}", self.shown());
                    let before = lock(&remote.problem).replace(problem.clone());
                    if before.as_ref() != Some(&problem) {
                        let kept = if remote.keys.load().is_usable(Instant::now()) {
                            "the last good keys stay in force"
                        } else {
                            "until it succeeds, tokens cannot be verified"
                        };
                        tracing::warn!("{problem}; {kept}");
                    }
                    pause = pause.saturating_mul(2).min(PAUSE.1);
                    pause.min(self.refresh)
                }
            };
            lock(&remote.asked).running = false;
            drop(remote);
            self.signals.fetched.send_replace(());
            tokio::select! {
                () = sleep(jittered(next)) => {}
                () = self.signals.wanted.notified() => {}
            }
            if self.remote.strong_count() == 0 {
                return;
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let document = fetch::document(&self.url, keys::MOST_BYTES, FETCH).await?;
        let text = std::str::from_utf8(&document).map_err(|_| "it is not UTF-8".to_owned())?;
        let until = Instant::now().checked_add(self.stale);
        let keys = KeySet::read(text)?;
        Ok(match until {
            Some(until) => keys.until(until),
            None => keys,
        })
    }

    /// The URL for the log, without its query.
    fn shown(&self) -> String {
        let (path, authority) = (self.url.path(), self.url.authority());
        let authority = authority.map_or("", |authority| authority.as_str());
        format!("{}://{authority}{path}", self.url.scheme_str().unwrap_or_default())
    }
}

/// Returns up to a tenth less, so that hosts do not fetch at the same moment.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause - pause / 10 * (getrandom::u32().unwrap_or_default() % 1024) / 1024
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use lodge_manifest::auth::jwt::{ALGORITHMS, JwkSource};

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A server of keys: each response has one more, unless it is away.
    struct Server {
        requests: Arc<AtomicUsize>,
        url: Uri,
        away: Arc<Mutex<bool>>,
    }

    impl Server {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/jwks.json?secret", listener.local_addr().unwrap()).parse().unwrap();
            let (requests, away) = (Arc::<AtomicUsize>::default(), Arc::new(Mutex::new(false)));
            let (count, is_away) = (Arc::clone(&requests), Arc::clone(&away));
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let number = count.fetch_add(1, Relaxed) + 1;
                    let _ = stream.read(&mut [0; 4096]).await;
                    let key = "{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"".to_owned() + &"A".repeat(43) + "\"}";
                    let body = format!("{{\"keys\":[{}]}}", vec![key; number].join(","));
                    let status = if *lock(&is_away) { "503 Unavailable" } else { "200 OK" };
                    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
                    let _ = stream.write_all((head + &body).as_bytes()).await;
                }
            });
            Self { requests, url, away }
        }

        async fn open(&self, stale: Duration) -> (Arc<Remote>, Arc<Metrics>) {
            let jwt = Jwt {
                issuer: "i".into(),
                audience: Vec::new(),
                keys: JwkSource::Url(self.url.clone()),
                algorithms: ALGORITHMS.map(|(_, algorithm)| algorithm).to_vec(),
                leeway: Duration::ZERO,
                refresh: Duration::from_secs(600),
                stale,
            };
            let metrics = Arc::<Metrics>::default();
            (Remote::open(self.url.clone(), &jwt, Arc::clone(&metrics)).await, metrics)
        }
    }

    fn keys(remote: &Remote) -> (usize, bool) {
        let keys = remote.keys.load();
        (keys.count(), keys.is_usable(Instant::now()))
    }

    /// Tokens with unknown keys cause one fetch a minute, however many there are.
    #[tokio::test]
    async fn unknown_keys_cause_few_fetches() {
        let server = Server::start().await;
        let (remote, metrics) = server.open(Duration::from_secs(600)).await;
        assert_eq!((keys(&remote), remote.may_change()), ((1, true), true));
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                let remote = Arc::clone(&remote);
                tokio::spawn(async move { remote.refetch().await })
            })
            .collect();
        for waiting in waiting {
            timeout(PATIENCE, waiting).await.unwrap().unwrap();
            assert_eq!(keys(&remote).0, 2, "nobody goes on before the keys are there");
        }
        assert!(!remote.may_change());
        remote.refetch().await;
        assert_eq!((server.requests.load(Relaxed), metrics.key_fetches.read()), (2, vec![("ok", 2)]));
        // The bound is about time.
        lock(&remote.asked).last = Instant::now().checked_sub(ASKED);
        assert!(remote.may_change());
        remote.refetch().await;
        assert_eq!(keys(&remote).0, 3);
    }

    /// While the server is away, the last keys are used, until they are too old.
    #[tokio::test]
    async fn the_last_keys_are_used_for_a_while() {
        let server = Server::start().await;
        *lock(&server.away) = true;
        let (remote, metrics) = server.open(Duration::from_millis(1_500)).await;
        assert_eq!(keys(&remote), (0, false));
        *lock(&server.away) = false;
        remote.refetch().await;
        assert!(keys(&remote).1);
        *lock(&server.away) = true;
        lock(&remote.asked).last = None;
        remote.refetch().await;
        assert!(metrics.key_fetches.read().iter().any(|(result, count)| *result == "failed" && *count >= 2));
        assert!(keys(&remote).0 > 0);
        let waited = timeout(PATIENCE, async {
            while keys(&remote).1 {
                sleep(Duration::from_millis(10)).await;
            }
        });
        waited.await.unwrap();
    }

    #[tokio::test]
    async fn the_task_ends_with_its_use() {
        let server = Server::start().await;
        let (remote, _) = server.open(Duration::from_secs(600)).await;
        let signals = Arc::downgrade(&remote.signals);
        drop(remote);
        let ended = timeout(PATIENCE, async {
            while signals.strong_count() > 0 {
                sleep(Duration::from_millis(10)).await;
            }
        });
        ended.await.unwrap();
    }
}
