//! The open connections of a listener by client address. At the bound, one that is idle is given up for a new one: the one that has
//! been idle for longest, of the address that has most. A client that holds many connections so loses its own, and keeps nobody out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::activity::Activity;
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::Metrics;
use lodge_traffic::admission::rate::key_of;

/// How long a connection is idle at least before it is given up: a client that has just connected sends its request within this time,
/// and one that has just received a response has read it.
const REST: Duration = Duration::from_millis(100);

/// The most connections of an address that have been idle for [`REST`] and are compared.
const COMPARED: usize = 64;

/// The time between two looks for an idle connection while none is.
const LOOK: Duration = Duration::from_millis(50);

/// Things that clients hold, by the key of their address.
pub struct ByAddress<T> {
    next: u64,
    count: usize,
    held: HashMap<u64, BTreeMap<u64, T>>,
    /// The addresses that hold any. The last one holds most, and has held for longest of those that hold as many.
    order: BTreeSet<(usize, Reverse<u64>, u64)>,
}

/// Which of the things it is.
#[derive(Clone, Copy)]
pub struct HeldId {
    address: u64,
    number: u64,
}

impl<T> Default for ByAddress<T> {
    fn default() -> Self {
        Self { next: 0, count: 0, held: HashMap::new(), order: BTreeSet::new() }
    }
}

impl<T> ByAddress<T> {
    /// Returns how many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Adds one.
    pub fn insert(&mut self, client: IpAddr, held: T) -> HeldId {
        let id = HeldId { address: key_of(client.to_canonical()), number: self.next };
        self.next += 1;
        self.change(id.address, |all| all.insert(id.number, held));
        self.count += 1;
        id
    }

    /// Removes one, if it is still there.
    pub fn remove(&mut self, id: HeldId) -> Option<T> {
        let removed = self.change(id.address, |all| all.remove(&id.number))?;
        self.count -= 1;
        Some(removed)
    }

    /// Returns what each address holds, with the oldest first. The address that holds most comes first.
    pub fn by_most(&self) -> impl Iterator<Item = impl Iterator<Item = (HeldId, &T)>> {
        let all = self.order.iter().rev().filter_map(|(_, _, address)| Some((*address, self.held.get(address)?)));
        all.map(|(address, all)| all.iter().map(move |(number, held)| (HeldId { address, number: *number }, held)))
    }

    fn change<R>(&mut self, address: u64, change: impl FnOnce(&mut BTreeMap<u64, T>) -> R) -> R {
        let place = |all: &BTreeMap<u64, T>| Some((all.len(), Reverse(*all.keys().next()?), address));
        let all = self.held.entry(address).or_default();
        if let Some(before) = place(all) {
            self.order.remove(&before);
        }
        let result = change(all);
        match place(all) {
            Some(after) => {
                self.order.insert(after);
            }
            None => {
                self.held.remove(&address);
            }
        }
        result
    }
}

/// The places for the connections of a listener.
pub struct ConnectionPlaces {
    most: usize,
    /// Whether a connection whose client has shown no credentials is given up although it is not idle, or only just, if no other can be.
    prefers_known: bool,
    open: Mutex<ByAddress<Arc<ClientConnection>>>,
    freed: Notify,
    metrics: Arc<Metrics>,
}

/// A connection that has a place.
pub struct ClientConnection {
    since: Instant,
    state: Mutex<ClientConnectionState>,
    is_known: AtomicBool,
}

#[derive(Default)]
struct ClientConnectionState {
    task: Option<AbortHandle>,
    /// None until it can carry requests.
    activity: Option<Arc<Activity>>,
    is_given_up: bool,
}

/// The place of a connection, until it is dropped.
pub struct ConnectionPlace {
    places: Arc<ConnectionPlaces>,
    id: HeldId,
    connection: Arc<ClientConnection>,
}

impl ConnectionPlaces {
    /// Returns `most` places.
    pub fn new(most: usize, metrics: &Arc<Metrics>) -> Arc<Self> {
        Self::with(most, false, metrics)
    }

    /// Returns `most` places, of which a client without credentials has none that one with credentials needs.
    pub fn for_known_clients(most: usize, metrics: &Arc<Metrics>) -> Arc<Self> {
        Self::with(most, true, metrics)
    }

    fn with(most: usize, prefers_known: bool, metrics: &Arc<Metrics>) -> Arc<Self> {
        let (open, freed, metrics) = (Mutex::default(), Notify::new(), Arc::clone(metrics));
        Arc::new(Self { most, prefers_known, open, freed, metrics })
    }

