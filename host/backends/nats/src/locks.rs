//! The locks of one namespace.
//!
//! A lock is a message with its holder, which expires with its lease. Its token is the sequence of the message that acquired it;
//! messages that renew it repeat the token.

use std::sync::Arc;
use std::time::Duration;

use lodge_remote::LinkFailure;
use lodge_state::limits::MAX_LOCKS;
use lodge_state::{
    Attempt, Entry, Error, Holder, Lease, LockName, Locks, Pending, Resource, Timestamp, Token, Value, Version,
};
use tokio::time::Instant;

use crate::connector::NatsConnection;
use crate::names;
use crate::stream::{NatsStream, Stored, UpdateOutcome};

/// The locks of one namespace in NATS.
pub(crate) struct NatsLocks(Arc<NatsStream>);

/// A lock that is held.
struct Held {
    holder: u128,
    token: u64,
    sequence: u64,
    expires: Timestamp,
}

impl Held {
    /// Reads `HOLDER TOKEN`; the token of the first message is its own sequence, which is not known before.
    fn read(stored: &Stored, now: Timestamp) -> Option<Held> {
        let text = std::str::from_utf8(stored.entry.value.as_slice()).ok()?;
        let (holder, token) = text.split_once(' ')?;
        let token = token.parse().ok().map(|token| if token == 0 { stored.sequence } else { token })?;
        let expires = stored.entry.expires.filter(|expires| now < *expires)?;
        Some(Held { holder: u128::from_str_radix(holder, 16).ok()?, token, sequence: stored.sequence, expires })
    }
}

/// A message of a lock.
fn message(holder: Holder, token: u64, lease: Lease, now: Timestamp) -> Result<Entry, Error> {
    let value = Value::new(format!("{:032x} {token}", holder.bits()))?;
    Ok(Entry { value, version: Version::new(0), expires: Some(now.after(lease.duration())) })
}

impl NatsLocks {
    pub(crate) fn new(stream: Arc<NatsStream>) -> NatsLocks {
        NatsLocks(stream)
    }

    /// The lock as it is, with its last sequence, whether or not it is held.
    async fn read(
        &self,
        connection: &NatsConnection,
        key: &str,
    ) -> Result<(Option<Held>, u64, Timestamp), LinkFailure> {
        let stored = self.0.read(connection, key).await?;
        let now = self.0.now(connection).await?;
        let sequence = stored.as_ref().map_or(0, |stored| stored.sequence);
        Ok((stored.and_then(|stored| Held::read(&stored, now)), sequence, now))
    }

    async fn acquire(
        &self,
        connection: &NatsConnection,
        key: &str,
        holder: Holder,
        lease: Lease,
    ) -> Result<Attempt, LinkFailure> {
        loop {
            let (held, sequence, now) = self.read(connection, key).await?;
            let token = match held {
                Some(held) if held.holder == holder.bits() => held.token,
                Some(held) => {
                    let expires_in = held.expires.since(now).max(Duration::from_millis(1));
                    return Ok(Attempt::Busy { expires_in });
                }
                None => 0,
            };
            let entry = message(holder, token, lease, now)?;
            match self.0.update(connection, key, &entry, Some(sequence), now).await {
                Ok(UpdateOutcome::Done(sequence)) => {
                    return Ok(Attempt::Acquired(Token::new(if token == 0 { sequence } else { token })));
                }
                Ok(UpdateOutcome::Conflict) => {}
                Err(LinkFailure::Refused(Error::QuotaExceeded { .. })) => {
                    let full = Error::QuotaExceeded { resource: Resource::Locks, used: MAX_LOCKS, limit: MAX_LOCKS };
                    return Err(full.into());
                }
                Err(failed) => return Err(failed),
            }
        }
    }

    /// Renews the lease, or releases the lock without one, if `holder` has it.
    async fn held(
        &self,
        connection: &NatsConnection,
        key: &str,
        holder: Holder,
        lease: Option<Lease>,
    ) -> Result<bool, LinkFailure> {
        loop {
            let (held, _, now) = self.read(connection, key).await?;
            let Some(held) = held.filter(|held| held.holder == holder.bits()) else { return Ok(false) };
            let done = match lease {
                None => self.0.delete(connection, held.sequence).await?,
                Some(lease) => {
                    let entry = message(holder, held.token, lease, now)?;
                    let update = self.0.update(connection, key, &entry, Some(held.sequence), now).await?;
                    update != UpdateOutcome::Conflict
                }
            };
            if done {
                return Ok(true);
            }
        }
    }

    async fn change(
        &self,
        name: LockName<'_>,
        holder: Holder,
        lease: Option<Lease>,
        deadline: Instant,
    ) -> Result<bool, Error> {
        let _permit = self.0.enter(0)?;
        let key = names::token(name.as_str());
        let _turn = self.0.turn(&key, deadline).await?;
        self.0
            .links()
            .once(deadline, async |connection: NatsConnection| self.held(&connection, &key, holder, lease).await)
            .await
    }
}

impl Locks for NatsLocks {
    fn attempt<'a>(
        &'a self,
        name: LockName<'a>,
        holder: Holder,
        lease: Lease,
        deadline: Instant,
    ) -> Pending<'a, Attempt> {
        Box::pin(async move {
            let _permit = self.0.enter(0)?;
            let key = names::token(name.as_str());
            let _turn = self.0.turn(&key, deadline).await?;
            let attempt = async |connection: NatsConnection| self.acquire(&connection, &key, holder, lease).await;
            // Repeated by the same holder, an attempt is the same acquisition.
            self.0.links().repeatable(deadline, attempt).await
        })
    }

    fn renew<'a>(&'a self, name: LockName<'a>, holder: Holder, lease: Lease, deadline: Instant) -> Pending<'a, bool> {
        Box::pin(self.change(name, holder, Some(lease), deadline))
    }

    fn release<'a>(&'a self, name: LockName<'a>, holder: Holder, deadline: Instant) -> Pending<'a, bool> {
        Box::pin(self.change(name, holder, None, deadline))
    }
}
