use super::hashing::PendingHash;
use super::password_hash::hashed;
use super::*;
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::Metrics;

fn basic(text: &str) -> HeaderValue {
    HeaderValue::try_from(format!("Basic {}", STANDARD.encode(text))).unwrap()
}

/// Begins the attempt of a client with this key.
fn begin(passwords: &Passwords, text: &str, client: u64) -> Option<PendingHash> {
    let payers = vec![HashPayer::Client(client)];
    passwords.attempt(&basic(text)).unwrap().begin(payers, || Ok::<_, ()>(())).unwrap()
}

/// The passwords of `ann`, with 100,000 iterations, and the metrics that count their hashes.
fn passwords() -> (Passwords, Arc<Metrics>) {
    let (salt, hash) = (STANDARD.encode([1; 16]), STANDARD.encode([2; 32]));
    let file = format!("[[key]]\nname = 'ann'\npassword = 'pbkdf2-sha256$100000${salt}${hash}'\n");
    let metrics = Arc::default();
    let live = Arc::new(LiveValue::new(UserList::read(&file).unwrap()));
    (Passwords::new(live, &Hashing::new(&metrics)), metrics)
}

#[tokio::test]
async fn a_password_costs_one_hash() {
    let file =
        |password: &str| format!("[[key]]\nname = 'ann'\nscopes = ['a']\npassword = '{}'\n", hashed(password).unwrap());
    let live = Arc::new(LiveValue::new(UserList::read(&file("correct horse")).unwrap()));
    let passwords = Passwords::new(Arc::clone(&live), &Hashing::new(&Arc::default()));
    let now = SystemTime::now();
    let find =
        |text: &str, now: SystemTime| passwords.find(&basic(text), now).map(|identity| identity.subject().to_owned());
    let verify = async |text: &str| begin(&passwords, text, 0).unwrap().finished().await;
    assert_eq!(find("ann:correct horse", now), Err(Cause::UnverifiedPassword));
    verify("ann:correct horse").await;
    assert_eq!(find("ann:correct horse", now), Ok("ann".into()));
    // A use prolongs it, until it is forgotten, and no other password with it.
    assert_eq!(find("ann:correct horse", now + REMEMBERED * 3 / 4), Ok("ann".into()));
    assert_eq!(find("ann:correct horse", now + REMEMBERED * 3 / 2), Ok("ann".into()));
    assert_eq!(find("ann:correct horse", now + REMEMBERED * 4), Err(Cause::UnverifiedPassword));
    for wrong in ["ann:correct horsf", "ann:correct horse ", "bob:correct horse"] {
        assert_eq!(find(wrong, now), Err(Cause::UnverifiedPassword));
        verify(wrong).await;
        assert_eq!(find(wrong, now), Err(Cause::WrongPassword), "{wrong}");
    }
    // What cannot be one costs no hash.
    let long = format!("ann:{}", "x".repeat(1025));
    for wrong in ["ann", "ann:", "ann:short", "ann:correct horse\0", "a\tn:correct horse", &long] {
        assert_eq!(find(wrong, now), Err(Cause::WrongPassword), "{wrong}");
        assert!(passwords.attempt(&basic(wrong)).is_none());
    }
    // The last one is no UTF-8.
    for value in ["Basic !!!", "Basic ", "Basic", "Basic YW5uOmNvcnJlY3Qg//8="] {
        assert_eq!(passwords.find(&HeaderValue::from_static(value), now).unwrap_err(), Cause::WrongPassword, "{value}");
    }
    // Another password in the file is in force at once.
    live.replace(UserList::read(&file("battery staple")).unwrap());
    assert_eq!(find("ann:correct horse", now), Err(Cause::UnverifiedPassword));
    verify("ann:correct horse").await;
    assert_eq!(find("ann:correct horse", now), Err(Cause::WrongPassword));
    live.replace(UserList::read("").unwrap());
    verify("ann:battery staple").await;
    assert_eq!(find("ann:battery staple", now), Err(Cause::WrongPassword));
    let text = hashed("battery staple").unwrap();
    // Both kinds may be in one file, and an entry is one of them.
    let both = format!("[[key]]\nname = 'a'\nsha256 = '{}'\npassword = '{text}'", "a".repeat(64));
    assert!(UserList::read(&both).unwrap_err().contains("key a: it has both `sha256` and `password`"));
}

/// Requests with one password wait for one hash, of which the first one pays the place.
#[tokio::test]
async fn a_hash_is_for_all_who_wait() {
    let (passwords, metrics) = passwords();
    let busy = Arc::clone(&passwords.hashing.running).acquire_many_owned(2).await.unwrap();
    let all: Vec<_> = (0..100).map(|_| begin(&passwords, "ann:some password", 1).unwrap()).collect();
    assert_eq!(all.iter().filter(|hash| hash.is_own).count(), 1);
    // Those that go away, the first one among them, take nothing from the others.
    let mut all = all.into_iter();
    all.by_ref().take(50).for_each(drop);
    drop(busy);
    for hash in all {
        hash.finished().await;
    }
    assert_eq!(metrics.password_hashes.read(), vec![("wrong", 1)]);
    assert_eq!(passwords.find(&basic("ann:some password"), SystemTime::now()).err(), Some(Cause::WrongPassword));
    assert!(lock(&passwords.results.pending).is_empty());
}

/// A client has four places, and gives them back when it goes away: no hash is computed for nobody.
#[tokio::test]
async fn a_client_has_few_places() {
    let (passwords, metrics) = passwords();
    let busy = Arc::clone(&passwords.hashing.running).acquire_many_owned(2).await.unwrap();
    let guess = |n: u32, client: u64| begin(&passwords, &format!("ann:some password {n}"), client);
    let own: Vec<_> = (0..4).map(|n| guess(n, 1).unwrap()).collect();
    assert!(guess(4, 1).is_none(), "a fifth one");
    let other = guess(5, 2).expect("the place of another client");
    drop(own);
    let freed = async {
        while guess(6, 1).is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), freed).await.expect("places of nobody are free");
    drop(busy);
    other.finished().await;
    let waits = async {
        while !lock(&passwords.results.pending).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waits).await.unwrap();
    assert_eq!(metrics.password_hashes.read(), vec![("wrong", 1)]);
    // What may not be tried is not computed, and takes no place.
    for n in 10..20 {
        let attempt = passwords.attempt(&basic(&format!("ann:some password {n}"))).unwrap();
        assert_eq!(attempt.begin(vec![HashPayer::Service("a".into())], || Err(7)).err(), Some(7));
    }
}

/// The hash of a user that does not exist has the iterations of the file.
#[test]
fn unknown_users_take_as_long() {
    let (passwords, _) = passwords();
    assert_eq!(passwords.users.load().nobody.iterations().get(), 100_000);
    assert_eq!(UserList::read("").unwrap().nobody.iterations().get(), 600_000);
}
