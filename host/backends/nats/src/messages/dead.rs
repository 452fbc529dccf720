//! Dead messages that are kept in the stream of a consumer.

use lodge_remote::LinkFailure;
use lodge_state::limits::MAX_RECEIVE_BYTES;
use lodge_state::messages::{Afterlife, DeadMessage, Fault};
use lodge_state::{Error, Timestamp};
use serde_json::json;

use crate::connector::NatsConnection;
use crate::messages::queue::QueueStreams;
use crate::messages::stream_requests::{Storing, get, remove, subject};
use crate::messages::wire::QueuedMessage;

impl QueuedMessage {
    /// The message, which died and is kept with this sequence.
    pub(super) fn into_dead(self, sequence: u64) -> DeadMessage {
        let Self { message, id, origin, death, .. } = self;
        DeadMessage {
            place: sequence.to_string().into(),
            message,
            id,
            origin,
            died: death.as_ref().map(|death| Timestamp::new(death.at)),
            attempts: death.as_ref().map(|death| death.attempts),
            fault: death.and_then(|death| Fault::read(&death.fault)),
        }
    }
}

impl QueueStreams {
    /// Reads dead messages after a sequence, until there are enough.
    pub(super) async fn dead(
        &self,
        connection: &NatsConnection,
        after: u64,
        limit: usize,
    ) -> Result<Vec<DeadMessage>, LinkFailure> {
        let (mut found, mut bytes, mut last) = (Vec::new(), 0_u64, after);
        while found.len() < limit && bytes < MAX_RECEIVE_BYTES {
            let Some((sequence, queued)) = self.next_dead(connection, last).await? else { break };
            last = sequence;
            if let Some(queued) = queued {
                bytes = bytes.saturating_add(queued.message.size());
                found.push(queued.into_dead(sequence));
            }
        }
        Ok(found)
    }

    /// Reads the dead message with a sequence.
    pub(super) async fn read_dead(
        &self,
        connection: &NatsConnection,
        sequence: u64,
    ) -> Result<Option<QueuedMessage>, LinkFailure> {
        let found = get(connection, &self.dead, json!({ "seq": sequence })).await?;
        Ok(found.and_then(|(_, queued)| queued))
    }

    async fn next_dead(
        &self,
        connection: &NatsConnection,
        after: u64,
    ) -> Result<Option<(u64, Option<QueuedMessage>)>, LinkFailure> {
        let which = json!({ "seq": after.saturating_add(1), "next_by_subj": subject(&self.dead) });
        get(connection, &self.dead, which).await
    }

    /// Retries dead messages or removes them: the one with this sequence, or all that there are now. What is done twice is stored
    /// once.
    pub(super) async fn end_dead(
        &self,
        connection: &NatsConnection,
        only: Option<u64>,
        afterlife: Afterlife,
    ) -> Result<u64, LinkFailure> {
        let (mut ended, mut last) = (0, 0);
        // What dies meanwhile stays.
        let until = match only {
            Some(sequence) => sequence,
            None => self.info(connection, &self.dead).await?.0.last_seq,
        };
        loop {
            let next = match only {
                Some(sequence) if ended == 0 && last == 0 => {
                    self.read_dead(connection, sequence).await?.map(|queued| (sequence, Some(queued)))
                }
                Some(_) => None,
                None => self.next_dead(connection, last).await?,
            };
            let Some((sequence, queued)) = next.filter(|(sequence, _)| *sequence <= until) else { return Ok(ended) };
            last = sequence;
            let Some(queued) = queued else { continue };
            if afterlife == Afterlife::Retry {
                match self.retry(connection, sequence, queued).await {
                    Err(LinkFailure::Refused(Error::QuotaExceeded { .. })) if ended > 0 => return Ok(ended),
                    result => result?,
                }
            }
            remove(connection, &self.dead, sequence).await?;
            ended += 1;
        }
    }

    /// Stores a dead message again, if there is room for it.
    async fn retry(
        &self,
        connection: &NatsConnection,
        sequence: u64,
        queued: QueuedMessage,
    ) -> Result<(), LinkFailure> {
        let size = queued.message.size();
        let distinct = format!("{}-dead-{sequence}", queued.id);
        let again = QueuedMessage { death: None, ..queued };
        match self.store(connection, &again, &distinct).await? {
            Storing::Stored(_) => Ok(()),
            Storing::Full => Err(self.refusal(connection, size).await),
            Storing::TooLarge => Err(connection.too_large().into()),
            Storing::Gone => {
                Err(Error::unavailable("the stream of the service was deleted: it is created again").into())
            }
        }
    }
}
