//! The changes that a scan or a compilation brings, as the log shows them.

use std::fmt;
use std::time::Duration;

use lodge_manifest::digest::Digest;
use lodge_manifest::spec::GuestSpec;

/// A change that a scan or a compilation brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new service.
    Added(GuestSpec),
    /// Another component under the same name, or others in front of it; the digest is that of the old code.
    Replaced(GuestSpec, Digest),
    /// Another manifest for the same component.
    Reconfigured(GuestSpec),
    /// The same component and manifest under another name; the old name follows.
    Renamed(GuestSpec, String),
    /// The file is gone.
    Removed(String),
    /// The files are again those that are served, after a refusal.
    Recovered(GuestSpec),
    /// The file was written or touched without a change.
    Touched(String),
    /// The manifest of this service takes requests that the one before denies, or may deny, and waits for so long.
    Waiting(String, Duration),
}

impl Change {
    /// What is served from now on; `None` if that is nothing or has not changed.
    pub fn spec(&self) -> Option<&GuestSpec> {
        match self {
            Self::Added(spec)
            | Self::Replaced(spec, _)
            | Self::Reconfigured(spec)
            | Self::Renamed(spec, _)
            | Self::Recovered(spec) => Some(spec),
            Self::Removed(_) | Self::Touched(_) | Self::Waiting(..) => None,
        }
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        match self {
            Self::Added(spec)
            | Self::Replaced(spec, _)
            | Self::Reconfigured(spec)
            | Self::Renamed(spec, _)
            | Self::Recovered(spec) => &spec.name,
            Self::Removed(name) | Self::Touched(name) | Self::Waiting(name, _) => name,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |spec: &GuestSpec| {
            let routes: Vec<_> = spec.manifest.routes.iter().map(ToString::to_string).collect();
            match (routes.join(", "), spec.host()) {
                (routes, None) if routes.is_empty() => "no route".into(),
                (routes, None) => routes,
                (routes, Some(host)) if routes.is_empty() => host,
                (routes, Some(host)) => format!("{routes} and {host}"),
            }
        };
        match self {
            Self::Added(spec) => write!(f, "{} at {}", spec.name, at(spec)),
            Self::Replaced(spec, old) => {
                write!(f, "{} replaced, {} by {}", spec.name, old.short(), spec.code_digest().short())
            }
            Self::Reconfigured(spec) => write!(f, "{} has a new manifest, at {}", spec.name, at(spec)),
            Self::Renamed(spec, old) => write!(f, "{old} renamed to {}, at {}", spec.name, at(spec)),
            Self::Removed(name) => write!(f, "{name} removed"),
            Self::Recovered(spec) => write!(f, "{} restored: its files are again those that are served", spec.name),
            Self::Touched(name) => write!(f, "{name} was touched but is unchanged"),
            Self::Waiting(name, wait) => write!(
                f,
                "{name}.toml may take requests that the manifest before it denies: it is in force in {} s, with a component that has \
                 changed as well; a rename into place takes effect at once",
                wait.as_millis().div_ceil(1_000)
            ),
        }
    }
}
