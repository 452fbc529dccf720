//! Passwords of users (RFC 7617), of which the host knows salted hashes.
//!
//! A hash takes some tenths of a second on purpose, so it is computed on another thread, for few requests at a time. The result is
//! remembered for a while in bounded memory, by a tag that says nothing of the password without the key of this process.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::HeaderValue;
use quick_cache::sync::Cache;
use ring::{hmac, rand};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::api_keys::KeyFile;
use super::denial::Cause;
use super::identity::{AuthMethod, Identity};
use super::live::LiveValue;
use super::password_hash::{self, LENGTH, PasswordHash};

/// How long a result is remembered.
const REMEMBERED: Duration = Duration::from_secs(300);

/// The most results that are remembered of a service or route.
const MOST_RESULTS: usize = 4096;

/// The most hashes that are computed at a time, and the most requests that wait for one, in all of the host.
const HASHES: usize = 2;
const WAITING: usize = 64;

/// The longest wait for a hash.
const PATIENCE: Duration = Duration::from_secs(10);

/// The users of a file.
#[derive(Debug)]
pub struct UserList(HashMap<String, User>);

#[derive(Debug)]
struct User {
    identity: Arc<Identity>,
    expires: Option<SystemTime>,
    text: String,
    hash: Arc<PasswordHash>,
}

/// What computes hashes, for all services of a host.
#[derive(Clone, Debug)]
pub(super) struct Hashing {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// The passwords of a service or route, with results that are remembered.
#[derive(Debug)]
pub(super) struct Passwords {
    users: Arc<LiveValue<UserList>>,
    results: Arc<Results>,
    hashing: Hashing,
}

/// Whether passwords were right, by their tags.
struct Results {
    key: hmac::Key,
    known: Cache<[u8; 32], (bool, SystemTime)>,
}

/// A password whose hash is not computed yet.
pub struct PasswordAttempt {
    tag: [u8; 32],
    password: Vec<u8>,
    hash: Arc<PasswordHash>,
    results: Arc<Results>,
    hashing: Hashing,
}

impl UserList {
    /// Reads the text of a file, whose API keys are left out.
    ///
    /// # Errors
    /// One line.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut users = HashMap::new();
        for entry in KeyFile::read(text)?.keys {
            let Some(text) = entry.password else { continue };
            let hash = Arc::new(password_hash::read(&text).map_err(|why| format!("key {}: {why}", entry.name))?);
            let identity = Arc::new(Identity::new(AuthMethod::Basic, &entry.name, &entry.scopes));
            // The file was checked.
            let expires = entry.expires.as_deref().and_then(|text| humantime::parse_rfc3339(text).ok());
            users.insert(entry.name, User { identity, expires, text, hash });
        }
        Ok(Self(users))
    }

    /// Returns the number of users.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl Hashing {
    pub(super) fn new() -> Self {
        Self { running: Arc::new(Semaphore::new(HASHES)), waiting: Arc::new(Semaphore::new(WAITING)) }
    }
}

impl Passwords {
    pub(super) fn new(users: Arc<LiveValue<UserList>>, hashing: &Hashing) -> Self {
        Self { users, results: Arc::new(Results::new()), hashing: hashing.clone() }
    }

    /// Returns the sender with this value of `Authorization`, if it is known whether the password is right.
    pub(super) fn find(&self, value: &HeaderValue, now: SystemTime) -> Result<Arc<Identity>, Cause> {
        let (name, password) = credentials(value)?;
        let users = self.users.load();
        let user = users.0.get(&name);
        match (self.results.get(&self.results.tag(&name, user, &password), now), user) {
            (None, _) => Err(Cause::UnverifiedPassword),
            (Some(false), _) | (_, None) => Err(Cause::WrongPassword),
            (Some(true), Some(user)) if user.expires.is_some_and(|expires| expires <= now) => Err(Cause::ExpiredKey),
            (Some(true), Some(user)) => Ok(Arc::clone(&user.identity)),
        }
    }

    /// Returns what is to be done to find out whether the password of a request is right.
    pub(super) fn attempt(&self, value: &HeaderValue) -> Option<PasswordAttempt> {
        let (name, password) = credentials(value).ok()?;
        let users = self.users.load();
        let user = users.0.get(&name);
        let hash = user.map_or_else(password_hash::of_nobody, |user| Arc::clone(&user.hash));
        let (tag, results) = (self.results.tag(&name, user, &password), Arc::clone(&self.results));
        Some(PasswordAttempt { tag, password, hash, results, hashing: self.hashing.clone() })
    }
}

