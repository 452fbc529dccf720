//! API keys: 256 random bits for a client, of which the host knows only the SHA-256.
//!
//! A key is found by its digest. How long that takes says something about digests, and nothing about keys.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::denial::Cause;
use super::identity::{AuthMethod, Identity};
use super::password_hash;
use lodge_base::ids::hash_of;
use lodge_base::key_changes::KeyMarks;
use lodge_manifest::auth::is_scope;

/// The most bytes of a file.
pub const MOST_BYTES: u64 = 4 << 20;

/// The most keys of a file.
const MOST_KEYS: usize = 10_000;

/// The most bytes of a key's name.
const MOST_NAME: usize = 128;

/// The most scopes of a key.
const MOST_SCOPES: usize = 64;

/// How keys begin, so that programs that search for secrets recognise them.
const START: &str = "lodge_key_";

/// A file of API keys, which `lodge keys` writes.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// The keys, in the order in which they were made.
    #[serde(default, rename = "key")]
    pub keys: Vec<KeyEntry>,
}

/// What a file says of an API key. The digest is last, so that no beginning of an entry is one.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// Whose key it is.
    pub name: String,
    /// What it may be used for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// When it was made (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// From when on it is not valid (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// The SHA-256 of the key: 64 hexadecimal digits. Empty for a password.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// The salted hash of a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

impl KeyEntry {
    /// Whether it is not valid any more at this time.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        let expires = self.expires.as_deref().and_then(|time| humantime::parse_rfc3339(time).ok());
        expires.is_some_and(|expires| expires <= now)
    }
}

impl KeyFile {
    /// Reads and checks the text of a file.
    ///
    /// # Errors
    /// One line.
    pub fn read(text: &str) -> Result<Self, String> {
        let file: Self = toml::from_str(text).map_err(|error| {
            // The excerpt that the library adds would be more than a line, and might have a key in it.
            let line = error.span().map_or(0, |span| text.get(..span.start).unwrap_or_default().matches('\n').count());
            format!("line {}: {}", line + 1, error.message())
        })?;
        KeyRing::new(&file).map(|_| file)
    }

    /// Returns the text of the file.
    pub fn text(&self) -> String {
        // A value of texts and lists of texts can always be written.
        let keys = toml::to_string(self).unwrap_or_default();
        format!("# API keys and passwords, of which only digests are known. `lodge keys` writes this file.\n\n{keys}")
    }

    /// Returns the line on which each key of a valid file has its name, in the order of the keys.
    pub fn lines(text: &str) -> Vec<usize> {
        #[derive(Default, Deserialize)]
        struct KeyLines {
            #[serde(default)]
            key: Vec<Named>,
        }
        #[derive(Deserialize)]
        struct Named {
            name: toml::Spanned<String>,
        }
        let lines: KeyLines = toml::from_str(text).unwrap_or_default();
        let before = |at: usize| text.get(..at).unwrap_or_default().matches('\n').count();
        lines.key.iter().map(|key| before(key.name.span().start).saturating_add(1)).collect()
    }

    /// Adds a key, and returns it. It cannot be read again.
    ///
    /// # Errors
    /// If the entry is not valid, there is a key with its name, or the system has no random numbers.
    pub fn create(&mut self, mut entry: KeyEntry) -> Result<String, String> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| format!("the system has no random numbers: {error}"))?;
        let key = format!("{START}{}", URL_SAFE_NO_PAD.encode(random));
        entry.sha256 = hex(&digest(key.as_bytes()));
        let mut with = self.clone();
        with.keys.push(entry);
        KeyRing::new(&with)?;
        *self = with;
        Ok(key)
    }

    /// Adds a password of the user that the entry names.
    ///
    /// # Errors
    /// Those of [`Self::create`], or if the password is too short or too long.
    pub fn create_password(&mut self, mut entry: KeyEntry, password: &str) -> Result<(), String> {
        if entry.name.contains(':') {
            return Err("the name of a user has no `:`, which separates it from the password".into());
        }
        entry.password = Some(password_hash::hashed(password)?);
        let mut with = self.clone();
        with.keys.push(entry);
        KeyRing::new(&with)?;
        *self = with;
        Ok(())
    }

    /// Removes the key with this name. Returns whether there was one.
    pub fn revoke(&mut self, name: &str) -> bool {
        let before = self.keys.len();
        self.keys.retain(|key| key.name != name);
        self.keys.len() != before
    }
}

