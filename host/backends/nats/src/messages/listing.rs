//! Streams of all consumers: their names, when they were created, and their removal.

use bytes::Bytes;
use lodge_remote::LinkFailure;
use lodge_state::Timestamp;
use serde_json::json;

use crate::clock::timestamp;
use crate::connector::NatsConnection;
use crate::response::{JetStreamResponse, code};

/// Streams that are listed at most.
const MOST: usize = 100_000;

/// The names of the streams with subjects like `subject`.
pub(super) async fn names_of_streams(connection: &NatsConnection, subject: &str) -> Result<Vec<String>, LinkFailure> {
    let mut names = Vec::new();
    loop {
        let payload = json!({ "subject": subject, "offset": names.len() }).to_string();
        let response = connection.request("$JS.API.STREAM.NAMES".into(), None, payload.into()).await?;
        let response = JetStreamResponse::read(&response)?.accepted()?;
        let page = response.streams.unwrap_or_default();
        let last = page.is_empty();
        names.extend(page);
        if last || names.len() >= response.total.min(MOST) {
            return Ok(names);
        }
    }
}

/// When a stream was created; `None` if there is none.
pub(super) async fn time_of_creation(
    connection: &NatsConnection,
    name: &str,
) -> Result<Option<Timestamp>, LinkFailure> {
    let response = connection.request(format!("$JS.API.STREAM.INFO.{name}"), None, Bytes::new()).await?;
    let response = JetStreamResponse::read(&response)?;
    if response.code() == code::STREAM_NOT_FOUND {
        return Ok(None);
    }
    Ok(response.accepted()?.created.as_deref().and_then(timestamp))
}

/// Deletes a stream, if there is one.
pub(super) async fn delete(connection: &NatsConnection, name: &str) -> Result<(), LinkFailure> {
    let subject = format!("$JS.API.STREAM.DELETE.{name}");
    let response = JetStreamResponse::read(&connection.request(subject, None, Bytes::new()).await?)?;
    if response.code() != code::STREAM_NOT_FOUND {
        response.accepted()?;
    }
    Ok(())
}
