//! Reads the manifest of a service, `<name>.toml` beside `<name>.wasm`: its routes, isolation, limits, grants and
//! policies.
//!
//! Pure: text and defaults in, a [`Manifest`] or all problems out. A service without a manifest is read as if the file
//! were empty. A version (`<name>@<label>.toml`) inherits the manifest of its service and may override parts of it.

pub mod adaptive;
pub mod auth;
pub mod blobstore;
pub mod breaker;
pub mod build;
pub mod cache;
pub mod clients;
pub mod compare;
pub mod component;
pub mod compress;
pub mod config;
mod conflicts;
pub mod consume;
pub mod cors;
mod diagnostics;
pub mod digest;
pub mod edition;
pub mod env;
mod errors;
pub mod expression;
pub mod files;
pub mod front;
pub mod grants;
pub mod guards;
pub mod headers;
pub mod key;
pub mod keyvalue;
pub mod limits;
pub mod lock;
mod middleware;
mod name;
pub mod percent;
pub mod policies;
pub mod postgres;
pub mod rate;
pub mod redirects;
pub mod reference;
pub mod refusal;
pub mod route;
mod routes;
pub mod rules;
mod sandbox;
pub mod schedule;
pub mod schema;
pub mod section;
pub mod share;
pub mod spec;
pub mod sqlite;
mod target;
pub mod upstream;
pub mod validate;
pub mod volumes;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use http::header::HeaderName;
use toml::de::DeTable;

use self::blobstore::BlobGrant;
use self::cache::Rules;
use self::component::ComponentSource;
use self::compress::CompressionRules;
use self::config::{ConfigGrant, ConfigKey};
use self::consume::Consume;
use self::cors::Cors;
pub use self::diagnostics::{line_of, page, position};
use self::files::FilesSpec;
use self::grants::Grants;
use self::headers::HeaderRules;
use self::keyvalue::KeyValueGrant;
use self::lock::LockGrant;
use self::postgres::PostgresGrant;
use self::redirects::Redirect;
pub use self::routes::MOST_ROUTES;
use self::schedule::Schedule;
use self::section::Owner;
pub use self::section::misplaced;
use self::share::TrafficShare;
use self::sqlite::SqliteGrant;
use self::volumes::Volume;
use self::written::{Problems, Written};
use crate::digest::Digest;
use crate::key::RequestKey;
use crate::policies::{Policies, PolicySettings, RouteSettings};
use crate::route::{Pattern, Route};
use crate::upstream::Spec;
use lodge_base::config::errors::PageFiles;
use lodge_base::config::limits::Limits;
use lodge_base::cpu::scheduler::WEIGHT;
use lodge_base::ids::hash_of;

/// The range of `cpu.weight` in Linux cgroups.
const CPU_WEIGHTS: RangeInclusive<u32> = 1..=10_000;

