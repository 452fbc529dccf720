//! Which requests a manifest denies, and whether another manifest takes some of them.

use crate::Manifest;
use crate::auth::Auth;
use crate::clients::Clients;
use crate::digest::Digest;
use crate::headers::{HeaderChanges, HeaderRules};
use crate::policies::{Policies, PolicySettings};
use crate::rate;
use crate::redirects::Redirect;
use crate::route::Route;
use crate::rules::RequestRule;
use crate::upstream::tls::TlsSpec;
use crate::validate::Validation;

/// The parts of a manifest that deny requests. Its patterns name every field of a manifest and of what is in it, so that a new one is
/// put here or among those that deny nothing.
struct Guards<'a> {
    enabled: bool,
    digest: Option<Digest>,
    middleware: &'a [String],
    /// Paths that the service does not get.
    redirects: &'a [Redirect],
    /// Which replicas get requests: those with these certificates.
    tls: Option<&'a TlsSpec>,
    /// Without routes, a version has those of its service.
    is_version: bool,
    routes: Vec<RouteGuards<'a>>,
    /// The changes to the heads of requests that come by the name of the service.
    headers: Option<&'a HeaderChanges>,
    service: PolicyGuards<'a>,
    /// Those of each route, with its host, path and methods. Also those of the service of a version.
    by_route: Vec<(&'a str, PolicyGuards<'a>)>,
    has_routes: bool,
}

/// Whose requests a route takes, by what its manifest says: the fewest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Openness {
    /// Nobody's: the service is disabled, or a part of its manifest that cannot be read may deny anything.
    Nobody,
    /// Those of some clients, by `auth`, `allow`, `rules` or a component in front of the service.
    Clients,
    /// Some of everybody's, such as those within a rate.
    Requests,
    /// Everybody's.
    Everybody,
}

/// How a route narrows what the service gets.
#[derive(PartialEq)]
struct RouteGuards<'a> {
    is_narrow: bool,
    strip_prefix: bool,
    rewrite: Option<&'a str>,
    headers: Option<&'a HeaderChanges>,
}

struct PolicyGuards<'a> {
    clients: &'a Clients,
    auth: Option<&'a Auth>,
    rules: &'a [RequestRule],
    validation: Option<&'a Validation>,
    rate: Option<&'a rate::Settings>,
}

impl Manifest {
    /// Whether it denies requests that the manifest of a service need not deny: it is disabled, or has policies, no routes, the digest of
    /// its component, changes to the heads of requests, or routes with hosts, methods or other paths for the service. One that is known in
    /// part may deny anything.
    pub fn denies(&self) -> bool {
        let Guards {
            enabled,
            digest,
            middleware,
            redirects,
            tls,
            is_version,
            routes,
            headers,
            service,
            by_route,
            has_routes: _,
        } = self.guards();
        self.partial
            || !enabled
            || digest.is_some()
            || !middleware.is_empty()
            || !redirects.is_empty()
            || tls.is_some()
            || (routes.is_empty() && !is_version)
            || routes.iter().any(RouteGuards::denies)
            || headers.is_some()
            || service.denies()
            || by_route.iter().any(|(_, policies)| policies.denies())
    }

    /// Returns whose requests it takes on its route with this number or, if there is no number, at the host that the service has by its
    /// name.
    pub fn openness(&self, route: Option<usize>) -> Openness {
        let Guards {
            enabled,
            digest,
            middleware,
            redirects,
            tls,
            is_version: _,
            routes,
            headers,
            service,
            by_route,
            has_routes: _,
        } = self.guards();
        let own = route.and_then(|number| by_route.get(number)).map(|(_, own)| own);
        let all = || own.into_iter().chain([&service]);
        // What a route does not say of these is that of its service.
        let auth = own.and_then(|own| own.auth).or(service.auth);
        let validation = own.and_then(|own| own.validation).or(service.validation);
        let narrow = route.and_then(|number| routes.get(number)).is_some_and(RouteGuards::denies);
        let by_client = |policies: &PolicyGuards<'_>| !policies.clients.allow.is_empty() || !policies.rules.is_empty();
        let by_request = |policies: &PolicyGuards<'_>| !policies.clients.deny.is_empty() || policies.rate.is_some();
        if self.partial || !enabled {
            Openness::Nobody
        } else if !matches!(auth, None | Some(Auth::Anyone)) || !middleware.is_empty() || all().any(by_client) {
            Openness::Clients
        } else if !matches!(validation, None | Some(Validation::Off))
            || (digest.is_some() || !redirects.is_empty() || tls.is_some() || headers.is_some() || narrow)
            || all().any(by_request)
        {
            Openness::Requests
        } else {
            Openness::Everybody
        }
    }

