//! What is stored under a key.

use std::time::Duration;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::error::Error;
use crate::limits::{MAX_TTL, MAX_VALUE};

/// A value of at most [`MAX_VALUE`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value(Bytes);

impl Value {
    /// The value `bytes`.
    ///
    /// # Errors
    /// If it is longer than [`MAX_VALUE`].
    pub fn new(bytes: impl Into<Bytes>) -> Result<Value, Error> {
        let bytes = bytes.into();
        if bytes.len() > MAX_VALUE {
            return Err(Error::TooLarge { what: "the value", unit: "bytes", size: bytes.len(), limit: MAX_VALUE });
        }
        Ok(Value(bytes))
    }

    /// A number, as [`Change::Add`](crate::Change::Add) stores it: decimal text, as in Redis.
    pub fn number(number: i64) -> Value {
        Value(number.to_string().into())
    }

    /// The number that this is the decimal text of.
    ///
    /// # Errors
    /// [`Error::NotANumber`] if it is anything else; other spellings, such as `+1`, `01` or ` 1`, are not numbers.
    pub fn to_number(&self) -> Result<i64, Error> {
        let text = std::str::from_utf8(&self.0).map_err(|_| Error::NotANumber)?;
        let number: i64 = text.parse().map_err(|_| Error::NotANumber)?;
        let digits = text.strip_prefix('-').unwrap_or(text);
        let canonical = text == "0" || digits.starts_with(|first: char| ('1'..='9').contains(&first));
        if canonical { Ok(number) } else { Err(Error::NotANumber) }
    }

    /// Its bytes, shared.
    pub fn bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// Its bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// The number of bytes.
    pub fn size(&self) -> u64 {
        self.0.len() as u64
    }
}

/// The version of an entry. Every write gives its entry a version that no entry of the namespace has ever had, so that equal
/// versions of a key are equal entries, even if the key was deleted in between. Versions have no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version(u64);

impl Version {
    /// The version `number`. What guests send is not trusted, and need not be: an unknown version matches no entry.
    pub const fn new(number: u64) -> Version {
        Version(number)
    }

    /// Its number, at most `i64::MAX`.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// A value with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// Its version.
    pub version: Version,
    /// When it expires, by the clock of the backend.
    pub expires: Option<Timestamp>,
}

impl Entry {
    /// Whether it still exists at `now`.
    pub fn live(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

/// How long entries live: from 1 ms to [`MAX_TTL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl(Duration);

impl Ttl {
    /// The time to live `duration`.
    ///
    /// # Errors
    /// If it is shorter than 1 ms or longer than [`MAX_TTL`].
    pub fn new(duration: Duration) -> Result<Ttl, Error> {
        if duration < Duration::from_millis(1) || duration > MAX_TTL {
            return Err(Error::Invalid { what: "the TTL", problem: "is not from 1 ms to 100 years" });
        }
        Ok(Ttl(duration))
    }

    /// Its duration.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

/// What a write does with the expiry of its entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// The entry does not expire, even if it did before.
    #[default]
    Never,
    /// The entry expires after a time.
    After(Ttl),
    /// The entry expires when it would have without this write; a new entry never.
    Keep,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_spelling() {
        for number in [0, 1, -1, 10, i64::MIN, i64::MAX] {
            assert_eq!(Value::number(number).to_number(), Ok(number));
        }
        for text in ["", "-", "+1", "01", "-0", "-01", " 1", "1 ", "1.0", "9223372036854775808", "x"] {
            assert_eq!(Value::new(text).unwrap().to_number(), Err(Error::NotANumber), "{text:?}");
        }
    }

    #[test]
    fn an_entry_expires_at_its_time_and_not_before() {
        let clock = |milliseconds| Timestamp::new(milliseconds);
        let entry = Entry { value: Value::number(1), version: Version::new(1), expires: Some(clock(10)) };
        assert!(entry.live(clock(9)));
        assert!(!entry.live(clock(10)));
        assert!(Ttl::new(Duration::ZERO).is_err() && Ttl::new(MAX_TTL).is_ok());
        assert!(Value::new(vec![0; MAX_VALUE]).is_ok() && Value::new(vec![0; MAX_VALUE + 1]).is_err());
    }
}
