//! Where the value of a setting is from, and the name of its key there.

use std::fmt;

/// The source of a value. A later variant overrides an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The default.
    Default,
    /// A variable that OpenTelemetry defines.
    Otel,
    /// `lodge.toml`, or the file that `--config` names.
    File,
    /// A `LODGE_*` variable.
    Environment,
    /// A flag or the argument DIR.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::Otel => "OTEL_*",
            Self::File => "lodge.toml",
            Self::Environment => "environment",
            Self::Flag => "flag",
        })
    }
}

/// Returns the flag of a key: `listener-header-read` for `listener.header_read`.
pub fn flag_name(name: &str) -> String {
    name.replace(['.', '_'], "-")
}

/// Returns the variable of a key: `LODGE_LISTENER_HEADER_READ` for `listener.header_read`.
pub fn env_name(name: &str) -> String {
    format!("LODGE_{}", name.replace('.', "_").to_uppercase())
}

/// Names a key as its origin writes it.
pub(super) fn place(origin: Origin, name: &str) -> String {
    match origin {
        Origin::Default => format!("default of {name}"),
        Origin::Otel => format!("{name}, from a variable OTEL_*"),
        Origin::File => format!("lodge.toml: {name}"),
        Origin::Environment => env_name(name),
        Origin::Flag => format!("--{}", flag_name(name)),
    }
}
