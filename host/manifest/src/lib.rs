//! Reads the manifest of a service, `<name>.toml` beside `<name>.wasm`: its routes, isolation, limits, grants and
//! policies.
//!
//! Pure: text and defaults in, a [`Manifest`] or all problems out. A service without a manifest is read as if the file
//! were empty. A version (`<name>@<label>.toml`) inherits the manifest of its service and may override parts of it.

pub mod adaptive;
pub mod breaker;
pub mod cache;
pub mod clients;
mod conflicts;
mod diagnostics;
pub mod digest;
pub mod grants;
pub mod key;
pub mod policies;
pub mod rate;
pub mod refusal;
pub mod route;
mod routes;
pub mod share;
pub mod spec;
pub mod upstream;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::HeaderName;
use serde::Deserialize;

use self::cache::Rules;
pub use self::diagnostics::line_of;
use self::diagnostics::{explain, located};
pub use self::diagnostics::{misplaced, position};
use self::grants::{Callees, Grants, Origin};
use self::policies::read::Written;
pub use self::routes::MOST_ROUTES;
use self::share::TrafficShare;
use crate::digest::Digest;
use crate::key::RequestKey;
use crate::policies::Policies;
use crate::policies::PolicySettings;
use crate::route::{Pattern, Route};
use crate::upstream::Spec;
use lodge_base::config::key::nearest;
use lodge_base::config::limits::{LIMITS, Limits};
use lodge_base::config::plain;
use lodge_base::cpu::scheduler::WEIGHT;
use lodge_base::ids::hash_of;

/// The most bytes of all names and values of `[env]`. A guest copies them into its memory at every start.
const ENV_BYTES: usize = 64 << 10;

/// The range of `cpu.weight` in Linux cgroups.
const CPU_WEIGHTS: std::ops::RangeInclusive<u32> = 1..=10_000;

/// A manifest with the defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Whether the service is served.
    pub enabled: bool,
    /// The file name of the component in the same directory, if it is not named after the service.
    pub component: Option<String>,
    /// The digest that the component must have.
    pub digest: Option<Digest>,
    /// The routes of the service.
    pub routes: Vec<Route>,
    /// The cache rules of routes without their own; `None` if no route of the service is cached.
    pub cache: Option<Rules>,
    /// Which requests share a sandbox.
    pub isolation: Isolation,
    /// The limits of the service.
    pub limits: Limits,
    /// Its weight among services whose guests compute for long: 1 to 10,000, 100 by default.
    pub cpu_weight: u32,
    /// The environment variables of its guests.
    pub env: Vec<(String, String)>,
    /// A path that must respond with 2xx before a new version is served.
    pub ready: Option<String>,
    /// The key by which a client stays with a version. Without one, the version is drawn for each request.
    pub sticky: Option<RequestKey>,
    /// The share of its service's traffic that a version gets; `None` for the service itself.
    pub share: Option<TrafficShare>,
    /// The destinations that it may send requests to.
    pub grants: Grants,
    /// The upstream, if replicas handle its requests instead of a component.
    pub upstream: Option<Arc<Spec>>,
    /// The policies of the service and of its routes.
    pub policies: Policies,
    /// Headers that distinguish clients for rates, versions or replicas. A request with one of them is not served from
    /// the shared response cache.
    pub personal: Vec<HeaderName>,
}

/// Which requests share a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// None: every request gets a new sandbox.
    #[default]
    Request,
    /// Requests of this service, one after another. For guests that keep no secrets of clients in memory.
    Service,
}

/// The file before defaults are filled in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    enabled: Option<bool>,
    component: Option<String>,
    digest: Option<String>,
    routes: Option<Vec<toml::Spanned<toml::Value>>>,
    cache: Option<toml::Value>,
    isolation: Option<Isolation>,
    #[serde(default)]
    limits: BTreeMap<toml::Spanned<String>, toml::Value>,
    cpu_weight: Option<u32>,
    env: Option<BTreeMap<String, String>>,
    ready: Option<Ready>,
    sticky: Option<String>,
    percent: Option<toml::Value>,
    #[serde(rename = "match", default)]
    rules: Vec<String>,
    mirror: Option<toml::Value>,
    rollback: Option<share::WrittenRollback>,
    calls: Option<toml::Spanned<toml::Value>>,
    http: Option<Vec<toml::Spanned<String>>>,
    /// Read by [`Spec`], which needs the position of each key in the text.
    upstream: Option<serde::de::IgnoredAny>,
    allow: Option<toml::Value>,
    deny: Option<toml::Value>,
    priority: Option<toml::Value>,
    rate: Option<toml::Value>,
    breaker: Option<toml::Table>,
    adaptive: Option<toml::Table>,
    /// Used by `lodge dev` only.
    build: Option<Build>,
}

/// The build of a guest that is not a Rust crate.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// The shell command. It must write the component beside the manifest.
    pub command: String,
    /// The working directory of the command, beside the manifest. Changes in it start a build.
    pub directory: String,
}

