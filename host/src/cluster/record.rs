//! What a host says of itself to the others, as JSON in the store.
//!
//! A record of another host is input from outside: it may be of another version, broken, or written by somebody else. It is
//! bounded, and every text in it is checked, so that it can stand in a line of the log and in a table.

use std::collections::BTreeMap;

use lodge_base::config::cluster::{MOST_NAME, address, is_plain};
use lodge_traffic::proxy::host_key::HostKey;
use serde::{Deserialize, Serialize};

use super::served::{LongList, MOST_BYTES, ServedServices, is_hex, is_version};

/// The most bytes of a record beside its list of services.
const REST: usize = 4 << 10;

/// Hexadecimal digits of the name of a list.
const LIST_DIGITS: usize = 64;

/// Hexadecimal digits of an id.
const ID_DIGITS: usize = 32;

/// What a host says of itself.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct HostRecord {
    /// A random number of its process, in hexadecimal.
    pub(crate) id: String,
    /// The URL at which others reach its services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
    /// The key by which others know what it sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<HostKey>,
    /// Its zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<String>,
    /// The version of Lodge.
    pub(crate) version: String,
    /// Requests in flight.
    pub(crate) in_flight: u64,
    /// The most requests in flight.
    pub(crate) slots: u64,
    /// The services and versions that it serves, with the first digits of their digests; empty in the store if they are a list of
    /// their own.
    pub(crate) services: ServedServices,
    /// The name of this list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) list: Option<String>,
    /// How many services it serves beyond these.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) more: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl HostRecord {
    /// Returns its JSON. Services for which there is no room are only counted.
    pub(super) fn write(mut self) -> Vec<u8> {
        let left_out = self.services.shorten(MOST_BYTES - REST);
        self.more = self.more.saturating_add(left_out);
        serde_json::to_vec(&self).unwrap_or_default()
    }

    /// Takes a long list of services out of the record, which then names it. Services for which there is no room are only counted.
    pub(super) fn without_list(mut self) -> (Self, Option<LongList>) {
        let left_out = self.services.shorten(MOST_BYTES);
        self.more = self.more.saturating_add(left_out);
        let list = self.services.long();
        if let Some(list) = &list {
            (self.services, self.list) = (ServedServices::default(), Some(list.digest.clone()));
        }
        (self, list)
    }

    /// Takes the services from the list that it names or, if that is not among these, from `before`. Returns whether they are those
    /// of the record.
    pub(super) fn take_list(
        &mut self,
        lists: &BTreeMap<String, ServedServices>,
        before: Option<&ServedServices>,
    ) -> bool {
        let Some(list) = &self.list else { return true };
        let found = lists.get(list);
        self.services = found.or(before).cloned().unwrap_or_default();
        found.is_some()
    }

    /// Whether the other record is that of a host which serves something else, or is somewhere else.
    pub(super) fn is_elsewhere(&self, other: &Self) -> bool {
        self.address != other.address || self.zone != other.zone || !self.services.is_same(&other.services)
    }

    /// Reads a record; `None` if it is too large, is no record, or has a text that is not plain. Unknown fields are ignored.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MOST_BYTES {
            return None;
        }
        let mut record: Self = serde_json::from_slice(bytes).ok()?;
        if let Some(url) = record.address {
            record.address = Some(address(&url).ok()?.to_string());
        }
        let sound = record.id.len() == ID_DIGITS
            && is_hex(&record.id)
            && record.zone.as_deref().is_none_or(|zone| is_plain(zone, MOST_NAME))
            && is_version(&record.version)
            && record.list.as_deref().is_none_or(|list| list.len() == LIST_DIGITS && is_hex(list))
            && record.services.is_sound();
        sound.then_some(record)
    }
}

