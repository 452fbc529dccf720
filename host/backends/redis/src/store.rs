//! The keys of one namespace.

use std::sync::Arc;

use lodge_remote::RemoteSpace;
use lodge_state::limits::{MAX_BATCH_BYTES, MAX_PAGE};
use lodge_state::{
    Batch, Change, Condition, Cursor, Entry, Error, Expiry, Key, Listing, Outcome, Page, Pending, Quota, Resource,
    Store, Usage, Write,
};
use redis::{Value, cmd};
use tokio::time::Instant;

use crate::reply::{array, bytes, entry, failed, number, refusal, text, unexpected};
use crate::scripts::{Script, run, run_many};
use crate::{Shared, prefix};

/// The keys of one namespace in Redis.
pub(crate) struct RedisStore {
    shared: Arc<Shared>,
    space: Arc<RemoteSpace>,
    prefix: String,
}

impl RedisStore {
    pub(crate) fn new(shared: Arc<Shared>, space: Arc<RemoteSpace>) -> RedisStore {
        let prefix = prefix(space.namespace());
        RedisStore { shared, space, prefix }
    }
}

impl Store for RedisStore {
    fn get<'a>(&'a self, key: Key<'a>, deadline: Instant) -> Pending<'a, Option<Entry>> {
        Box::pin(async move {
            let _permit = self.space.enter(0)?;
            let name = format!("{}e:{}:{}{}", self.prefix, key.bucket().len(), key.bucket(), key.name());
            let links = &self.shared.links;
            let get = async |connection: crate::connection::RedisConnection| {
                let found = cmd("GET").arg(&name).query_async::<Value>(&mut connection.server.clone()).await;
                Ok(entry(Some(found.map_err(|error| failed(&connection, &error))?))?)
            };
            links.repeatable(deadline, get).await
        })
    }

    fn write<'a>(&'a self, write: Write<'a>, deadline: Instant) -> Pending<'a, Outcome> {
        Box::pin(async move {
            let _permit = self.space.enter(write.change.size())?;
            let quota = self.space.quota();
            let words = Words::new(&write, quota);
            let script =
                async |connection| Ok(run(&connection, Script::Write, &self.prefix, &words.arguments(&write)).await?);
            let reply = self.shared.links.once(deadline, script).await?;
            outcome(&write, reply, quota)
        })
    }

    fn get_many<'a>(&'a self, keys: Batch<Key<'a>>, deadline: Instant) -> Pending<'a, Vec<Option<Entry>>> {
        Box::pin(async move {
            let _permit = self.space.enter(keys.size())?;
            let limit = MAX_BATCH_BYTES.to_string();
            let names = keys.as_slice().iter().flat_map(|key| [key.bucket().as_bytes(), key.name().as_bytes()]);
            let arguments: Vec<_> = std::iter::once(limit.as_bytes()).chain(names).collect();
            let script = async |connection| Ok(run(&connection, Script::Read, &self.prefix, &arguments).await?);
            match self.shared.links.repeatable(deadline, script).await? {
                Value::Int(size) => {
                    let size = size.try_into().unwrap_or(usize::MAX);
                    Err(Error::TooLarge {
                        what: "the result of the batch",
                        unit: "bytes",
                        size,
                        limit: MAX_BATCH_BYTES,
                    })
                }
                entries => array(entries)?.map(|found| entry(Some(found))).collect(),
            }
        })
    }

    fn write_many<'a>(&'a self, writes: Batch<Write<'a>>, deadline: Instant) -> Pending<'a, Vec<Outcome>> {
        Box::pin(async move {
            let writes = writes.into_vec();
            if writes.is_empty() {
                return Ok(Vec::new());
            }
            let _permit = self.space.enter(writes.iter().map(|write| write.change.size()).sum())?;
            let quota = self.space.quota();
            let words: Vec<_> = writes.iter().map(|write| Words::new(write, quota)).collect();
            let runs: Vec<_> = writes.iter().zip(&words).map(|(write, words)| words.arguments(write)).collect();
            let script = async |connection| Ok(run_many(&connection, Script::Write, &self.prefix, &runs).await?);
            let replies = self.shared.links.once(deadline, script).await?;
            writes.iter().zip(replies).map(|(write, reply)| outcome(write, reply, quota)).collect()
        })
    }