/// A manifest with the defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Whether the service is served.
    pub enabled: bool,
    /// Where the component is, unless it is the file in the same directory that is named after the service.
    pub component: Option<ComponentSource>,
    /// The digest that the component must have.
    pub digest: Option<Digest>,
    /// The files of the components in front of it, the outermost first; relative to the directory of the manifest.
    pub middleware: Vec<String>,
    /// The routes of the service.
    pub routes: Vec<Route>,
    /// The cache rules of routes without their own; `None` if no route of the service is cached.
    pub cache: Option<Rules>,
    /// The pages of other origins that may use routes without their own rules.
    pub cors: Option<Arc<Cors>>,
    /// The changes to heads of routes without their own.
    pub headers: Option<Arc<HeaderRules>>,
    /// Which responses of routes without their own rules are compressed.
    pub compress: Option<Arc<CompressionRules>>,
    /// The pages for errors of routes without their own; those of the host if it is `None`, and none at all if it is empty.
    pub errors: Option<Arc<PageFiles>>,
    /// The files of all pages of the service and its routes, also in the manifest of a version, which has no routes; relative to the
    /// directory of the manifest.
    pub pages: BTreeSet<PathBuf>,
    /// The paths whose content is elsewhere now.
    pub redirects: Vec<Redirect>,
    /// Which requests share a sandbox.
    pub isolation: Isolation,
    /// The limits of the service.
    pub limits: Limits,
    /// Its weight among services whose guests compute for long: 1 to 10,000, 100 by default.
    pub cpu_weight: u32,
    /// The environment variables of its guests.
    pub env: BTreeMap<String, ConfigKey>,
    /// A path that must respond with 2xx before a new version is served.
    pub ready: Option<String>,
    /// The key by which a client stays with a version. Without one, the version is drawn for each request.
    pub sticky: Option<RequestKey>,
    /// The share of its service's traffic that a version gets; `None` for the service itself.
    pub share: Option<TrafficShare>,
    /// The destinations that it may send requests to.
    pub grants: Grants,
    /// The configuration of its guests.
    pub config: ConfigGrant,
    /// The store of the service, if it may have one.
    pub keyvalue: Option<KeyValueGrant>,
    /// The locks of the service, if it may have any.
    pub lock: Option<LockGrant>,
    /// The databases of the service, if it may have any.
    pub sqlite: Option<SqliteGrant>,
    /// The databases on PostgreSQL servers of the service, if it may have any.
    pub postgres: Option<PostgresGrant>,
    /// The objects of the service, if it may have any.
    pub blobstore: Option<BlobGrant>,
    /// The directories of the host that its guests see, by the paths at which they do.
    pub volumes: BTreeMap<String, Volume>,
    /// The subjects that its guests may publish to, with wildcards.
    pub publish: Vec<String>,
    /// The messages that it receives, if it does.
    pub consume: Option<Consume>,
    /// When it is called by the host, each with another path.
    pub schedules: Vec<Schedule>,
    /// The upstream, if replicas handle its requests instead of a component.
    pub upstream: Option<Arc<Spec>>,
    /// The directory, if the service consists of static files.
    pub files: Option<Arc<FilesSpec>>,
    /// The policies of the service and of its routes.
    pub policies: Policies,
    /// Headers that distinguish clients for rates, versions or replicas. A request with one of them is not served from
    /// the shared response cache.
    pub personal: Vec<HeaderName>,
    /// It is what could be read of a text with mistakes, which is never served: what else that denies is not known.
    pub partial: bool,
}

/// Which requests share a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// None: every request gets a new sandbox.
    #[default]
    Request,
    /// Requests of this service, one after another. For guests that keep no secrets of clients in memory.
    Service,
}

impl Manifest {
    /// Reads the manifest of the service `name`. `defaults` and `max_memory` come from the configuration.
    ///
    /// # Errors
    /// Every problem, with its line where known.
    pub fn read(name: &str, text: &str, defaults: &Limits, max_memory: usize) -> Result<Self, Vec<String>> {
        Self::empty(name, defaults).with(text, max_memory)
    }

    /// Reads what can be read of a text with mistakes. Its routes are those of its service, whatever is wrong with the rest.
    #[must_use]
    pub fn read_partly(name: &str, text: &str, defaults: &Limits, max_memory: usize) -> Self {
        let (document, _) = DeTable::parse_recoverable(text);
        let (manifest, _) = Self::empty(name, defaults).with_document(text, document.get_ref(), max_memory);
        Self { partial: true, ..manifest }
    }

    /// The manifest of the service `name` without a text.
    fn empty(name: &str, defaults: &Limits) -> Self {
        let routes: Vec<_> = Pattern::read(&format!("/{name}")).map(Route::of).into_iter().collect();
        let named = routes.iter().map(|route| (route.to_string(), PolicySettings::default()));
        Self {
            enabled: true,
            component: None,
            digest: None,
            middleware: Vec::new(),
            policies: Policies { routes: named.collect(), ..Policies::default() },
            routes,
            cache: None,
            cors: None,
            headers: None,
            compress: None,
            errors: None,
            pages: BTreeSet::new(),
            redirects: Vec::new(),
            isolation: Isolation::default(),
            limits: defaults.clone(),
            cpu_weight: WEIGHT,
            env: BTreeMap::new(),
            ready: None,
            sticky: None,
            share: None,
            grants: Grants::default(),
            config: ConfigGrant::default(),
            keyvalue: None,
            lock: None,
            sqlite: None,
            postgres: None,
            blobstore: None,
            volumes: BTreeMap::new(),
            publish: Vec::new(),
            consume: None,
            schedules: Vec::new(),
            upstream: None,
            files: None,
            personal: Vec::new(),
            partial: false,
        }
    }

