//! The other hosts of a cluster, as this host knows them.
//!
//! Clocks of two hosts are never compared: the store lets records expire by its own clock, and ages are measured here, from the time
//! when this host has seen another revision of a record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lodge_state::Version;
use tokio::time::Instant;

use super::record::HostRecord;
use super::roster::{MOST_HOSTS, NamesBefore, Roster};

/// The most names in a line of the log.
const MOST_NAMES: usize = 8;

/// The time after which a record that was not renewed is no record of a host, though the store still has it: more than the longest
/// `cluster.ttl`, which another host may have.
const STALE: Duration = Duration::from_secs(15 * 60);

/// Another host.
#[derive(Clone, Debug)]
pub(crate) struct KnownHost {
    /// What it says of itself. While the list that it names was not read, the services are those before.
    pub(crate) record: Arc<HostRecord>,
    /// Whether the services are those of the record.
    is_listed: bool,
    /// The revision of its record.
    version: Version,
    /// When this host saw it for the first time since it was last away.
    pub(crate) since: Instant,
    /// When this host saw the present revision for the first time.
    pub(crate) renewed: Instant,
    /// Whether the record lasts without being renewed.
    stale: bool,
    /// Whether its record was none when it was last read.
    broken: bool,
}

/// All other hosts.
#[derive(Debug, Default)]
pub(crate) struct KnownHosts {
    all: BTreeMap<String, KnownHost>,
    /// Records of the last reading that could not be read.
    pub(crate) ignored: usize,
    /// Whether there may be more hosts: the last reading did not reach them, or there is no room for them.
    pub(crate) truncated: bool,
    /// When the store was last read.
    pub(crate) read: Option<Instant>,
}

/// Who has come and gone between two readings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) joined: Vec<String>,
    pub(crate) left: Vec<String>,
    /// Whether a host that has stayed serves something else, or is somewhere else.
    pub(crate) moved: bool,
}

impl KnownHosts {
    /// Takes over what a reading has found. Hosts of which it says nothing stay known and, with `keeps`, also those that are gone.
    pub(crate) fn update(&mut self, reading: Roster, keeps: bool, now: Instant) -> Changes {
        let mut changes = Changes::default();
        for name in reading.gone.iter().filter(|_| !keeps) {
            if self.all.remove(name).is_some_and(|member| !member.stale) {
                changes.left.push(name.clone());
            }
        }
        for name in &reading.nonsense {
            if let Some(member) = self.all.get_mut(name) {
                member.broken = true;
            }
        }
        let read: Vec<_> = reading.records.keys().chain(&reading.nonsense).cloned().collect();
        let mut full = false;
        for (name, (version, mut record)) in reading.records {
            if !self.all.contains_key(&name) && !self.has_room() {
                full = true;
                continue;
            }
            let known = self.all.get_mut(&name);
            let is_listed = record.take_list(&reading.lists, known.as_ref().map(|known| &known.record.services));
            match known {
                Some(known) if known.version == version && known.is_listed == is_listed => known.broken = false,
                Some(known) if !known.stale => {
                    changes.moved |= known.record.is_elsewhere(&record);
                    let renewed = if known.version == version { known.renewed } else { now };
                    (known.record, known.is_listed, known.version, known.renewed, known.broken) =
                        (Arc::new(record), is_listed, version, renewed, false);
                }
                _ => {
                    let (record, stale, broken) = (Arc::new(record), false, false);
                    let member = KnownHost { record, is_listed, version, since: now, renewed: now, stale, broken };
                    changes.joined.push(name.clone());
                    self.all.insert(name, member);
                }
            }
        }
        let mut stale = 0;
        // What was not read may have been renewed.
        for name in read {
            let Some(member) = self.all.get_mut(&name) else { continue };
            let was_stale = member.stale;
            member.stale = now.saturating_duration_since(member.renewed) > STALE;
            stale += usize::from(member.stale && !member.broken);
            if member.stale && !was_stale {
                changes.left.push(name);
            }
        }
        self.ignored = reading.ignored.saturating_add(stale);
        (self.truncated, self.read) = (reading.truncated || full, Some(now));
        changes
    }