    fn list<'a>(&'a self, listing: Listing<'a>, deadline: Instant) -> Pending<'a, Page> {
        Box::pin(async move {
            let _permit = self.space.enter(0)?;
            let (prefix, limit) = (listing.prefix(), listing.limit().to_string());
            // A cursor is the last key of its page.
            let first = match listing.cursor().map(Cursor::as_str) {
                Some(after) if after >= prefix => format!("({after}"),
                _ => format!("[{prefix}"),
            };
            let arguments = [listing.bucket(), prefix, &first, &limit].map(str::as_bytes);
            let script = async |connection| Ok(run(&connection, Script::List, &self.prefix, &arguments).await?);
            let mut reply = array(self.shared.links.repeatable(deadline, script).await?)?;
            let next = match bytes(reply.next())? {
                Some(cursor) => Some(Cursor::new(String::from_utf8(cursor).map_err(|_| unexpected())?)?),
                None => None,
            };
            let keys =
                array(reply.next().ok_or_else(unexpected)?)?.map(|key| text(Some(key))).collect::<Result<_, _>>()?;
            Ok(Page { keys, next })
        })
    }

    fn buckets<'a>(&'a self, after: &'a str, deadline: Instant) -> Pending<'a, Vec<String>> {
        Box::pin(async move {
            let _permit = self.space.enter(0)?;
            let limit = MAX_PAGE.to_string();
            let arguments = [after, &limit].map(str::as_bytes);
            let script = async |connection| Ok(run(&connection, Script::Buckets, &self.prefix, &arguments).await?);
            array(self.shared.links.repeatable(deadline, script).await?)?.map(|name| text(Some(name))).collect()
        })
    }

    fn usage(&self, deadline: Instant) -> Pending<'_, Usage> {
        Box::pin(async move {
            let _permit = self.space.enter(0)?;
            let script = async |connection| Ok(run(&connection, Script::Used, &self.prefix, &[]).await?);
            let mut reply = array(self.shared.links.repeatable(deadline, script).await?)?;
            Ok(Usage { keys: number(reply.next())?, bytes: number(reply.next())? })
        })
    }
}

/// Arguments of a write that are not in it as bytes.
struct Words {
    version: String,
    added: String,
    expiry: String,
    keys: String,
    bytes: String,
}

impl Words {
    fn new(write: &Write<'_>, quota: Quota) -> Words {
        let version = match write.condition {
            Condition::Version(version) | Condition::Both(version, _) => version.number().to_string(),
            _ => String::new(),
        };
        let added = if let Change::Add(delta) = write.change { delta.to_string() } else { String::new() };
        let expiry = match &write.change {
            Change::Put(_, Expiry::After(ttl)) => ttl.duration().as_nanos().div_ceil(1_000_000).to_string(),
            Change::Put(_, Expiry::Keep) => "keep".to_owned(),
            _ => "never".to_owned(),
        };
        Words { version, added, expiry, keys: quota.keys.to_string(), bytes: quota.bytes.to_string() }
    }

    fn arguments<'a>(&'a self, write: &'a Write<'a>) -> Vec<&'a [u8]> {
        let (condition, expected): (&str, &[u8]) = match &write.condition {
            Condition::Always => ("always", &[]),
            Condition::Absent => ("absent", &[]),
            Condition::Version(_) => ("version", &[]),
            Condition::Value(value) => ("value", value.as_slice()),
            Condition::Both(_, value) => ("both", value.as_slice()),
        };
        let (change, payload): (&str, &[u8]) = match &write.change {
            Change::Put(value, _) => ("put", value.as_slice()),
            Change::Add(_) => ("add", self.added.as_bytes()),
            Change::Remove => ("remove", &[]),
        };
        vec![
            write.key.bucket().as_bytes(),
            write.key.name().as_bytes(),
            condition.as_bytes(),
            self.version.as_bytes(),
            expected,
            change.as_bytes(),
            payload,
            self.expiry.as_bytes(),
            self.keys.as_bytes(),
            self.bytes.as_bytes(),
        ]
    }
}

/// What the script `write` has done.
fn outcome(write: &Write<'_>, reply: Value, quota: Quota) -> Result<Outcome, Error> {
    let mut reply = array(reply)?;
    match text(reply.next())?.as_str() {
        "stale" => Ok(Outcome { applied: false, removed: false, after: entry(reply.next())? }),
        "done" => {
            let (removed, mut after) = (bytes(reply.next())?.is_some(), entry(reply.next())?);
            if let (Change::Put(value, _), Some(after)) = (&write.change, &mut after) {
                after.value = value.clone();
            }
            Ok(Outcome { applied: true, removed, after })
        }
        status => {
            let limit = |resource| if resource == Resource::Keys { quota.keys } else { quota.bytes };
            Err(refusal(status, reply.next(), limit))
        }
    }
}
