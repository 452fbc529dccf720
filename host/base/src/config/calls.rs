//! `[calls]`: calls between services.

use super::key::Key;

/// Calls between services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// The parent domain of services in calls, in lower case and without leading or trailing dots.
    pub suffix: String,
}

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<Calls>] = &[Key {
    name: "suffix",
    default: "internal",
    help: "the domain of services for each other: `http://users.internal/` is the service users",
    set: |c, text| {
        let text = text.trim_matches('.').to_ascii_lowercase();
        let sound = text
            .split('.')
            .all(|label| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
        let problem = || format!("`{text}` is not a domain; write it like internal or svc.cluster.local");
        if !sound {
            return Err(problem());
        }
        c.suffix = text;
        Ok(())
    },
}];
