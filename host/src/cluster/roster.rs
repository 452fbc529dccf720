//! Reads the records of the other hosts, within bounds: whoever can write to the store can write any number of any size.
//!
//! Hosts that are known are read by their names, before all else. What else the bucket has, new hosts and nonsense, has a share of its
//! own. Where a share ends before all is read, the next reading goes on, so that each name has its turn whatever sorts before it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use lodge_base::config::cluster::{MOST_HOST, is_plain};
use lodge_state::limits::{MAX_BATCH, MAX_BATCH_BYTES, MAX_PAGE};
use lodge_state::{Batch, Cursor, Entry, Error, Key, Listing, Store, Version};
use tokio::time::Instant;

use super::record::HostRecord;
use super::served::ServedServices;

/// The most hosts that are known at a time.
pub(super) const MOST_HOSTS: usize = 1_000;

/// The most keys of a page, and of names that are not those of known hosts which one reading reads.
const MOST_NAMES: usize = MAX_PAGE;

/// The most lists of services that one reading reads.
const MOST_LISTS: usize = 256;

/// Records that are read at a time where more do not fit into one response of the store. These do, if each is within its bound.
const FEW: usize = 16;

/// What one reading takes at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadingBounds {
    /// Bytes of all records. The last batch may go beyond it.
    bytes: u64,
    /// Bytes of these for hosts that are known. The rest is for what is not.
    known: u64,
    /// Pages of the listing, each of at most [`page`](Self::page) keys.
    pages: usize,
    page: usize,
    /// Bytes of lists of services. The last batch may go beyond it.
    lists: u64,
    /// Records of one batch. Nearly always all of them fit into one response of the store.
    batch: usize,
}

impl Default for ReadingBounds {
    fn default() -> Self {
        Self { bytes: 4 << 20, known: 3 << 20, pages: 16, page: MOST_NAMES, lists: 2 << 20, batch: MAX_BATCH }
    }
}

/// How far the readings of a host have got.
#[derive(Debug, Default)]
pub(super) struct ReadingPlace {
    /// The last known host that was read; `None` to begin with the first.
    known: Option<String>,
    /// The last name that was read of the part that is listed now.
    other: Option<String>,
    /// Where this part of the listing begins; `None` for its beginning.
    part: Option<Cursor>,
    /// The last list of services that was read.
    list: Option<String>,
}

/// The hosts that were known before a reading.
#[derive(Debug, Default)]
pub(super) struct NamesBefore {
    /// Those with a record that was one when it was last read.
    pub(super) sound: BTreeSet<String>,
    /// All others: their records were replaced by nonsense, or last without being renewed.
    pub(super) doubtful: BTreeSet<String>,
    /// The lists of services that they name.
    pub(super) lists: BTreeMap<String, ServedServices>,
}

/// The names of this host.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnName<'a> {
    pub(super) host: &'a str,
    /// The random number of its process.
    pub(super) id: &'a str,
}

/// The records that one reading of the store has found. Of names that are in none of its sets, nothing new is known.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// The records by the names of their hosts.
    pub(super) records: BTreeMap<String, (Version, HostRecord)>,
    /// The lists that records name, if they were read now or before.
    pub(super) lists: BTreeMap<String, ServedServices>,
    /// Whether the record of this process is in the store.
    pub(super) own: bool,
    /// Names of known hosts, and of this one, that have no record.
    pub(super) gone: BTreeSet<String>,
    /// Names of what was read and is no record.
    pub(super) nonsense: BTreeSet<String>,
    /// Records that could not be read, including those whose names are none of hosts.
    pub(super) ignored: usize,
    /// Whether something that may be a host was not read, and has its turn later.
    pub(super) truncated: bool,
    /// Bytes of what was read, records or not.
    pub(super) bytes: u64,
    /// Why not all lists were read.
    pub(super) failed: Option<Error>,
}

/// How long a reading may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Each operation.
    pub(super) operation: Duration,
    /// The end of the reading: what is not read then is left out.
    pub(super) end: Instant,
}

impl Patience {
    fn deadline(self) -> Instant {
        (Instant::now() + self.operation).min(self.end)
    }
}

/// A bucket of records, and who reads it.
#[derive(Clone, Copy)]
pub(super) struct RosterReader<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) bucket: &'a str,
    /// The bucket of long lists of services.
    pub(super) lists: &'a str,
    pub(super) own: OwnName<'a>,
    pub(super) bounds: ReadingBounds,
    pub(super) patience: Patience,
}

