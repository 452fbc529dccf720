//! The locks of one namespace.

use std::sync::Arc;
use std::time::Duration;

use lodge_remote::RemoteSpace;
use lodge_state::limits::MAX_LOCKS;
use lodge_state::{Attempt, Error, Holder, Lease, LockName, Locks, Pending, Token};
use redis::Value;
use tokio::time::Instant;

use crate::reply::{array, number, refusal, text, unexpected};
use crate::scripts::{Script, run};
use crate::{Shared, prefix};

/// The locks of one namespace in Redis.
pub(crate) struct RedisLocks {
    shared: Arc<Shared>,
    space: Arc<RemoteSpace>,
    prefix: String,
}

impl RedisLocks {
    pub(crate) fn new(shared: Arc<Shared>, space: Arc<RemoteSpace>) -> RedisLocks {
        let prefix = prefix(space.namespace());
        RedisLocks { shared, space, prefix }
    }

    /// Lets the lease end after `milliseconds`, at once for 0, if `holder` has the lock. Done twice, it could return the wrong
    /// result.
    async fn renew(
        &self,
        name: LockName<'_>,
        holder: Holder,
        milliseconds: u128,
        deadline: Instant,
    ) -> Result<bool, Error> {
        let _permit = self.space.enter(0)?;
        let (holder, milliseconds) = (format!("{:032x}", holder.bits()), milliseconds.to_string());
        let arguments = [name.as_str(), &holder, &milliseconds].map(str::as_bytes);
        let script = async |connection| Ok(run(&connection, Script::Renew, &self.prefix, &arguments).await?);
        match self.shared.links.once(deadline, script).await? {
            Value::Int(held) => Ok(held == 1),
            _ => Err(unexpected()),
        }
    }
}

fn milliseconds(lease: Lease) -> u128 {
    lease.duration().as_nanos().div_ceil(1_000_000)
}

impl Locks for RedisLocks {
    fn attempt<'a>(
        &'a self,
        name: LockName<'a>,
        holder: Holder,
        lease: Lease,
        deadline: Instant,
    ) -> Pending<'a, Attempt> {
        Box::pin(async move {
            let _permit = self.space.enter(0)?;
            let (holder, lease) = (format!("{:032x}", holder.bits()), milliseconds(lease).to_string());
            let most = MAX_LOCKS.to_string();
            let arguments = [name.as_str(), &holder, &lease, &most].map(str::as_bytes);
            let script = async |connection| Ok(run(&connection, Script::Attempt, &self.prefix, &arguments).await?);
            // Repeated by the same holder, an attempt is the same acquisition.
            let mut reply = array(self.shared.links.repeatable(deadline, script).await?)?;
            match text(reply.next())?.as_str() {
                "held" => Ok(Attempt::Acquired(Token::new(number(reply.next())?))),
                "busy" => Ok(Attempt::Busy { expires_in: Duration::from_millis(number(reply.next())?) }),
                status => Err(refusal(status, reply.next(), |_| MAX_LOCKS)),
            }
        })
    }

    fn renew<'a>(&'a self, name: LockName<'a>, holder: Holder, lease: Lease, deadline: Instant) -> Pending<'a, bool> {
        Box::pin(self.renew(name, holder, milliseconds(lease), deadline))
    }

    fn release<'a>(&'a self, name: LockName<'a>, holder: Holder, deadline: Instant) -> Pending<'a, bool> {
        Box::pin(self.renew(name, holder, 0, deadline))
    }
}
