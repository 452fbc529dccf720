//! Reading the messages of a stream.

use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;
use lodge_remote::LinkFailure;
use lodge_state::{Entry, Error, Timestamp, Value, Version};
use serde_json::json;

use super::{EXPIRES, NatsStream, Stored};
use crate::connector::{NO_RESPONDERS, NatsConnection};
use crate::response::{JetStreamResponse, code};
use crate::unexpected;

impl NatsStream {
    /// Reads a message, whether or not it has expired.
    pub(crate) async fn read(&self, connection: &NatsConnection, key: &str) -> Result<Option<Stored>, LinkFailure> {
        let payload = json!({ "last_by_subj": self.subject(key) }).to_string();
        Ok(self.message(connection, payload.into()).await?.map(|(_, stored)| stored))
    }

    /// Reads the first message from `sequence` on whose key fits `filter`, with its key.
    pub(crate) async fn next(
        &self,
        connection: &NatsConnection,
        sequence: u64,
        filter: &str,
    ) -> Result<Option<(String, Stored)>, LinkFailure> {
        let payload = json!({ "seq": sequence, "next_by_subj": self.subject(filter) }).to_string();
        let Some((subject, stored)) = self.message(connection, payload.into()).await? else { return Ok(None) };
        let key = subject.strip_prefix(&self.subject("")).ok_or_else(unexpected)?.to_owned();
        Ok(Some((key, stored)))
    }

    /// Reads the message that `payload` describes, with its subject.
    async fn message(
        &self,
        connection: &NatsConnection,
        payload: Bytes,
    ) -> Result<Option<(String, Stored)>, LinkFailure> {
        if self.replicas > 1 {
            return self.leader(connection, payload).await;
        }
        let subject = format!("$JS.API.DIRECT.GET.{}", self.name());
        let message = match connection.request(subject, None, payload).await {
            Err(LinkFailure::Refused(error)) if error == Error::unavailable(NO_RESPONDERS) => {
                // The stream was deleted, or the server has not read it yet.
                self.info(connection, None).await?;
                return Err(error.into());
            }
            message => message?,
        };
        if message.status == Some(StatusCode::NOT_FOUND) {
            return Ok(None);
        }
        let headers = message.headers.unwrap_or_default();
        let sequence = header(&headers, "Nats-Sequence").ok_or_else(unexpected)?;
        let subject = headers.get_last("Nats-Subject").ok_or_else(unexpected)?.as_str().to_owned();
        Ok(Some((subject, stored(sequence, &headers, message.payload)?)))
    }

    /// The same of a stream with replicas, from its leader.
    async fn leader(
        &self,
        connection: &NatsConnection,
        payload: Bytes,
    ) -> Result<Option<(String, Stored)>, LinkFailure> {
        let subject = format!("$JS.API.STREAM.MSG.GET.{}", self.name());
        let message = connection.request(subject, None, payload).await?;
        let response: Leader = serde_json::from_slice(&message.payload).map_err(|_| unexpected())?;
        let Some(found) = response.message else {
            let response = JetStreamResponse::read(&message)?;
            if response.code() == code::NO_MESSAGE {
                return Ok(None);
            }
            self.restored(connection, response).await?;
            return Err(unexpected().into());
        };
        let (headers, value) = found.decode().ok_or_else(unexpected)?;
        Ok(Some((found.subject, stored(found.seq, &headers, value)?)))
    }
}

fn stored(sequence: u64, headers: &HeaderMap, value: Bytes) -> Result<Stored, LinkFailure> {
    // Other clients delete by markers.
    if headers.get("KV-Operation").is_some() || headers.get("Nats-Marker-Reason").is_some() {
        let entry =
            Entry { value: Value::number(0), version: Version::new(sequence), expires: Some(Timestamp::new(0)) };
        return Ok(Stored { sequence, entry });
    }
    let expires = header(headers, EXPIRES).map(Timestamp::new);
    Ok(Stored { sequence, entry: Entry { value: Value::new(value)?, version: Version::new(sequence), expires } })
}

fn header(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get_last(name)?.as_str().parse().ok()
}

/// When a message with these headers expires.
pub(crate) fn expiry(headers: &HeaderMap) -> Option<Timestamp> {
    header(headers, EXPIRES).map(Timestamp::new)
}

/// The response of a leader to a request for a message.
#[derive(serde::Deserialize)]
pub(crate) struct Leader {
    pub(crate) message: Option<LeaderMessage>,
}

/// A message in such a response.
#[derive(serde::Deserialize)]
pub(crate) struct LeaderMessage {
    #[serde(default)]
    subject: String,
    pub(crate) seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

impl LeaderMessage {
    /// Its headers and its value, which are in base 64.
    pub(crate) fn decode(&self) -> Option<(HeaderMap, Bytes)> {
        use base64::Engine;
        let decode = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).ok();
        let text = String::from_utf8(decode(&self.hdrs)?).ok()?;
        let mut headers = HeaderMap::new();
        for (name, value) in text.lines().skip(1).filter_map(|line| line.split_once(':')) {
            headers.insert(name, value.trim());
        }
        Some((headers, decode(&self.data)?.into()))
    }
}
