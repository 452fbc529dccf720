//! A message, and its delivery.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::error::Error;
use crate::limits::{MAX_MESSAGE, MAX_MESSAGE_HEADERS};
use crate::messages::Subject;

/// A message before it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it is published.
    pub subject: Subject,
    /// Where replies are expected, if any.
    pub reply_to: Option<Subject>,
    /// Fields for the consumer.
    pub headers: Headers,
    /// Its content.
    pub body: MessageBody,
}

impl Message {
    /// Bytes of its subject, headers and body, as quotas count them.
    pub fn size(&self) -> u64 {
        (self.subject.as_str().len() + self.headers.0.len()) as u64 + self.body.0.len() as u64
    }
}

/// The content of a message: at most [`MAX_MESSAGE`] bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageBody(Bytes);

impl MessageBody {
    /// The content `bytes`.
    ///
    /// # Errors
    /// If it is longer than [`MAX_MESSAGE`].
    pub fn new(bytes: impl Into<Bytes>) -> Result<MessageBody, Error> {
        let bytes = bytes.into();
        if bytes.len() > MAX_MESSAGE {
            return Err(Error::TooLarge { what: "the message", unit: "bytes", size: bytes.len(), limit: MAX_MESSAGE });
        }
        Ok(MessageBody(bytes))
    }

    /// Its bytes, shared.
    pub fn bytes(&self) -> Bytes {
        self.0.clone()
    }
}

/// Header fields of a message, of at most [`MAX_MESSAGE_HEADERS`] bytes: `name:value` in lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Box<str>);

impl Headers {
    /// The fields `fields`, in this order.
    ///
    /// # Errors
    /// If a name is empty or has other characters than lower-case letters, digits and `-`, if a value has control characters, or
    /// if all are too long.
    pub fn new<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Headers, Error> {
        let mut text = String::new();
        for (name, value) in fields {
            let named = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if name.is_empty() || !name.bytes().all(named) || value.chars().any(char::is_control) {
                let problem = "is no field: its name has lower-case letters, digits and `-`, and its value no controls";
                return Err(Error::Invalid { what: "a header of the message", problem });
            }
            text.extend([name, ":", value, "\n"]);
        }
        Headers::stored(text)
    }

    /// Reads [`as_str`](Self::as_str), as others may have changed it.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn read(text: &str) -> Result<Headers, Error> {
        Headers::new(text.lines().filter_map(|line| line.split_once(':')))
    }

    /// Headers as [`as_str`](Self::as_str) shows them.
    ///
    /// # Errors
    /// If they are too long.
    pub(crate) fn stored(text: String) -> Result<Headers, Error> {
        if text.len() > MAX_MESSAGE_HEADERS {
            let (what, unit) = ("the headers of the message", "bytes");
            return Err(Error::TooLarge { what, unit, size: text.len(), limit: MAX_MESSAGE_HEADERS });
        }
        Ok(Headers(text.into()))
    }

    /// All fields, as one text.
    pub const fn as_str(&self) -> &str {
        &self.0
    }

    /// The fields, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.lines().filter_map(|line| line.split_once(':'))
    }

    /// The value of the first field `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

/// Identifies a message, in all of its deliveries.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Box<str>);

impl MessageId {
    /// The id `text`, as a backend chooses it: letters, digits, `-` and `.`.
    pub fn new(text: impl Into<Box<str>>) -> MessageId {
        MessageId(text.into())
    }

    /// Its text.
    pub const fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Identifies one delivery of a message, to settle it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Receipt(Box<str>);

impl Receipt {
    /// The receipt `text`, as a backend chooses it.
    pub fn new(text: impl Into<Box<str>>) -> Receipt {
        Receipt(text.into())
    }

    /// Its text.
    pub const fn as_str(&self) -> &str {
        &self.0
    }
}

/// A message that was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// Its id.
    pub id: MessageId,
    /// What it is settled by.
    pub receipt: Receipt,
    /// The number of this delivery, from 1.
    pub attempt: u32,
    /// How long ago it was published.
    pub age: Duration,
    /// The subject that it was published to before it died there.
    pub origin: Option<Subject>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_keep_their_fields() {
        let headers = Headers::new([("content-type", "text/plain; a:b"), ("x", "")]).unwrap();
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("content-type", "text/plain; a:b"), ("x", "")]);
        assert_eq!(Headers::stored(headers.as_str().to_owned()), Ok(headers.clone()));
        assert_eq!((headers.get("x"), headers.get("y")), (Some(""), None));
        for (name, value) in [("", "a"), ("A", "a"), ("a:b", "a"), ("a", "b\nc"), ("a", "\0")] {
            assert!(Headers::new([(name, value)]).is_err(), "{name} {value:?}");
        }
        let long = "v".repeat(MAX_MESSAGE_HEADERS);
        assert!(matches!(Headers::new([("a", long.as_str())]), Err(Error::TooLarge { .. })));
        assert!(MessageBody::new(vec![0; MAX_MESSAGE]).is_ok() && MessageBody::new(vec![0; MAX_MESSAGE + 1]).is_err());
    }
}
