use std::collections::BTreeMap;

use lodge_base::ids::mix;
use lodge_state::{Backend, ManualClock, Memory, Namespace, Pending, Quota, Timestamp};

use super::*;

/// Schedules of the model.
const SCHEDULES: u64 = 12_000;

/// Steps of a schedule.
const STEPS: usize = 80;

const LEASE: Duration = Duration::from_secs(15);

/// Random numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// What happens to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    RequestLost,
    /// It was done, and the host does not know.
    ResponseLost,
}

/// The locks as a host reaches them.
struct Reached(Arc<dyn Locks>, Fate);

impl Reached {
    fn pass<'a, T: Send + 'a>(&self, result: impl FnOnce() -> Result<T, Error>) -> Pending<'a, T> {
        let result = match self.1 {
            Fate::Done => result(),
            Fate::RequestLost => Err(Error::unavailable("cut off")),
            Fate::ResponseLost => result().and(Err(Error::Timeout)),
        };
        Box::pin(std::future::ready(result))
    }
}

impl Locks for Reached {
    fn attempt<'a>(&'a self, name: LockName<'a>, holder: Holder, lease: Lease, until: Instant) -> Pending<'a, Attempt> {
        self.pass(|| ready(self.0.attempt(name, holder, lease, until)))
    }

    fn renew<'a>(&'a self, _: LockName<'a>, _: Holder, _: Lease, _: Instant) -> Pending<'a, bool> {
        panic!("an attempt renews")
    }

    fn release<'a>(&'a self, name: LockName<'a>, holder: Holder, until: Instant) -> Pending<'a, bool> {
        self.pass(|| ready(self.0.release(name, holder, until)))
    }
}

/// Returns the result of a future that is ready at once, as those of the store in memory are.
fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the store in memory does not wait"),
    }
}

/// A host of the model.
struct Host {
    election: Election,
    leader: Leadership,
    /// Its clock, which runs differently fast by up to 5 %, and stands while the machine is suspended.
    now: Instant,
    per_mille: u32,
    suspended: bool,
    cut_off: bool,
    /// Participation that it has begun as the leader, and not written yet.
    working: Vec<Token>,
}

impl Host {
    fn new(now: Instant, per_mille: u32) -> Self {
        let leader = Leadership::default();
        let election = Election::new(leader.clone(), LEASE).unwrap();
        Self { election, leader, now, per_mille, suspended: false, cut_off: false, working: Vec::new() }
    }
}

struct Model {
    random: Random,
    clock: Arc<ManualClock>,
    locks: Arc<dyn Locks>,
    store: Arc<dyn Store>,
    hosts: Vec<Host>,
    /// Attempts that reach the store later than their host waits.
    late: Vec<Holder>,
    /// Whether machines are suspended, so that a clock cannot tell that a lease has ended.
    suspends: bool,
    seen: Seen,
}

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    /// The host of each token.
    tokens: BTreeMap<Token, usize>,
    /// The largest token that was accepted, and how many were accepted and refused.
    newest: Option<Token>,
    accepted: usize,
    refused: usize,
}

impl Model {
    fn new(seed: u64) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::new(1)));
        let memory = Memory::new(1 << 20, Arc::clone(&clock) as Arc<_>);
        let (namespace, start) = (Namespace::new("@cluster").unwrap(), Instant::now());
        let (locks, store) =
            (ready(memory.locks(&namespace, start)), ready(memory.open(&namespace, Quota::default(), start)));
        let mut random = Random(seed);
        let hosts = (0..3).map(|_| Host::new(start, 950 + random.below(101) as u32)).collect();
        let (locks, store, late) = (locks.unwrap(), store.unwrap(), Vec::new());
        Self { random, clock, locks, store, hosts, late, suspends: seed.is_multiple_of(2), seen: Seen::default() }
    }

    fn step(&mut self) {
        let at = self.random.below(3) as usize;
        match self.random.below(100) {
            0..30 => self.pass(),
            30..60 => self.round(at),
            60..76 => {
                let host = &mut self.hosts[at];
                let leads = host.leader.token_at(host.now).filter(|_| !host.suspended);
                host.working.extend(leads);
            }
            76..83 => self.write(at),
            83..86 => self.hosts[at].cut_off ^= true,
            86..93 if self.suspends => self.hosts[at].suspended ^= true,
            93..95 if !self.late.is_empty() => {
                let holder = self.late.swap_remove(0);
                let (name, lease) = (LockName::new("leader").unwrap(), Lease::new(LEASE).unwrap());
                let _ = ready(self.locks.attempt(name, holder, lease, Instant::now()));
            }
            95..97 => {
                let reached = Reached(Arc::clone(&self.locks), self.fate(at));
                let host = &self.hosts[at];
                let _ = ready(host.election.resign(&reached, LockName::new("leader").unwrap(), host.now));
            }
            // The process ends, and another one begins.
            97 => self.hosts[at] = Host::new(self.hosts[at].now, self.hosts[at].per_mille),
            _ => {}
        }
        let believe = self.hosts.iter().filter(|host| host.leader.token_at(host.now).is_some()).count();
        assert!(self.suspends || believe <= 1, "{believe} hosts believe that they lead");
    }

    /// Time passes.
    fn pass(&mut self) {
        let time = Duration::from_millis(self.random.below(6_000));
        self.clock.advance(time);
        for host in self.hosts.iter_mut().filter(|host| !host.suspended) {
            host.now += time * host.per_mille / 1000;
        }
    }

    fn fate(&mut self, at: usize) -> Fate {
        match self.random.below(10) {
            _ if self.hosts[at].cut_off => Fate::RequestLost,
            0 => Fate::RequestLost,
            1 => Fate::ResponseLost,
            _ => Fate::Done,
        }
    }

    fn round(&mut self, at: usize) {
        if self.hosts[at].suspended {
            return;
        }
        let fate = self.fate(at);
        let host = &self.hosts[at];
        if fate == Fate::RequestLost && self.random.one_in(3) {
            self.late.push(host.election.holder);
        }
        let reached = Reached(Arc::clone(&self.locks), fate);
        let round = host.election.round(&reached, LockName::new("leader").unwrap(), host.now, host.now);
        if let Ok(Some(token)) = ready(round) {
            assert_eq!(*self.seen.tokens.entry(token).or_insert(at), at, "two hosts have the token {token:?}");
        }
    }

    /// A host writes what it has begun, however long ago.
    fn write(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        let Some(token) = (!host.working.is_empty()).then(|| host.working.remove(0)) else { return };
        let value = FencedValue { store: &*self.store, key: Key::new("leader", "leader").unwrap() };
        if !ready(value.write(token, &format!("h{at}"), Instant::now())).unwrap() {
            self.seen.refused += 1;
            assert!(self.seen.newest.is_some_and(|newest| token < newest), "a token was refused without reason");
            return;
        }
        let newest = self.seen.newest.replace(token);
        assert!(newest.is_none_or(|newest| newest <= token), "{token:?} was accepted after {newest:?}");
        self.seen.accepted += 1;
        assert_eq!(ready(value.read(Instant::now())).unwrap(), Some(format!("h{at}")));
    }

    /// When all is well again, one host leads within the lease and two rounds.
    fn heal(&mut self) {
        for host in &mut self.hosts {
            (host.suspended, host.cut_off, host.now) = (false, false, host.now + 2 * LEASE);
        }
        self.clock.advance(2 * LEASE);
        self.late.clear();
        let mut leads = Vec::new();
        for host in &self.hosts {
            let name = LockName::new("leader").unwrap();
            leads.extend(ready(host.election.round(&*self.locks, name, host.now, host.now)).unwrap());
        }
        assert_eq!(leads.len(), 1, "{leads:?}");
    }
}

