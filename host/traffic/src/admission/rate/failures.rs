//! Failed attempts at credentials: a rate of their own for each client address.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::iter::once;
use std::net::IpAddr;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use super::table::Table;
use super::{Quota, key_of};
use lodge_base::lock::lock;

const MINUTE: u64 = 60_000_000_000;

/// The most addresses of a minute of which the log has a line.
const TOLD: usize = 16;

/// The failed attempts of all clients, in bounded memory, with the rate at which a client may have them.
#[derive(Debug)]
pub struct FailedAttempts {
    quota: Quota,
    /// How many a client may have in a minute.
    per_minute: u64,
    told: Mutex<Told>,
    /// Times are stored relative to this.
    epoch: Instant,
    /// Allocated for the first attempt that fails.
    table: OnceLock<Table>,
}

/// Of which clients the log has a line.
#[derive(Debug, Default)]
struct Told {
    /// When the minute began.
    began: Option<u64>,
    clients: Vec<u64>,
    /// The refusals of other clients since the last line.
    untold: u64,
}

/// The client of a request, with the other one that its forwarding headers name if they are not trusted: the mark that distrusts
/// them can be forged, so both count, as for rates.
#[derive(Clone, Copy, Debug)]
pub struct Attempter {
    client: IpAddr,
    claimed: Option<IpAddr>,
    /// The key of a service of this client, which is another host of the cluster.
    calling: Option<u64>,
}

impl Attempter {
    /// Returns the client at this address, with the one that it claims.
    pub fn new(client: IpAddr, claimed: Option<IpAddr>) -> Self {
        Self { client, claimed, calling: None }
    }

    /// Returns the same for a call of this service of the client, which is another host of the cluster.
    pub fn calling(self, service: Option<&str>) -> Self {
        let calling = service.map(|service| {
            let mut key = DefaultHasher::new();
            (key_of(self.client), service).hash(&mut key);
            key.finish()
        });
        Self { calling, ..self }
    }

    /// Returns the keys of the addresses, without repetition.
    pub fn keys(self) -> impl Iterator<Item = u64> {
        let own = self.own();
        once(own).chain(self.claimed.map(key_of).filter(move |key| *key != own))
    }

    fn own(self) -> u64 {
        self.calling.unwrap_or_else(|| key_of(self.client))
    }
}

impl FailedAttempts {
    /// Returns the attempts of a host that allows so many in a minute; `None` if it allows all.
    pub fn new(per_minute: usize, now: Instant) -> Option<Self> {
        let count = u64::try_from(per_minute).ok().filter(|count| *count > 0)?;
        let interval = MINUTE.div_ceil(count);
        let quota = Quota { interval, span: interval.saturating_mul(count) };
        Some(Self { quota, per_minute: count, told: Mutex::default(), epoch: now, table: OnceLock::new() })
    }

    /// Checks whether a client may try again.
    ///
    /// # Errors
    /// The seconds until it may.
    pub fn check(&self, client: Attempter, now: Instant) -> Result<(), u32> {
        let (Some(table), now) = (self.table.get(), self.since(now)) else { return Ok(()) };
        client.keys().try_for_each(|key| {
            // Looks at the bucket, and takes nothing.
            let full = table.take(&key, |_| Err::<u64, ()>(())).unwrap_or_else(|(full, ())| full);
            self.quota.take(full, now).map(drop).map_err(seconds)
        })
    }

    /// Counts a failed attempt.
    pub fn count(&self, client: Attempter, now: Instant) {
        let now = self.since(now);
        for key in client.keys() {
            // One that is at its limit already takes no more.
            let _ = self.table().take(&key, |full| self.quota.take(full, now));
        }
    }

    /// Counts an attempt before it is known whether it fails.
    ///
    /// # Errors
    /// The seconds until the client may try again. Nothing is counted then.
    pub fn take(&self, client: Attempter, now: Instant) -> Result<(), u32> {
        let at = self.since(now);
        for (taken, key) in client.keys().enumerate() {
            if let Err((_, wait)) = self.table().take(&key, |full| self.quota.take(full, at)) {
                client.keys().take(taken).for_each(|key| self.return_to(key));
                return Err(seconds(wait));
            }
        }
        Ok(())
    }

    /// Returns a line for the log about a client that may not try again now: one for each address and minute, and not for more than
    /// sixteen addresses in a minute.
    pub fn tell(&self, client: Attempter, now: Instant) -> Option<String> {
        let (now, key) = (self.since(now), client.own());
        let mut told = lock(&self.told);
        if told.began.is_none_or(|began| now.saturating_sub(began) >= MINUTE) {
            told.began = Some(now);
            told.clients.clear();
        }
        if told.clients.contains(&key) {
            return None;
        }
        if told.clients.len() == TOLD {
            told.untold = told.untold.saturating_add(1);
            return None;
        }
        told.clients.push(key);
        let others = match std::mem::take(&mut told.untold) {
            0 => String::new(),
            untold => format!("; before it, {untold} refusals of other addresses had no line"),
        };
        let (address, most) = (client.client.to_canonical(), self.per_minute);
        let whose = if client.calling.is_some() { "a service of " } else { "" };
        Some(format!(
            "{whose}{address} has had {most} failed attempts at credentials, and gets 429 until it waits (auth_failures){others}"
        ))
    }

    /// Takes back an attempt that was counted by [`FailedAttempts::take`] and has not failed.
    pub fn give_back(&self, client: Attempter) {
        client.keys().for_each(|key| self.return_to(key));
    }

