//! What a manifest says of who may ask, and how often: settings only, a comparable value.

pub mod read;

use std::fmt;

use http::header::HeaderName;

use super::rate::By;
use crate::manifest::clients::Clients;
use crate::manifest::{adaptive, breaker, rate};

/// The policies of a service, and those of its routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// For every request of the service.
    pub service: PolicySettings,
    /// How many requests at once it can take is found out, within `limits.in_flight`.
    pub adaptive: Option<adaptive::Settings>,
    /// For those that come by one of its routes, besides: each with the route as it is written, in the order of the manifest.
    pub routes: Vec<(String, PolicySettings)>,
}

/// PolicySettings of a service or of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySettings {
    /// Which addresses may ask.
    pub clients: Clients,
    /// How often.
    pub rate: Option<rate::Settings>,
    /// Whether it is asked although it fails.
    pub breaker: Option<breaker::Settings>,
    /// How much its requests matter; a route's word comes before its service's.
    pub priority: Option<Priority>,
}

impl Policies {
    /// Whether a route says anything. Then the service must not be reached around its routes.
    pub fn has_routes(&self) -> bool {
        self.routes.iter().any(|(_, policies)| *policies != PolicySettings::default())
    }

    /// Headers whose values have rates of their own.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        let all = self.routes.iter().map(|(_, policies)| policies).chain([&self.service]);
        all.filter_map(|policies| if let By::Header(name) = &policies.rate.as_ref()?.by { Some(name) } else { None })
    }

    /// Whether any of its requests has a high priority.
    pub fn is_high(&self) -> bool {
        let mut all = self.routes.iter().map(|(_, policies)| policies).chain([&self.service]);
        all.any(|policies| policies.priority == Some(Priority::High))
    }
}

/// How much a request matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// It can be asked again later.
    Low,
    /// As most do.
    #[default]
    Normal,
    /// It is never turned away for the sake of another.
    High,
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        })
    }
}
