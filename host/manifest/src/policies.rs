//! The policies of a service and of its routes, as settings, and the section `priority`.

use std::fmt;
use std::sync::Arc;

use http::header::HeaderName;
use serde_json::json;

use super::rate::By;
use crate::auth::Auth;
use crate::clients::Clients;
use crate::compress::CompressionRules;
use crate::cors::Cors;
use crate::headers::HeaderRules;
use crate::rules::RequestRule;
use crate::section::{Owner, Section};
use crate::validate::Validation;
use crate::{adaptive, breaker, cache, rate};
use lodge_base::config::errors::PageFiles;
use lodge_base::config::key::word;

const PRIORITIES: [(&str, Priority); 3] =
    [("low", Priority::Low), ("normal", Priority::Normal), ("high", Priority::High)];

/// `priority`.
pub(crate) const PRIORITY: Section = Section {
    name: "priority",
    page: "policies",
    schema: || {
        json!({
            "enum": PRIORITIES.map(|(word, _)| word),
            "default": "normal",
            "description": "the importance of its requests when the host is full",
        })
    },
    owner: Owner::Route(|settings, written, problems| {
        let read = written.plain().and_then(|text| word(&text, &PRIORITIES).map_err(|wrong| written.error(wrong)));
        settings.policies.priority = problems.take(read);
    }),
    ..Section::DEFAULT
};

/// `audit`.
pub(crate) const AUDIT: Section = Section {
    name: "audit",
    page: "audit",
    schema: || {
        json!({
            "type": "boolean",
            "default": false,
            "description": "whether the audit trail of the host has its requests",
        })
    },
    owner: Owner::Route(|settings, written, problems| settings.policies.audit = problems.take(written.boolean())),
    ..Section::DEFAULT
};

/// What a service sets for all of its routes, or a route for itself.
#[derive(Default)]
pub(crate) struct RouteSettings {
    /// The policies.
    pub(crate) policies: PolicySettings,
    /// The cache rules, if written.
    pub(crate) cache: Option<cache::Rules>,
    /// The pages of other origins that may use it, if written.
    pub(crate) cors: Option<Arc<Cors>>,
    /// The changes to heads, if written.
    pub(crate) headers: Option<Arc<HeaderRules>>,
    /// Which responses are compressed, if written.
    pub(crate) compress: Option<Arc<CompressionRules>>,
    /// The pages for errors, if written.
    pub(crate) errors: Option<Arc<PageFiles>>,
}

/// The policies of a service and of its routes. A comparable value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// Policies for every request of the service.
    pub service: PolicySettings,
    /// An adaptive concurrency limit, within `limits.in_flight`.
    pub adaptive: Option<adaptive::Settings>,
    /// Additional policies for requests of a route, with the text of the route, in the order of the manifest.
    pub routes: Vec<(String, PolicySettings)>,
}

/// The policies of one service or one route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySettings {
    /// Allowed client addresses.
    pub clients: Clients,
    /// Whose requests are taken; those of everybody if `None`, and on a route those that its service takes.
    pub auth: Option<Auth>,
    /// The conditions on its requests, in order. Those of a route come before those of its service.
    pub rules: Vec<RequestRule>,
    /// What requests have to be. What a route says replaces what its service says.
    pub validation: Option<Validation>,
    /// The rate limit.
    pub rate: Option<rate::Settings>,
    /// The circuit breaker.
    pub breaker: Option<breaker::Settings>,
    /// The priority of requests. That of a route overrides that of its service.
    pub priority: Option<Priority>,
    /// Whether the audit trail has its requests. That of a route overrides that of its service.
    pub audit: Option<bool>,
}

impl Policies {
    /// Whether any route has policies. If so, no host may give access to the service around its routes.
    pub fn has_routes(&self) -> bool {
        self.routes.iter().any(|(_, policies)| *policies != PolicySettings::default())
    }

    /// Headers that are keys of rate limits.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        let all = self.routes.iter().map(|(_, policies)| policies).chain([&self.service]);
        all.filter_map(|policies| if let By::Header(name) = &policies.rate.as_ref()?.by { Some(name) } else { None })
    }

    /// Returns the routes whose rate limits are for all hosts of a cluster; an empty text stands for the service.
    pub fn cluster_rates(&self) -> impl Iterator<Item = &str> {
        let all = self.routes.iter().map(|(route, policies)| (route.as_str(), policies)).chain([("", &self.service)]);
        all.filter(|(_, policies)| policies.rate.as_ref().is_some_and(|rate| rate.scope == rate::Scope::Cluster))
            .map(|(route, _)| route)
    }

    /// Whether the audit trail has the requests of the route with this number, or of the service's own host.
    pub fn audits(&self, route: usize) -> bool {
        let own = self.routes.get(route).and_then(|(_, policies)| policies.audit);
        own.or(self.service.audit).unwrap_or_default()
    }

    /// Whether the audit trail has any requests of the service.
    pub fn audits_any(&self) -> bool {
        let mut all = self.routes.iter().map(|(_, policies)| policies).chain([&self.service]);
        all.any(|policies| policies.audit == Some(true))
    }

    /// Whether the service or any of its routes has high priority.
    pub fn is_high(&self) -> bool {
        let mut all = self.routes.iter().map(|(_, policies)| policies).chain([&self.service]);
        all.any(|policies| policies.priority == Some(Priority::High))
    }
}

/// The priority of a request in load shedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Refused first when the host is overloaded.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Never refused in favor of other requests.
    High,
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = PRIORITIES.iter().find(|(_, priority)| priority == self);
        f.write_str(named.map_or("", |(word, _)| word))
    }
}

#[cfg(test)]
mod tests;
