//! The locks of one namespace.

use std::sync::Arc;
use std::time::Duration;

use lodge_remote::LinkFailure;
use lodge_state::limits::MAX_LOCKS;
use lodge_state::{Attempt, Error, Holder, Lease, LockName, Locks, Pending, Resource, Token};
use tokio::time::Instant;

use crate::connector::PostgresConnection;
use crate::failure::{get, unexpected};
use crate::statements::Statement;
use crate::{Numbered, Shared};

/// The locks of one namespace in PostgreSQL.
pub(crate) struct PostgresLocks {
    shared: Arc<Shared>,
    numbered: Numbered,
}

impl PostgresLocks {
    pub(crate) fn new(shared: Arc<Shared>, numbered: Numbered) -> PostgresLocks {
        PostgresLocks { shared, numbered }
    }
}

fn milliseconds(lease: Lease) -> i64 {
    // At most an hour.
    lease.duration().as_nanos().div_ceil(1_000_000).try_into().unwrap_or(i64::MAX / 2)
}

impl Locks for PostgresLocks {
    fn attempt<'a>(
        &'a self,
        name: LockName<'a>,
        holder: Holder,
        lease: Lease,
        deadline: Instant,
    ) -> Pending<'a, Attempt> {
        Box::pin(async move {
            let _permit = self.numbered.space.enter(0)?;
            let (name, holder, lease) = (name.as_str().as_bytes(), holder.bits().to_be_bytes(), milliseconds(lease));
            let (holder, most) = (&holder[..], MAX_LOCKS as i64);
            let attempt = async |connection: PostgresConnection| {
                let row =
                    connection.one(Statement::Attempt, &[&self.numbered.number, &name, &holder, &lease, &most]).await?;
                let amount = u64::try_from(get::<i64>(&row, 1)?).map_err(|_| unexpected())?;
                match get::<&str>(&row, 0)? {
                    "held" => Ok(Attempt::Acquired(Token::new(amount))),
                    "busy" => Ok(Attempt::Busy { expires_in: Duration::from_millis(amount.max(1)) }),
                    "locks" => {
                        let full = Error::QuotaExceeded { resource: Resource::Locks, used: amount, limit: MAX_LOCKS };
                        Err(LinkFailure::from(full))
                    }
                    _ => Err(unexpected().into()),
                }
            };
            // Repeated by the same holder, an attempt is the same acquisition.
            self.shared.links.repeatable(deadline, attempt).await
        })
    }

    fn renew<'a>(&'a self, name: LockName<'a>, holder: Holder, lease: Lease, deadline: Instant) -> Pending<'a, bool> {
        Box::pin(async move {
            let _permit = self.numbered.space.enter(0)?;
            let (name, holder, lease) = (name.as_str().as_bytes(), holder.bits().to_be_bytes(), milliseconds(lease));
            let holder = &holder[..];
            let renew = async |connection: PostgresConnection| {
                let row =
                    connection.optional(Statement::Renew, &[&self.numbered.number, &name, &holder, &lease]).await?;
                Ok::<_, LinkFailure>(row.is_some())
            };
            self.shared.links.once(deadline, renew).await
        })
    }

    fn release<'a>(&'a self, name: LockName<'a>, holder: Holder, deadline: Instant) -> Pending<'a, bool> {
        Box::pin(async move {
            let _permit = self.numbered.space.enter(0)?;
            let (name, holder) = (name.as_str().as_bytes(), holder.bits().to_be_bytes());
            let holder = &holder[..];
            let release = async |connection: PostgresConnection| {
                let row = connection.optional(Statement::Release, &[&self.numbered.number, &name, &holder]).await?;
                Ok::<_, LinkFailure>(row.is_some())
            };
            self.shared.links.once(deadline, release).await
        })
    }
}