/// Its fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz {
    use super::{HostRecord, MOST_BYTES};

    /// A record of another host: what is read has only plain text, and reads the same again.
    pub(crate) fn record(bytes: &[u8]) {
        let Some(record) = HostRecord::read(bytes) else { return };
        let written = record.clone().write();
        assert!(written.iter().all(|byte| (b' '..=b'~').contains(byte)), "{record:?}");
        // Fields that are missing are written, so that a longer one need not fit again.
        assert!(bytes.len() > MOST_BYTES / 2 || HostRecord::read(&written) == Some(record));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::served::MOST_SERVICES;

    fn full() -> HostRecord {
        HostRecord {
            id: "0123456789abcdef0123456789abcdef".into(),
            address: Some("https://10.0.0.3:8443/".into()),
            key: HostKey::read("fedcba9876543210fedcba9876543210"),
            zone: Some("eu-1a".into()),
            version: "1.0.0".into(),
            in_flight: 3,
            slots: 1000,
            services: [("users".into(), "0123456789ab".into()), ("users@1.4".into(), "ba9876543210".into())]
                .into_iter()
                .collect(),
            list: None,
            more: 0,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(HostRecord::read(&full().write()), Some(full()));
        let newer = String::from_utf8(full().write()).unwrap().replacen('{', r#"{"new":[{"a":[1]}],"#, 1);
        assert_eq!(HostRecord::read(newer.as_bytes()), Some(full()), "a field of a newer version");
    }

    /// No text of another host can forge a line or a cell, and none is longer than its bound.
    #[test]
    fn broken_and_hostile_records_are_ignored() {
        let read = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut value = serde_json::to_value(full()).unwrap();
            change(&mut value);
            HostRecord::read(value.to_string().as_bytes())
        };
        assert!(read(&|_| {}).is_some());
        let texts = ["", "a\nWARN forged", "\u{1b}[2J", "a\u{202e}b", "a b", &"9".repeat(400)];
        for field in ["id", "address", "key", "zone", "version", "list"] {
            for text in texts {
                assert_eq!(read(&|value| value[field] = text.into()), None, "{field} {text:?}");
            }
            assert_eq!(read(&|value| value[field] = 7.into()), None, "{field}");
        }
        for text in texts {
            assert_eq!(read(&|value| value["services"][text] = "00".into()), None, "{text:?}");
            assert_eq!(read(&|value| value["services"]["a"] = text.into()), None, "{text:?}");
        }
        for (field, number) in [("in_flight", -1), ("slots", -1), ("more", -1)] {
            assert_eq!(read(&|value| value[field] = number.into()), None, "{field}");
        }
        let many = |value: &mut serde_json::Value| {
            (0..=MOST_SERVICES).for_each(|n| value["services"][format!("s{n}")] = "00".into());
        };
        assert_eq!(read(&many), None);
        for bytes in [&b""[..], b"null", b"[]", b"\xff", &[b'['; 40_000], &[b' '; MOST_BYTES + 1]] {
            assert_eq!(HostRecord::read(bytes), None);
        }
    }

    /// A host with more services than fit is a member all the same, and says how many it leaves out.
    #[test]
    fn services_beyond_the_bounds_are_counted() {
        for (count, name) in [(MOST_SERVICES + 7, "s"), (1_500, &*"n".repeat(50))] {
            let all = (0..count).map(|n| (format!("{name}{n:05}"), "0123456789ab".into()));
            let written = HostRecord { services: all.collect(), ..full() }.write();
            let read = HostRecord::read(&written).unwrap();
            assert!(read.more > 0 && read.services.len() > 800, "{} {}", read.services.len(), read.more);
            assert_eq!(read.services.len() + read.more as usize, count);
        }
    }

    /// A long list is not in the record, which names it.
    #[test]
    fn long_lists_are_entries_of_their_own() {
        assert_eq!(full().without_list(), (full(), None));
        let services: ServedServices = (0..1_000).map(|n| (format!("s{n}"), "0123456789ab".into())).collect();
        let (record, list) = HostRecord { services: services.clone(), ..full() }.without_list();
        let list = list.unwrap();
        assert_eq!(ServedServices::read(&list.digest, &list.bytes), Some(services));
        let written = record.clone().write();
        assert!(
            written.len() < 400 && record.services.is_empty() && record.list == Some(list.digest),
            "{}",
            written.len()
        );
        assert_eq!(HostRecord::read(&written), Some(record));
    }
}
