//! What a look or a compilation has changed, in the words of the log.

use std::fmt;

use lodge_manifest::digest::Digest;
use lodge_manifest::spec::GuestSpec;

/// What a look or a compilation has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A service that was not there.
    Added(GuestSpec),
    /// Another component under the same name; the digest is the old one's.
    Replaced(GuestSpec, Digest),
    /// Another manifest for the same component.
    Reconfigured(GuestSpec),
    /// The same component and manifest under another name; the old one is named.
    Renamed(GuestSpec, String),
    /// No file any more.
    Removed(String),
    /// What was refused is again what is served.
    Recovered(GuestSpec),
    /// The file was written or touched, and is what it was.
    Touched(String),
}

impl Change {
    /// What serves from now on; `None` when nothing does, or what did.
    pub fn spec(&self) -> Option<&GuestSpec> {
        match self {
            Self::Added(spec)
            | Self::Replaced(spec, _)
            | Self::Reconfigured(spec)
            | Self::Renamed(spec, _)
            | Self::Recovered(spec) => Some(spec),
            Self::Removed(_) | Self::Touched(_) => None,
        }
    }

    /// Of which service.
    pub fn service(&self) -> &str {
        match self {
            Self::Added(spec)
            | Self::Replaced(spec, _)
            | Self::Reconfigured(spec)
            | Self::Renamed(spec, _)
            | Self::Recovered(spec) => &spec.name,
            Self::Removed(name) | Self::Touched(name) => name,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |spec: &GuestSpec| {
            let routes: Vec<_> = spec.manifest.routes.iter().map(ToString::to_string).collect();
            match (routes.join(", "), spec.host()) {
                (routes, None) if routes.is_empty() => "no path of its own".into(),
                (routes, None) => routes,
                (routes, Some(host)) if routes.is_empty() => host,
                (routes, Some(host)) => format!("{routes} and {host}"),
            }
        };
        match self {
            Self::Added(spec) => write!(f, "{} at {}", spec.name, at(spec)),
            Self::Replaced(spec, old) => {
                write!(f, "{} replaced, {} by {}", spec.name, old.short(), spec.digest.short())
            }
            Self::Reconfigured(spec) => write!(f, "{} has another manifest, at {}", spec.name, at(spec)),
            Self::Renamed(spec, old) => write!(f, "{old} renamed to {}, at {}", spec.name, at(spec)),
            Self::Removed(name) => write!(f, "{name} removed"),
            Self::Recovered(spec) => write!(f, "{} is again what is served", spec.name),
            Self::Touched(name) => write!(f, "{name} was touched, and is unchanged"),
        }
    }
}
