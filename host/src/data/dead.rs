//! Dead messages of services, as operators read, retry and drop them.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use lodge_state::messages::{Afterlife, DeadMessage, DeadSelection, MessageQueue, Subject};
use lodge_state::{Error, Namespace};
use serde::{Deserialize, Serialize};

use super::{deadline, time};

/// A dead message without its content.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct DeadEntry {
    /// What it is retried and dropped by.
    pub id: String,
    /// The `message-id` that the service has seen.
    pub message_id: String,
    /// The subject.
    pub subject: String,
    /// The subject that it was published to first, if it died there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// When it died, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub died: Option<String>,
    /// How often it was delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliveries: Option<u32>,
    /// The bytes of its subject, headers and body.
    pub bytes: u64,
    /// Why the last delivery did not succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A page of the dead messages of a service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct DeadList {
    /// The messages, the one that died first first.
    pub messages: Vec<DeadEntry>,
    /// The `after` of the next page; `None` on the last one.
    pub next: Option<String>,
}

/// A dead message with its content.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct DeadContent {
    /// What is known of it.
    #[serde(flatten)]
    pub entry: DeadEntry,
    /// Where replies are expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Its headers, as `name: value`.
    pub headers: Vec<String>,
    /// The body in base64.
    pub body: String,
}

/// Dead messages that were retried or dropped.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct DeadCount {
    /// How many.
    pub ended: u64,
    /// How many are left.
    pub left: u64,
}

/// The dead messages of one service.
pub struct DeadMessages {
    /// The messages of all services.
    pub queue: Arc<dyn MessageQueue>,
    /// The service.
    pub consumer: Namespace,
}

impl DeadMessages {
    /// Returns a page of them.
    ///
    /// # Errors
    /// Those of [`MessageQueue::dead`].
    pub async fn list(&self, after: Option<&str>, limit: usize) -> Result<DeadList, Error> {
        let messages = self.queue.dead(&self.consumer, after, limit, deadline()).await?;
        let next = messages.last().map(|last| last.place.to_string());
        // A page may have fewer than its limit, if they are large.
        let more = match &next {
            Some(last) => !self.queue.dead(&self.consumer, Some(last), 1, deadline()).await?.is_empty(),
            None => false,
        };
        Ok(DeadList { messages: messages.iter().map(entry).collect(), next: next.filter(|_| more) })
    }

    /// Returns one of them.
    ///
    /// # Errors
    /// Those of [`MessageQueue::dead_message`].
    pub async fn get(&self, id: &str) -> Result<Option<DeadContent>, Error> {
        let found = self.queue.dead_message(&self.consumer, id, deadline()).await?;
        Ok(found.map(|dead| DeadContent {
            entry: entry(&dead),
            reply_to: dead.message.reply_to.as_ref().map(|to| to.as_str().to_owned()),
            headers: dead.message.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect(),
            body: BASE64_STANDARD.encode(dead.message.body.bytes()),
        }))
    }

    /// Retries or drops the one with an id, or all.
    ///
    /// # Errors
    /// Those of [`MessageQueue::end_dead`].
    pub async fn end(&self, id: Option<&str>, afterlife: Afterlife) -> Result<DeadCount, Error> {
        let ended = self.queue.end_dead(&self.consumer, DeadSelection::of(id), afterlife, deadline()).await?;
        Ok(DeadCount { ended, left: self.queue.status(&self.consumer, deadline()).await?.dead })
    }
}

fn entry(dead: &DeadMessage) -> DeadEntry {
    DeadEntry {
        id: dead.place.to_string(),
        message_id: dead.id.to_string(),
        subject: dead.message.subject.as_str().to_owned(),
        origin: dead.origin.as_ref().map(Subject::as_str).map(str::to_owned),
        died: dead.died.map(time).map(lodge_base::time::rfc3339),
        deliveries: dead.attempts,
        bytes: dead.message.size(),
        error: dead.fault.map(|fault| fault.to_string()),
    }
}
