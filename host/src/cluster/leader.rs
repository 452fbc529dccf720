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
pub struct Leadership(Arc<Mutex<Standing>>);

/// The time for which a host leads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    pub(super) token: Token,
    until: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
enum Standing {
    #[default]
    Follows,
    Leads(Term),
    /// The host stops. A response of the store that comes late does not make it the leader.
    Left,
}

impl Leadership {
    /// Returns the fencing token of this host, if it leads now. What must run once passes the token on with every write, to
    /// something that refuses smaller ones.
    pub fn token(&self) -> Option<Token> {
        self.token_at(Instant::now())
    }

    fn token_at(&self, now: Instant) -> Option<Token> {
        match *lock(&self.0) {
            Standing::Leads(term) if now < term.until => Some(term.token),
            _ => None,
        }
    }

    /// Ends the term of this host, if it has one.
    pub(super) fn step_down(&self) {
        let mut standing = lock(&self.0);
        if matches!(*standing, Standing::Leads(_)) {
            *standing = Standing::Follows;
        }
    }

    /// Ends the term of this host, which never leads again.
    pub(super) fn leave(&self) {
        *lock(&self.0) = Standing::Left;
    }

    /// Begins or extends a term. Returns whether the host has not left.
    fn lead(&self, term: Term) -> bool {
        let mut standing = lock(&self.0);
        let stays = !matches!(*standing, Standing::Left);
        if stays {
            *standing = Standing::Leads(term);
        }
        stays
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

    /// Tries to acquire the lock, or to renew its lease. `now` is the time before anything is sent, since the lease may begin then.
    /// The host leads after [`lead`](Self::lead).
    ///
    /// # Errors
    /// Those of the store. A host that leads does so until its lease ends.
    pub(crate) async fn attempt(
        &self,
        locks: &dyn Locks,
        name: LockName<'_>,
        now: Instant,
        deadline: Instant,
    ) -> Result<Option<Term>, Error> {
        match locks.attempt(name, self.holder, self.lease, deadline).await? {
            Attempt::Acquired(token) => {
                let lease = self.lease.duration();
                Ok(Some(Term { token, until: now + lease.saturating_sub(lease / MARGIN) }))
            }
            Attempt::Busy { .. } => {
                self.leader.step_down();
                Ok(None)
            }
        }
    }

    /// Whether this host leads with the token of `term`, or did so until its lease ended.
    pub(crate) fn is_known(&self, term: &Term) -> bool {
        matches!(*lock(&self.leader.0), Standing::Leads(known) if known.token == term.token)
    }

    /// Leads for the term. A host that has left meanwhile releases the lock instead.
    ///
    /// # Errors
    /// Those of the store while it releases the lock.
    pub(crate) async fn lead(
        &self,
        locks: &dyn Locks,
        name: LockName<'_>,
        term: Term,
        deadline: Instant,
    ) -> Result<Option<Token>, Error> {
        if self.leader.lead(term) {
            return Ok(Some(term.token));
        }
        self.resign(locks, name, deadline).await.map(|()| None)
    }

    /// Stops leading, so that another host need not wait for the end of the lease.
    ///
    /// # Errors
    /// Those of the store. The lease ends then.
    pub(crate) async fn resign(&self, locks: &dyn Locks, name: LockName<'_>, deadline: Instant) -> Result<(), Error> {
        self.leader.step_down();
        locks.release(name, self.holder, deadline).await.map(|_| ())
    }
}

/// A value in the store that only the newest leader replaces: the name of a host.
pub(crate) struct FencedValue<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) key: Key<'a>,
}

/// What a leader writes.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Announcement {
    token: u64,
    pub(crate) host: String,
}

impl Announcement {
    /// Creates that of a host with its token.
    pub(crate) fn new(token: Token, host: &str) -> Self {
        Self { token: token.number(), host: host.to_owned() }
    }

    /// Reads a value; `None` if it is none.
    fn read(value: &Value) -> Option<Self> {
        let bytes = Some(value.as_slice()).filter(|bytes| bytes.len() <= MOST_HOST + 64)?;
        serde_json::from_slice(bytes).ok().filter(|stored: &Self| is_plain(&stored.host, MOST_HOST))
    }
}

impl FencedValue<'_> {
    /// Returns what the newest leader has written.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn read(&self, deadline: Instant) -> Result<Option<Announcement>, Error> {
        let entry = self.store.get(self.key, deadline).await?;
        Ok(entry.and_then(|entry| Announcement::read(&entry.value)))
    }

    /// Writes the name of a host, and returns whether its token was accepted: false if one with a larger token has written before,
    /// or another host with the same one.
    ///
    /// # Errors
    /// Those of the store. The name may have been written.
    pub(crate) async fn write(&self, stored: &Announcement, deadline: Instant) -> Result<bool, Error> {
        let value = Value::new(serde_json::to_vec(stored).unwrap_or_default())?;
        let mut entry = self.store.get(self.key, deadline).await?;
        for _ in 0..ATTEMPTS {
            let before = entry.as_ref().and_then(|entry| Announcement::read(&entry.value));
            let is_newer = |before: Announcement| {
                before.token > stored.token || before.token == stored.token && before.host != stored.host
            };
            if before.is_some_and(is_newer) {
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