/// Returns `line N: ` for the line of this key, to begin a message with; empty if the key is absent.
pub fn line(text: &str, key: &str) -> String {
    position(text, key)
}

/// Returns the `[build]` section of a manifest, if present.
pub fn build(text: &str) -> Option<Build> {
    toml::from_str::<File>(text).ok()?.build
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ready {
    path: String,
}

impl Manifest {
    /// Reads the manifest of the service `name`. `defaults` and `max_memory` come from the configuration.
    ///
    /// # Errors
    /// Every problem, with its line where known.
    pub fn read(name: &str, text: &str, defaults: &Limits, max_memory: usize) -> Result<Self, Vec<String>> {
        let empty = Self {
            enabled: true,
            component: None,
            digest: None,
            routes: Pattern::read(&format!("/{name}")).map(Route::of).into_iter().collect(),
            cache: None,
            isolation: Isolation::default(),
            limits: defaults.clone(),
            cpu_weight: WEIGHT,
            env: Vec::new(),
            ready: None,
            sticky: None,
            share: None,
            grants: Grants::default(),
            upstream: None,
            policies: Policies::default(),
            personal: Vec::new(),
        };
        empty.with(text, max_memory)
    }

    /// Reads the manifest of a version of the service with this manifest.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn version(&self, text: &str, max_memory: usize) -> Result<Self, Vec<String>> {
        let (routes, share) = (Vec::new(), Some(TrafficShare::default()));
        let own = Self { enabled: true, component: None, digest: None, routes, sticky: None, share, ..self.clone() };
        Self { upstream: None, ..own }.with(text, max_memory)
    }

    /// Returns this manifest with the values of `text` in place of its own.
    fn with(mut self, text: &str, max_memory: usize) -> Result<Self, Vec<String>> {
        let file: File = toml::from_str(text).map_err(|error| vec![explain(text, &error)])?;
        let mut problems = Vec::new();
        let mut note = |problem| problems.push(problem);
        self.limits = limits(text, &file.limits, &self.limits, &mut note);
        let own = Own {
            routes: file.routes.as_ref().map(|written| routes::read(text, written, &mut note)),
            sticky: file.sticky,
            cache: file.cache,
            policies: Written {
                allow: file.allow,
                deny: file.deny,
                priority: file.priority,
                rate: file.rate,
                breaker: file.breaker,
            },
            adaptive: file.adaptive,
        };
        let part =
            share::Written { percent: file.percent, rules: file.rules, mirror: file.mirror, rollback: file.rollback };
        if self.share.is_some() {
            for key in own.given() {
                note(format!("{key}: a version cannot set this; write it in the service's manifest"));
            }
            self.share = Some(TrafficShare { text: hash_of(text.as_bytes()), ..part.share(&mut note) });
        } else {
            for key in part.given() {
                note(format!("{key}: only a version can set this; write it in a file such as `NAME@2.toml`"));
            }
            self.take(own, &|key| position(text, key), &mut note);
        }
        self.grants = grants(text, file.calls.as_ref(), file.http.as_deref(), self.grants, &mut note);
        self.digest = file.digest.and_then(|text| {
            let digest = text.strip_prefix("sha256:").and_then(Digest::read);
            if digest.is_none() {
                note(format!("digest: `{text}` is not a digest; write \"sha256:\" and 64 hexadecimal digits"));
            }
            digest
        });
        if let Some(component) = &file.component
            && (component.contains(['/', '\\']) || !component.ends_with(".wasm"))
        {
            note(format!("component: `{component}` must be the name of a .wasm file in the same directory"));
        }
        if let Some(Ready { path }) = &file.ready
            && !(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            note(format!("ready.path: `{path}` is not a path; write it like \"/health\""));
        }
        self.cpu_weight = file.cpu_weight.unwrap_or(self.cpu_weight);
        if !CPU_WEIGHTS.contains(&self.cpu_weight) {
            let (least, most) = CPU_WEIGHTS.into_inner();
            note(format!("cpu_weight: {} is not between {least} and {most}", self.cpu_weight));
        }
        if let Some(written) = file.env {
            self.env = env(text, written, &mut note);
        }
        self.enabled = file.enabled.unwrap_or(self.enabled);
        self.component = file.component;
        self.isolation = file.isolation.unwrap_or(self.isolation);
        self.ready = file.ready.map(|ready| ready.path).or(self.ready);
        self.upstream = file.upstream.and_then(|_| match Spec::read(text) {
            Ok(spec) => Some(Arc::new(spec)),
            Err(wrong) => {
                wrong.into_iter().for_each(&mut note);
                None
            }
        });
        if let Some(spec) = &self.upstream {
            conflicts::find(text, spec, &self.limits).into_iter().for_each(&mut note);
        }
        let by = [self.sticky.as_ref(), self.upstream.as_ref().map(|spec| &spec.hash)];
        let by = by.into_iter().flatten().filter_map(RequestKey::header).chain(self.policies.headers());
        self.personal.extend(by.cloned());
        self.personal.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        self.personal.dedup();
        if problems.is_empty() {
            problems.extend(self.limits.disagreements(max_memory));
        }
        if problems.is_empty() {
            return Ok(self);
        }
        Err(problems.into_iter().map(|problem| located(text, problem)).collect())
    }

    /// Takes the keys that a service sets for all its versions.
    fn take(&mut self, own: Own, place: &dyn Fn(&str) -> String, note: &mut impl FnMut(String)) {
        let adaptive = own.adaptive.and_then(|written| policies::read::read_adaptive(&written, &place, note));
        let service = policies::read::read(&own.policies, &place, note);
        let default = |route: &Route| (route.clone(), PolicySettings::default());
        let routes = own.routes.unwrap_or_else(|| self.routes.iter().map(default).collect());
        let named = routes.iter().map(|(route, policies)| (route.to_string(), policies.clone()));
        self.policies = Policies { service, adaptive, routes: named.collect() };
        self.routes = routes.into_iter().map(|(route, _)| route).collect();
        self.sticky = own
            .sticky
            .and_then(|text| RequestKey::read(&text).map_err(|problem| note(format!("sticky: {problem}"))).ok());
        let cache = own.cache.and_then(|value| Rules::read(&value).map_err(note).ok());
        self.cache = routes::spread(cache, &mut self.routes);
    }
}

