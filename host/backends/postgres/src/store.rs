//! The keys of one namespace.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use lodge_remote::LinkFailure;
use lodge_state::limits::{MAX_BATCH_BYTES, MAX_PAGE};
use lodge_state::{
    Batch, Change, Condition, Cursor, Entry, Error, Expiry, Key, Listing, Outcome, Page, Pending, Quota, Resource,
    Store, Timestamp, Usage, Value, Version, Write,
};
use tokio::time::Instant;
use tokio_postgres::Row;

use crate::connector::PostgresConnection;
use crate::failure::{get, unexpected};
use crate::statements::Statement;
use crate::{Numbered, Shared};

/// Writes of a batch that are sent before the first result is there.
const AHEAD: usize = 64;
/// Larger than the bytes of all text.
const LAST: &[u8] = &[0xff];

/// The keys of one namespace in PostgreSQL.
pub(crate) struct PostgresStore {
    shared: Arc<Shared>,
    numbered: Numbered,
}

impl PostgresStore {
    pub(crate) fn new(shared: Arc<Shared>, numbered: Numbered) -> PostgresStore {
        PostgresStore { shared, numbered }
    }

    async fn change(
        &self,
        connection: &PostgresConnection,
        write: &Write<'_>,
        quota: Quota,
    ) -> Result<Outcome, LinkFailure> {
        let (bucket, key) = (write.key.bucket().as_bytes(), write.key.name().as_bytes());
        let (condition, version, expected) = match &write.condition {
            Condition::Always => ("always", None, None),
            Condition::Absent => ("absent", None, None),
            Condition::Version(version) => ("version", Some(*version), None),
            Condition::Value(value) => ("value", None, Some(value.as_slice())),
            Condition::Both(version, value) => ("both", Some(*version), Some(value.as_slice())),
        };
        // No entry has a version that is no number of PostgreSQL.
        let version = version.map(|version| i64::try_from(version.number()).unwrap_or(-1));
        let (change, payload, delta, expiry) = match &write.change {
            Change::Put(value, expiry) => ("put", Some(value.as_slice()), None, *expiry),
            Change::Add(delta) => ("add", None, Some(*delta), Expiry::Keep),
            Change::Remove => ("remove", None, None, Expiry::Keep),
        };
        let (expiry, ttl) = match expiry {
            Expiry::Never => ("never", None),
            Expiry::Keep => ("keep", None),
            Expiry::After(ttl) => {
                let milliseconds = ttl.duration().as_nanos().div_ceil(1_000_000);
                ("after", Some(i64::try_from(milliseconds).unwrap_or(i64::MAX / 2)))
            }
        };
        let most = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let (keys, bytes) = (most(quota.keys), most(quota.bytes));
        let row = connection
            .one(
                Statement::Write,
                &[
                    &self.numbered.number,
                    &bucket,
                    &key,
                    &condition,
                    &version,
                    &expected,
                    &change,
                    &payload,
                    &delta,
                    &expiry,
                    &ttl,
                    &keys,
                    &bytes,
                ],
            )
            .await?;
        outcome(write, &row, quota)
    }
}

/// What `lodge.write` has returned.
fn outcome(write: &Write<'_>, row: &Row, quota: Quota) -> Result<Outcome, LinkFailure> {
    match get::<&str>(row, 0)? {
        "stale" => Ok(Outcome { applied: false, removed: false, after: entry(row, 2)? }),
        "done" => {
            let after = match (&write.change, get::<Option<i64>>(row, 6)?) {
                (Change::Remove, _) => None,
                (_, None) => return Err(unexpected().into()),
                (change, Some(version)) => {
                    let value = match (change, get::<Option<&[u8]>>(row, 5)?) {
                        (Change::Put(value, _), _) => value.clone(),
                        (_, Some(bytes)) => Value::new(bytes.to_vec())?,
                        (_, None) => return Err(unexpected().into()),
                    };
                    Some(Entry { value, version: number(version)?, expires: time(get(row, 7)?)? })
                }
            };
            let removed = after.is_none() && get::<Option<i64>>(row, 3)?.is_some();
            Ok(Outcome { applied: true, removed, after })
        }
        "not-a-number" => Err(Error::NotANumber.into()),
        "overflow" => Err(Error::Overflow.into()),
        status => {
            let (resource, limit) = match status {
                "keys" => (Resource::Keys, quota.keys),
                "bytes" => (Resource::Bytes, quota.bytes),
                _ => return Err(unexpected().into()),
            };
            let used = get::<i64>(row, 1)?.try_into().map_err(|_| unexpected())?;
            Err(Error::QuotaExceeded { resource, used, limit }.into())
        }
    }
}

/// Value, version and expiry, from `column` on; `None` if there is no version.
fn entry(row: &Row, column: usize) -> Result<Option<Entry>, LinkFailure> {
    let Some(version) = get::<Option<i64>>(row, column + 1)? else { return Ok(None) };
    let value = Value::new(get::<&[u8]>(row, column)?.to_vec())?;
    Ok(Some(Entry { value, version: number(version)?, expires: time(get(row, column + 2)?)? }))
}

fn name(row: &Row, column: usize) -> Result<String, LinkFailure> {
    String::from_utf8(get::<&[u8]>(row, column)?.to_vec()).map_err(|_| unexpected().into())
}

fn number(version: i64) -> Result<Version, LinkFailure> {
    Ok(Version::new(version.try_into().map_err(|_| unexpected())?))
}

fn time(milliseconds: Option<i64>) -> Result<Option<Timestamp>, LinkFailure> {
    let time = milliseconds.map(|time| time.try_into().map(Timestamp::new)).transpose();
    time.map_err(|_| unexpected().into())
}

