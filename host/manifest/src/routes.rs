//! The section `routes`: paths, and tables with the policies and cache rules of a route.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use http::Method;
use serde_json::{Map, Value, json};

use super::cache::Rules;
use crate::Manifest;
use crate::auth::Auth;
use crate::clients::Clients;
use crate::policies::{PolicySettings, RouteSettings};
use crate::route::{Pattern, Route, Segment};
use crate::schema;
use crate::section::{self, Owner, SECTIONS, Section, View, words};
use crate::validate::Validation;
use crate::written::{Problems, Written};
use lodge_base::canonical::{self, canonical_host};

/// The most routes of one service.
pub const MOST_ROUTES: usize = 1_000;

/// The keys of a route besides the sections that it may have.
pub(crate) const KEYS: [&str; 5] = ["path", "host", "methods", "strip_prefix", "rewrite"];

/// The most bytes of a path that takes the place of another one.
const MOST_REWRITE: usize = 512;

/// `routes`.
pub(crate) const SECTION: Section = Section {
    name: "routes",
    schema: routes_schema,
    owner: Owner::Service(read),
    view: Some(View { label: "rewrites", value: rewrites, text: words }),
    ..Section::DEFAULT
};

/// Returns the routes whose paths the service sees otherwise; the others are shown as its addresses.
fn rewrites(manifest: &Manifest) -> Option<Value> {
    let seen = |route: &Route| match &route.rewrite {
        Some(path) => Some(format!("{route} to {path}")),
        None => route.strip_prefix.then(|| format!("{route} to /")),
    };
    let all: Vec<_> = manifest.routes.iter().filter_map(seen).collect();
    (!all.is_empty()).then(|| all.into())
}

/// Returns the hint for a key of a route that is at the top level.
pub(crate) fn own_key(name: &str) -> String {
    format!("it is a key of a route; write it there, as in routes = [{{ path = \"/users\", {name} = … }}]")
}

fn routes_schema() -> Value {
    let list = json!({
        "type": "array",
        "maxItems": MOST_ROUTES,
        "items": { "anyOf": [schema::path(), route_schema()] },
    });
    json!({
        "anyOf": [schema::path(), list],
        "description": "routes of the service, one or a list; the default is /NAME",
    })
}

/// The schema of a route with more than a path.
fn route_schema() -> Value {
    let method = json!({ "type": "string", "pattern": "^[A-Z]+$" });
    let mut properties = Map::from_iter([
        ("path".to_owned(), schema::path()),
        ("host".to_owned(), json!({ "type": "string", "description": "only requests for this host" })),
        (
            "methods".to_owned(),
            schema::described(schema::texts(method), "only these methods, one or a list; HEAD comes with GET"),
        ),
        (
            "strip_prefix".to_owned(),
            json!({
                "type": "boolean",
                "default": false,
                "description": "the service receives the path without the matched prefix",
            }),
        ),
        (
            "rewrite".to_owned(),
            schema::described(schema::path(), "the service receives this in place of the matched prefix"),
        ),
    ]);
    let shared = shared().map(|section| (section.name.to_owned(), (section.schema)()));
    properties.extend(shared);
    schema::table(&["path"], properties.into())
}

/// The sections that a route may have.
fn shared() -> impl Iterator<Item = &'static Section> {
    SECTIONS.iter().copied().filter(|section| matches!(section.owner, Owner::Route(_)))
}

