//! Dead messages that are kept in Redis.

use lodge_state::limits::MAX_RECEIVE_BYTES;
use lodge_state::messages::{Afterlife, DeadMessage, DeadSelection, Fault};
use lodge_state::{Error, Namespace, Timestamp};
use tokio::time::Instant;

use super::wire::read;
use super::{RedisQueue, exceeded};
use crate::reply::{array, bytes, number, text, unexpected};
use crate::scripts::Script;

impl RedisQueue {
    /// Returns dead messages after a place, or the one at a place.
    pub(super) async fn find_dead(
        &self,
        consumer: &Namespace,
        (after, limit): (&str, usize),
        only: &str,
        deadline: Instant,
    ) -> Result<Vec<DeadMessage>, Error> {
        let _permit = self.space(consumer)?.enter(0)?;
        let (limit, enough) = (limit.to_string(), MAX_RECEIVE_BYTES.to_string());
        let arguments = [consumer.as_str(), after, &limit, &enough, only];
        let mut reply = array(self.repeatable(Script::Dead, &arguments, deadline).await?)?;
        let mut found = Vec::new();
        while let Some(place) = reply.next() {
            let entry = bytes(reply.next())?.ok_or_else(unexpected)?;
            // One that another program has written is not shown.
            found.extend(dead(text(Some(place))?, entry));
        }
        Ok(found)
    }

    /// Retries dead messages or removes them.
    pub(super) async fn end(
        &self,
        consumer: &Namespace,
        which: DeadSelection<'_>,
        afterlife: Afterlife,
        deadline: Instant,
    ) -> Result<u64, Error> {
        if which.place() == Some("") {
            return Ok(0);
        }
        let _permit = self.space(consumer)?.enter(0)?;
        let kind = if afterlife == Afterlife::Retry { "retry" } else { "drop" };
        let arguments = [consumer.as_str(), which.place().unwrap_or_default(), kind];
        let mut reply = array(self.once(Script::EndDead, &arguments, deadline).await?)?;
        let ended = match text(reply.next())?.as_str() {
            "done" => number(reply.next())?,
            status => return Err(exceeded(status, reply.next(), reply.next())),
        };
        self.receivers.notify(consumer);
        Ok(ended)
    }
}

/// What stands for a space in the text of a fault, which has none of these: a space ends it in the line of an entry.
const JOINED: &str = "/";

/// Returns the text of a fault as one word of a line.
pub(super) fn one_word(fault: &str) -> String {
    fault.replace(' ', JOINED)
}

/// Reads an entry of the list.
fn dead(place: String, mut entry: Vec<u8>) -> Result<DeadMessage, Error> {
    let end = entry.iter().position(|byte| *byte == b'\n').ok_or_else(unexpected)?;
    let stored = entry.split_off(end + 1);
    let line = std::str::from_utf8(&entry).map_err(|_| unexpected())?.trim_end();
    let mut parts = line.split(' ').skip(1);
    let (died, attempts, fault) = (parts.next(), parts.next(), parts.next());
    let (message, id, origin) = read(stored)?;
    Ok(DeadMessage {
        place: place.into(),
        message,
        id,
        origin,
        died: died.and_then(|died| died.parse().ok()).map(Timestamp::new),
        attempts: attempts.and_then(|attempts| attempts.parse().ok()),
        fault: fault.and_then(|fault| Fault::read(&fault.replace(JOINED, " "))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_all_versions_are_read() {
        let message = "a.b\n\n\n12ab\n0\nbody";
        let of = |line: &str| dead("7".into(), format!("{line}\n{message}").into_bytes()).unwrap();
        let full = of("7 1000 3 500 900 0001");
        assert_eq!(
            (full.died, full.attempts, full.fault),
            (Some(Timestamp::new(1000)), Some(3), Some(Fault::Status(500)))
        );
        let reason = of(&format!("7 1000 3 {} 900 0001", one_word("502 trapped"))).fault;
        assert_eq!(reason, Fault::read("502 trapped"));
        let first = of("7");
        assert_eq!((first.died, first.attempts, first.fault, first.id), (None, None, None, full.id));
        assert!(dead("7".into(), b"7".to_vec()).is_err());
    }
}