impl PasswordAttempt {
    /// Computes the hash, unless another request has done so meanwhile. Without a place to do so, nothing is known then.
    pub(super) async fn verify(self) {
        let Ok(_waiting) = Arc::clone(&self.hashing.waiting).try_acquire_owned() else { return };
        let Ok(Ok(permit)) = timeout(PATIENCE, Arc::clone(&self.hashing.running).acquire_owned()).await else { return };
        if self.results.get(&self.tag, SystemTime::now()).is_some() {
            return;
        }
        // Not cancelled with the request, so its permit goes with it.
        let _ = tokio::task::spawn_blocking(move || {
            let right = self.hash.is_of(&self.password);
            self.results.known.insert(self.tag, (right, SystemTime::now() + REMEMBERED));
            drop(permit);
        })
        .await;
    }
}

impl Results {
    fn new() -> Self {
        let random = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new());
        // Without random numbers, TLS and tokens fail before this. The key only has to be unknown.
        let key = random
            .unwrap_or_else(|_| hmac::Key::new(hmac::HMAC_SHA256, &RandomState::new().hash_one(HASHES).to_le_bytes()));
        Self { key, known: Cache::new(MOST_RESULTS) }
    }

    /// Returns the tag of a password for a user. Another password in the file makes another tag.
    fn tag(&self, name: &str, user: Option<&User>, password: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [name.as_bytes(), user.map_or("", |user| &user.text).as_bytes(), password] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().unwrap_or_default()
    }

    fn get(&self, tag: &[u8; 32], now: SystemTime) -> Option<bool> {
        self.known.get(tag).filter(|(_, until)| *until > now).map(|(right, _)| right)
    }
}

impl fmt::Debug for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Results").field(&self.known.len()).finish()
    }
}

/// Whether a value of `Authorization` has the scheme `Basic`.
pub(super) fn is_basic(value: &HeaderValue) -> bool {
    value.as_bytes().get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic "))
}

/// Returns the user and the password of a value of `Authorization` (RFC 7617 2).
fn credentials(value: &HeaderValue) -> Result<(String, Vec<u8>), Cause> {
    let encoded = value.as_bytes().get(6..).unwrap_or_default().trim_ascii();
    let decoded = STANDARD.decode(encoded).map_err(|_| Cause::WrongPassword)?;
    let colon = decoded.iter().position(|byte| *byte == b':').ok_or(Cause::WrongPassword)?;
    let (name, password) = decoded.split_at(colon);
    let (name, password) =
        (std::str::from_utf8(name).map_err(|_| Cause::WrongPassword)?, password.get(1..).unwrap_or_default());
    // What no password can be costs no hash.
    if LENGTH.contains(&password.len()) {
        Ok((name.to_owned(), password.to_owned()))
    } else {
        Err(Cause::WrongPassword)
    }
}

#[cfg(test)]
mod tests {
    use super::password_hash::hashed;
    use super::*;

    fn basic(text: &str) -> HeaderValue {
        HeaderValue::try_from(format!("Basic {}", STANDARD.encode(text))).unwrap()
    }

    #[tokio::test]
    async fn a_password_costs_one_hash() {
        let file = |password: &str| {
            format!("[[key]]\nname = 'ann'\nscopes = ['a']\npassword = '{}'\n", hashed(password).unwrap())
        };
        let live = Arc::new(LiveValue::new(UserList::read(&file("correct horse")).unwrap()));
        let passwords = Passwords::new(Arc::clone(&live), &Hashing::new());
        let now = SystemTime::now();
        let find = |text: &str, now: SystemTime| {
            passwords.find(&basic(text), now).map(|identity| identity.subject().to_owned())
        };
        let verify = async |text: &str| passwords.attempt(&basic(text)).unwrap().verify().await;
        assert_eq!(find("ann:correct horse", now), Err(Cause::UnverifiedPassword));
        verify("ann:correct horse").await;
        assert_eq!(find("ann:correct horse", now), Ok("ann".into()));
        // Until it is forgotten, and no other password with it.
        assert_eq!(find("ann:correct horse", now + REMEMBERED * 2), Err(Cause::UnverifiedPassword));
        for wrong in ["ann:correct horsf", "ann:correct horse ", "bob:correct horse"] {
            assert_eq!(find(wrong, now), Err(Cause::UnverifiedPassword));
            verify(wrong).await;
            assert_eq!(find(wrong, now), Err(Cause::WrongPassword), "{wrong}");
        }
        // What cannot be one costs no hash.
        for wrong in ["ann", "ann:", "ann:short", &format!("ann:{}", "x".repeat(1025))] {
            assert_eq!(find(wrong, now), Err(Cause::WrongPassword), "{wrong}");
            assert!(passwords.attempt(&basic(wrong)).is_none());
        }
        for value in ["Basic !!!", "Basic ", "Basic"] {
            assert_eq!(
                passwords.find(&HeaderValue::from_static(value), now).unwrap_err(),
                Cause::WrongPassword,
                "{value}"
            );
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
}
