//! Locks with leases and fencing tokens.
//!
//! A lock is held until it is released or its lease ends. A holder that is paused for longer than its lease does not know that
//! another one holds the lock now. Therefore every grant has a [`Token`] that is larger than all before: a resource that
//! remembers the largest token it has seen, and refuses smaller ones, is protected.
//!
//! [`Locks`] is what a backend implements: one attempt, without waiting. [`Locker`] adds waiting, in the order of arrival, and
//! release when the [`Guard`] is dropped.

mod leases;
mod locker;

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;
use crate::key::name;
use crate::limits::{MAX_LEASE, MAX_LOCK_NAME};
use crate::pending::Pending;

pub(crate) use leases::{Leases, Numbers};
pub use locker::{Guard, Locker};

/// The name of a lock: up to [`MAX_LOCK_NAME`] bytes of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LockName<'a>(&'a str);

impl<'a> LockName<'a> {
    /// The name `text`.
    ///
    /// # Errors
    /// If it is empty or too long.
    pub fn new(text: &'a str) -> Result<LockName<'a>, Error> {
        name("the name of the lock", text, MAX_LOCK_NAME)?;
        Ok(LockName(text))
    }

    /// A name that was checked before.
    pub(crate) const fn checked(text: &'a str) -> LockName<'a> {
        LockName(text)
    }

    /// Its text.
    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

/// How long a lock is held without renewal: from 1 ms to [`MAX_LEASE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease(Duration);

impl Lease {
    /// A lease of `duration`.
    ///
    /// # Errors
    /// If it is shorter than 1 ms or longer than [`MAX_LEASE`].
    pub fn new(duration: Duration) -> Result<Lease, Error> {
        if duration < Duration::from_millis(1) || duration > MAX_LEASE {
            return Err(Error::Invalid {
                what: "the lease",
                problem: "is not from 1 ms to 1 hour: renew it for longer work",
            });
        }
        Ok(Lease(duration))
    }

    /// Its duration.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

/// A fencing token. Tokens of one lock increase with every grant, also after its release or expiry, and after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

impl Token {
    /// The token `number`.
    pub const fn new(number: u64) -> Token {
        Token(number)
    }

    /// Its number, at most `i64::MAX`.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// Identifies one acquisition, in this process and all others. It is chosen before the first attempt: so an attempt whose
/// result was lost can be repeated or undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder(u128);

impl Holder {
    /// A random holder, which is unique in practice.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the system has no random numbers.
    pub fn random() -> Result<Holder, Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| Error::unavailable(format!("no random numbers: {error}")))?;
        Ok(Holder(u128::from_le_bytes(bytes)))
    }

    /// Its bits.
    pub const fn bits(self) -> u128 {
        self.0
    }
}

/// The outcome of an attempt to acquire a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The lock is held, since now, for the lease.
    Acquired(Token),
    /// Another holder has it.
    Busy {
        /// The rest of its lease, if the backend reports it.
        expires_in: Duration,
    },
}

/// The locks of one namespace, as a backend implements them.
///
/// What holds for every backend, and the conformance suite checks: at every moment, at most one holder has a lock whose lease
/// has not ended; and all tokens of a lock are different and increase.
pub trait Locks: Send + Sync + 'static {
    /// Acquires `name` for `holder` if it is free or its lease has ended. Repeated by the holder itself, it extends the
    /// lease and returns the same token.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`] if the namespace holds [`MAX_LOCKS`](crate::limits::MAX_LOCKS). After [`Error::Timeout`] and
    /// [`Error::Unavailable`] the lock may be held: [`release`](Self::release) it.
    fn attempt<'a>(
        &'a self,
        name: LockName<'a>,
        holder: Holder,
        lease: Lease,
        deadline: Instant,
    ) -> Pending<'a, Attempt>;

    /// Lets the lease end `lease` from now, and returns whether `holder` still had the lock.
    fn renew<'a>(&'a self, name: LockName<'a>, holder: Holder, lease: Lease, deadline: Instant) -> Pending<'a, bool>;

    /// Releases the lock, and returns whether `holder` still had it.
    fn release<'a>(&'a self, name: LockName<'a>, holder: Holder, deadline: Instant) -> Pending<'a, bool>;
}