impl RosterReader<'_> {
    /// Reads records, from `place` on. A record that cannot be read does not hide others.
    ///
    /// # Errors
    /// Those of the store, if it cannot be used. The next reading goes on after what this one has tried to read.
    pub(super) async fn read(&self, before: &NamesBefore, place: &mut ReadingPlace) -> Result<Roster, Error> {
        let mut roster = Roster::default();
        let listed = self.names(&mut roster, place).await;
        let (names, next) = listed.inspect_err(|_| place.part = None)?;
        let own = [self.own.host.to_owned()];
        self.read_batch(&own, u64::MAX, &mut roster).await?;
        let sound = before.sound.iter().filter(|name| *name != self.own.host);
        let known = sound.cloned().collect();
        let now = Instant::now();
        // Neither a slow store nor large records of known hosts keep new ones out.
        let end = now + self.patience.end.saturating_duration_since(now) / 4 * 3;
        self.read_from(&known, &mut place.known, (self.bounds.known, end), &mut roster).await?;
        let least = roster.bytes.saturating_add(self.bounds.bytes.saturating_sub(self.bounds.known));
        let most = self.bounds.bytes.max(least);
        let mut others: BTreeSet<_> = names.into_iter().filter(|name| !known.contains(name)).collect();
        others.extend(before.doubtful.iter().cloned());
        others.remove(self.own.host);
        let all = self.read_from(&others, &mut place.other, (most, self.patience.end), &mut roster).await?;
        roster.truncated |= !all || next.is_some();
        if all {
            place.part = next;
        }
        roster.failed = self.read_lists(before, &mut place.list, &mut roster).await.err();
        Ok(roster)
    }

    /// Reads the lists of services that records name and that are not known, from those after `place` on. What is not read has its turn
    /// later.
    async fn read_lists(
        &self,
        before: &NamesBefore,
        place: &mut Option<String>,
        roster: &mut Roster,
    ) -> Result<(), Error> {
        let named: BTreeSet<_> = roster.records.values().filter_map(|(_, record)| record.list.clone()).collect();
        let (known, unknown): (BTreeSet<_>, BTreeSet<_>) =
            named.into_iter().partition(|list| before.lists.contains_key(list));
        roster.lists =
            known.into_iter().filter_map(|list| Some((list.clone(), before.lists.get(&list)?.clone()))).collect();
        let first = place.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let after = unknown.range::<str, _>((first, Bound::Unbounded)).cloned();
        let turn: Vec<_> = after.chain(unknown.iter().cloned()).take(unknown.len().min(MOST_LISTS)).collect();
        let mut bytes = 0_u64;
        for batch in turn.chunks(FEW) {
            if bytes >= self.bounds.lists || self.patience.end <= Instant::now() {
                return Ok(());
            }
            place.clone_from(&batch.last().cloned());
            for (list, entry) in batch.iter().zip(self.list_entries(batch).await?) {
                let Some(entry) = entry else { continue };
                bytes = bytes.saturating_add(entry.value.size());
                if let Some(services) = ServedServices::read(list, entry.value.as_slice()) {
                    roster.lists.insert(list.clone(), services);
                }
            }
        }
        Ok(())
    }

    /// Reads some lists at once or, if at least one is none, one by one.
    async fn list_entries(&self, lists: &[String]) -> Result<Vec<Option<Entry>>, Error> {
        match self.entries(self.lists, lists).await {
            Ok(entries) => return Ok(entries),
            Err(error @ Error::Timeout) => return Err(error),
            Err(_) => {}
        }
        let mut all = Vec::with_capacity(lists.len());
        for list in lists {
            match self.entries(self.lists, std::slice::from_ref(list)).await {
                Ok(entries) => all.extend(entries),
                Err(error @ Error::Timeout) => return Err(error),
                Err(_) => all.push(None),
            }
        }
        Ok(all)
    }

    /// Reads the records of `names` after `place`, until there are `most` bytes or until `end`, and returns whether the last one was
    /// reached.
    async fn read_from(
        &self,
        names: &BTreeSet<String>,
        place: &mut Option<String>,
        (most, end): (u64, Instant),
        roster: &mut Roster,
    ) -> Result<bool, Error> {
        let is_after = |name: &String| place.as_ref().is_none_or(|place| name > place);
        if !names.last().is_some_and(is_after) {
            *place = None;
        }
        let first = place.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let turn: Vec<_> = names.range::<str, _>((first, Bound::Unbounded)).take(MOST_NAMES).cloned().collect();
        let is_whole = names.last() == turn.last();
        for batch in turn.chunks(self.bounds.batch) {
            if roster.bytes >= most || end <= Instant::now() {
                return Ok(false);
            }
            // Also if that fails, so that nothing is tried for ever.
            let before = place.clone();
            place.clone_from(&batch.last().cloned());
            let read = self.read_batch(batch, most, roster).await?;
            if read < batch.len() {
                *place = read.checked_sub(1).and_then(|last| batch.get(last).cloned()).or(before);
                return Ok(false);
            }
        }
        if is_whole {
            *place = None;
        }
        Ok(is_whole)
    }

    /// Reads some records at once or, if they are too large, few at a time until there are `most` bytes. Returns how many were read.
    async fn read_batch(&self, names: &[String], most: u64, roster: &mut Roster) -> Result<usize, Error> {
        if names.len() <= FEW {
            return self.read_few(names, most, roster).await;
        }
        match self.entries(self.bucket, names).await {
            Ok(entries) => {
                names.iter().zip(entries).for_each(|(name, entry)| roster.add(name, entry, self.own.id));
                return Ok(names.len());
            }
            Err(error @ Error::Timeout) => return Err(error),
            Err(_) => {}
        }
        let mut read = 0;
        for few in names.chunks(FEW) {
            if read > 0 && (roster.bytes >= most || self.patience.end <= Instant::now()) {
                break;
            }
            let done = self.read_few(few, most, roster).await?;
            read += done;
            if done < few.len() {
                break;
            }
        }
        Ok(read)
    }

    /// Reads few records at once or, if at least one is none, one by one until there are `most` bytes. Returns how many were read.
    async fn read_few(&self, names: &[String], most: u64, roster: &mut Roster) -> Result<usize, Error> {
        match self.entries(self.bucket, names).await {
            Ok(entries) => {
                names.iter().zip(entries).for_each(|(name, entry)| roster.add(name, entry, self.own.id));
                Ok(names.len())
            }
            Err(error @ Error::Timeout) => Err(error),
            Err(_) => self.read_singly(names, most, roster).await,
        }
    }

    /// Reads records of which at least one is none: too large, or not written by Lodge.
    async fn read_singly(&self, names: &[String], most: u64, roster: &mut Roster) -> Result<usize, Error> {
        let (mut failed, mut read) = (None, 0);
        for name in names {
            if read > 0 && (roster.bytes >= most || self.patience.end <= Instant::now()) {
                break;
            }
            read += 1;
            // The result of a batch is bounded, that of a single read is what there is.
            match self.entries(self.bucket, std::slice::from_ref(name)).await {
                Ok(entries) => entries.into_iter().for_each(|entry| roster.add(name, entry, self.own.id)),
                Err(error @ Error::Timeout) => return Err(error),
                Err(error) => {
                    if let Error::TooLarge { size, .. } = error {
                        roster.bytes = roster.bytes.saturating_add(size.min(MAX_BATCH_BYTES) as u64);
                    }
                    roster.ignore(name);
                    failed = Some(error);
                }
            }
        }
        // A store that fails altogether has no bad records.
        let Some(error) = failed else { return Ok(read) };
        let listing = Listing::new(self.bucket, "", 1)?;
        self.store.list(listing, self.patience.deadline()).await.map_or(Err(error), |_| Ok(read))
    }

    async fn entries(&self, bucket: &str, names: &[String]) -> Result<Vec<Option<Entry>>, Error> {
        let keys = names.iter().map(|name| Key::new(bucket, name)).collect::<Result<Vec<_>, _>>()?;
        self.store.get_many(Batch::new(keys)?, self.patience.deadline()).await
    }

    /// Returns the names of the part at `place`, and where the next part begins.
    async fn names(&self, roster: &mut Roster, place: &ReadingPlace) -> Result<(Vec<String>, Option<Cursor>), Error> {
        let (mut names, mut cursor) = (Vec::new(), place.part.clone());
        roster.truncated = cursor.is_some();
        for _ in 0..self.bounds.pages {
            let listing = Listing::new(self.bucket, "", self.bounds.page)?;
            let listing = cursor.as_ref().map_or(listing, |cursor| listing.at(cursor));
            let page = self.store.list(listing, self.patience.deadline()).await?;
            let (plain, others): (Vec<_>, Vec<_>) = page.keys.into_iter().partition(|key| is_plain(key, MOST_HOST));
            roster.ignored = roster.ignored.saturating_add(others.len());
            names.extend(plain);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        Ok((names, cursor))
    }
}

impl Roster {
    fn add(&mut self, name: &str, entry: Option<Entry>, id: &str) {
        // It has expired, or its host has left.
        let Some(entry) = entry else {
            self.gone.insert(name.to_owned());
            return;
        };
        self.bytes = self.bytes.saturating_add(entry.value.size());
        // Those of hosts expire.
        let record = HostRecord::read(entry.value.as_slice()).filter(|_| entry.expires.is_some());
        let Some(record) = record else { return self.ignore(name) };
        if record.id == id {
            self.own = true;
            // Another process may have had the name.
            self.gone.insert(name.to_owned());
        } else {
            self.records.insert(name.to_owned(), (entry.version, record));
        }
    }

    fn ignore(&mut self, name: &str) {
        self.ignored = self.ignored.saturating_add(1);
        self.nonsense.insert(name.to_owned());
    }
}

#[cfg(test)]
mod tests;
