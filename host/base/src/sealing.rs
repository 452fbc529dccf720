//! Texts in the hands of others, such as browsers and servers of state, that only hosts with the same keys can read, make or change.
//!
//! Each text has a key of its own, derived (HKDF-SHA-256) from one of the keys in the file, 128 random bits, the purpose and the
//! context of the text, such as the login that it is for. So a text for another purpose or context does not open, and no number of
//! texts wears a key out.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};

use crate::ids::hash_of;
use crate::key_changes::KeyMarks;

/// The most bytes of a file of keys.
pub const MOST_BYTES: u64 = 4 << 10;

/// The most keys of a file: each is tried on a text that none of them has made.
const MOST_KEYS: usize = 8;

/// The bytes of a key.
const KEY: usize = 32;

/// The random bytes of a text.
pub const SALT: usize = 16;

/// What a text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealPurpose {
    /// A session.
    Session,
    /// A login in progress.
    State,
    /// A file of certificates that hosts share.
    Certificates,
}

impl SealPurpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Session => b"lodge session 1\0",
            Self::State => b"lodge login state 1\0",
            Self::Certificates => b"lodge certificates 1\0",
        }
    }
}

/// The keys of a file. The first one encrypts.
pub struct SealingKeys(Vec<[u8; KEY]>);

impl SealingKeys {
    /// Reads a file: a key a line.
    ///
    /// # Errors
    /// One line, without what the file contains.
    pub fn read(text: &str) -> Result<Self, String> {
        const REMEDY: &str = "make a key with `head -c 32 /dev/urandom | base64`";
        let mut keys = Vec::new();
        for (number, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = STANDARD.decode(line).ok().and_then(|bytes| <[u8; KEY]>::try_from(bytes).ok());
            let key = key.ok_or_else(|| format!("line {} is not the base64 of {KEY} bytes; {REMEDY}", number + 1))?;
            if key.windows(2).all(|pair| pair.first() == pair.last()) {
                return Err(format!("line {} is not a random key; {REMEDY}", number + 1));
            }
            keys.push(key);
        }
        match keys.len() {
            0 => Err(format!("it has no key; {REMEDY}")),
            1..=MOST_KEYS => Ok(Self(keys)),
            count => Err(format!("{count} keys are more than {MOST_KEYS}; remove the oldest")),
        }
    }

    /// Returns the number of keys, at least one.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns names of the keys that do not reveal them.
    pub fn marks(&self) -> KeyMarks {
        let mark = |key: &[u8; KEY]| (format!("{:08x}", hash_of(key) >> 32), 0);
        self.0.iter().map(mark).collect()
    }

    /// Encrypts bytes. Returns `None` if the system has no random numbers.
    pub fn seal(&self, purpose: SealPurpose, context: &[u8], plain: &[u8]) -> Option<String> {
        let mut text = vec![0; SALT];
        SystemRandom::new().fill(&mut text).ok()?;
        let key = derived(self.0.first()?, &text, purpose, context)?;
        let mut sealed = plain.to_vec();
        key.seal_in_place_append_tag(once(), Aad::empty(), &mut sealed).ok()?;
        text.append(&mut sealed);
        Some(URL_SAFE_NO_PAD.encode(text))
    }

    /// Decrypts a text, and returns its random bytes as well. `None` if no host with one of these keys has made it for this.
    pub fn open(&self, purpose: SealPurpose, context: &[u8], text: &[u8]) -> Option<([u8; SALT], Vec<u8>)> {
        let text = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (salt, sealed) = text.split_first_chunk::<SALT>()?;
        self.0.iter().find_map(|key| {
            let mut plain = sealed.to_vec();
            let length =
                derived(key, salt, purpose, context)?.open_in_place(once(), Aad::empty(), &mut plain).ok()?.len();
            plain.truncate(length);
            Some((*salt, plain))
        })
    }
}

impl fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SealingKeys").field(&self.0.len()).finish()
    }
}

/// The nonce of a key that encrypts one text.
fn once() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn derived(key: &[u8; KEY], salt: &[u8], purpose: SealPurpose, context: &[u8]) -> Option<LessSafeKey> {
    let from = Salt::new(HKDF_SHA256, salt).extract(key);
    let info = [purpose.label(), context];
    Some(LessSafeKey::new(UnboundKey::from(from.expand(&info, &AES_256_GCM).ok()?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(bytes: &[u8]) -> SealingKeys {
        let lines = bytes.iter().map(|byte| {
            let key: Vec<u8> = (0..32).map(|at| byte.wrapping_add(at)).collect();
            STANDARD.encode(key) + "\n"
        });
        SealingKeys::read(&lines.collect::<String>()).unwrap()
    }

    #[test]
    fn files() {
        let line = STANDARD.encode((0..32).collect::<Vec<u8>>());
        assert_eq!(SealingKeys::read(&format!("# ours\n\n  {line}  \n{line}\n")).unwrap().count(), 2);
        let check = |text: &str, expected: &str| {
            let problem = SealingKeys::read(text).unwrap_err();
            assert!(problem.starts_with(expected) && !problem.contains(&line), "{problem}");
        };
        check("", "it has no key");
        check("# none\n", "it has no key");
        check(&format!("{line}\n{line}x"), "line 2 is not the base64 of 32 bytes");
        check(&STANDARD.encode([7; 31]), "line 1 is not the base64");
        check(&STANDARD.encode([0; 32]), "line 1 is not a random key");
        check(&format!("{line}\n").repeat(9), "9 keys are more than 8");
        assert!(!format!("{:?}", SealingKeys::read(&line)).contains(&line));
    }

    /// The first key encrypts, and any of them decrypts, so that keys can be replaced without an end of sessions.
    #[test]
    fn keys_rotate() {
        let (old, both, new) = (keys(&[1]), keys(&[2, 1]), keys(&[2]));
        let open = |keys: &SealingKeys, text: &str| {
            keys.open(SealPurpose::Session, b"users", text.as_bytes()).map(|(_, plain)| plain)
        };
        let seal = |keys: &SealingKeys| keys.seal(SealPurpose::Session, b"users", b"ann").unwrap();
        assert_eq!(open(&both, &seal(&old)).unwrap(), b"ann");
        assert_eq!(open(&new, &seal(&both)).unwrap(), b"ann");
        assert_eq!((open(&old, &seal(&both)), open(&new, &seal(&old))), (None, None));
        assert_ne!(seal(&new), seal(&new));
    }

    proptest! {
        /// What was sealed opens for its purpose and login only, and no other text does.
        #[test]
        fn texts_are_for_one_thing(plain: Vec<u8>, context: Vec<u8>, other: Vec<u8>, at: usize, bit in 0..8u8) {
            let keys = keys(&[1]);
            let text = keys.seal(SealPurpose::Session, &context, &plain).unwrap();
            let open = |purpose, context: &[u8], text: &[u8]| keys.open(purpose, context, text).map(|(_, plain)| plain);
            prop_assert_eq!(open(SealPurpose::Session, &context, text.as_bytes()), Some(plain));
            prop_assert_eq!(open(SealPurpose::State, &context, text.as_bytes()), None);
            if other != context {
                prop_assert_eq!(open(SealPurpose::Session, &other, text.as_bytes()), None);
            }
            let mut bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(open(SealPurpose::Session, &context, URL_SAFE_NO_PAD.encode(&bytes).as_bytes()), None);
            prop_assert_eq!(open(SealPurpose::Session, &context, &text.as_bytes()[..text.len() - 1 - at % 8]), None);
            prop_assert_eq!(open(SealPurpose::Session, &context, format!("{text}=").as_bytes()), None);
        }
    }
}
