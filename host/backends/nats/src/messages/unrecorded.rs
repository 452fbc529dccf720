//! Streams without a subscription: those that this host is about to write one for, and those that a killed host has left.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lodge_remote::LinkFailure;
use lodge_state::limits::MAX_ABSENCE;
use lodge_state::{Error, Namespace};
use tokio::time::Instant;

use crate::connector::NatsConnection;
use crate::messages::NatsQueue;
use crate::messages::listing::{delete, names_of_streams, time_of_creation};
use crate::messages::registry::{is_number, new_number};

/// How long a number is kept for the next attempt to subscribe: much less than it takes until streams are removed.
const KEPT: Duration = Duration::from_secs(60 * 60);
/// How often a host looks for streams that others have left. They are removed when it finds them a second time.
const SEARCH: Duration = Duration::from_secs(60 * 60);
/// Streams that are removed at a time.
const MOST: usize = 64;

/// The streams without a subscription that this host knows.
#[derive(Default)]
pub(crate) struct UnrecordedStreams {
    numbers: Mutex<HashMap<Namespace, UnrecordedNumber>>,
    found: Mutex<FoundStreams>,
}

/// The number of streams that a subscription is about to be written for.
struct UnrecordedNumber {
    number: String,
    since: Instant,
    /// Whether it may be written, though that is not confirmed.
    written: bool,
}

/// What the last search has found, and when each was found first.
#[derive(Default)]
struct FoundStreams {
    searched: Option<Instant>,
    first: HashMap<String, Instant>,
}

impl UnrecordedStreams {
    fn numbers(&self) -> MutexGuard<'_, HashMap<Namespace, UnrecordedNumber>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self) -> MutexGuard<'_, FoundStreams> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the last attempt of a consumer, or a new one.
    ///
    /// # Errors
    /// If there are no random numbers.
    pub(super) fn number(&self, consumer: &Namespace) -> Result<String, Error> {
        let mut numbers = self.numbers();
        numbers.retain(|_, number| number.since.elapsed() < KEPT);
        if let Some(known) = numbers.get(consumer) {
            return Ok(known.number.clone());
        }
        let number = new_number()?;
        let known = UnrecordedNumber { number: number.clone(), since: Instant::now(), written: false };
        numbers.insert(consumer.clone(), known);
        Ok(number)
    }

    /// The subscription with the number of a consumer may be written from now on.
    pub(super) fn write(&self, consumer: &Namespace) {
        if let Some(known) = self.numbers().get_mut(consumer) {
            known.written = true;
        }
    }

    /// The number of a consumer, if its subscription was not written.
    pub(super) fn unwritten(&self, consumer: &Namespace) -> Option<String> {
        self.numbers().get(consumer).filter(|known| !known.written).map(|known| known.number.clone())
    }

    /// Forgets the number of a consumer.
    pub(super) fn remove(&self, consumer: &Namespace) {
        self.numbers().remove(consumer);
    }
}

impl NatsQueue {
    /// Removes streams of messages that have had no subscription for a day, once an hour. A host that is about to write one has
    /// created them an hour ago at most.
    pub(super) async fn clear(&self, connection: &NatsConnection) -> Result<(), LinkFailure> {
        let now = Instant::now();
        {
            let mut found = self.unrecorded.found();
            if found.searched.is_some_and(|searched| searched.elapsed() < SEARCH) {
                return Ok(());
            }
            found.searched = Some(now);
        }
        let names = names_of_streams(connection, "lodge.*").await?;
        // After the names: what is created meanwhile is not among them.
        let Some(recorded) = self.registry.streams(connection).await? else { return Ok(()) };
        let unrecorded = |name: &String| is_of_messages(name) && !recorded.contains(name);
        let before = std::mem::take(&mut self.unrecorded.found().first);
        let first = |name: String| (name.clone(), before.get(&name).copied().unwrap_or(now));
        let first: HashMap<String, Instant> = names.into_iter().filter(unrecorded).map(first).collect();
        let again = |(name, first): (&String, &Instant)| (*first < now).then(|| (name.clone(), *first));
        let again: Vec<_> = first.iter().filter_map(again).take(MOST).collect();
        self.unrecorded.found().first = first;
        for (name, first) in again {
            let created = match time_of_creation(connection, &name).await? {
                Some(created) => self.registry.now(connection).await?.since(created),
                None => continue,
            };
            // This host may have started a moment ago, and a server that was restored has created all streams then.
            if created.max(first.elapsed()) >= MAX_ABSENCE {
                delete(connection, &name).await?;
            }
        }
        Ok(())
    }
}

/// Whether this is the name of a stream for messages of a consumer.
fn is_of_messages(name: &str) -> bool {
    let kind = ["lodge-queue-", "lodge-dead-"].iter().find_map(|kind| name.strip_prefix(kind));
    kind.and_then(|rest| rest.rsplit_once('-')).is_some_and(|(_, number)| is_number(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn numbers_are_those_of_the_last_attempt() {
        let (streams, mail) = (UnrecordedStreams::default(), Namespace::new("mail").unwrap());
        let first = streams.number(&mail).unwrap();
        assert_ne!(streams.number(&Namespace::new("other").unwrap()), Ok(first.clone()));
        assert_eq!((streams.number(&mail), streams.unwritten(&mail)), (Ok(first.clone()), Some(first.clone())));
        streams.write(&mail);
        assert_eq!((streams.number(&mail), streams.unwritten(&mail)), (Ok(first.clone()), None));
        // Another host may remove its streams later.
        tokio::time::advance(KEPT).await;
        let second = streams.number(&mail).unwrap();
        assert_ne!(second, first);
        streams.remove(&mail);
        assert_ne!(streams.number(&mail), Ok(second));
    }

    #[test]
    fn other_streams_are_left() {
        assert!(["lodge-queue-mail-0123abcd", "lodge-dead-_mfra-0123abcd"].iter().all(|name| is_of_messages(name)));
        for other in
            ["KV_lodge-messages-services", "lodge-queue-mail", "lodge-queue-mail-x", "orders", "lodge-other-0123abcd"]
        {
            assert!(!is_of_messages(other), "{other}");
        }
    }
}