    /// Takes a place, if one is free or a connection can be given up.
    pub fn take(self: &Arc<Self>, client: IpAddr) -> Option<ConnectionPlace> {
        let mut open = lock(&self.open);
        if open.count() >= self.most {
            let given_up = give_up(&open, self.prefers_known)?;
            open.remove(given_up);
            self.metrics.given_up.fetch_add(1, Relaxed);
        }
        let connection = Arc::new(ClientConnection {
            since: Instant::now(),
            state: Mutex::default(),
            is_known: AtomicBool::new(false),
        });
        let id = open.insert(client, Arc::clone(&connection));
        Some(ConnectionPlace { places: Arc::clone(self), id, connection })
    }

    /// Waits for a place.
    pub async fn wait(self: &Arc<Self>, client: IpAddr) -> ConnectionPlace {
        loop {
            if let Some(place) = self.take(client) {
                return place;
            }
            // One that becomes idle is no event: each request would have to look whether a client waits.
            let _ = tokio::time::timeout(LOOK, self.freed.notified()).await;
        }
    }
}

/// Ends a connection for a new one. Returns which.
fn give_up(open: &ByAddress<Arc<ClientConnection>>, prefers_known: bool) -> Option<HeldId> {
    for of_address in open.by_most() {
        let (mut is_any_idle, now) = (false, Instant::now());
        let idle = of_address.filter_map(|(id, connection)| {
            let since = connection.idle_since()?;
            is_any_idle = true;
            (now.saturating_duration_since(since) >= REST).then_some((since, id, connection))
        });
        let mut idle: Vec<_> = idle.take(COMPARED).collect();
        idle.sort_unstable_by_key(|(since, ..)| *since);
        if let Some((_, id, _)) = idle.iter().find(|(.., connection)| connection.end_if_idle()) {
            return Some(*id);
        }
        // If none has been idle for long enough, others do not lose theirs for a client that has just made many.
        if is_any_idle {
            break;
        }
    }
    let mut all = open.by_most().flatten().filter(|_| prefers_known);
    let (id, connection) = all.find(|(_, connection)| !connection.is_known.load(Relaxed))?;
    connection.end().then_some(id)
}

impl ClientConnection {
    /// Sets the task that serves it.
    pub fn set_task(&self, task: AbortHandle) {
        lock(&self.state).task = Some(task);
    }

    /// Sets what knows whether it is idle.
    pub fn set_activity(&self, activity: &Arc<Activity>) {
        let mut state = lock(&self.state);
        if state.is_given_up {
            activity.end_if_idle(Duration::ZERO);
        }
        state.activity = Some(Arc::clone(activity));
    }

    /// Records that its client has shown credentials.
    pub fn set_known(&self) {
        self.is_known.store(true, Relaxed);
    }

    fn idle_since(&self) -> Option<Instant> {
        let state = lock(&self.state);
        state.task.as_ref()?;
        match &state.activity {
            Some(activity) => activity.idle_since(),
            // The header of a proxy, or a handshake.
            None => Some(self.since),
        }
    }

    /// Ends it, unless a request has begun meanwhile.
    fn end_if_idle(&self) -> bool {
        let mut state = lock(&self.state);
        let ends = match &state.activity {
            Some(activity) => activity.end_if_idle(REST),
            None => self.since.elapsed() >= REST,
        };
        if !ends {
            return false;
        }
        state.is_given_up = true;
        state.task.as_ref().inspect(|task| task.abort()).is_some()
    }

    fn end(&self) -> bool {
        let state = lock(&self.state);
        state.task.as_ref().inspect(|task| task.abort()).is_some()
    }
}

impl ConnectionPlace {
    /// Returns the connection that has it.
    pub fn connection(&self) -> &Arc<ClientConnection> {
        &self.connection
    }