fn read(manifest: &mut Manifest, written: &Written<'_>, problems: &mut Problems) {
    let form = if written.item().is_some() { "[{ path = \"/users\" }], or [[routes]]" } else { "[\"/users\"]" };
    let Some(items) = problems.take(written.items(form)) else { return };
    if items.len() > MOST_ROUTES {
        let many = format!("{} are more than {MOST_ROUTES}; use one route for all paths below it", items.len());
        return problems.push(written.error(many));
    }
    let (mut routes, mut named, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for item in &items {
        let Some((route, policies)) = route(item, problems) else { continue };
        if !seen.insert(route.to_string()) {
            problems.push(item.at(format!("duplicate route `{route}`; remove one")));
            continue;
        }
        named.push((route.to_string(), policies));
        routes.push(route);
    }
    (manifest.routes, manifest.policies.routes) = (routes, named);
}

fn route(item: &Written<'_>, problems: &mut Problems) -> Option<(Route, PolicySettings)> {
    let pattern = |path: &str| Pattern::read(path).map_err(|wrong| item.at(wrong));
    let Some(keys) = item.item() else {
        let path = item.string("a route is a path, or a table with `path`").and_then(pattern);
        return Some((Route::of(problems.take(path)?), PolicySettings::default()));
    };
    let (mut route, mut path, mut settings) = (None, None, RouteSettings::default());
    let (mut host, mut methods, mut strip_prefix, mut rewrite) = (None, Vec::new(), false, None);
    for key in &keys {
        match (&*key.name, section::find(&key.name).map(|section| section.owner)) {
            ("path", _) => {
                path = Some(());
                route = problems.take(key.string("write a path, like \"/users\"").and_then(pattern)).map(Route::of);
            }
            ("host", _) => host = problems.take(read_host(key)),
            ("methods", _) => {
                let items = problems.take(key.items("[\"GET\"]")).unwrap_or_default();
                methods = items.iter().filter_map(|method| problems.take(read_method(method))).collect();
            }
            ("strip_prefix", _) => strip_prefix = problems.take(key.boolean()).unwrap_or_default(),
            ("rewrite", _) => rewrite = problems.take(read_rewrite(key)),
            (_, Some(Owner::Route(read))) => read(&mut settings, key, problems),
            _ => {
                let known: Vec<_> = KEYS.into_iter().chain(shared().map(|section| section.name)).collect();
                problems.push(key.unknown("", &known));
            }
        }
    }
    if path.is_none() {
        problems.push(item.at("a route needs its `path`, like \"/users\""));
    }
    if strip_prefix && rewrite.is_some() {
        problems.push(item.at("`rewrite` takes the place of the prefix already; remove `strip_prefix`"));
    }
    let RouteSettings { policies, cache, cors, headers, compress, errors } = settings;
    let guarded = policies != PolicySettings::default();
    let of_path = route?;
    let route =
        Route { host, methods, strip_prefix, rewrite, cache, cors, headers, compress, errors, guarded, ..of_path };
    Some((route, policies))
}

/// Reads the host of requests.
pub(crate) fn read_host(key: &Written<'_>) -> Result<String, String> {
    const FORM: &str = "write it like \"api.example.com\", without a port";
    let text = key.string(FORM)?;
    let host = canonical_host(text).filter(|host| is_host(host)).map(Cow::into_owned);
    host.ok_or_else(|| key.at(format!("host `{text}`: {FORM}")))
}

fn read_rewrite(key: &Written<'_>) -> Result<Arc<str>, String> {
    const FORM: &str = "write a path such as \"/v1\", without a query";
    let text = key.string(FORM)?;
    if text.contains(['{', '}', '*']) {
        return Err(key.error(
            "parameters and `*` are not possible here: what follows the route is kept; write a path such as \"/v1\"",
        ));
    }
    let plain = text.starts_with('/') && text.len() <= MOST_REWRITE && canonical::is_plain(text);
    let ends = text == "/" || !text.ends_with('/');
    if plain && ends { Ok(Arc::from(text)) } else { Err(key.error(FORM)) }
}

/// Finds routes that lead to what another route of the service leads to as well, without its conditions on who may send requests; and
/// those that no request can use beside a `rewrite`.
pub(super) fn find_bypasses(manifest: &Manifest, problems: &mut Problems) {
    let rewrites = manifest.routes.iter().any(|route| route.rewrite.is_some());
    if !rewrites && manifest.routes.iter().all(|route| !route.strip_prefix) {
        return;
    }
    for (route, (name, _)) in manifest.routes.iter().zip(&manifest.policies.routes) {
        let doubtful = |segment: &Segment| matches!(segment, Segment::Name(name) if canonical::has_readings(name));
        if rewrites && route.path.segments.iter().any(doubtful) {
            problems.push(format!(
                "route {name}: a service with a `rewrite` gets no path with `//`, `;`, `%2F` or `\\`, which it could read in several \
                 ways; write another path, or remove `rewrite`"
            ));
        }
    }
    let service = &manifest.policies.service;
    let conditions = |policies: &PolicySettings| {
        let auth = match policies.auth.as_ref().or(service.auth.as_ref()) {
            Some(Auth::Identified(settings)) => Some(settings.clone()),
            Some(Auth::Anyone) | None => None,
        };
        let validation = policies.validation.as_ref().or(service.validation.as_ref());
        let validation = validation.filter(|validation| **validation != Validation::Off).cloned();
        (auth, policies.rules.clone(), policies.clients.clone(), validation)
    };
    let free = (None, Vec::new(), Clients::default(), None);
    let all = manifest.routes.iter().zip(&manifest.policies.routes);
    let all: Vec<_> = all.map(|(route, (name, policies))| (route, name, inner(route), conditions(policies))).collect();
    for (route, name, path, conditions) in &all {
        let bypassed = all.iter().find(|(other, of, below, own)| {
            // A path without its prefix may be any other one. A route that keeps it leads where its author says.
            let rewritten = route.rewrite.is_some() || other.rewrite.is_some() || route.strip_prefix;
            let both = route.shares_methods(other) && overlap(path, below);
            name != of && rewritten && *own != free && own != conditions && both
        });
        if let Some((_, of, ..)) = bypassed {
            problems.push(format!(
                "route {name}: the service gets the same paths by it as by route {of}, whose `auth`, `rules`, `allow`, `deny`, \
                 `validate` or `api` would not hold; give both the same, or write another `rewrite`"
            ));
        }
    }
}

/// The paths that a service gets by a route.
fn inner(route: &Route) -> Pattern {
    let below = |segments| Pattern { segments, below: true };
    match &route.rewrite {
        Some(path) => below(path.split('/').filter_map(Segment::read).collect()),
        None if route.strip_prefix => below(Vec::new()),
        None => route.path.clone(),
    }
}

/// Whether some path matches both patterns.
fn overlap(one: &Pattern, other: &Pattern) -> bool {
    let same = |(one, other): (&Segment, &Segment)| match (one, other) {
        (Segment::Name(one), Segment::Name(other)) => one == other,
        _ => true,
    };
    let (long, short) = if one.segments.len() > other.segments.len() { (one, other) } else { (other, one) };
    let reaches = short.below || long.segments.len() == short.segments.len();
    reaches && one.segments.iter().zip(&other.segments).all(same)
}

fn read_method(method: &Written<'_>) -> Result<Method, String> {
    const FORM: &str = "write it like \"GET\"";
    let text = method.string(FORM)?;
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase());
    let read = Method::from_bytes(text.as_bytes()).ok().filter(|_| plain);
    read.ok_or_else(|| method.at(format!("method `{text}`: {FORM}")))
}

fn is_host(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !host.is_empty() && host.bytes().all(plain)
}

/// Gives every route without cache rules those of its `service`, and returns the rules for the service's host. If any
/// route is cached, all routes have rules, because an unsafe request on one route may invalidate responses of another.
pub(super) fn spread(service: Option<Rules>, routes: &mut [Route]) -> Option<Rules> {
    let keeps = |rules: &Option<Rules>| rules.is_some_and(|rules| rules.keep);
    let any = keeps(&service) || routes.iter().any(|route| keeps(&route.cache));
    let default = any.then(|| service.unwrap_or_default());
    for route in routes {
        route.cache = if any { route.cache.or(default) } else { None };
    }
    default
}
