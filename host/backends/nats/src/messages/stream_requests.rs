//! Requests for the messages of a stream, whichever it is.

use bytes::Bytes;
use lodge_remote::LinkFailure;
use lodge_state::Error;
use serde_json::{Value, json};

use crate::connector::{NO_RESPONDERS, NatsConnection};
use crate::messages::wire::QueuedMessage;
use crate::response::{JetStreamResponse, code};
use crate::stream::Leader;
use crate::unexpected;

/// What became of storing a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storing {
    /// It has this sequence.
    Stored(u64),
    /// The quota is used up.
    Full,
    /// It is larger than NATS accepts.
    TooLarge,
    /// There is no such stream any more.
    Gone,
}

/// Reads a message of a stream, with its sequence; `None` if there is none, or no message if another program has written it.
pub(super) async fn get(
    connection: &NatsConnection,
    stream: &str,
    which: Value,
) -> Result<Option<(u64, Option<QueuedMessage>)>, LinkFailure> {
    let subject = format!("$JS.API.STREAM.MSG.GET.{stream}");
    let message = connection.request(subject, None, which.to_string().into()).await?;
    let response: Leader = serde_json::from_slice(&message.payload).map_err(|_| unexpected())?;
    let Some(found) = response.message else {
        let response = JetStreamResponse::read(&message)?;
        return match response.code() {
            code::NO_MESSAGE | code::SEQUENCE_NOT_FOUND => Ok(None),
            _ => response.accepted().and(Ok(None)),
        };
    };
    let sequence = found.seq;
    let (headers, body) = found.decode().ok_or_else(unexpected)?;
    Ok(Some((sequence, QueuedMessage::read(&headers, body))))
}

/// Removes a message of a stream.
pub(super) async fn remove(connection: &NatsConnection, stream: &str, sequence: u64) -> Result<(), LinkFailure> {
    let subject = format!("$JS.API.STREAM.MSG.DELETE.{stream}");
    let payload = json!({ "seq": sequence, "no_erase": true }).to_string();
    connection.request(subject, None, payload.into()).await.map(drop)
}

/// The subject of all messages of a stream.
pub(super) fn subject(stream: &str) -> String {
    format!("lodge.{stream}")
}

/// Adds the fields of `more`.
pub(super) fn extend(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}

/// Creates a stream, or gives it this configuration.
pub(super) async fn create(connection: &NatsConnection, name: &str, config: Value) -> Result<(), LinkFailure> {
    let payload = Bytes::from(config.to_string());
    let subject = format!("$JS.API.STREAM.CREATE.{name}");
    let created = JetStreamResponse::read(&connection.request(subject, None, payload.clone()).await?)?;
    if created.code() != code::NAME_IN_USE {
        return created.accepted().map(drop);
    }
    let subject = format!("$JS.API.STREAM.UPDATE.{name}");
    JetStreamResponse::read(&connection.request(subject, None, payload).await?)?.accepted().map(drop)
}

/// Stores a message in a stream, unless it has one of this name.
pub(super) async fn store(
    connection: &NatsConnection,
    stream: &str,
    message: &QueuedMessage,
    distinct: &str,
) -> Result<Storing, LinkFailure> {
    let headers = message.headers(distinct)?;
    let response = match connection.request(subject(stream), Some(headers), message.message.body.bytes()).await {
        Err(LinkFailure::Refused(error)) if error == Error::unavailable(NO_RESPONDERS) => return Ok(Storing::Gone),
        Err(LinkFailure::Refused(error)) if error == connection.too_large() => return Ok(Storing::TooLarge),
        response => JetStreamResponse::read(&response?)?,
    };
    match &response.error {
        None => Ok(Storing::Stored(response.seq)),
        Some(refusal) if refusal.err_code == code::TOO_LARGE => Ok(Storing::TooLarge),
        Some(refusal) if refusal.err_code == code::STORE_FAILED && refusal.description.contains("maximum") => {
            Ok(Storing::Full)
        }
        Some(_) => Err(response.accepted().map_or_else(|failed| failed, |_| unexpected().into())),
    }
}
