//! A message of a service, as a message of NATS: its body is the payload, and all else one header.

use async_nats::HeaderMap;
use bytes::Bytes;
use lodge_state::messages::{Headers, Message, MessageBody, MessageId, Subject};
use lodge_state::{Error, Timestamp};
use serde::{Deserialize, Serialize};

use crate::connector::NatsConnection;

/// The header with everything but the body, in JSON.
const FIELDS: &str = "Lodge-Message";
/// Bytes of an id. One of this backend has 32.
const MAX_ID: usize = 64;

/// Bytes that a message may grow by when it dies: by its origin, the subject that it is published to then, what it is known by in
/// NATS, and how it has died. The first two have at most 255 bytes, the third some 300.
pub(super) const GROWTH: usize = 1024;

/// A message that is stored for a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueuedMessage {
    pub(crate) message: Message,
    pub(crate) id: MessageId,
    /// When it was published, by the clock of the server.
    pub(crate) published: Timestamp,
    /// The subject that it was published to before it died there.
    pub(crate) origin: Option<Subject>,
    /// How it has died, if it has.
    pub(crate) death: Option<Death>,
}

/// How a message has died.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Death {
    pub(crate) at: u64,
    pub(crate) attempts: u32,
    pub(crate) fault: String,
}

#[derive(Deserialize, Serialize)]
struct Fields {
    id: String,
    subject: String,
    published: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    death: Option<Death>,
}

impl QueuedMessage {
    /// The headers of the message of NATS. Within a minute, NATS stores one message with the same `distinct` in a stream.
    ///
    /// # Errors
    /// Never in practice.
    pub(crate) fn headers(&self, distinct: &str) -> Result<HeaderMap, Error> {
        let text = |subject: &Option<Subject>| subject.as_ref().map(|subject| subject.as_str().to_owned());
        let fields = Fields {
            id: self.id.as_str().to_owned(),
            subject: self.message.subject.as_str().to_owned(),
            published: self.published.milliseconds(),
            reply_to: text(&self.message.reply_to),
            origin: text(&self.origin),
            headers: self.message.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            death: self.death.clone(),
        };
        let fields = serde_json::to_string(&fields).map_err(|_| crate::unexpected())?;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", distinct);
        headers.insert(FIELDS, fields.as_str());
        Ok(headers)
    }

    /// Refuses a message that NATS would not accept any more when it dies.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with the size that NATS accepts.
    pub(crate) fn admit(&self, connection: &NatsConnection) -> Result<(), Error> {
        let headers = self.headers(self.id.as_str())?;
        let headers: usize = headers.iter().flat_map(|(_, values)| values).map(|value| value.as_str().len()).sum();
        let size = headers + self.message.body.bytes().len();
        let limit = connection.client.max_payload();
        if size + GROWTH <= limit {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "the message has {size} bytes with its headers, and NATS accepts {limit}, of which {GROWTH} are for what is added when \
             it dies: set its max_payload to 2MB, or publish less"
        )))
    }

    /// Reads a message of NATS; `None` if another program has written it.
    pub(crate) fn read(headers: &HeaderMap, payload: Bytes) -> Option<QueuedMessage> {
        let fields: Fields = serde_json::from_str(headers.get_last(FIELDS)?.as_str()).ok()?;
        let subject = |text: Option<String>| text.as_deref().map(Subject::new).transpose().ok();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        if fields.id.is_empty() || fields.id.len() > MAX_ID || !fields.id.bytes().all(plain) {
            return None;
        }
        Some(QueuedMessage {
            message: Message {
                subject: Subject::new(&fields.subject).ok()?,
                reply_to: subject(fields.reply_to)?,
                headers: Headers::new(fields.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))
                    .ok()?,
                body: MessageBody::new(payload).ok()?,
            },
            id: MessageId::new(fields.id),
            published: Timestamp::new(fields.published),
            origin: subject(fields.origin)?,
            death: fields.death,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_all_of_their_parts() {
        let subject = |text| Subject::new(text).unwrap();
        let headers = Headers::new([("x", " a: \"b\" ä "), ("x", ""), ("y", "\\")]).unwrap();
        let body = MessageBody::new(vec![0, 13, 10, 255]).unwrap();
        let message = Message { subject: subject("a.b"), reply_to: Some(subject("c")), headers, body };
        let (id, published) = (MessageId::new("12ab"), Timestamp::new(77));
        let death = Some(Death { at: 78, attempts: 3, fault: "500".into() });
        let queued = QueuedMessage { message, id, published, origin: Some(subject("o")), death };
        let headers = queued.headers("once").unwrap();
        assert_eq!(QueuedMessage::read(&headers, queued.message.body.bytes()), Some(queued));
    }

    #[test]
    fn what_other_programs_write_is_no_message() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(FIELDS, text);
            QueuedMessage::read(&headers, Bytes::new())
        };
        assert!(read(r#"{"id":"a","subject":"b","published":1}"#).is_some());
        for text in [
            "",
            "{}",
            r#"{"id":"","subject":"b","published":1}"#,
            r#"{"id":"a b","subject":"b","published":1}"#,
            r#"{"id":"a","subject":"b.>","published":1}"#,
            r#"{"id":"a","subject":"b","published":1,"reply_to":"*"}"#,
            r#"{"id":"a","subject":"b","published":1,"headers":[["a:b","c"]]}"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(QueuedMessage::read(&HeaderMap::new(), Bytes::new()), None);
    }
}
