//! Failed attempts at credentials: a rate of their own for each client address.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Instant;

use super::table::Table;
use super::{Quota, key_of};

const MINUTE: u64 = 60_000_000_000;

/// The failed attempts of all clients, in bounded memory, with the rate at which a client may have them.
#[derive(Debug)]
pub struct FailedAttempts {
    quota: Quota,
    /// Times are stored relative to this.
    epoch: Instant,
    /// Allocated for the first attempt that fails.
    table: OnceLock<Table>,
}

impl FailedAttempts {
    /// Returns the attempts of a host that allows so many in a minute; `None` if it allows all.
    pub fn new(per_minute: usize, now: Instant) -> Option<Self> {
        let count = u64::try_from(per_minute).ok().filter(|count| *count > 0)?;
        let interval = MINUTE.div_ceil(count);
        let quota = Quota { interval, span: interval.saturating_mul(count) };
        Some(Self { quota, epoch: now, table: OnceLock::new() })
    }

    /// Checks whether a client may try again.
    ///
    /// # Errors
    /// The seconds until it may.
    pub fn check(&self, client: IpAddr, now: Instant) -> Result<(), u32> {
        let Some(table) = self.table.get() else { return Ok(()) };
        // Looks at the bucket, and takes nothing.
        let full = table.take(&key_of(client), |_| Err::<u64, ()>(())).unwrap_or_else(|(full, ())| full);
        let wait = self.quota.take(full, self.since(now)).map(drop);
        wait.map_err(|nanos| u32::try_from(nanos.div_ceil(1_000_000_000)).unwrap_or(u32::MAX))
    }

    /// Counts a failed attempt.
    pub fn count(&self, client: IpAddr, now: Instant) {
        let now = self.since(now);
        // One that is at its limit already takes no more.
        let _ = self.table.get_or_init(Table::default).take(&key_of(client), |full| self.quota.take(full, now));
    }

    fn since(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn failures_have_a_rate_and_successes_none() {
        let start = Instant::now();
        let attempts = FailedAttempts::new(6, start).unwrap();
        let [one, other]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
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
        let [first, second]: [IpAddr; 2] = ["2001:db8::1", "2001:db8::2"].map(|text| text.parse().unwrap());
        (0..6).for_each(|_| attempts.count(first, start));
        assert!(attempts.check(second, start).is_err());
        assert!(FailedAttempts::new(0, start).is_none());
    }
}
