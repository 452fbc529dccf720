//! Locks of a backend that is the only one to use its state: in memory, whatever the entries are in.
//!
//! All holders are requests of this process. When it ends they end too, so nothing needs to be stored, except that the numbers
//! of tokens do not repeat.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Resource};
use crate::limits::MAX_LOCKS;
use crate::locks::{Attempt, Holder, Lease, LockName, Locks, Token};
use crate::mutex::lock;
use crate::pending::{Pending, ready};

/// Numbers for versions and tokens, each larger than all before.
#[derive(Debug)]
pub(crate) struct Numbers(AtomicU64);

impl Numbers {
    /// Numbers larger than `last`.
    pub(crate) const fn after(last: u64) -> Numbers {
        Numbers(AtomicU64::new(last))
    }

    /// The next number.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The last number that was given out.
    pub(crate) fn last(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The locks of one namespace.
pub(crate) struct Leases {
    clock: Arc<dyn Clock>,
    numbers: Arc<Numbers>,
    /// Locks that are held, or were until their lease ended.
    leased: Mutex<HashMap<Box<str>, Leased>>,
}

struct Leased {
    holder: Holder,
    token: Token,
    expires: Timestamp,
}

impl Leases {
    pub(crate) fn new(clock: Arc<dyn Clock>, numbers: Arc<Numbers>) -> Leases {
        Leases { clock, numbers, leased: Mutex::default() }
    }

    fn acquire(&self, name: &str, holder: Holder, lease: Lease) -> Result<Attempt, Error> {
        let mut all = lock(&self.leased);
        let now = self.clock.now();
        let expires = now.after(lease.duration());
        if let Some(leased) = all.get_mut(name).filter(|leased| now < leased.expires) {
            if leased.holder != holder {
                return Ok(Attempt::Busy { expires_in: leased.expires.since(now) });
            }
            leased.expires = expires;
            return Ok(Attempt::Acquired(leased.token));
        }
        if all.len() as u64 >= MAX_LOCKS {
            all.retain(|_, leased| now < leased.expires);
        }
        let used = all.len() as u64;
        if used >= MAX_LOCKS {
            return Err(Error::QuotaExceeded { resource: Resource::Locks, used, limit: MAX_LOCKS });
        }
        let token = Token::new(self.numbers.next());
        all.insert(name.into(), Leased { holder, token, expires });
        Ok(Attempt::Acquired(token))
    }

    /// Does `change` if `holder` has the lock, and returns whether it has.
    fn held(&self, name: &str, holder: Holder, change: impl FnOnce(&mut HashMap<Box<str>, Leased>, Timestamp)) -> bool {
        let mut all = lock(&self.leased);
        let now = self.clock.now();
        let held = all.get(name).is_some_and(|leased| leased.holder == holder && now < leased.expires);
        if held {
            change(&mut all, now);
        }
        held
    }
}

impl Locks for Leases {
    fn attempt<'a>(&'a self, name: LockName<'a>, holder: Holder, lease: Lease, _: Instant) -> Pending<'a, Attempt> {
        ready(self.acquire(name.as_str(), holder, lease))
    }

    fn renew<'a>(&'a self, name: LockName<'a>, holder: Holder, lease: Lease, _: Instant) -> Pending<'a, bool> {
        ready(Ok(self.held(name.as_str(), holder, |all, now| {
            if let Some(leased) = all.get_mut(name.as_str()) {
                leased.expires = now.after(lease.duration());
            }
        })))
    }

    fn release<'a>(&'a self, name: LockName<'a>, holder: Holder, _: Instant) -> Pending<'a, bool> {
        ready(Ok(self.held(name.as_str(), holder, |all, _| {
            all.remove(name.as_str());
        })))
    }
}
