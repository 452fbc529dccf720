use std::fs;
use std::time::Duration;

use lodge_base::config;
use lodge_manifest::Manifest;
use lodge_manifest::auth::Auth;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::*;
use crate::auth::api_keys::{self, KeyEntry, KeyFile};
use crate::live_files::{POLL, SETTLE};

const PATIENCE: Duration = Duration::from_secs(60);

fn key(name: &str, digit: &str) -> String {
    format!("[[key]]\nname = '{name}'\nsha256 = '{}'\n", digit.repeat(64))
}

async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !reached() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("not reached: {what}"));
}

/// A file is followed for as long as it is used, through links as well, and services share it.
#[tokio::test]
async fn files_are_followed() {
    let directory = tempfile::tempdir().unwrap();
    let (first, link) = (directory.path().join("1.toml"), directory.path().join("keys.toml"));
    fs::write(&first, key("ada", "a")).unwrap();
    std::os::unix::fs::symlink(&first, &link).unwrap();
    let mut sources = CredentialSources::new(&Arc::default(), false);
    let observed: Arc<Mutex<Vec<KeyChange>>> = Arc::default();
    let seen = Arc::clone(&observed);
    sources.set_observer(KeyObserver::new(move |change| lock(&seen).push(change)));
    let live = sources.follow(&sources.api_keys, &link).await.unwrap();
    assert!(Arc::ptr_eq(&live, &sources.follow(&sources.api_keys, &link).await.unwrap()));
    assert_eq!(live.load().count(), 1);
    // A bad file, and none at all, leave the last keys in force.
    fs::write(&first, "[[key]]\nname = 'ada'").unwrap();
    sleep(POLL + SETTLE * 4).await;
    assert_eq!(live.load().count(), 1);
    fs::remove_file(&link).unwrap();
    sleep(POLL + SETTLE * 4).await;
    assert_eq!(live.load().count(), 1);
    let second = directory.path().join("2.toml");
    fs::write(&second, key("ada", "a") + &key("bob", "b")).unwrap();
    std::os::unix::fs::symlink(&second, &link).unwrap();
    until("the keys of the second file", || live.load().count() == 2).await;
    // No keys are keys: this revokes all.
    fs::write(&second, "").unwrap();
    until("no keys", || live.load().count() == 0).await;
    let changes: Vec<_> = lock(&observed).iter().map(|change| change.change.clone()).collect();
    assert_eq!(changes, ["added bob", "removed ada, bob"]);
    assert!(lock(&observed).iter().all(|change| change.file == link));
    drop(live);
    until("nothing follows the file", || sources.api_keys.in_use() == 0).await;
}

/// Half of a file is valid where what follows says when a key expires, what ends a session, or is a part of a secret.
#[tokio::test(start_paused = true)]
async fn half_a_file_is_not_in_force() {
    async fn check<T: WatchedKeys>(of: impl Fn(&CredentialSources) -> &LiveFiles<T>, whole: &str, half: &str) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, whole).unwrap();
        let sources = CredentialSources::new(&Arc::default(), false);
        let live = sources.follow(of(&sources), &path).await.unwrap();
        let before = live.load().marks();
        fs::write(&path, half).unwrap();
        // Seconds are those of the paused clock, which waits for threads.
        sleep(Duration::from_secs(5)).await;
        assert_eq!(live.load().marks(), before, "{whole}");
        sleep(Duration::from_secs(4)).await;
        assert_ne!(live.load().marks(), before, "{whole}");
    }
    let expires = "expires = '2020-01-31T00:00:00Z'\n";
    let half = key("ada", "a");
    check(|sources| &sources.api_keys, &(half.clone() + expires), &half).await;
    let mut users = KeyFile::default();
    users.create_password(KeyEntry { name: "ann".into(), ..KeyEntry::default() }, "correct horse").unwrap();
    let half = users.text();
    check(|sources| &sources.passwords, &(half.clone() + expires), &half).await;
    let half = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\n";
    check(|sources| &sources.cookie_keys, &format!("{half}{}", half.replace("AQ", "BQ")), half).await;
    check(|sources| &sources.secrets, "s3cret", "s3").await;
}

/// A password costs one hash, whichever route, service or deployment it is for.
#[tokio::test]
async fn results_are_shared() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users.list");
    fs::write(&path, "").unwrap();
    let sources = CredentialSources::new(&Arc::default(), false);
    let passwords = sources.passwords(&path).await.unwrap();
    assert!(Arc::ptr_eq(&passwords, &sources.passwords(&path).await.unwrap()));
    let known = Arc::downgrade(&passwords);
    drop(passwords);
    assert!(known.upgrade().is_none(), "nothing is remembered of a file that is not used");
}

#[tokio::test]
async fn what_cannot_be_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.toml");
    let sources = CredentialSources::new(&Arc::default(), false);
    let problem = async || sources.follow(&sources.api_keys, &path).await.unwrap_err();
    assert!(problem().await.starts_with("it cannot be read: "));
    fs::write(&path, vec![b'#'; api_keys::MOST_BYTES as usize + 1]).unwrap();
    assert!(problem().await.contains("over 4.0 MiB"), "{}", problem().await);
    fs::write(&path, "[[key]]").unwrap();
    assert!(problem().await.contains("missing field"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(problem().await.contains("it is not a regular file"));
}

/// An edit while the provider is away takes nobody's login: its configuration is known.
#[tokio::test]
async fn an_edit_keeps_what_is_known_of_a_provider() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let url = |path: &str| format!("{issuer}{path}");
    let document = json!({ "issuer": issuer, "authorization_endpoint": url("/a"), "token_endpoint": url("/t"), "jwks_uri": url("/k") });
    let document = document.to_string();
    let provider = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", document.len());
            let _ = stream.write_all(format!("{head}{document}").as_bytes()).await;
        }
    });
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("keys"), "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=").unwrap();
    let sources = CredentialSources::new(&Arc::default(), false);
    let limits = config::resolve(&[]).unwrap().config.limits;
    let open = async |issuer: &str, more: &str| {
        let text = format!(
            "routes = '/*'\n[auth.login]\nissuer = '{issuer}'\nurl = 'https://shop.example'\ncookie_keys = 'keys'\n{more}"
        );
        let manifest = Manifest::read("shop", &text, &limits, 1 << 30).unwrap();
        let Some(Auth::Identified(settings)) = manifest.policies.service.auth else { panic!() };
        let login = settings.login.unwrap();
        let logins = sources.logins("shop", &login, directory.path()).await.unwrap();
        (logins.knows(&login), logins)
    };
    let (is_known, _former) = open(&issuer, "client_id = 'shop'").await;
    assert!(is_known);
    provider.abort();
    assert!(provider.await.unwrap_err().is_cancelled());
    assert!(open(&issuer, "client_id = 'shop'\nclaims = 'email'\nleeway = '9s'").await.0);
    assert!(!open(&issuer, "client_id = 'other'").await.0, "another client");
    assert!(!open(&issuer.replace("127.0.0.1", "localhost"), "client_id = 'shop'").await.0, "another issuer");
}