/// The API keys of a file, by their digests.
#[derive(Debug)]
pub struct KeyRing(HashMap<[u8; 32], Key>);

#[derive(Debug)]
struct Key {
    identity: Arc<Identity>,
    expires: Option<SystemTime>,
}

impl KeyRing {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// One line.
    pub fn read(text: &str) -> Result<Self, String> {
        Self::new(&KeyFile::read(text)?)
    }

    fn new(file: &KeyFile) -> Result<Self, String> {
        if file.keys.len() > MOST_KEYS {
            return Err(format!("{} keys are more than {MOST_KEYS}", file.keys.len()));
        }
        let (mut keys, mut names) = (HashMap::with_capacity(file.keys.len()), std::collections::HashSet::new());
        for entry in &file.keys {
            let name = &entry.name;
            if !(1..=MOST_NAME).contains(&name.len()) || name.chars().any(char::is_control) {
                return Err(format!("the name of a key has 1 to {MOST_NAME} bytes without control characters"));
            }
            let problem = |why: &str| format!("key {name}: {why}");
            if !names.insert(name) {
                return Err(problem("another key has the same name"));
            }
            if entry.scopes.len() > MOST_SCOPES || !entry.scopes.iter().all(|scope| is_scope(scope)) {
                return Err(problem(&format!("it has more than {MOST_SCOPES} scopes, or one with spaces or quotes")));
            }
            let expires = entry.expires.as_deref().map(humantime::parse_rfc3339).transpose();
            let expires = expires.map_err(|_| problem("write `expires` like 2030-01-31T00:00:00Z"))?;
            if let Some(password) = &entry.password {
                if !entry.sha256.is_empty() {
                    return Err(problem("it has both `sha256` and `password`"));
                }
                password_hash::check(password).map_err(|why| problem(&why))?;
                continue;
            }
            if entry.sha256.is_empty() {
                return Err(problem("missing field `sha256`, or `password`"));
            }
            let digest = unhex(&entry.sha256).ok_or_else(|| problem("`sha256` has 64 hexadecimal digits"))?;
            if digest == self::digest(b"") {
                return Err(problem("`sha256` is that of an empty key; the program that wrote it had no key"));
            }
            let identity = Arc::new(Identity::new(AuthMethod::ApiKey, name, &entry.scopes));
            if keys.insert(digest, Key { identity, expires }).is_some() {
                return Err(problem("another key has the same sha256"));
            }
        }
        Ok(Self(keys))
    }

    /// Returns the number of keys.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the names of the keys.
    pub fn marks(&self) -> KeyMarks {
        let mark = |digest: &[u8; 32], key: &Key| {
            let text = format!("{digest:?} {:?} {:?}", key.identity.scopes(), key.expires);
            (key.identity.subject().to_owned(), hash_of(text.as_bytes()))
        };
        self.0.iter().map(|(digest, key)| mark(digest, key)).collect()
    }

    /// Returns the name of this key, also of one that has expired.
    pub fn name_of(&self, key: &[u8]) -> Option<String> {
        self.0.get(&digest(key)).map(|key| key.identity.subject().to_owned())
    }