    /// Whether it may take requests that `before` denied. What it says must be that of `before` or more: values are not weighed
    /// against each other, and of a route that was not there before it is not known what another service did with its requests.
    pub fn opens(&self, before: &Self) -> bool {
        if self.partial || before.partial {
            return before.denies();
        }
        let (own, former) = (self.guards(), before.guards());
        let Guards {
            enabled,
            digest,
            middleware,
            redirects,
            tls,
            is_version: _,
            routes,
            headers,
            service,
            by_route,
            has_routes,
        } = &own;
        // The text of a route has its host, path and methods.
        let kept = |((text, own), (route, before)): (&(&str, PolicyGuards<'_>), &(&str, PolicyGuards<'_>))| {
            text == route && own.keep(before, (service, &former.service))
        };
        let by_route = by_route.len() == former.by_route.len() && by_route.iter().zip(&former.by_route).all(kept);
        let routes = routes.len() == former.routes.len()
            && routes.iter().zip(&former.routes).all(|(route, before)| route.keep(before));
        let none = PolicySettings::default();
        let service = service.keep(&former.service, (&none.guards(), &none.guards()))
            // Without policies of routes every path is at a host of the service, too.
            && (*has_routes || !former.has_routes);
        let headers = keep_headers(*headers, former.headers);
        // A component in front of the service may deny as well.
        let component = (former.digest.is_none() || digest.is_some())
            && (former.middleware.is_empty() || *middleware == former.middleware)
            && redirects.starts_with(former.redirects)
            && (former.tls.is_none() || *tls == former.tls);
        before.denies() && !(by_route && routes && service && headers && component && (former.enabled || !enabled))
    }

    /// Whether it takes the place of `before` as what denies requests, while neither is served. `is_sure` is whether its text is complete.
    /// One with mistakes ends nothing that is known.
    pub fn follows(&self, before: &Self, is_sure: bool) -> bool {
        if self.partial { before.partial || !before.denies() } else { is_sure || !self.opens(before) }
    }

    fn guards(&self) -> Guards<'_> {
        let Self {
            enabled,
            digest,
            middleware,
            redirects,
            upstream,
            routes,
            headers,
            share,
            policies,
            // Looked at before.
            partial: _,
            // What the service is, and what it may use: the first part of that is less.
            component: _,
            files: _,
            env: _,
            config: _,
            grants: _,
            keyvalue: _,
            lock: _,
            sqlite: _,
            postgres: _,
            blobstore: _,
            volumes: _,
            publish: _,
            // What the host sends to it, which needs nobody's leave.
            ready: _,
            consume: _,
            schedules: _,
            // How requests are served that it takes: bounds, versions, responses, and what browsers ask for.
            limits: _,
            isolation: _,
            cpu_weight: _,
            sticky: _,
            personal: _,
            cache: _,
            compress: _,
            cors: _,
            errors: _,
            pages: _,
        } = self;
        let Policies { service, routes: by_route, adaptive: _ } = policies;
        Guards {
            enabled: *enabled,
            digest: *digest,
            middleware,
            redirects,
            tls: upstream
                .as_ref()
                .map(|upstream| &upstream.tls)
                .filter(|tls| tls.ca.is_some() || !tls.names.is_empty()),
            is_version: share.is_some(),
            routes: routes.iter().map(RouteGuards::of).collect(),
            headers: request_changes(headers.as_deref()),
            service: service.guards(),
            by_route: by_route.iter().map(|(route, policies)| (&**route, policies.guards())).collect(),
            has_routes: policies.has_routes(),
        }
    }
}

