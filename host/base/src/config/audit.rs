//! `[audit]`: the trail of what operators and senders did.

use std::path::PathBuf;

use super::key::{Key, count, size, word};

/// The trail of what operators and senders did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// The file that lines are appended to; `None` if there is no trail.
    pub file: Option<PathBuf>,
    /// The most bytes of a file, after which another one begins.
    pub size: usize,
    /// The files that are kept, the current one included.
    pub files: usize,
    /// Whether operators may change nothing while the trail cannot be written.
    pub required: bool,
}

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<Audit>] = &[
    Key {
        name: "file",
        default: "",
        help: "file that the audit trail is appended to, whose directory must exist; without it, there is none",
        set: |c, text| {
            c.file = (!text.is_empty()).then(|| text.into());
            Ok(())
        },
    },
    Key {
        name: "size",
        default: "64MiB",
        help: "size of an audit file, after which the next one begins",
        set: |c, text| size(text, 64 << 10..=1 << 40).map(|value| c.size = value),
    },
    Key {
        name: "files",
        default: "10",
        help: "audit files that are kept, the current one included; the oldest is removed",
        set: |c, text| count(text, 2..=10_000).map(|value| c.files = value),
    },
    Key {
        name: "required",
        default: "false",
        help: "`true` refuses changes by the admin API while the audit trail cannot be written",
        set: |c, text| word(text, &[("false", false), ("true", true)]).map(|value| c.required = value),
    },
];
