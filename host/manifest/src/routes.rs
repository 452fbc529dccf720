//! Reads the routes of a manifest, with the policies and cache rules of each.

use std::borrow::Cow;
use std::collections::HashSet;

use http::Method;
use serde::Deserialize;

use super::cache::Rules;
use super::diagnostics::with_hint;
use super::line_of;
use super::policies::read::{self as policies, Written};
use crate::policies::PolicySettings;
use crate::route::{Pattern, Route};
use lodge_base::canonical::canonical_host;

/// The most routes of one service.
pub const MOST_ROUTES: usize = 1_000;

/// A route as a table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Detailed {
    path: String,
    host: Option<String>,
    #[serde(default)]
    methods: Vec<String>,
    #[serde(default)]
    strip_prefix: bool,
    cache: Option<toml::Value>,
    allow: Option<toml::Value>,
    deny: Option<toml::Value>,
    priority: Option<toml::Value>,
    rate: Option<toml::Value>,
    breaker: Option<toml::Table>,
}

/// Parses the list of routes. Every problem goes to `note`.
pub(super) fn read(
    text: &str,
    written: &[toml::Spanned<toml::Value>],
    note: &mut impl FnMut(String),
) -> Vec<(Route, PolicySettings)> {
    if written.len() > MOST_ROUTES {
        note(format!("routes: {} are more than {MOST_ROUTES}; use one route for all paths below it", written.len()));
        return Vec::new();
    }
    let (mut routes, mut seen) = (Vec::new(), HashSet::new());
    for written in written {
        let line = line_of(text, written.span().start);
        match route(written.get_ref()) {
            Ok((route, _)) if !seen.insert(route.to_string()) => {
                note(format!("{line}duplicate route `{route}`; remove one"));
            }
            Ok((route, written)) => {
                let policies = written.map(|written| policies::read(&written, &|_| line.clone(), note));
                let policies = policies.unwrap_or_default();
                routes.push((Route { guarded: policies != PolicySettings::default(), ..route }, policies));
            }
            Err(problem) => note(format!("{line}{problem}")),
        }
    }
    routes
}

fn route(written: &toml::Value) -> Result<(Route, Option<Written>), String> {
    let detailed: Detailed = match written {
        toml::Value::String(path) => return Pattern::read(path).map(|path| (Route::of(path), None)),
        toml::Value::Table(table) => table
            .clone()
            .try_into()
            .map_err(|error: toml::de::Error| format!("a route: {}", with_hint(error.message())))?,
        _ => return Err("a route is a path, or a table with `path`".into()),
    };
    let host = detailed.host.as_deref().map(|text| {
        let host = canonical_host(text).filter(|host| is_host(host)).map(Cow::into_owned);
        host.ok_or_else(|| format!("host `{text}`: write it like \"api.example.com\", without a port"))
    });
    let host = host.transpose()?;
    let methods = detailed.methods.iter().map(|text| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase());
        let method = Method::from_bytes(text.as_bytes()).ok().filter(|_| plain);
        method.ok_or_else(|| format!("method `{text}`: write it like \"GET\""))
    });
    let methods = methods.collect::<Result<_, _>>()?;
    let cache = detailed.cache.as_ref().map(Rules::read).transpose()?;
    let Detailed { path, strip_prefix, allow, deny, priority, rate, breaker, .. } = detailed;
    let route = Route { host, methods, strip_prefix, cache, ..Route::of(Pattern::read(&path)?) };
    Ok((route, Some(Written { allow, deny, priority, rate, breaker })))
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
