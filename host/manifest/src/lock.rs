//! `[lock]`: the locks of a service.

use std::time::Duration;

use serde_json::json;

use crate::schema;
use crate::section::{Capability, Owner, Section, Subject, View, words};
use lodge_base::config::key::{Key, count, duration};

/// The longest lease that can be allowed. Longer work renews.
const LONGEST_LEASE: Duration = Duration::from_secs(60 * 60);

/// The most locks of a request that can be allowed.
const MOST_HELD: usize = 1000;

/// The keys.
const KEYS: &[Key<LockGrant>] = &[
    Key {
        name: "lease",
        default: "1m",
        help: "the longest lease that a guest may ask for, up to 1h",
        set: |grant, text| duration(text, Duration::from_millis(1)..=LONGEST_LEASE).map(|lease| grant.lease = lease),
    },
    Key {
        name: "held",
        default: "16",
        help: "the most locks that a request may hold or wait for at a time",
        set: |grant, text| count(text, 1..=MOST_HELD).map(|held| grant.held = held),
    },
];

/// `[lock]`.
pub(crate) const SECTION: Section = Section {
    name: "lock",
    page: "locks",
    schema: || json!({ "anyOf": [{ "const": true }, schema::settings(KEYS, &BLANK, &[])] }),
    owner: Owner::Service(|manifest, written, problems| manifest.lock = written.grant(KEYS, BLANK, problems)),
    subject: Subject::Execution,
    view: Some(View {
        label: "locks",
        value: |manifest| {
            let grant = manifest.lock.as_ref()?;
            Some(json!({ "lease": humantime::format_duration(grant.lease).to_string(), "held": grant.held }))
        },
        text: words,
    }),
    capability: Some(&Capability {
        what: "locks",
        interfaces: &["lodge:lock/"],
        given: "denied unless its manifest has [lock]",
        grant: Some("[lock]\n# lease = \"1m\"  # the longest that a guest may ask for\n"),
    }),
};

/// What a service may lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockGrant {
    /// The longest lease.
    pub lease: Duration,
    /// The most locks that a request may hold or wait for at a time.
    pub held: usize,
}

/// A value for [`KEYS`] to fill in. It is never used as it is.
const BLANK: LockGrant = LockGrant { lease: Duration::ZERO, held: 0 };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read as manifest;

    #[test]
    fn forms() {
        let grant = |text: &str| manifest(text).map(|manifest| manifest.lock);
        let usual = LockGrant { lease: Duration::from_secs(60), held: 16 };
        assert_eq!(grant(""), Ok(None));
        assert_eq!(grant("lock = true"), Ok(Some(usual)));
        assert_eq!(grant("lock = false"), Ok(None));
        assert_eq!(grant("[lock]"), Ok(Some(usual)));
        let some = LockGrant { lease: Duration::from_millis(250), held: 2 };
        assert_eq!(grant("[lock]\nlease = '250ms'\nheld = 2"), Ok(Some(some)));
    }

    #[test]
    fn problems_name_the_key() {
        let problem = |text: &str| manifest(text).unwrap_err();
        assert_eq!(problem("lock = 1"), "line 1: lock: write a section [lock], or true");
        assert!(problem("[lock]\nlease = '2h'").contains("lock.lease: must be between"));
        assert!(problem("[lock]\nheld = 0").contains("lock.held: must be between 1 and 1000"));
        assert_eq!(problem("[lock]\nleas = '1s'"), "line 2: unknown key `lock.leas`; did you mean `lock.lease`?");
    }
}