    /// Whether there is room for another host, for which one with a stale record makes room.
    fn has_room(&mut self) -> bool {
        if self.all.len() >= MOST_HOSTS
            && let Some(name) = self.all.iter().find(|(_, member)| member.stale).map(|(name, _)| name.clone())
        {
            self.all.remove(&name);
        }
        self.all.len() < MOST_HOSTS
    }

    /// The names by which the next reading reads, and the lists that it need not read.
    pub(crate) fn names(&self) -> NamesBefore {
        let mut names = NamesBefore::default();
        for (name, member) in &self.all {
            let set = if member.stale || member.broken { &mut names.doubtful } else { &mut names.sound };
            set.insert(name.clone());
            if let Some(list) = member.record.list.as_ref().filter(|_| member.is_listed) {
                names.lists.insert(list.clone(), member.record.services.clone());
            }
        }
        names
    }

    /// Forgets all hosts if the last reading is more than `keep` ago. Returns whether there were any.
    pub(crate) fn expire(&mut self, keep: Duration, now: Instant) -> bool {
        let is_old = self.read.is_none_or(|read| now.saturating_duration_since(read) > keep);
        is_old && !std::mem::take(&mut self.all).is_empty()
    }

    /// The hosts in the order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &KnownHost)> {
        let members = self.all.iter().filter(|(_, member)| !member.stale);
        members.map(|(name, member)| (name.as_str(), member))
    }

    /// Whether a host with this name is known.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.all.get(name).is_some_and(|member| !member.stale)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.iter().count()
    }
}

