//! All ways in which an operation can fail. The messages are for the developer of the service and for the operator: they
//! contain limits and names of settings, never keys, values or paths.

use std::borrow::Cow;
use std::fmt;

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An argument is not valid, whatever the store contains.
    #[error("{what} {problem}")]
    Invalid {
        /// The argument.
        what: &'static str,
        /// What is wrong with it, and what would be valid.
        problem: &'static str,
    },
    /// An argument or a result exceeds a limit of [`limits`](crate::limits).
    #[error("{what} has {size} {unit}, and the limit is {limit}: use a smaller one, or several")]
    TooLarge {
        /// The argument or result.
        what: &'static str,
        /// What its size is counted in.
        unit: &'static str,
        /// Its size.
        size: usize,
        /// The largest size.
        limit: usize,
    },
    /// The write would exceed a quota of the namespace.
    #[error(
        "the quota of {limit} {resource} is used up ({used} in use): delete some, let them expire, or raise the quota"
    )]
    QuotaExceeded {
        /// What there is too much of.
        resource: Resource,
        /// How much the namespace uses now.
        used: u64,
        /// The quota.
        limit: u64,
    },
    /// The key exists, and the write was to create it. Nothing was written.
    #[error("the key exists already: read it, and decide anew")]
    Conflict,
    /// The lease of a lock has ended, and another holder may have the lock.
    #[error("the lease of the lock has ended: stop what it protects, and acquire it again with a longer lease")]
    LeaseEnded,
    /// The service that has the bucket does not allow the operation. Nothing was read or written.
    #[error("{why}: see `shared` in [keyvalue] of its manifest")]
    Denied {
        /// What it does not allow.
        why: &'static str,
    },
    /// An increment of a value that is not a decimal number of 64 bits with sign. Nothing was written.
    #[error("the value is not a decimal number: increment only keys that were set to one, or that do not exist")]
    NotANumber,
    /// An increment beyond 64 bits. Nothing was written.
    #[error("the number would exceed 64 bits: set the key to a smaller number")]
    Overflow,
    /// The deadline passed. A write may have been applied, or may be applied later.
    #[error("the store did not respond before the deadline: read the key to find out whether the write was applied")]
    Timeout,
    /// The store cannot be used now. A write may have been applied.
    #[error("the store is unavailable: {reason}")]
    Unavailable {
        /// Why, and what would help.
        reason: Cow<'static, str>,
    },
}

impl Error {
    /// Returns why, in words for an operator, who has made no call.
    pub fn for_operators(&self) -> String {
        match self {
            Error::Timeout => "the server of the state did not respond in time".to_owned(),
            Error::Conflict => "others write the same entry again and again".to_owned(),
            Error::Unavailable { reason } => reason.to_string(),
            other => other.to_string(),
        }
    }

    /// [`Error::Unavailable`] to those who receive without a subscription.
    pub fn unsubscribed() -> Error {
        Error::unavailable("the service has no subscription: add [consume] to its manifest")
    }

    /// [`Error::Unavailable`] for `reason`.
    pub fn unavailable(reason: impl Into<Cow<'static, str>>) -> Error {
        Error::Unavailable { reason: reason.into() }
    }
}

/// What quotas limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Entries of a namespace.
    Keys,
    /// Bytes of buckets' names, keys and values of a namespace.
    Bytes,
    /// Locks that a namespace holds.
    Locks,
    /// Waits of a namespace for locks.
    Waiters,
    /// Messages that wait for a consumer.
    Messages,
    /// Consumers of messages.
    Consumers,
}

impl Resource {
    /// Reads a resource as [`Display`](fmt::Display) writes it.
    pub fn read(text: &str) -> Option<Resource> {
        use Resource::{Bytes, Consumers, Keys, Locks, Messages, Waiters};
        [Keys, Bytes, Locks, Waiters, Messages, Consumers].into_iter().find(|resource| resource.to_string() == text)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resource::Keys => "keys",
            Resource::Bytes => "bytes",
            Resource::Locks => "locks",
            Resource::Waiters => "waiters for locks",
            Resource::Messages => "messages",
            Resource::Consumers => "consumers",
        })
    }
}