    /// Counts the connection as one of this client, which its proxy has named.
    pub fn set_client(&mut self, client: IpAddr) {
        let mut open = lock(&self.places.open);
        // It may have been given up meanwhile.
        if let Some(connection) = open.remove(self.id) {
            self.id = open.insert(client, connection);
        }
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        lock(&self.places.open).remove(self.id);
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use lodge_base::budget::Budget;
    use lodge_base::config;

    use super::*;

    /// A request in progress keeps its place, but at the listener for operators only if it has credentials.
    #[tokio::test]
    async fn requests_in_progress_keep_their_places() {
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let bounds = config::resolve(&[]).unwrap().config.listener;
        let metrics = Arc::<Metrics>::default();
        for (places, is_known, is_given_up) in [
            (ConnectionPlaces::new(1, &metrics), false, false),
            (ConnectionPlaces::for_known_clients(1, &metrics), true, false),
            (ConnectionPlaces::for_known_clients(1, &metrics), false, true),
        ] {
            let place = places.take(one).unwrap();
            let task = tokio::spawn(std::future::pending::<()>());
            place.connection().set_task(task.abort_handle());
            let activity = Arc::new(Activity::new(&bounds, &Budget::new(1 << 20), &Arc::default()));
            place.connection().set_activity(&activity);
            let request = activity.begin(false);
            if is_known {
                place.connection().set_known();
            }
            assert_eq!(places.take(other).is_some(), is_given_up);
            if is_given_up {
                assert!(task.await.unwrap_err().is_cancelled());
                continue;
            }
            // It is over, and the next one that needs the place has it.
            drop(request);
            drop(tokio::time::timeout(Duration::from_secs(60), places.wait(other)).await.unwrap());
            assert!(task.await.unwrap_err().is_cancelled());
            assert!(activity.begin(false).is_late(), "a request that comes now is not handled");
        }
    }

    /// Places for a client that holds `busy` connections on which requests end all the time, and then `idle` ones.
    async fn held(places: &Arc<ConnectionPlaces>, client: IpAddr, busy: usize, idle: usize) -> Vec<ConnectionPlace> {
        let bounds = config::resolve(&[]).unwrap().config.listener;
        let hold = |_| {
            let place = places.take(client).unwrap();
            place.connection().set_task(tokio::spawn(std::future::pending::<()>()).abort_handle());
            let activity = Arc::new(Activity::new(&bounds, &Budget::new(1 << 20), &Arc::default()));
            place.connection().set_activity(&activity);
            (place, activity)
        };
        let held: Vec<_> = (0..busy + idle).map(hold).collect();
        tokio::time::sleep(REST).await;
        held.iter().take(busy).for_each(|(_, activity)| drop(activity.begin(false)));
        held.into_iter().map(|(place, _)| place).collect()
    }

    /// A client keeps no others out by requests on its oldest connections, of which only so many are compared.
    #[tokio::test]
    async fn busy_connections_hide_no_idle_ones() {
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let metrics = Arc::<Metrics>::default();
        let places = ConnectionPlaces::new(COMPARED + 2, &metrics);
        let held = held(&places, one, COMPARED, 2).await;
        let [first, second] = [places.take(other), places.take(other)];
        assert!(first.is_some() && second.is_some());
        assert_eq!((held.len(), metrics.given_up.load(Relaxed)), (COMPARED + 2, 2));
    }

    /// At the listener for operators, connections that are never idle for long keep none with credentials out.
    #[tokio::test]
    async fn short_requests_keep_no_operator_out() {
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let metrics = Arc::<Metrics>::default();
        for (places, has_place) in
            [(ConnectionPlaces::new(4, &metrics), false), (ConnectionPlaces::for_known_clients(4, &metrics), true)]
        {
            let held = held(&places, one, 4, 0).await;
            held[0].connection().set_known();
            let (first, last) = (&held[0].connection, &held[3].connection);
            // A machine that is slow may have made them idle for long.
            let place = places.take(other);
            if last.idle_since().is_some_and(|since| since.elapsed() < REST) {
                assert_eq!(place.is_some(), has_place);
                assert!(!lock(&first.state).is_given_up);
            }
        }
    }

    #[test]
    fn the_address_that_holds_most_comes_first() {
        let mut all = ByAddress::default();
        let client = |text: &str| text.parse::<IpAddr>().unwrap();
        let one = all.insert(client("192.0.2.1"), "a");
        all.insert(client("192.0.2.2"), "b");
        // A /64 of IPv6 is one client, and so is an address in both of its forms.
        let [c, d] = ["2001:db8::1", "2001:db8::2"].map(|text| all.insert(client(text), "c"));
        all.insert(client("::ffff:192.0.2.2"), "d");
        let order = |all: &ByAddress<&'static str>| {
            let each: Vec<String> = all.by_most().map(|of| of.map(|(_, held)| *held).collect()).collect();
            each.join(" ")
        };
        assert_eq!((order(&all).as_str(), all.count()), ("bd cc a", 5));
        assert_eq!((all.remove(c), all.remove(c)), (Some("c"), None));
        // Of those with as many, the one with the oldest comes first.
        assert_eq!((order(&all).as_str(), all.count()), ("bd a c", 4));
        all.remove(one);
        all.remove(d);
        assert_eq!((order(&all).as_str(), all.count(), all.held.len(), all.order.len()), ("bd", 2, 1, 1));
    }
}
