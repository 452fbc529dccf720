//! What a host does at every interval: renewing its record, taking part in the election, and reading the records of the others.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lodge_base::lock::lock;
use lodge_state::{Error, Key, LockName, Locks, Store, Token};
use tokio::time::Instant;

use super::leader::{Announcement, Election, FencedValue};
use super::members::{Changes, named};
use super::record::HostRecord;
use super::registration::{Registration, Renewal};
use super::roster::{OwnName, Patience, ReadingBounds, RosterReader};
use super::served::ListWriter;
use super::view::ClusterView;
use super::{Cluster, ELECT, LocalServices, NAMESPACE, Names, QUOTA, READ, RENEW};
use crate::guests::stores::Stores;

/// The key with the name of the leader.
const LEADER: &str = "leader";

/// What this host does with the store.
pub(super) struct Participation {
    pub(super) store: Arc<dyn Store>,
    pub(super) locks: Arc<dyn Locks>,
    pub(super) registration: Registration,
    pub(super) election: Election,
    /// Whether this host may have the lock.
    holds: bool,
    /// The token with which this host has last written that it leads.
    announced: Option<Token>,
    /// Whether the last token was refused.
    refused: bool,
    /// The list of services of this host, if it is a long one.
    list: ListWriter,
}

impl Cluster {
    /// Renews the record, and takes part in the election.
    pub(super) async fn round(&self, stores: &Stores, load: &LocalServices) {
        let (is_whole, own) = (load.current.snapshot().complete, self.own(load));
        {
            let mut view = lock(&self.view);
            view.started.get_or_insert_with(Instant::now);
            view.own = Arc::new(own.clone());
        }
        let mut work = self.work.lock().await;
        if self.has_left() {
            return;
        }
        let work = match &mut *work {
            Some(work) => work,
            none => match self.open(stores).await {
                Ok(opened) => none.insert(opened),
                Err(why) => return self.report_reason(RENEW, Err(why), Instant::now()),
            },
        };
        let renewed = self.renew(work, own).await;
        lock(&self.view).announced |= is_whole && matches!(renewed, Ok(true));
        self.report(RENEW, renewed.map(drop), Instant::now());
        if self.has_left() {
            return;
        }
        let elected = self.elect(work).await;
        self.report(ELECT, elected, Instant::now());
    }

    async fn open(&self, stores: &Stores) -> Result<Participation, String> {
        let (store, locks) = stores.of_hosts(NAMESPACE, QUOTA, self.deadline()).await?;
        let new = || {
            let registration = Registration::new(self.id.clone(), self.ttl)?;
            Ok((registration, Election::new(self.leader.clone(), self.ttl)?))
        };
        let (registration, election) = new().map_err(|error: Error| error.for_operators())?;
        *lock(&self.store) = Some(Arc::clone(&store));
        self.opened.notify_one();
        let list = ListWriter::new(self.names.lists.clone(), self.ttl);
        Ok(Participation { store, locks, registration, election, list, holds: false, announced: None, refused: false })
    }

    /// Returns whether this host need not wait to be known: the others can know it, or another process goes on to have its name.
    async fn renew(&self, work: &mut Participation, own: HostRecord) -> Result<bool, Error> {
        let bytes = self.write_list(work, own).await?.write();
        let renewal = work.registration.renew(&*work.store, self.key()?, bytes.into(), self.deadline()).await?;
        let mut view = lock(&self.view);
        let taken = view.taken.take();
        let Names { cluster, host, .. } = &self.names;
        match renewal {
            Renewal::Done { missing } => {
                if missing {
                    // The list may be lost as well. Hosts that know it need it no more.
                    work.list.forget();
                    self.miss(&mut view, Instant::now());
                }
                if view.renewed.is_none() || taken.is_some() {
                    tracing::info!("this host is {host} in the cluster {cluster}");
                }
                view.renewed = Some((Instant::now(), SystemTime::now()));
                Ok(true)
            }
            Renewal::Taken { by, alive } => {
                let problem = self.taken(by.as_deref(), alive);
                if taken.as_ref() != Some(&problem) {
                    tracing::warn!("{problem}");
                }
                view.taken = Some(problem);
                // The record of an earlier process of this host has expired by then.
                Ok(alive || view.started.is_some_and(|started| started.elapsed() >= self.ttl))
            }
        }
    }

