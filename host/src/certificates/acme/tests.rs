use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::directory::{attempts_of, lock_directory};
use super::proofs::ProofText;
use super::*;

/// Writes what an authority has issued for these names.
fn put(file: &Path, names: &[String], text: &str) -> Result<(), OrderFailure> {
    write(reserve(file, "")?, names, text, None, seconds())
}

fn config(directory: &Path) -> Config {
    configured(directory, &[])
}

fn configured(directory: &Path, more: &[(&str, &str)]) -> Config {
    let set = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let mut source = vec![
        set("guests", &directory.display().to_string()),
        set("tls.listen", "127.0.0.1:0"),
        set("tls.acme.domains", "a.test, b.test; c.test"),
        set("tls.acme.directory", "https://127.0.0.1:14000/dir"),
    ];
    source.extend(more.iter().map(|(name, text)| set(name, text)));
    let source = source.into_iter().collect();
    lodge_base::config::resolve(&[(lodge_base::config::Origin::Flag, source)]).unwrap().config
}

/// A host that shares what it gets by these stores, with the keys in a file.
fn sharing(directory: &Path, stores: &Arc<Stores>, keys: &Path) -> Arc<AcmeClient> {
    let more = [("tls.acme.share_keys", &*keys.display().to_string()), ("state.url", "redis://127.0.0.1:1")];
    Arc::new(AcmeClient::new(&configured(directory, &more), &Arc::default(), stores).unwrap().unwrap())
}

/// Stores in memory, as those of a server for several hosts.
fn stores() -> Arc<Stores> {
    Arc::new(Stores::new(&configured(Path::new("nowhere"), &[("state.path", "memory")])))
}

/// A file with a random key.
fn key_file(directory: &Path, name: &str) -> PathBuf {
    use base64::Engine as _;
    let mut key = [0; 32];
    getrandom::fill(&mut key).unwrap();
    let path = directory.join(name);
    fs::write(&path, base64::engine::general_purpose::STANDARD.encode(key)).unwrap();
    path
}

/// Waits for the turn of a host: the one before ends soon after it is dropped.
async fn turn(host: &Arc<AcmeClient>, number: usize) -> turn::OrderTurn {
    loop {
        if let Some(turn) = host.begin_turn(number).await.unwrap() {
            return turn;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn acme(directory: &Path) -> Arc<AcmeClient> {
    Arc::new(AcmeClient::new(&config(directory), &Arc::default(), &stores()).unwrap().unwrap())
}

/// Returns key and chain for these names, valid for some days from now.
fn issue(names: &[&str], days: u64) -> String {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds());
    params.not_after = params.not_before + Duration::from_secs(days * 86_400);
    let key = rcgen::KeyPair::generate().unwrap();
    format!("{}{}", key.serialize_pem(), params.self_signed(&key).unwrap().pem())
}

/// Only a whole certificate for exactly the names of the settings counts; for anything else, one is ordered.
#[tokio::test]
async fn files_are_checked() {
    let directory = tempfile::tempdir().unwrap();
    let acme = acme(directory.path());
    let file = &acme.files()[0];
    assert_eq!(*file, directory.path().join(".lodge/acme/127.0.0.1-14000-dir/a.test.pem"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(file.parent().unwrap()), 0o700);
    let good = issue(&["b.test", "a.test"], 90);
    let due = async || {
        acme.look(0).await;
        acme.certificates()[0].renewal
    };
    let is_now = |at: u64| seconds().abs_diff(at) < 60;
    assert!(is_now(due().await), "there is none");
    put(file, &["a.test".into(), "b.test".into()], &good).unwrap();
    assert_eq!(mode(file), 0o600);
    let in_days = due().await.saturating_sub(seconds()) / 86_400;
    assert!((59..=63).contains(&in_days), "{in_days}");
    assert!(is_now(acme.certificates()[1].renewal), "the other one");
    let torn = &good[..good.len() - 100];
    let foreign = good.split("-----BEGIN CERTIFICATE").next().unwrap().to_owned()
        + issue(&["a.test", "b.test"], 90).split_once("-----END PRIVATE KEY-----\n").unwrap().1;
    for text in ["", "rubbish", torn, &foreign, &issue(&["a.test"], 90), &issue(&["a.test", "b.test", "c.test"], 90)] {
        fs::write(file, text).unwrap();
        assert!(is_now(due().await), "{text}");
        assert!(put(file, &["a.test".into(), "b.test".into()], text).is_err(), "{text}");
    }
    fs::write(file, vec![b'\n'; 1 << 20]).unwrap();
    assert!(is_now(due().await), "too large");
}

/// What a crash has left of a replacement is removed. OrderAttempts are bounded, whatever their file contains.
#[tokio::test]
async fn a_start_after_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let (file, partial) = {
        let acme = acme(directory.path());
        let file = acme.files()[0].clone();
        let partial = file.with_file_name(format!(".a.test.pem{}0123", files::PARTIAL));
        fs::write(&partial, "half a key").unwrap();
        (file, partial)
    };
    for text in ["", "rubbish", "{}", "[]", r#"{"failed":[9999999999999,1],"wait":18446744073709551615}"#] {
        fs::write(attempts_of(&file), text).unwrap();
        let due = acme(directory.path()).certificates()[0].renewal;
        assert!(due <= seconds() + 24 * 3_600, "{text}: {due}");
    }
    assert!(!partial.exists());
    // Not while another process writes here.
    let held = lock_directory(file.parent().unwrap()).unwrap().expect("nobody holds it");
    fs::write(&partial, "half a key").unwrap();
    assert!(lock_directory(file.parent().unwrap()).unwrap().is_none());
    acme(directory.path());
    assert!(partial.exists());
    drop(held);
    assert!(lock_directory(file.parent().unwrap()).unwrap().is_some());
}

/// A directory that cannot be written is an error before an authority has issued anything.
#[test]
fn a_place_that_cannot_be_used() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(".lodge"), "").unwrap();
    let error = AcmeClient::new(&config(directory.path()), &Arc::default(), &stores()).unwrap_err();
    assert!(error.starts_with("tls.acme.path: ") && error.contains("cannot be used"), "{error}");
}