impl<'a> RouteGuards<'a> {
    fn of(route: &'a Route) -> Self {
        let Route {
            host,
            methods,
            strip_prefix,
            rewrite,
            headers,
            path: _,
            cache: _,
            cors: _,
            compress: _,
            errors: _,
            guarded: _,
            named: _,
        } = route;
        Self {
            is_narrow: host.is_some() || !methods.is_empty(),
            strip_prefix: *strip_prefix,
            rewrite: rewrite.as_deref(),
            headers: request_changes(headers.as_deref()),
        }
    }

    fn denies(&self) -> bool {
        let Self { is_narrow, strip_prefix, rewrite, headers } = self;
        *is_narrow || *strip_prefix || rewrite.is_some() || headers.is_some()
    }

    /// Whether the service gets no other paths and headers than with `before`, whose host, path and methods are the same.
    fn keep(&self, before: &Self) -> bool {
        let Self { is_narrow: _, strip_prefix, rewrite, headers } = before;
        self.strip_prefix == *strip_prefix && self.rewrite == *rewrite && keep_headers(self.headers, *headers)
    }
}

fn request_changes(rules: Option<&HeaderRules>) -> Option<&HeaderChanges> {
    rules.map(|rules| &rules.request).filter(|changes| **changes != HeaderChanges::default())
}

/// Whether requests lose and get all headers that they lost and got by `before`.
fn keep_headers(changes: Option<&HeaderChanges>, before: Option<&HeaderChanges>) -> bool {
    let Some(HeaderChanges { remove, set, add }) = before else { return true };
    changes.is_some_and(|changes| {
        remove.iter().all(|name| changes.remove.contains(name))
            && set.iter().all(|header| changes.set.contains(header))
            && add.iter().all(|header| changes.add.contains(header))
    })
}

impl PolicySettings {
    fn guards(&self) -> PolicyGuards<'_> {
        // The last three are no denials: a failing service, a full host, and a record of what was taken.
        let Self { clients, auth, rules, validation, rate, breaker: _, priority: _, audit: _ } = self;
        let (auth, validation, rate) = (auth.as_ref(), validation.as_ref(), rate.as_ref());
        PolicyGuards { clients, auth, rules, validation, rate }
    }
}

impl PolicyGuards<'_> {
    fn denies(&self) -> bool {
        let Self { clients, auth, rules, validation, rate } = self;
        !clients.admits_all()
            || !matches!(auth, None | Some(Auth::Anyone))
            || !rules.is_empty()
            || !matches!(validation, None | Some(Validation::Off))
            || rate.is_some()
    }

    /// Whether these policies deny what `before` denied. What routes do not say of credentials and validation is that of their service,
    /// now and before.
    fn keep(&self, before: &Self, (service, former): (&Self, &Self)) -> bool {
        let Self { clients: Clients { allow, deny }, auth: _, rules, validation: _, rate } = before;
        let auth_of = |own: &Self, of: &Self| own.auth.or(of.auth).filter(|auth| **auth != Auth::Anyone).cloned();
        let bodies_of = |own: &Self, of: &Self| {
            own.validation.or(of.validation).filter(|bodies| **bodies != Validation::Off).cloned()
        };
        let (auth, bodies) = (auth_of(before, former), bodies_of(before, former));
        (allow.is_empty() || self.clients.allow == *allow)
            && deny.iter().all(|net| self.clients.deny.contains(net))
            && self.rules.starts_with(rules)
            && (rate.is_none() || self.rate == *rate)
            && (auth.is_none() || auth_of(self, service) == auth)
            && (bodies.is_none() || bodies_of(self, service) == bodies)
    }
}

#[cfg(test)]
mod tests;
