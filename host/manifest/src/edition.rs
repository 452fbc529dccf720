//! The part of a cache key that separates versions.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::Manifest;
use crate::digest::Digest;
use crate::policies::Policies;
use lodge_base::config::limits::Limits;

/// A version with a certain manifest. Stored responses of different editions are never mixed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Edition {
    /// The name of the service or version.
    pub name: Arc<str>,
    number: u64,
}

impl Edition {
    /// Returns the edition of a component with this manifest. Two manifests give the same edition only if they differ
    /// in keys that no response depends on.
    pub fn of(name: &Arc<str>, digest: Digest, manifest: &Manifest) -> Self {
        let relevant = Manifest {
            enabled: true,
            digest: None,
            limits: Limits::blank(),
            cpu_weight: 0,
            ready: None,
            sticky: None,
            share: None,
            policies: Policies::default(),
            ..manifest.clone()
        };
        let mut hasher = DefaultHasher::new();
        // The Debug form contains every field, so a new key separates editions until it is listed above.
        format!("{digest} {relevant:?}").hash(&mut hasher);
        Self { name: Arc::clone(name), number: hasher.finish() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read;

    fn edition(text: &str) -> Edition {
        Edition::of(&Arc::from("users"), Digest::of(b"users"), &read(text).unwrap())
    }

    #[test]
    fn an_edition_is_what_responses_depend_on() {
        let plain = edition("cache = true");
        // A header in `sticky` changes which responses may be shared.
        assert_ne!(edition("cache = true\nsticky = 'header:x-user'"), plain);
        for same in ["cpu_weight = 7", "limits.wall = '1m'", "ready.path = '/x'", "sticky = 'client'"] {
            assert_eq!(edition(&format!("cache = true\n{same}")), plain, "{same}");
        }
        for other in ["cache = true\nenv.A = 'b'", "cache = true\nroutes = ['/other']", "cache.ttl = '1m'"] {
            assert_ne!(edition(other), plain, "{other}");
        }
        let digest = Edition::of(&Arc::from("users"), Digest::of(b"other"), &read("cache = true").unwrap());
        assert_ne!(digest, plain);
        assert_ne!(Edition { name: Arc::from("users@2"), ..plain.clone() }, plain);
    }
}