    /// Reads the manifest of a version of the service with this manifest.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn version(&self, text: &str, max_memory: usize) -> Result<Self, Vec<String>> {
        let (routes, share) = (Vec::new(), Some(TrafficShare::default()));
        let own = Self { enabled: true, component: None, digest: None, routes, sticky: None, share, ..self.clone() };
        Self { upstream: None, files: None, ..own }.with(text, max_memory)
    }

    /// Returns the route of the service's host, which has what routes without sections of their own have.
    pub(crate) fn host_route(&self, host: String) -> Route {
        let Route { host, path, methods, strip_prefix, rewrite, guarded, named, .. } = Route::host(host);
        let (cache, cors, headers) = (self.cache, self.cors.clone(), self.headers.clone());
        let (compress, errors) = (self.compress.clone(), self.errors.clone());
        // Every field is named, so that none of a new section is forgotten.
        Route { host, path, methods, strip_prefix, rewrite, cache, cors, headers, compress, errors, guarded, named }
    }

    /// Whether a component handles the requests: neither replicas nor files do.
    pub fn has_component(&self) -> bool {
        self.upstream.is_none() && self.files.is_none()
    }

    /// Returns this manifest with the values of `text` in place of its own.
    fn with(self, text: &str, max_memory: usize) -> Result<Self, Vec<String>> {
        let document = DeTable::parse(text).map_err(|error| vec![diagnostics::explain(text, &error)])?;
        let (manifest, problems) = self.with_document(text, document.get_ref(), max_memory);
        if problems.is_empty() { Ok(manifest) } else { Err(problems) }
    }

    /// Returns this manifest with the values of a document that can be read, and the problems of the others.
    fn with_document(mut self, text: &str, document: &DeTable<'_>, max_memory: usize) -> (Self, Vec<String>) {
        let keys = Written::keys(text, document, "");
        let (mut of_routes, mut problems) = (RouteSettings::default(), Problems::default());
        let is_version = self.share.is_some();
        for key in &keys {
            match (section::find(&key.name).map(|section| section.owner), is_version) {
                (None, _) => problems.push(section::unknown(key)),
                (Some(Owner::All(read)), _)
                | (Some(Owner::Service(read)), false)
                | (Some(Owner::Version(read)), true) => read(&mut self, key, &mut problems),
                (Some(Owner::Route(read)), false) => read(&mut of_routes, key, &mut problems),
                (Some(Owner::Service(_) | Owner::Route(_)), true) => {
                    problems.push(key.error("a version cannot set this; write it in the service's manifest"));
                }
                (Some(Owner::Version(_)), false) => {
                    problems.push(key.error("only a version can set this; write it in a file such as `NAME@2.toml`"));
                }
            }
        }
        if let Some(share) = &mut self.share {
            share.text = hash_of(text.as_bytes());
        } else {
            self.policies.service = of_routes.policies;
            self.cache = routes::spread(of_routes.cache, &mut self.routes);
            cors::spread(of_routes.cors, &mut self);
            headers::spread(of_routes.headers, &mut self);
            compress::spread(of_routes.compress, &mut self);
            errors::spread(of_routes.errors, &mut self, &mut problems);
            auth::settle(&mut self, &mut problems);
            rules::settle(&mut self);
            validate::settle(&mut self);
            routes::find_bypasses(&self, &mut problems);
            redirects::find_unreachable(&self, &mut problems);
            redirects::find_shadowed(&self, &mut problems);
            redirects::find_loops(&self, &mut problems);
        }
        postgres::check(&self, &mut problems);
        files::settle(&keys, &mut self);
        conflicts::find(&keys, &self, &mut problems);
        let by = [self.sticky.as_ref(), self.upstream.as_ref().map(|spec| &spec.hash)];
        let by = by.into_iter().flatten().filter_map(RequestKey::header).chain(self.policies.headers());
        self.personal.extend(by.cloned());
        self.personal.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        self.personal.dedup();
        if problems.0.is_empty() {
            let located = |problem: String| {
                let key = problem.split(':').next().unwrap_or_default();
                format!("{}{problem}", position(text, key))
            };
            problems.0.extend(self.limits.disagreements(max_memory).into_iter().map(located));
        }
        (self, problems.0)
    }
}

#[cfg(test)]
mod tests;