/// A certificate that is due at once does not lead to a loop of orders.
#[tokio::test]
async fn a_wrong_clock_is_no_loop() {
    let directory = tempfile::tempdir().unwrap();
    let acme = acme(directory.path());
    let names: Vec<String> = vec!["a.test".into(), "b.test".into()];
    let mut params = rcgen::CertificateParams::new(names.clone()).unwrap();
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2001, 4, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let text = format!("{}{}", key.serialize_pem(), params.self_signed(&key).unwrap().pem());
    assert!(put(&acme.files()[0], &names, &text).is_err(), "it has expired");
    files::replace_secret(&acme.files()[0], text.as_bytes()).unwrap();
    acme.look(0).await;
    acme.issued(0);
    let shown = &acme.certificates()[0];
    assert!(shown.renewal >= seconds() + 100 && shown.problem.as_ref().unwrap().contains("clock"), "{shown:?}");
}

/// However often a host ends or panics during an order: at most four orders, and none without a record of it.
#[tokio::test]
async fn orders_that_are_cut_short_count() {
    let directory = tempfile::tempdir().unwrap();
    let mut orders = 0;
    for _ in 0..7 {
        let acme = acme(directory.path());
        acme.look(0).await;
        if lock(&acme.wanted[0].state).due() <= seconds() {
            acme.begin(0).unwrap();
            orders += 1;
        }
    }
    assert_eq!(orders, 4);
    // What cannot be recorded is not ordered, and no file of the attempt stays.
    let acme = acme(directory.path());
    let attempts = attempts_of(&acme.files()[1]);
    fs::create_dir(&attempts).unwrap();
    assert!(acme.begin(1).is_err_and(|failure| failure.why.contains("attempts cannot be recorded")));
    fs::remove_dir(&attempts).unwrap();
    fs::create_dir(&acme.files()[1]).unwrap();
    assert!(acme.begin(1).is_err_and(|failure| failure.why.contains("so nothing is ordered")));
    let left = fs::read_dir(acme.files()[0].parent().unwrap()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.contains(files::PARTIAL)), "{left:?}");
}

/// A library that panics costs one attempt.
#[tokio::test]
async fn a_panic_is_a_failure() {
    assert_eq!(isolated(async { 7 }).await, Ok(7));
    let crashed = isolated::<()>(async { panic!("overflow") }).await;
    assert!(crashed.unwrap_err().contains("overflow"));
}

/// One host orders at a time. What it gets, the others take, unless theirs is better or they have other keys.
#[tokio::test]
async fn hosts_take_what_others_have_got() {
    let [a, b, c, keys] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let (stores, same) = (stores(), key_file(keys.path(), "same"));
    let [one, two] = [&a, &b].map(|directory| sharing(directory.path(), &stores, &same));
    let three = sharing(c.path(), &stores, &key_file(keys.path(), "other"));
    let names: Vec<String> = vec!["a.test".into(), "b.test".into()];
    let text = |host: &AcmeClient| fs::read_to_string(&host.files()[0]).ok();
    let first = turn(&one, 0).await;
    assert!(two.begin_turn(0).await.unwrap().is_none(), "the first one orders");
    put(&one.files()[0], &names, &issue(&["a.test", "b.test"], 60)).unwrap();
    fs::write(account::file(&one.directory), "an account").unwrap();
    one.give(0).await;
    drop(first);
    drop(turn(&two, 0).await);
    assert!(text(&one).is_some() && text(&one) == text(&two));
    two.look(0).await;
    assert!(two.certificates()[0].renewal > seconds() + 86_400, "nothing is ordered");
    assert_eq!(fs::metadata(&two.files()[0]).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read(account::file(&two.directory)).unwrap(), b"an account");
    drop(turn(&three, 0).await);
    assert!(text(&three).is_none() && !account::file(&three.directory).exists(), "it has another key");
    // A worse one, and one for other names, replace nothing.
    let better = issue(&["a.test", "b.test"], 90);
    put(&two.files()[0], &names, &better).unwrap();
    two.look(0).await;
    drop(turn(&two, 0).await);
    assert_eq!(text(&two).as_ref(), Some(&better));
    fs::write(&one.files()[0], issue(&["a.test"], 300)).unwrap();
    one.give(0).await;
    drop(turn(&two, 0).await);
    assert_eq!(text(&two).as_ref(), Some(&better));
}