    fn return_to(&self, key: u64) {
        // A bucket that was replaced meanwhile has nothing to get back.
        let _ = self
            .table()
            .take(&key, |full| if full > 0 { Ok(full.saturating_sub(self.quota.interval)) } else { Err(()) });
    }

    fn table(&self) -> &Table {
        self.table.get_or_init(Table::default)
    }

    fn since(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }
}

fn seconds(nanos: u64) -> u32 {
    u32::try_from(nanos.div_ceil(1_000_000_000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn client(text: &str) -> Attempter {
        Attempter::new(text.parse().unwrap(), None)
    }

    /// An attempt counts from its begin, until it succeeds.
    #[test]
    fn attempts_are_taken_and_given_back() {
        let start = Instant::now();
        let attempts = FailedAttempts::new(2, start).unwrap();
        let one = client("192.0.2.1");
        for _ in 0..10 {
            assert_eq!(attempts.take(one, start), Ok(()));
            attempts.give_back(one);
        }
        assert_eq!(
            [attempts.take(one, start), attempts.take(one, start), attempts.take(one, start)],
            [Ok(()), Ok(()), Err(30)]
        );
        attempts.give_back(one);
        assert_eq!((attempts.check(one, start), attempts.take(one, start)), (Ok(()), Ok(())));
        // Never more than there were.
        (0..10).for_each(|_| attempts.give_back(client("192.0.2.9")));
        assert_eq!(attempts.take(one, start), Err(30));
    }

    /// A client has no fresh bucket by the address that it claims, and fills that of nobody else unseen.
    #[test]
    fn claimed_addresses_count_as_well() {
        let start = Instant::now();
        let attempts = FailedAttempts::new(2, start).unwrap();
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let both = Attempter::new(one, Some(other));
        (0..2).for_each(|_| attempts.count(client("192.0.2.2"), start));
        assert_eq!((attempts.check(both, start), attempts.take(both, start)), (Err(30), Err(30)));
        // What was refused by one took nothing from the other.
        assert_eq!([0; 2].map(|_| attempts.take(client("192.0.2.1"), start)), [Ok(()), Ok(())]);
        assert_eq!(Attempter::new(one, Some(one)).keys().count(), 1);
    }

    /// Services of one host are several clients, and their host is another one.
    #[test]
    fn a_service_locks_out_no_other() {
        let start = Instant::now();
        let attempts = FailedAttempts::new(2, start).unwrap();
        let of = |service| client("192.0.2.1").calling(service);
        (0..3).for_each(|_| attempts.count(of(Some("evil")), start));
        let may = [Some("evil"), Some("shop"), None].map(|service| attempts.check(of(service), start).is_ok());
        assert_eq!(may, [false, true, true]);
        assert!(attempts.check(client("192.0.2.2").calling(Some("evil")), start).is_ok());
        let claims =
            Attempter::new("192.0.2.1".parse().unwrap(), Some("192.0.2.9".parse().unwrap())).calling(Some("shop"));
        (0..2).for_each(|_| attempts.count(client("192.0.2.9"), start));
        assert!(attempts.check(claims, start).is_err());
        assert!(attempts.tell(of(Some("evil")), start).unwrap().starts_with("a service of 192.0.2.1 has had 2 failed"));
    }

    #[test]
    fn failures_have_a_rate_and_successes_none() {
        let start = Instant::now();
        let attempts = FailedAttempts::new(6, start).unwrap();
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(client);
        for _ in 0..6 {
            // Looking takes nothing.
            assert_eq!((attempts.check(one, start), attempts.check(one, start)), (Ok(()), Ok(())));
            attempts.count(one, start);
        }
        assert_eq!(attempts.check(one, start), Err(10));
        attempts.count(one, start);
        assert_eq!(attempts.check(one, start + Duration::from_millis(9_500)), Err(1));
        assert_eq!(
            (attempts.check(one, start + Duration::from_secs(10)), attempts.check(other, start)),
            (Ok(()), Ok(()))
        );
        // All addresses of a /64 are one client.
        let [first, second] = ["2001:db8::1", "2001:db8::2"].map(client);
        (0..6).for_each(|_| attempts.count(first, start));
        assert!(attempts.check(second, start).is_err());
        assert!(FailedAttempts::new(0, start).is_none());
    }

    /// Clients that are refused all the time have one line a minute, and many of them do not fill the log.
    #[test]
    fn limited_clients_have_few_lines() {
        let start = Instant::now();
        let attempts = FailedAttempts::new(6, start).unwrap();
        let one = client("::ffff:192.0.2.1");
        let line = attempts.tell(one, start).unwrap();
        assert_eq!(
            line,
            "192.0.2.1 has had 6 failed attempts at credentials, and gets 429 until it waits (auth_failures)"
        );
        assert_eq!(attempts.tell(one, start + Duration::from_secs(59)), None);
        let said = (0..100).filter(|n| attempts.tell(client(&format!("198.51.100.{n}")), start).is_some()).count();
        assert_eq!(said, TOLD - 1);
        let next = attempts.tell(one, start + Duration::from_secs(60)).unwrap();
        assert!(next.ends_with("; before it, 85 refusals of other addresses had no line"), "{next}");
        assert!(
            attempts
                .tell(client("198.51.100.7"), start + Duration::from_secs(61))
                .unwrap()
                .ends_with("(auth_failures)")
        );
    }
}