    /// Returns the record as it is to be written. Its list of services, if that is a long one, is written before.
    async fn write_list(&self, work: &mut Participation, own: HostRecord) -> Result<HostRecord, Error> {
        let (record, Some(list)) = own.clone().without_list() else { return Ok(own) };
        match work.list.write(&*work.store, list, self.deadline()).await {
            Ok(()) => Ok(record),
            // Lists of hosts that change often last for a while. Until then the record has the list.
            Err(Error::QuotaExceeded { .. }) => Ok(own),
            Err(other) => Err(other),
        }
    }

    /// Says why this host is not in the cluster: a record with its name is that of another process.
    fn taken(&self, by: Option<&str>, alive: bool) -> String {
        let Names { cluster, host, .. } = &self.names;
        let at = by.map_or(String::new(), |by| format!(" at {by}"));
        if alive {
            return format!(
                "another host{at} is {host} in the cluster {cluster}, so this host is not in it; give one of the two another \
                 cluster.host"
            );
        }
        let of = match by.is_some() && by == self.address.as_deref() {
            true => format!("of an earlier process of this host{at}"),
            false => format!("of another process{at}, which may be an earlier one of this host"),
        };
        format!(
            "the cluster {cluster} still has the record of {host} {of}; this host is in the cluster when that has expired, \
             within {}, unless it is renewed",
            humantime::format_duration(self.ttl)
        )
    }

    /// Keeps what is known, and lets no other host lead at once, because the store has not had the record of this host: it has
    /// lost its data, or this host could not renew the record for `cluster.ttl`.
    fn miss(&self, view: &mut ClusterView, now: Instant) {
        self.leader.step_down();
        if !view.is_unsettled(now) {
            tracing::warn!(
                "cluster {}: the server of `state.url` did not have the record of this host: it has lost its data, or the \
                 record was not renewed for {ttl}; for {ttl}, the other hosts stay known, and this host does not lead",
                self.names.cluster,
                ttl = humantime::format_duration(self.ttl)
            );
        }
        view.missed = Some(now + self.ttl);
        self.unsettle(view, now, self.ttl);
    }

    /// Lets hosts stay known without their records for `time`.
    pub(super) fn unsettle(&self, view: &mut ClusterView, now: Instant, time: Duration) {
        view.unsettled = view.unsettled.max(Some(now + time));
    }

    /// Reads the records of the others, if the store is open.
    pub(super) async fn read(&self) {
        let Some(store) = lock(&self.store).clone() else { return };
        let read = self.read_records(&*store).await;
        self.report(READ, read, Instant::now());
    }