/// Formats names for a line of the log: `a, b and 3 more`.
pub(crate) fn named(names: &[String]) -> String {
    let shown = names.iter().take(MOST_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MOST_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::served::ServedServices;

    fn reading(of: &[(&str, u64)]) -> Roster {
        let records =
            of.iter().map(|(name, version)| ((*name).into(), (Version::new(*version), HostRecord::default())));
        Roster { records: records.collect(), ..Roster::default() }
    }

    /// One that has found these hosts, and that others have left.
    fn without(gone: &[&str], of: &[(&str, u64)]) -> Roster {
        Roster { gone: gone.iter().map(|name| (*name).into()).collect(), ..reading(of) }
    }

    /// An age is the time since the revision changed, by the clock of this host.
    #[test]
    fn ages_begin_with_a_revision() {
        let (mut members, start, second) = (KnownHosts::default(), Instant::now(), Duration::from_secs(1));
        let changes = members.update(reading(&[("a", 1), ("b", 1)]), false, start);
        assert_eq!(changes, Changes { joined: vec!["a".into(), "b".into()], ..Changes::default() });
        let changes = members.update(reading(&[("a", 2), ("b", 1)]), false, start + second);
        assert_eq!(changes, Changes::default());
        let ages = |members: &KnownHosts, now: Instant| -> Vec<_> {
            members.iter().map(|(_, member)| (now - member.since, now - member.renewed)).collect()
        };
        assert_eq!(ages(&members, start + second), [(second, Duration::ZERO), (second, second)]);
        // One that has left and comes back is new.
        assert_eq!(members.update(without(&["a"], &[("b", 1)]), false, start + 2 * second).left, ["a"]);
        assert_eq!(members.update(reading(&[("a", 3), ("b", 1)]), false, start + 3 * second).joined, ["a"]);
        assert_eq!(ages(&members, start + 3 * second)[0], (Duration::ZERO, Duration::ZERO));
    }

    /// A host of which nothing is known stays, and any host does while `keeps`; a record that lasts without renewals does not.
    #[test]
    fn hosts_stay_known_without_their_records() {
        let (mut members, start, second) = (KnownHosts::default(), Instant::now(), Duration::from_secs(1));
        members.update(reading(&[("a", 1), ("b", 1), ("c", 1)]), false, start);
        assert_eq!(members.update(without(&["b"], &[("c", 1)]), false, start + second).left, ["b"]);
        assert_eq!(members.update(without(&["a"], &[]), true, start + second), Changes::default());
        assert_eq!(members.len(), 2);
        assert_eq!(members.update(reading(&[]), false, start + STALE + second), Changes::default(), "it was not read");
        // One whose record was replaced by nonsense stays as long as one that is not renewed.
        let nonsense = || Roster { nonsense: ["a".into()].into(), ignored: 1, ..reading(&[]) };
        assert_eq!(members.update(nonsense(), false, start + second), Changes::default());
        assert!(members.names().doubtful.iter().eq(["a"]) && members.names().sound.iter().eq(["c"]));
        assert_eq!(members.update(nonsense(), false, start + STALE + second).left, ["a"]);
        assert_eq!(members.ignored, 1);
        assert_eq!(members.update(without(&["a"], &[]), false, start + STALE + second), Changes::default());
        let changes = members.update(reading(&[("c", 1)]), false, start + STALE + second);
        assert_eq!((changes.left, members.len(), members.ignored), (vec!["c".to_owned()], 0, 1));
        assert!(!members.contains("c"));
        assert_eq!(members.update(reading(&[("c", 1)]), false, start + 2 * STALE), Changes::default());
        assert_eq!(members.update(reading(&[("c", 2)]), false, start + 2 * STALE).joined, ["c"]);
        assert_eq!((members.len(), members.ignored), (1, 0));
    }

    /// The services of a host are those of the list that its record names, and until that was read those before.
    #[test]
    fn services_are_those_of_the_list() {
        let (mut members, now) = (KnownHosts::default(), Instant::now());
        let list = |name: &str| [(name.to_owned(), "00".to_owned())].into_iter().collect::<ServedServices>();
        let mut round = |version: u64, named: &str, lists: &[(&str, &str)]| {
            let record = HostRecord { list: Some(named.into()), ..HostRecord::default() };
            let records = [("a".to_owned(), (Version::new(version), record))].into();
            let lists = lists.iter().map(|(digest, name)| ((*digest).to_owned(), list(name))).collect();
            let moved = members.update(Roster { records, lists, ..Roster::default() }, false, now).moved;
            let services: Vec<_> = members.iter().flat_map(|(_, host)| host.record.services.keys()).cloned().collect();
            (services.join(" "), moved, members.names().lists.into_keys().collect::<Vec<_>>().join(" "))
        };
        let shown = |services: &str, moved, known: &str| (services.to_owned(), moved, known.to_owned());
        assert_eq!(round(1, "x", &[]), shown("", false, ""));
        assert_eq!(round(1, "x", &[("x", "users")]), shown("users", true, "x"), "the same revision, and its list");
        assert_eq!(round(2, "x", &[("x", "users")]), shown("users", false, "x"));
        assert_eq!(round(3, "y", &[]), shown("users", false, ""), "the new list was not read");
        assert_eq!(round(4, "y", &[("y", "orders")]), shown("orders", true, "y"));
    }

    /// There is room for so many hosts: one that is not renewed makes room for a new one, others do not.
    #[test]
    fn hosts_are_bounded() {
        let (mut members, start) = (KnownHosts::default(), Instant::now());
        let names: Vec<_> = (0..=MOST_HOSTS).map(|n| format!("h{n:04}")).collect();
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
        members.update(reading(&all), false, start);
        assert!(members.len() == MOST_HOSTS && members.truncated && !members.contains("h1000"));
        let renewed: Vec<_> = names.iter().map(|name| (name.as_str(), if name == "h0000" { 1 } else { 2 })).collect();
        members.update(reading(&renewed[..MOST_HOSTS]), false, start + STALE + Duration::from_secs(1));
        assert!(members.len() == MOST_HOSTS - 1 && !members.truncated);
        members.update(reading(&renewed[MOST_HOSTS..]), false, start + STALE + Duration::from_secs(1));
        assert!(members.len() == MOST_HOSTS && members.contains("h1000") && !members.truncated);
    }

    #[test]
    fn hosts_are_kept_for_a_time() {
        let (mut members, start, keep) = (KnownHosts::default(), Instant::now(), Duration::from_secs(60));
        members.update(reading(&[("a", 1)]), false, start);
        assert!(!members.expire(keep, start + keep) && members.contains("a"));
        assert!(members.expire(keep, start + keep + Duration::from_millis(1)) && members.len() == 0);
        assert!(!members.expire(keep, start + 2 * keep), "there is nothing left to forget");
    }

    #[test]
    fn lines_have_few_names() {
        let names: Vec<_> = (0..10).map(|n| format!("h{n}")).collect();
        assert_eq!(named(&names[..2]), "h0, h1");
        assert!(named(&names).ends_with("h7 and 2 more"));
    }
}