impl Store for PostgresStore {
    fn get<'a>(&'a self, key: Key<'a>, deadline: Instant) -> Pending<'a, Option<Entry>> {
        Box::pin(async move {
            let _permit = self.numbered.space.enter(0)?;
            let (bucket, name) = (key.bucket().as_bytes(), key.name().as_bytes());
            let read = async |connection: PostgresConnection| match connection
                .optional(Statement::Get, &[&self.numbered.number, &bucket, &name])
                .await?
            {
                Some(row) => entry(&row, 0),
                None => Ok(None),
            };
            self.shared.links.repeatable(deadline, read).await
        })
    }

    fn write<'a>(&'a self, write: Write<'a>, deadline: Instant) -> Pending<'a, Outcome> {
        Box::pin(async move {
            let _permit = self.numbered.space.enter(write.change.size())?;
            let quota = self.numbered.space.quota();
            let change = async |connection: PostgresConnection| self.change(&connection, &write, quota).await;
            self.shared.links.once(deadline, change).await
        })
    }

    fn get_many<'a>(&'a self, keys: Batch<Key<'a>>, deadline: Instant) -> Pending<'a, Vec<Option<Entry>>> {
        Box::pin(async move {
            let _permit = self.numbered.space.enter(keys.size())?;
            let keys = keys.into_vec();
            let buckets: Vec<_> = keys.iter().map(|key| key.bucket().as_bytes()).collect();
            let names: Vec<_> = keys.iter().map(|key| key.name().as_bytes()).collect();
            let limit = MAX_BATCH_BYTES as i64;
            let read = async |connection: PostgresConnection| {
                let rows =
                    connection.all(Statement::GetMany, &[&self.numbered.number, &buckets, &names, &limit]).await?;
                let mut entries = vec![None; keys.len()];
                for row in rows {
                    let size = usize::try_from(get::<i64>(&row, 4)?).unwrap_or(usize::MAX);
                    if size > MAX_BATCH_BYTES {
                        let (what, unit) = ("the result of the batch", "bytes");
                        return Err(Error::TooLarge { what, unit, size, limit: MAX_BATCH_BYTES }.into());
                    }
                    let place = usize::try_from(get::<i64>(&row, 0)? - 1).map_err(|_| unexpected())?;
                    *entries.get_mut(place).ok_or_else(unexpected)? = entry(&row, 1)?;
                }
                Ok::<_, LinkFailure>(entries)
            };
            self.shared.links.repeatable(deadline, read).await
        })
    }

    fn write_many<'a>(&'a self, writes: Batch<Write<'a>>, deadline: Instant) -> Pending<'a, Vec<Outcome>> {
        Box::pin(async move {
            let writes = writes.into_vec();
            let _permit = self.numbered.space.enter(writes.iter().map(|write| write.change.size()).sum())?;
            let quota = self.numbered.space.quota();
            // The server does the statements of a connection in their order, each in a transaction of its own.
            let change = async |connection: PostgresConnection| {
                let mut results = Vec::new();
                for write in &writes {
                    results.push(self.change(&connection, write, quota));
                }
                stream::iter(results).buffered(AHEAD).try_collect::<Vec<_>>().await
            };
            self.shared.links.once(deadline, change).await
        })
    }

    fn list<'a>(&'a self, listing: Listing<'a>, deadline: Instant) -> Pending<'a, Page> {
        Box::pin(async move {
            let _permit = self.numbered.space.enter(0)?;
            let (bucket, first) = (listing.bucket().as_bytes(), listing.prefix().as_bytes());
            let after = listing.cursor().map_or(&[][..], |cursor| cursor.as_str().as_bytes());
            let end = end(first);
            // One more, to know whether it is the last page.
            let limit = listing.limit() as i64 + 1;
            let list = async |connection: PostgresConnection| {
                let rows = connection
                    .all(Statement::List, &[&self.numbered.number, &bucket, &first, &after, &end, &limit])
                    .await?;
                let mut keys = rows.iter().map(|row| name(row, 0)).collect::<Result<Vec<_>, _>>()?;
                let more = keys.len() > listing.limit();
                keys.truncate(listing.limit());
                let next = if more { keys.last().cloned().map(Cursor::new).transpose()? } else { None };
                Ok::<_, LinkFailure>(Page { keys, next })
            };
            self.shared.links.repeatable(deadline, list).await
        })
    }

    fn buckets<'a>(&'a self, after: &'a str, deadline: Instant) -> Pending<'a, Vec<String>> {
        Box::pin(async move {
            let _permit = self.numbered.space.enter(0)?;
            let limit = MAX_PAGE as i64;
            let list = async |connection: PostgresConnection| {
                let rows =
                    connection.all(Statement::Buckets, &[&self.numbered.number, &after.as_bytes(), &limit]).await?;
                rows.iter().map(|row| name(row, 0)).collect()
            };
            self.shared.links.repeatable(deadline, list).await
        })
    }

    fn usage(&self, deadline: Instant) -> Pending<'_, Usage> {
        Box::pin(async move {
            let _permit = self.numbered.space.enter(0)?;
            let read = async |connection: PostgresConnection| {
                let row = connection.one(Statement::Usage, &[&self.numbered.number]).await?;
                let number = |column| Ok::<_, LinkFailure>(get::<i64>(&row, column)?.try_into().unwrap_or(0));
                Ok::<_, LinkFailure>(Usage { keys: number(0)?, bytes: number(1)? })
            };
            self.shared.links.repeatable(deadline, read).await
        })
    }
}

/// The first name after all that begin with `prefix`.
fn end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    match end.last_mut() {
        // Text has no byte 0xff.
        Some(last) => *last = last.saturating_add(1),
        None => return LAST.to_vec(),
    }
    end
}
