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
use super::roster::{MOST_HOSTS, Roster};

/// The most names in a line of the log.
const MOST_NAMES: usize = 8;

/// The time after which a record that was not renewed is no record of a host, though the store still has it: more than the longest
/// `cluster.ttl`, which another host may have.
const STALE: Duration = Duration::from_secs(15 * 60);

/// Another host.
#[derive(Clone, Debug)]
pub(crate) struct KnownHost {
    /// What it says of itself.
    pub(crate) record: Arc<HostRecord>,
    /// The revision of its record.
    version: Version,
    /// When this host saw it for the first time since it was last away.
    pub(crate) since: Instant,
    /// When this host saw the present revision for the first time.
    pub(crate) renewed: Instant,
    /// Whether the record lasts without being renewed.
    stale: bool,
}

/// All other hosts.
#[derive(Debug, Default)]
pub(crate) struct KnownHosts {
    all: BTreeMap<String, KnownHost>,
    /// Records of the last reading that could not be read.
    pub(crate) ignored: usize,
    /// Whether the last reading found more than the bounds allow.
    pub(crate) truncated: bool,
    /// When the store was last read.
    pub(crate) read: Option<Instant>,
}

/// Who has come and gone between two readings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) joined: Vec<String>,
    pub(crate) left: Vec<String>,
}

impl KnownHosts {
    /// Takes the records of a reading in place of those before. With `keeps`, hosts that are not in it stay known.
    pub(crate) fn update(&mut self, reading: Roster, keeps: bool, now: Instant) -> Changes {
        let mut before = std::mem::take(&mut self.all);
        let mut changes = Changes::default();
        for (name, (version, record)) in reading.records {
            let member = match before.remove(&name) {
                Some(known) if known.version == version => known,
                Some(known) if !known.stale => KnownHost { record: Arc::new(record), version, renewed: now, ..known },
                _ => {
                    changes.joined.push(name.clone());
                    KnownHost { record: Arc::new(record), version, since: now, renewed: now, stale: false }
                }
            };
            self.all.insert(name, member);
        }
        for (name, member) in before {
            if (keeps || reading.unread.contains(&name)) && self.all.len() < MOST_HOSTS {
                self.all.insert(name, member);
            } else if !member.stale {
                changes.left.push(name);
            }
        }
        let mut stale = 0;
        for (name, member) in &mut self.all {
            let was_stale = member.stale;
            member.stale = now.saturating_duration_since(member.renewed) > STALE;
            stale += usize::from(member.stale && !reading.unread.contains(name));
            if member.stale && !was_stale {
                changes.left.push(name.clone());
            }
        }
        self.ignored = reading.ignored.saturating_add(stale);
        (self.truncated, self.read) = (reading.truncated, Some(now));
        changes
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

    fn reading(of: &[(&str, u64)]) -> Roster {
        let records =
            of.iter().map(|(name, version)| ((*name).into(), (Version::new(*version), HostRecord::default())));
        Roster { records: records.collect(), ..Roster::default() }
    }

    /// An age is the time since the revision changed, by the clock of this host.
    #[test]
    fn ages_begin_with_a_revision() {
        let (mut members, start, second) = (KnownHosts::default(), Instant::now(), Duration::from_secs(1));
        let changes = members.update(reading(&[("a", 1), ("b", 1)]), false, start);
        assert_eq!(changes, Changes { joined: vec!["a".into(), "b".into()], left: vec![] });
        let changes = members.update(reading(&[("a", 2), ("b", 1)]), false, start + second);
        assert_eq!(changes, Changes::default());
        let ages = |members: &KnownHosts, now: Instant| -> Vec<_> {
            members.iter().map(|(_, member)| (now - member.since, now - member.renewed)).collect()
        };
        assert_eq!(ages(&members, start + second), [(second, Duration::ZERO), (second, second)]);
        // One that has left and comes back is new.
        assert_eq!(members.update(reading(&[("b", 1)]), false, start + 2 * second).left, ["a"]);
        assert_eq!(members.update(reading(&[("a", 3), ("b", 1)]), false, start + 3 * second).joined, ["a"]);
        assert_eq!(ages(&members, start + 3 * second)[0], (Duration::ZERO, Duration::ZERO));
    }

    /// A host of which nothing is known stays, and any host does while `keeps`; a record that lasts without renewals does not.
    #[test]
    fn hosts_stay_known_without_their_records() {
        let (mut members, start, second) = (KnownHosts::default(), Instant::now(), Duration::from_secs(1));
        members.update(reading(&[("a", 1), ("b", 1), ("c", 1)]), false, start);
        let unread = Roster { unread: ["a".into()].into(), ..reading(&[("c", 1)]) };
        assert_eq!(members.update(unread, false, start + second).left, ["b"]);
        assert_eq!(members.update(reading(&[]), true, start + second), Changes::default());
        assert_eq!(members.len(), 2);
        assert_eq!(members.update(reading(&[("c", 1)]), false, start + second).left, ["a"]);
        let changes = members.update(reading(&[("c", 1)]), false, start + STALE + second);
        assert_eq!((changes.left, members.len(), members.ignored), (vec!["c".to_owned()], 0, 1));
        assert!(!members.contains("c"));
        assert_eq!(members.update(reading(&[("c", 1)]), false, start + 2 * STALE), Changes::default());
        assert_eq!(members.update(reading(&[("c", 2)]), false, start + 2 * STALE).joined, ["c"]);
        assert_eq!((members.len(), members.ignored), (1, 0));
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