/// Of all hosts that ever led, only the newest is accepted: over lost requests and responses, requests that arrive late, pauses,
/// suspended machines, clocks that run differently fast, partitions and restarts. Without suspended machines, no two hosts even
/// believe at one time that they lead.
#[test]
fn no_older_leader_is_accepted() {
    let (mut accepted, mut refused, mut terms) = (0, 0, 0);
    for seed in 0..SCHEDULES {
        let mut model = Model::new(seed);
        (0..STEPS).for_each(|_| model.step());
        model.heal();
        accepted += model.seen.accepted;
        refused += model.seen.refused;
        terms += model.seen.tokens.len();
    }
    // The schedules are hard enough to mean something.
    let schedules = usize::try_from(SCHEDULES).unwrap();
    assert!(accepted > schedules / 2 && refused > 200 && terms > 2 * schedules, "{accepted} {refused} {terms}");
}

/// A host that cannot reach the store leads until shortly before its lease ends, and not longer.
#[test]
fn a_leader_stops_before_its_lease_ends() {
    let mut model = Model::new(1);
    let name = LockName::new("leader").unwrap();
    let host = &model.hosts[0];
    ready(host.election.round(&*model.locks, name, host.now, host.now)).unwrap().expect("it leads");
    let cut_off = Reached(Arc::clone(&model.locks), Fate::RequestLost);
    assert!(ready(host.election.round(&cut_off, name, host.now + LEASE / 2, host.now)).is_err());
    assert!(host.leader.token_at(host.now + LEASE * 8 / 10).is_some());
    assert!(host.leader.token_at(host.now + LEASE * 9 / 10).is_none());
    // After a resignation, another host need not wait.
    assert!(ready(model.hosts[1].election.round(&*model.locks, name, host.now, host.now)).unwrap().is_none());
    ready(host.election.resign(&*model.locks, name, host.now)).unwrap();
    assert!(host.leader.token_at(host.now).is_none());
    let next = &mut model.hosts[1];
    assert!(ready(next.election.round(&*model.locks, name, next.now, next.now)).unwrap().is_some());
}

/// What is no value of a leader is replaced, and a text of another host is plain.
#[tokio::test]
async fn broken_values_are_replaced() {
    let model = Model::new(1);
    let value = FencedValue { store: &*model.store, key: Key::new("leader", "leader").unwrap() };
    let now = Instant::now();
    assert_eq!(value.read(now).await.unwrap(), None);
    for broken in ["", "{}", "null", r#"{"token":-1,"host":"a"}"#, "{\"token\":99,\"host\":\"a\\nforged\"}"] {
        let stored = Value::new(broken.to_owned()).unwrap();
        model.store.set(value.key, stored, Default::default(), now).await.unwrap();
        assert_eq!(value.read(now).await.unwrap(), None, "{broken}");
        assert!(value.write(Token::new(3), "b", now).await.unwrap(), "{broken}");
        assert_eq!(value.read(now).await.unwrap().as_deref(), Some("b"));
    }
    assert!(!value.write(Token::new(2), "c", now).await.unwrap());
    assert!(value.write(Token::new(3), "b", now).await.unwrap(), "a leader may write again");
}
