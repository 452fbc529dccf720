//! Passwords of users (RFC 7617), of which the host knows salted hashes.
//!
//! A hash takes some tenths of a second on purpose, so it is computed on another thread, few at a time (`hashing`). The result is
//! remembered for a while in bounded memory, by a tag that says nothing of the password without the key of this process.

mod hashing;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::HeaderValue;
use quick_cache::sync::Cache;
use ring::{hmac, rand};
use tokio::sync::watch;

use super::api_keys::KeyFile;
use super::denial::Cause;
use super::identity::{AuthMethod, Identity};
use super::password_hash::{self, LENGTH, PasswordHash};
use crate::live_files::{LiveValue, OF_SERVICE};
pub(super) use hashing::Hashing;
pub use hashing::{HashPayer, PasswordAttempt};
use lodge_base::ids::hash_of;
use lodge_base::key_changes::KeyMarks;

/// How long a result is remembered. One that is used in the second half is remembered for as long again: it cannot become wrong,
/// because its tag contains the hash, and the many requests of a user never wait for a hash at the same time.
const REMEMBERED: Duration = Duration::from_secs(300);

/// The most results that are remembered of a file.
const MOST_RESULTS: usize = 4096;

/// The users of a file.
#[derive(Debug)]
pub struct UserList {
    users: HashMap<String, User>,
    /// The hash of no password, for users that are not in the file.
    nobody: Arc<PasswordHash>,
}

#[derive(Debug)]
struct User {
    identity: Arc<Identity>,
    expires: Option<SystemTime>,
    text: String,
    hash: Arc<PasswordHash>,
}

/// The passwords of a file, with results that are remembered.
#[derive(Debug)]
pub(super) struct Passwords {
    users: Arc<LiveValue<UserList>>,
    results: Arc<Results>,
    hashing: Hashing,
}

/// Whether passwords were right, by their tags.
struct Results {
    key: hmac::Key,
    known: Cache<PasswordTag, (bool, SystemTime)>,
    /// The hashes that are being computed. Each is for all requests with its password.
    pending: Mutex<HashMap<PasswordTag, Arc<watch::Sender<()>>>>,
}

/// What a user, its hash and a password are known by.
type PasswordTag = [u8; 32];

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
        let hashes = users.values().map(|user: &User| user.hash.iterations());
        let nobody = Arc::new(PasswordHash::of_nobody(hashes.max()));
        Ok(Self { users, nobody })
    }

    /// Returns the number of users.
    pub fn count(&self) -> usize {
        self.users.len()
    }

    /// Returns the names of the users.
    pub fn marks(&self) -> KeyMarks {
        let mark = |user: &User| format!("{} {:?} {:?}", user.text, user.identity.scopes(), user.expires);
        self.users.iter().map(|(name, user)| (name.clone(), hash_of(mark(user).as_bytes()))).collect()
    }
}

impl Passwords {
    /// Returns why the file cannot be used now.
    pub(super) fn problem(&self) -> Option<String> {
        self.users.problem_of(OF_SERVICE)
    }

    pub(super) fn new(users: Arc<LiveValue<UserList>>, hashing: &Hashing) -> Self {
        Self { users, results: Arc::new(Results::new()), hashing: hashing.clone() }
    }

    /// Returns the sender with this value of `Authorization`, if it is known whether the password is right.
    pub(super) fn find(&self, value: &HeaderValue, now: SystemTime) -> Result<Arc<Identity>, Cause> {
        let (name, password) = credentials(value)?;
        let users = self.users.load();
        let user = users.users.get(&name);
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
        let user = users.users.get(&name);
        let hash = Arc::clone(user.map_or(&users.nobody, |user| &user.hash));
        let (tag, results) = (self.results.tag(&name, user, &password), Arc::clone(&self.results));
        Some(PasswordAttempt::new(tag, password, hash, results, self.hashing.clone()))
    }
}

impl Results {
    fn new() -> Self {
        let random = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new());
        // Without random numbers, TLS and tokens fail before this. The key only has to be unknown.
        let key = random.unwrap_or_else(|_| {
            hmac::Key::new(hmac::HMAC_SHA256, &RandomState::new().hash_one(MOST_RESULTS).to_le_bytes())
        });
        Self { key, known: Cache::new(MOST_RESULTS), pending: Mutex::default() }
    }

    /// Returns the tag of a password for a user. Another password in the file makes another tag.
    fn tag(&self, name: &str, user: Option<&User>, password: &str) -> PasswordTag {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [name.as_bytes(), user.map_or("", |user| &user.text).as_bytes(), password.as_bytes()] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().unwrap_or_default()
    }

    fn get(&self, tag: &PasswordTag, now: SystemTime) -> Option<bool> {
        let (right, until) = self.known.get(tag).filter(|(_, until)| *until > now)?;
        if right && until.duration_since(now).is_ok_and(|left| left < REMEMBERED / 2) {
            self.remember(*tag, right, now);
        }
        Some(right)
    }

    fn remember(&self, tag: PasswordTag, right: bool, now: SystemTime) {
        self.known.insert(tag, (right, now + REMEMBERED));
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

/// Returns the user and the password of a value of `Authorization` (RFC 7617 2). What no password can be costs no hash.
///
/// Text without control characters has one hash only: HMAC pads a key with zeros, and takes a long one for its SHA-256.
fn credentials(value: &HeaderValue) -> Result<(String, String), Cause> {
    let encoded = value.as_bytes().get(6..).unwrap_or_default().trim_ascii();
    let decoded = STANDARD.decode(encoded).map_err(|_| Cause::WrongPassword)?;
    let text = String::from_utf8(decoded).map_err(|_| Cause::WrongPassword)?;
    let (name, password) = text.split_once(':').ok_or(Cause::WrongPassword)?;
    if LENGTH.contains(&password.len()) && !text.contains(char::is_control) {
        Ok((name.to_owned(), password.to_owned()))
    } else {
        Err(Cause::WrongPassword)
    }
}

#[cfg(test)]
mod tests;
