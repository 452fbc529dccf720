//! The section `routes`: paths, and tables with the policies and cache rules of a route.

use std::borrow::Cow;
use std::collections::HashSet;

use http::Method;
use serde_json::{Map, Value, json};

use super::cache::Rules;
use crate::Manifest;
use crate::policies::{PolicySettings, RouteSettings};
use crate::route::{Pattern, Route};
use crate::schema;
use crate::section::{self, Owner, SECTIONS, Section};
use crate::written::{Problems, Written};
use lodge_base::canonical::canonical_host;

/// The most routes of one service.
pub const MOST_ROUTES: usize = 1_000;

/// The keys of a route besides the sections that it may have.
const KEYS: [&str; 4] = ["path", "host", "methods", "strip_prefix"];

/// `routes`.
pub(crate) const SECTION: Section =
    Section { name: "routes", schema: routes_schema, owner: Owner::Service(read), ..Section::DEFAULT };

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
    let Some(items) = problems.take(written.items("[\"/users\"]")) else { return };
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
    let (mut host, mut methods, mut strip_prefix) = (None, Vec::new(), false);
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
    let RouteSettings { policies, cache, cors, headers, compress } = settings;
    let guarded = policies != PolicySettings::default();
    Some((Route { host, methods, strip_prefix, cache, cors, headers, compress, guarded, ..route? }, policies))
}

/// Reads the host of requests.
pub(crate) fn read_host(key: &Written<'_>) -> Result<String, String> {
    const FORM: &str = "write it like \"api.example.com\", without a port";
    let text = key.string(FORM)?;
    let host = canonical_host(text).filter(|host| is_host(host)).map(Cow::into_owned);
    host.ok_or_else(|| key.at(format!("host `{text}`: {FORM}")))
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
