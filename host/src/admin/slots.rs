//! Slots for requests that take long: so many at once, and fewer of each sender, so that nobody keeps out the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lodge_base::lock::lock;
use tokio::sync::Semaphore;

use super::access::Requester;

/// The interval between attempts to get a slot.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

const MINUTE: Duration = Duration::from_secs(60);

/// The slots of the API.
#[derive(Clone)]
pub struct OperatorSlots {
    /// For components that arrive, which may take minutes, until they are deployed.
    pub(super) uploads: Arc<SlotPool>,
    /// For deployments of components that have arrived. Each may have some components in memory, and waits for a compilation.
    pub(super) deployments: Arc<SlotPool>,
    /// For promotions and rollbacks, which must be possible whatever else is going on.
    pub(super) reversals: Arc<SlotPool>,
    /// For comparisons of manifests, which have a rate as well: each says something about the manifest of a service.
    pub(super) comparisons: Arc<SlotPool>,
    /// For the one comparison whose manifests are in memory as values.
    pub(super) comparing: Arc<Semaphore>,
}

impl Default for OperatorSlots {
    fn default() -> Self {
        Self {
            uploads: SlotPool::new(16, 4, usize::MAX),
            deployments: SlotPool::new(4, 2, usize::MAX),
            reversals: SlotPool::new(8, 4, usize::MAX),
            comparisons: SlotPool::new(8, 2, 600),
            comparing: Arc::new(Semaphore::new(1)),
        }
    }
}

/// A number of slots for one kind of requests.
pub(super) struct SlotPool {
    all: usize,
    each: usize,
    per_minute: usize,
    state: Mutex<State>,
}

/// Who has slots, and how many each has had in this minute.
struct State {
    held: HashMap<String, usize>,
    since: Instant,
    had: HashMap<String, usize>,
}

/// A slot of a sender, until it is dropped.
pub(super) struct OperatorSlot {
    pool: Arc<SlotPool>,
    sender: String,
}

/// Why there is no slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoSlot {
    /// The sender, or all together, have as many as they may.
    Taken,
    /// The sender has had too many. Contains the seconds until the next minute.
    Rate(u64),
}

impl SlotPool {
    /// Returns `all` slots, of which a sender has `each` at once, and so many `per_minute`.
    fn new(all: usize, each: usize, per_minute: usize) -> Arc<Self> {
        let state = State { held: HashMap::new(), since: Instant::now(), had: HashMap::new() };
        Arc::new(Self { all, each, per_minute, state: Mutex::new(state) })
    }

    /// Takes a slot.
    ///
    /// # Errors
    /// If the sender can have none now.
    pub(super) fn take(self: &Arc<Self>, sender: &Requester) -> Result<OperatorSlot, NoSlot> {
        self.take_at(sender, Instant::now())
    }

    fn take_at(self: &Arc<Self>, sender: &Requester, now: Instant) -> Result<OperatorSlot, NoSlot> {
        let (name, is_key) = (sender.name(), sender.is_key());
        let mut state = lock(&self.state);
        let held = state.held.get(&name).copied().unwrap_or_default();
        if held >= self.each || state.held.values().sum::<usize>() >= self.all {
            return Err(NoSlot::Taken);
        }
        if self.per_minute < usize::MAX && is_key {
            if now.saturating_duration_since(state.since) >= MINUTE {
                (state.since, state.had) = (now, HashMap::new());
            }
            let left = MINUTE.saturating_sub(now.saturating_duration_since(state.since));
            let had = state.had.entry(name.clone()).or_default();
            if *had >= self.per_minute {
                return Err(NoSlot::Rate(left.as_secs().saturating_add(1)));
            }
            *had = had.saturating_add(1);
        }
        *state.held.entry(name.clone()).or_default() += 1;
        drop(state);
        Ok(OperatorSlot { pool: Arc::clone(self), sender: name })
    }

    /// Takes a slot, for which it waits at `most`.
    pub(super) async fn wait(self: &Arc<Self>, sender: &Requester, most: Duration) -> Result<OperatorSlot, NoSlot> {
        let start = Instant::now();
        loop {
            match self.take(sender) {
                Err(NoSlot::Taken) if start.elapsed() < most => tokio::time::sleep(RETRY_INTERVAL).await,
                taken => return taken,
            }
        }
    }
}

impl Drop for OperatorSlot {
    fn drop(&mut self) {
        let mut state = lock(&self.pool.state);
        if let Some(held) = state.held.get_mut(&self.sender) {
            *held = held.saturating_sub(1);
        }
        state.held.retain(|_, held| *held > 0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use lodge_traffic::auth::api_keys::{KeyEntry, KeyFile, KeyRing};

    use super::*;

    /// Nobody can take what is for others, and a slot that is free again can be taken.
    #[test]
    fn slots_of_others_are_free() {
        let mut file = KeyFile::default();
        let keys = ["one", "two", "local"]
            .map(|name| file.create(KeyEntry { name: name.into(), ..KeyEntry::default() }).unwrap());
        let ring = KeyRing::read(&file.text()).unwrap();
        let [one, two, three] =
            keys.map(|key| Requester::Key(ring.find(key.as_bytes(), SystemTime::now()).ok().unwrap()));
        let pool = SlotPool::new(3, 2, 4);
        let now = Instant::now();
        let take = |sender: &Requester, now| pool.take_at(sender, now);
        let first = take(&one, now).ok().unwrap();
        let second = take(&one, now).ok();
        assert_eq!(take(&one, now).err(), Some(NoSlot::Taken));
        let other = take(&two, now).ok();
        assert!(second.is_some() && other.is_some());
        assert_eq!(take(&three, now).err(), Some(NoSlot::Taken));
        drop(first);
        // A key has no name that makes it another sender.
        drop(take(&three, now).ok().unwrap());
        drop(take(&one, now).ok().unwrap());
        drop(take(&one, now).ok().unwrap());
        assert!(matches!(take(&one, now + Duration::from_secs(20)).err(), Some(NoSlot::Rate(40 | 41))));
        assert!(take(&two, now).is_ok() && take(&Requester::Local, now).is_ok());
        assert!(take(&one, now + MINUTE).is_ok());
    }
}
