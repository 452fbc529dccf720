use std::fs;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::*;
use crate::auth::api_keys;
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