/// What an authority allows in an hour holds for all hosts together, and an order is known to all before it begins.
#[tokio::test]
async fn hosts_share_attempts() {
    let [a, b, keys] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let (stores, keys) = (stores(), key_file(keys.path(), "keys"));
    let mut orders = 0;
    for directory in [&a, &b].into_iter().cycle().take(9) {
        // A host that has started anew, after the order of the one before was cut short.
        let host = &sharing(directory.path(), &stores, &keys);
        let turn = turn(host, 0).await;
        if lock(&host.wanted[0].state).due() <= seconds() {
            host.begin(0).unwrap();
            host.announce_order(0).await.unwrap();
            orders += 1;
        }
        drop(turn);
    }
    assert_eq!(orders, 4);
}

/// An authority may ask any of the hosts while an order is in progress, and no longer.
#[tokio::test(start_paused = true)]
async fn hosts_show_proofs_of_others() {
    let [a, b, keys] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let (stores, keys) = (stores(), key_file(keys.path(), "keys"));
    let [one, two] = [&a, &b].map(|directory| sharing(directory.path(), &stores, &keys));
    let other = Arc::clone(&two);
    let following = tokio::spawn(async move {
        let challenge = config::acme::AcmeChallenge::Http01;
        other.proofs.follow(challenge, other.shared.as_ref().unwrap()).await;
    });
    let shared = one.shared.as_ref().unwrap();
    let proof =
        |token: &str| ProofText { name: "a.test".into(), token: token.into(), authorization: format!("{token}.x") };
    proofs::show(shared, &[proof("abc"), proof("not/a/token")]).await.unwrap();
    let found = || two.proofs.response("/.well-known/acme-challenge/abc");
    assert_eq!(found().as_deref(), Some(&b"abc.x"[..]));
    assert_eq!(two.proofs.response("/.well-known/acme-challenge/not/a/token"), None);
    proofs::take_back(shared).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(found(), None);
    following.abort();
}

/// What is encrypted with a key of others is in the log once, however often it is read.
#[tokio::test]
async fn foreign_files_are_told_once() {
    let [a, keys] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let host = sharing(a.path(), &stores(), &key_file(keys.path(), "keys"));
    let shared = host.shared.as_ref().unwrap();
    for _ in 0..2 {
        shared.write("proofs", b"[]", None).await.unwrap();
        assert_eq!(shared.read("proofs").await.unwrap().as_deref(), Some(&b"[]"[..]));
        assert!(shared.is_newly_foreign("other", true) && !shared.is_newly_foreign("other", false));
        key_file(keys.path(), "keys");
        assert_eq!(shared.read("proofs").await.unwrap(), None);
        assert!(!shared.is_newly_foreign("proofs", true), "it is in the log already");
    }
    shared.write("proofs", b"[]", None).await.unwrap();
    assert!(shared.read("proofs").await.unwrap().is_some() && shared.is_newly_foreign("proofs", true));
}

/// Without the server no host orders, since all would. It says why, and tries again soon.
#[tokio::test]
async fn hosts_wait_for_the_server() {
    let [a, keys] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let wrong = configured(Path::new("nowhere"), &[("state.url", "nats+tls://")]);
    let host = sharing(a.path(), &Arc::new(Stores::new(&wrong)), &key_file(keys.path(), "keys"));
    let due = Arc::clone(&host).attend(0).await;
    let shown = &host.certificates()[0];
    assert!(shown.problem.as_ref().unwrap().starts_with("hosts share certificates by `state.url`: "), "{shown:?}");
    assert!(due <= seconds() + 10 && host.metrics.acme_orders.read().contains(&("unreachable", 1)), "{due}");
    let unusable = configured(a.path(), &[("tls.acme.share_keys", "/dev/null"), ("state.url", "redis://127.0.0.1:1")]);
    let error = AcmeClient::new(&unusable, &Arc::default(), &stores()).unwrap_err();
    assert!(error.starts_with("tls.acme.share_keys: /dev/null: "), "{error}");
}