    async fn read_records(&self, store: &dyn Store) -> Result<(), Error> {
        let Names { cluster, host, members, lists, .. } = &self.names;
        let (registered, before, mut place) = {
            let mut view = lock(&self.view);
            let registered = view.is_member(self.ttl, Instant::now());
            (registered, view.members.names(), std::mem::take(&mut view.reading))
        };
        let patience = Patience { operation: self.step, end: Instant::now() + self.ttl };
        let (own, bounds) = (OwnName { host, id: &self.id }, ReadingBounds::default());
        let reader = RosterReader { store, bucket: members, lists, own, bounds, patience };
        let read = reader.read(&before, &mut place).await;
        let now = Instant::now();
        let mut view = lock(&self.view);
        view.reading = place;
        let mut reading = read?;
        let failed = reading.failed.take();
        if registered && view.taken.is_none() && !reading.own && reading.gone.contains(host) {
            self.miss(&mut view, now);
        }
        // While the server was away, the others could not renew their records either. This may be the first operation that it responds to.
        // Elections and rates may fail for reasons of their own.
        if [RENEW, READ].iter().any(|operation| view.failing.get(*operation).is_some_and(Option::is_some)) {
            self.unsettle(&mut view, now, self.ttl);
        }
        let (before, ignored) = ((view.members.ignored > 0, view.members.truncated), reading.ignored);
        let (keeps, first) = (view.is_unsettled(now), view.members.read.is_none());
        let Changes { joined, left, moved } = view.members.update(reading, keeps, now);
        let truncated = view.members.truncated;
        if first || moved || !joined.is_empty() || !left.is_empty() {
            self.pass_on(&view);
        }
        // Of hosts that are forgotten because the server is away, rates keep the number.
        self.rates.set_hosts(view.members.len() + 1);
        drop(view);
        if !joined.is_empty() {
            tracing::info!("hosts in the cluster {cluster}: {}", named(&joined));
        }
        if !left.is_empty() {
            tracing::info!("hosts not in the cluster {cluster} any more: {}", named(&left));
        }
        if ignored > 0 && !before.0 {
            tracing::warn!(
                "{ignored} records of the cluster {cluster} are no records of hosts, and are ignored; something else writes to \
                 the namespace {NAMESPACE} of the server of state.url"
            );
        }
        if truncated && !before.1 {
            tracing::warn!(
                "the cluster {cluster} has more records than are read at once, or more hosts than one can know; those that are not \
                 known yet have their turn later"
            );
        }
        failed.map_or(Ok(()), Err)
    }

    /// Leads, or finds out which host does.
    pub(super) async fn elect(&self, work: &mut Participation) -> Result<(), Error> {
        let name = LockName::new(&self.names.leader)?;
        let token = self.lease(work, name).await?;
        let value = FencedValue { store: &*work.store, key: Key::new(&self.names.leader, LEADER)? };
        let deadline = self.deadline();
        let mut announced = value.read(deadline).await?;
        let own = token.map(|token| Announcement::new(token, &self.names.host));
        if let Some((own, token)) = own.zip(token).filter(|(own, _)| announced.as_ref() != Some(own)) {
            if value.write(&own, deadline).await? {
                if work.announced != Some(token) {
                    tracing::info!("this host leads the cluster {}", self.names.cluster);
                }
                (work.announced, work.refused, announced) = (Some(token), false, Some(own));
            } else {
                self.give_up(work, name).await?;
            }
        }
        lock(&self.view).leader = announced.map(|announced| announced.host);
        Ok(())
    }

    /// Returns the token of this host, if it leads.
    async fn lease(&self, work: &mut Participation, name: LockName<'_>) -> Result<Option<Token>, Error> {
        let now = Instant::now();
        let stands = {
            let view = lock(&self.view);
            view.is_member(self.ttl, now) && view.missed.is_none_or(|until| until <= now)
        };
        if !stands {
            self.leader.step_down();
            if std::mem::take(&mut work.holds) {
                work.election.resign(&*work.locks, name, self.deadline()).await?;
            }
            return Ok(None);
        }
        work.holds = true;
        let Some(term) = work.election.attempt(&*work.locks, name, now, self.deadline()).await? else {
            work.holds = false;
            return Ok(None);
        };
        // Who has lost the lock and the records has lost them together: then another host may lead still.
        let is_safe = work.election.is_known(&term)
            || work.registration.is_stored(&*work.store, self.key()?, self.deadline()).await?;
        if is_safe {
            return work.election.lead(&*work.locks, name, term, self.deadline()).await;
        }
        self.miss(&mut lock(&self.view), Instant::now());
        work.holds = false;
        work.election.resign(&*work.locks, name, self.deadline()).await.map(|()| None)
    }

    /// Ends a term whose token is smaller than one that was written before.
    async fn give_up(&self, work: &mut Participation, name: LockName<'_>) -> Result<(), Error> {
        if !std::mem::replace(&mut work.refused, true) {
            tracing::warn!(
                "cluster {}: this host has the lock of the leader, and does not lead: the server of `state.url` has a larger token \
                 than that of the lock; if its data were restored, delete the key {LEADER} in the bucket {} of {NAMESPACE}",
                self.names.cluster,
                self.names.leader
            );
        }
        work.holds = false;
        work.election.resign(&*work.locks, name, self.deadline()).await
    }
}