/// The keys of a service's manifest that a version cannot set.
struct Own {
    routes: Option<Vec<(Route, PolicySettings)>>,
    sticky: Option<String>,
    cache: Option<toml::Value>,
    policies: Written,
    adaptive: Option<toml::Table>,
}

impl Own {
    /// The names of the keys that are present.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        let policies = &self.policies;
        let given = [
            ("routes", self.routes.is_some()),
            ("sticky", self.sticky.is_some()),
            ("cache", self.cache.is_some()),
            ("allow", policies.allow.is_some()),
            ("deny", policies.deny.is_some()),
            ("priority", policies.priority.is_some()),
            ("rate", policies.rate.is_some()),
            ("breaker", policies.breaker.is_some()),
            ("adaptive", self.adaptive.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key)
    }
}

fn env(text: &str, written: BTreeMap<String, String>, note: &mut impl FnMut(String)) -> Vec<(String, String)> {
    let size: usize = written.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > ENV_BYTES {
        note(format!("env: {size} bytes are more than {ENV_BYTES}"));
    }
    for name in written.keys().filter(|name| name.is_empty() || name.contains(['=', '\0'])) {
        note(format!("env: `{}` cannot be the name of a variable", name.escape_debug()));
    }
    // In TOML, keys after `[env]` belong to it, also those that were meant for the service.
    for (name, problem) in written.keys().filter_map(|name| Some((name, misplaced(name)?))) {
        note(format!("{}env: {problem}, or give the variable another name", position(text, &format!("env.{name}"))));
    }
    written.into_iter().collect()
}

fn limits(
    text: &str,
    written: &BTreeMap<toml::Spanned<String>, toml::Value>,
    defaults: &Limits,
    note: &mut impl FnMut(String),
) -> Limits {
    let mut limits = defaults.clone();
    for (key, value) in written {
        let line = line_of(text, key.span().start);
        let name = key.get_ref();
        match LIMITS.iter().find(|limit| limit.name == name) {
            Some(limit) => {
                if let Err(expected) = (limit.set)(&mut limits, &plain(value)) {
                    note(format!("{line}limits.{name}: {expected}"));
                }
            }
            None => {
                let near = || nearest(name, LIMITS.iter().map(|limit| limit.name));
                let hint = misplaced(name).or_else(|| Some(format!("did you mean `{}`?", near()?)));
                let hint = hint.map_or(String::new(), |hint| format!("; {hint}"));
                note(format!("{line}unknown limit `{name}`{hint}"));
            }
        }
    }
    // The default of `cpu` must not conflict with an explicit `wall`.
    if !written.keys().any(|key| key.get_ref() == "cpu") {
        limits.cpu = limits.cpu.min(limits.wall);
    }
    limits
}

fn grants(
    text: &str,
    calls: Option<&toml::Spanned<toml::Value>>,
    http: Option<&[toml::Spanned<String>]>,
    before: Grants,
    note: &mut impl FnMut(String),
) -> Grants {
    let mut at = |offset: usize, problem: String| note(format!("{}{problem}", line_of(text, offset)));
    let calls = calls.map(|calls| Callees::read(calls.get_ref()).map_err(|problem| at(calls.span().start, problem)));
    let calls = calls.and_then(Result::ok).unwrap_or(before.calls);
    let read = |entry: &toml::Spanned<String>| {
        Origin::read(entry.get_ref()).map_err(|problem| at(entry.span().start, problem)).ok()
    };
    Grants { calls, http: http.map_or(before.http, |http| http.iter().filter_map(read).collect()) }
}

#[cfg(test)]
mod tests;
