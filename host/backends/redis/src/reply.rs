//! What Redis responds.

use bytes::Bytes;
use lodge_remote::LinkFailure;
use lodge_state::{Entry, Error, Resource, Timestamp, Value as StoredValue, Version};
use redis::{ErrorKind, RedisError, ServerErrorKind, Value};

use crate::connection::RedisConnection;

/// Why an operation failed.
pub(crate) fn failed(connection: &RedisConnection, error: &RedisError) -> LinkFailure {
    let unavailable = |reason: &'static str| Error::unavailable(reason);
    let code = error.code().unwrap_or_default();
    match (error.kind(), code) {
        (ErrorKind::Io | ErrorKind::Parse, _) => LinkFailure::Lost,
        (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => {
            connection.demote();
            LinkFailure::Doubted(unavailable("Redis is a replica and refuses writes: let the URL name the primary"))
        }
        (ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown), _) => {
            unavailable("Redis is loading its data: retry later").into()
        }
        (ErrorKind::Server(ServerErrorKind::NoPerm), _) => {
            unavailable("Redis has refused the user of its URL: grant it @scripting, @read and @write on lodge:*")
                .into()
        }
        (
            ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::CrossSlot)
            | ErrorKind::Server(ServerErrorKind::ClusterDown),
            _,
        ) => unavailable("Redis is a cluster, which is not supported: use a single primary").into(),
        (_, "OOM") => unavailable("the memory of Redis is full: raise maxmemory, or delete keys").into(),
        (_, "MISCONF") => unavailable("Redis cannot write to its disk: see its log").into(),
        (_, "BUSY") => unavailable("Redis runs a script of another client that does not end: stop it").into(),
        (_, code) => Error::unavailable(format!("Redis has refused the operation ({code}): see its log")).into(),
    }
}

/// A response that the scripts never give.
pub(crate) fn unexpected() -> Error {
    Error::unavailable("Redis has sent an unexpected response: check that no other program writes to keys of lodge:*")
}

/// The items of an array.
pub(crate) fn array(value: Value) -> Result<std::vec::IntoIter<Value>, Error> {
    match value {
        Value::Array(items) => Ok(items.into_iter()),
        _ => Err(unexpected()),
    }
}

/// The bytes of a string; `None` for nil.
pub(crate) fn bytes(value: Option<Value>) -> Result<Option<Vec<u8>>, Error> {
    match value {
        None | Some(Value::Nil) => Ok(None),
        Some(Value::BulkString(bytes)) => Ok(Some(bytes)),
        Some(Value::SimpleString(text)) => Ok(Some(text.into_bytes())),
        Some(_) => Err(unexpected()),
    }
}

/// The text of a string.
pub(crate) fn text(value: Option<Value>) -> Result<String, Error> {
    String::from_utf8(bytes(value)?.ok_or_else(unexpected)?).map_err(|_| unexpected())
}

/// A number in decimal text.
pub(crate) fn number(value: Option<Value>) -> Result<u64, Error> {
    match value {
        Some(Value::Int(number)) => number.try_into().map_err(|_| unexpected()),
        value => text(value)?.parse().map_err(|_| unexpected()),
    }
}

/// An entry, as it is stored: `VERSION EXPIRES VALUE`, with 0 for an entry that does not expire.
pub(crate) fn entry(value: Option<Value>) -> Result<Option<Entry>, Error> {
    let Some(stored) = bytes(value)? else { return Ok(None) };
    let stored = Bytes::from(stored);
    let mut spaces = stored.iter().enumerate().filter(|(_, byte)| **byte == b' ').map(|(index, _)| index);
    let (Some(first), Some(second)) = (spaces.next(), spaces.next()) else { return Err(unexpected()) };
    let number = |from: usize, to: usize| -> Result<u64, Error> {
        let digits = stored.get(from..to).and_then(|digits| std::str::from_utf8(digits).ok());
        digits.and_then(|digits| digits.parse().ok()).ok_or_else(unexpected)
    };
    let (version, expires) = (Version::new(number(0, first)?), number(first + 1, second)?);
    let expires = (expires != 0).then(|| Timestamp::new(expires));
    Ok(Some(Entry { value: StoredValue::new(stored.slice(second + 1..))?, version, expires }))
}

/// The error that a script has returned.
pub(crate) fn refusal(status: &str, used: Option<Value>, limit: impl Fn(Resource) -> u64) -> Error {
    let resource = match status {
        "not-a-number" => return Error::NotANumber,
        "overflow" => return Error::Overflow,
        "keys" => Resource::Keys,
        "bytes" => Resource::Bytes,
        "locks" => Resource::Locks,
        _ => return unexpected(),
    };
    match number(used) {
        Ok(used) => Error::QuotaExceeded { resource, used, limit: limit(resource) },
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_any_bytes() {
        let read = |stored: &[u8]| entry(Some(Value::BulkString(stored.to_vec())));
        let found = read(b"17 0 a b\0\xff").unwrap().unwrap();
        assert_eq!((found.version.number(), found.expires, found.value.as_slice()), (17, None, &b"a b\0\xff"[..]));
        let found = read(b"17 5 ").unwrap().unwrap();
        assert_eq!((found.expires, found.value.size()), (Some(Timestamp::new(5)), 0));
        for foreign in [&b""[..], b"x", b"1 2", b" 1 x", b"a 1 x", b"1 -1 x"] {
            assert!(matches!(read(foreign), Err(Error::Unavailable { .. })), "{foreign:?}");
        }
        assert_eq!(entry(Some(Value::Nil)), Ok(None));
    }
}
