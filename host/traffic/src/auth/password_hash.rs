//! The salted hash of a password, as a file has it: PBKDF2 with HMAC-SHA-256.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::pbkdf2;

/// The iterations of PBKDF2 with HMAC-SHA-256 for a new password: what OWASP recommends since 2023.
const ITERATIONS: u32 = 600_000;

/// The iterations that a file may have. More would keep a thread busy for long, fewer would be no protection.
const RANGE: std::ops::RangeInclusive<u32> = 100_000..=5_000_000;

/// The bytes of a salt and of a hash.
const SALT: usize = 16;
const HASH: usize = 32;

/// The bytes that a password may have.
pub(super) const LENGTH: std::ops::RangeInclusive<usize> = 8..=1024;

/// How a hash begins in a file.
const START: &str = "pbkdf2-sha256";

/// A salted hash.
#[derive(Debug)]
pub(super) struct PasswordHash {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

/// Returns the text of a file for a password.
///
/// # Errors
/// If it is too short or too long, or the system has no random numbers.
pub(super) fn hashed(password: &str) -> Result<String, String> {
    if !LENGTH.contains(&password.len()) || password.chars().any(char::is_control) {
        let (least, most) = (LENGTH.start(), LENGTH.end());
        return Err(format!("a password has {least} to {most} bytes without control characters"));
    }
    let mut salt = [0; SALT];
    getrandom::fill(&mut salt).map_err(|error| format!("the system has no random numbers: {error}"))?;
    let mut hash = [0; HASH];
    let iterations = NonZeroU32::new(ITERATIONS).unwrap_or(NonZeroU32::MIN);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut hash);
    Ok(format!("{START}${ITERATIONS}${}${}", STANDARD.encode(salt), STANDARD.encode(hash)))
}

impl PasswordHash {
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('$');
        let [start, iterations, salt, hash] = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
        let iterations = iterations.parse().ok().filter(|count| RANGE.contains(count)).and_then(NonZeroU32::new)?;
        let (salt, hash) = (STANDARD.decode(salt).ok()?, STANDARD.decode(hash).ok()?);
        let sound = start == START && parts.next().is_none() && (SALT..=64).contains(&salt.len()) && hash.len() == HASH;
        sound.then_some(Self { iterations, salt, hash })
    }

    /// Returns the hash of no password, for users that do not exist: a response must not come sooner for them.
    pub(super) fn of_nobody(iterations: Option<NonZeroU32>) -> Self {
        let iterations = iterations.or(NonZeroU32::new(ITERATIONS)).unwrap_or(NonZeroU32::MIN);
        Self { iterations, salt: vec![0; SALT], hash: vec![0; HASH] }
    }

    pub(super) fn is_of(&self, password: &str) -> bool {
        let password = password.as_bytes();
        pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, self.iterations, &self.salt, password, &self.hash).is_ok()
    }

    pub(super) fn iterations(&self) -> NonZeroU32 {
        self.iterations
    }
}

/// Checks the text of a hash in a file.
pub(super) fn check(text: &str) -> Result<(), String> {
    read(text).map(drop)
}

/// Reads the text of a hash in a file.
pub(super) fn read(text: &str) -> Result<PasswordHash, String> {
    let (least, most) = (RANGE.start(), RANGE.end());
    PasswordHash::read(text).ok_or_else(|| {
        format!("`password` is written like {START}$ITERATIONS$SALT$HASH, with {least} to {most} iterations; `lodge keys create` makes it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_hashes() {
        let text = hashed("correct horse").unwrap();
        assert!(text.starts_with("pbkdf2-sha256$600000$") && !text.contains("horse"), "{text}");
        assert_ne!(text, hashed("correct horse").unwrap(), "each has a salt of its own");
        for wrong in ["", "1234567", "tab\tin it", &"x".repeat(1025)] {
            assert!(hashed(wrong).is_err(), "{wrong}");
        }
        for wrong in [
            "correct horse",
            &text.replace("600000", "1000"),
            &text.replace("600000", "4000000000"),
            &text.replace("pbkdf2-sha256", "argon2id"),
            &format!("{text}$x"),
            "pbkdf2-sha256$600000$AAAA$AAAA",
        ] {
            let problem = check(wrong).unwrap_err();
            assert!(problem.starts_with("`password` is written like pbkdf2-sha256$"), "{problem}");
        }
    }
}