    /// Returns whose key this is.
    ///
    /// # Errors
    /// If there is no such key, or it has expired.
    pub fn find(&self, key: &[u8], now: SystemTime) -> Result<Arc<Identity>, Cause> {
        let key = self.0.get(&digest(key)).ok_or(Cause::UnknownKey)?;
        match key.expires {
            Some(expires) if expires <= now => Err(Cause::ExpiredKey),
            _ => Ok(Arc::clone(&key.identity)),
        }
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn entry(name: &str) -> KeyEntry {
        KeyEntry { name: name.to_owned(), ..KeyEntry::default() }
    }

    #[test]
    fn a_key_is_found_by_its_digest() {
        let mut file = KeyFile::default();
        let [ada, bob] = ["ada", "bob"].map(|name| file.create(entry(name)).unwrap());
        assert!(ada.starts_with(START) && ada.len() == START.len() + 43 && ada != bob, "{ada}");
        let text = file.text();
        assert!(!text.contains(&ada) && !text.contains(&ada[START.len()..]), "{text}");
        assert_eq!(KeyFile::read(&text).unwrap(), file);
        let ring = KeyRing::read(&text).unwrap();
        let find =
            |key: &str| ring.find(key.as_bytes(), SystemTime::now()).map(|identity| identity.subject().to_owned());
        assert_eq!((find(&ada), find(&bob)), (Ok("ada".into()), Ok("bob".into())));
        // Neither the digest nor a part of a key is a key.
        for wrong in ["", &ada[..20], &format!("{ada} "), &ada.to_uppercase(), &file.keys[0].sha256] {
            assert_eq!(find(wrong), Err(Cause::UnknownKey), "{wrong}");
        }
        assert!(file.revoke("ada") && !file.revoke("ada"));
        assert_eq!(KeyRing::new(&file).unwrap().count(), 1);
    }

    #[test]
    fn a_key_expires() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let mut file = KeyFile::default();
        let expires = Some(humantime::format_rfc3339_seconds(at).to_string());
        let key = file.create(KeyEntry { expires, ..entry("ci") }).unwrap();
        let ring = KeyRing::new(&file).unwrap();
        assert!(ring.find(key.as_bytes(), at - Duration::from_millis(1)).is_ok());
        assert_eq!(ring.find(key.as_bytes(), at).unwrap_err(), Cause::ExpiredKey);
    }

    /// No beginning of a file has an entry that says less of a key or user than the whole.
    #[test]
    fn no_beginning_of_an_entry_is_one() {
        let limited = |name: &str| KeyEntry {
            scopes: vec!["a".into()],
            created: Some("2026-01-31T00:00:00Z".into()),
            expires: Some("2030-01-31T00:00:00Z".into()),
            ..entry(name)
        };
        let mut file = KeyFile::default();
        file.create(limited("ci")).unwrap();
        file.create_password(limited("ann"), "correct horse").unwrap();
        let text = file.text();
        let valid: Vec<_> = (0..text.len()).filter_map(|end| KeyFile::read(text.get(..end)?).ok()).collect();
        assert!(valid.iter().any(|begun| begun.keys.len() == 1), "{text}");
        for begun in valid {
            assert_eq!(begun.keys, file.keys[..begun.keys.len()], "{text}");
        }
    }

    #[test]
    fn bad_files_are_refused() {
        let some = "a".repeat(64);
        let check = |text: &str, expected: &str| {
            let problem = KeyRing::read(text).unwrap_err();
            assert!(problem.contains(expected) && !problem.contains('\n'), "{text}: {problem}");
        };
        let key = |more: &str| format!("[[key]]\nname = 'a'\nsha256 = '{some}'\n{more}");
        assert_eq!(KeyRing::read(&key("")).unwrap().count(), 1);
        assert_eq!(KeyRing::read("").unwrap().count(), 0);
        check("[[key]]\nname = 'a'", "missing field `sha256`");
        check("[[keys]]\nname = 'a'", "line 1: unknown field `keys`");
        check("[[key]]\nname = 'a'\nsha256 = 'zz'", "key a: `sha256` has 64 hexadecimal digits");
        check(&format!("[[key]]\nname = 'a'\nsha256 = '+{}'", "a".repeat(63)), "64 hexadecimal digits");
        check(&key("scope = ['x']"), "line 4: unknown field `scope`");
        check(&key("scopes = ['x y']"), "or one with spaces or quotes");
        check(&key("expires = 'tomorrow'"), "key a: write `expires` like");
        check(&format!("{}{}", key(""), key("")), "key a: another key has the same name");
        check(&format!("{}{}", key(""), key("").replace("'a'", "'b'")), "key b: another key has the same sha256");
        check(
            &format!("[[key]]\nname = 'a'\nsha256 = '{}'", hex(&digest(b""))),
            "key a: `sha256` is that of an empty key",
        );
        check("[[key]]\nname = ''\nsha256 = ''", "the name of a key has 1 to 128 bytes");
        check("[[key", "line 1: ");
    }
}
