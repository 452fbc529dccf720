//! The leader of a cluster: the host that holds a lock with a lease, and the fencing token that comes with it.
//!
//! A host that was suspended may still believe that it leads while another one does. No clock can prevent that, so the token is what
//! protects: a [`FencedValue`] takes writes with a token that is as large as all before it, and no others.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lodge_base::config::cluster::{MOST_HOST, is_plain};
use lodge_base::lock::lock;
use lodge_state::{
    Attempt, Change, Condition, Error, Expiry, Holder, Key, Lease, LockName, Locks, Store, Swap, Token, Value,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The part of a lease by which a host stops leading early: clocks may run differently fast by as much.
const MARGIN: u32 = 10;

/// Attempts to write a value that changes meanwhile.
const ATTEMPTS: usize = 8;

/// Whether this host leads. Clones share what they know.
#[derive(Clone, Debug, Default)]
pub struct Leadership(Arc<Mutex<Option<Term>>>);

/// The time for which a host leads.
#[derive(Clone, Copy, Debug)]
struct Term {
    token: Token,
    until: Instant,
}

impl Leadership {
    /// Returns the fencing token of this host, if it leads now. What must run once passes the token on with every write, to
    /// something that refuses smaller ones.
    pub fn token(&self) -> Option<Token> {
        self.token_at(Instant::now())
    }

    fn token_at(&self, now: Instant) -> Option<Token> {
        (*lock(&self.0)).filter(|term| now < term.until).map(|term| term.token)
    }
}

/// The part of this host in the election.
pub(crate) struct Election {
    leader: Leadership,
    holder: Holder,
    lease: Lease,
}

impl Election {
    /// Creates the part of a host, which reports to `leader`.
    ///
    /// # Errors
    /// If there are no random numbers, or no lease is that long.
    pub(crate) fn new(leader: Leadership, lease: Duration) -> Result<Self, Error> {
        Ok(Self { leader, holder: Holder::random()?, lease: Lease::new(lease)? })
    }

    /// Tries to become the leader, or to stay it. `now` is the time before anything is sent, since the lease may begin then.
    ///
    /// # Errors
    /// Those of the store. A host that leads does so until its lease ends.
    pub(crate) async fn round(
        &self,
        locks: &dyn Locks,
        name: LockName<'_>,
        now: Instant,
        deadline: Instant,
    ) -> Result<Option<Token>, Error> {
        let term = match locks.attempt(name, self.holder, self.lease, deadline).await? {
            Attempt::Acquired(token) => {
                let lease = self.lease.duration();
                Some(Term { token, until: now + lease.saturating_sub(lease / MARGIN) })
            }
            Attempt::Busy { .. } => None,
        };
        *lock(&self.leader.0) = term;
        Ok(term.map(|term| term.token))
    }

    /// Stops leading, so that another host need not wait for the end of the lease.
    ///
    /// # Errors
    /// Those of the store. The lease ends then.
    pub(crate) async fn resign(&self, locks: &dyn Locks, name: LockName<'_>, deadline: Instant) -> Result<(), Error> {
        lock(&self.leader.0).take();
        locks.release(name, self.holder, deadline).await.map(|_| ())
    }
}

/// A value in the store that only the newest leader replaces: the name of a host.
pub(crate) struct FencedValue<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) key: Key<'a>,
}

#[derive(Deserialize, Serialize)]
struct Announcement {
    token: u64,
    host: String,
}

impl Announcement {
    /// Reads a value; `None` if it is none.
    fn read(value: &Value) -> Option<Self> {
        let bytes = Some(value.as_slice()).filter(|bytes| bytes.len() <= MOST_HOST + 64)?;
        serde_json::from_slice(bytes).ok().filter(|stored: &Self| is_plain(&stored.host, MOST_HOST))
    }
}

impl FencedValue<'_> {
    /// Returns the name that the newest leader has written.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn read(&self, deadline: Instant) -> Result<Option<String>, Error> {
        let entry = self.store.get(self.key, deadline).await?;
        Ok(entry.and_then(|entry| Announcement::read(&entry.value)).map(|stored| stored.host))
    }

    /// Writes the name of a host, and returns whether its token was accepted: false if one with a larger token has written before.
    ///
    /// # Errors
    /// Those of the store. The name may have been written.
    pub(crate) async fn write(&self, token: Token, host: &str, deadline: Instant) -> Result<bool, Error> {
        let stored = Announcement { token: token.number(), host: host.to_owned() };
        let value = Value::new(serde_json::to_vec(&stored).unwrap_or_default())?;
        let mut entry = self.store.get(self.key, deadline).await?;
        for _ in 0..ATTEMPTS {
            let before = entry.as_ref().and_then(|entry| Announcement::read(&entry.value));
            if before.is_some_and(|before| before.token > stored.token) {
                return Ok(false);
            }
            let condition = entry.map_or(Condition::Absent, |entry| Condition::Version(entry.version));
            let put = Change::Put(value.clone(), Expiry::Never);
            match self.store.compare_and_swap(self.key, condition, put, deadline).await? {
                Swap::Done(_) => return Ok(true),
                Swap::Stale(now) => entry = now,
            }
        }
        Err(Error::Conflict)
    }
}

#[cfg(test)]
mod tests;
