//! `<name>.toml` beside `<name>.wasm`: where a service answers, how it is isolated, and what it may use.
//!
//! Pure: text and defaults in, [`Manifest`] or every problem out. A service without a manifest has the manifest
//! of an empty file.

pub mod policies;

use std::collections::BTreeMap;

use http::Method;
use serde::Deserialize;

use super::digest::Digest;
use crate::admission::Terms;
use crate::admission::terms::Policies;
use crate::config::key::nearest;
use crate::config::limits::{LIMITS, Limits};
use crate::config::plain;
use crate::request::route::{Pattern, Route};
use crate::turns::WEIGHT;
use policies::Written;

/// Bytes of all names and values of `[env]`: a guest copies them into its memory at every start.
const ENV_BYTES: usize = 64 << 10;

/// The range of `cpu.weight` of Linux's control groups.
const CPU_WEIGHTS: std::ops::RangeInclusive<u32> = 1..=10_000;

/// What a manifest says, with the defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Whether the service is served at all.
    pub enabled: bool,
    /// The component's file, in the same directory, when it is not named after the service.
    pub component: Option<String>,
    /// What the component must be.
    pub digest: Option<Digest>,
    /// Where the service answers.
    pub routes: Vec<Route>,
    /// Who shares a sandbox.
    pub isolation: Isolation,
    /// What it may use.
    pub limits: Limits,
    /// Its part of the CPU when there is not enough for all that compute for long: 1 to 10,000, 100 for the usual part.
    pub cpu_weight: u32,
    /// Its environment variables.
    pub env: Vec<(String, String)>,
    /// A path that must answer 2xx before a version is served.
    pub ready: Option<String>,
    /// Who may ask, and how often.
    pub terms: Terms,
}

/// Who shares a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Nobody: a new one per request.
    #[default]
    Request,
    /// Requests of this service, one after another, for guests that keep nothing secret in memory.
    Service,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    enabled: Option<bool>,
    component: Option<String>,
    digest: Option<String>,
    routes: Option<Vec<toml::Spanned<toml::Value>>>,
    #[serde(default)]
    isolation: Isolation,
    #[serde(default)]
    limits: BTreeMap<toml::Spanned<String>, toml::Value>,
    cpu_weight: Option<u32>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    ready: Option<Ready>,
    allow: Option<toml::Value>,
    deny: Option<toml::Value>,
    priority: Option<toml::Value>,
    rate: Option<toml::Value>,
    breaker: Option<toml::Table>,
    adaptive: Option<toml::Table>,
    /// For `lodge dev` alone: nothing that is served depends on it.
    build: Option<Build>,
}

/// How a guest is built that is not a Rust crate.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// What a shell runs. It has to leave the component beside the manifest.
    pub command: String,
    /// Where it runs, and what is watched: a directory beside the manifest.
    pub directory: String,
}

/// The `[build]` of a manifest that has one.
pub fn build(text: &str) -> Option<Build> {
    toml::from_str::<File>(text).ok()?.build
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ready {
    path: String,
}

/// A route that says more than its path.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Detailed {
    path: String,
    host: Option<String>,
    #[serde(default)]
    methods: Vec<String>,
    #[serde(default)]
    strip_prefix: bool,
    allow: Option<toml::Value>,
    deny: Option<toml::Value>,
    priority: Option<toml::Value>,
    rate: Option<toml::Value>,
    breaker: Option<toml::Table>,
}

impl Manifest {
    /// Reads the manifest of the service `name`; `defaults` and `max_memory` come from the configuration.
    ///
    /// # Errors
    /// Every problem, each with its line where it has one.
    pub fn read(name: &str, text: &str, defaults: &Limits, max_memory: usize) -> Result<Self, Vec<String>> {
        let file: File = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(String::new(), |span| line_of(text, span.start));
            vec![format!("{line}{}", with_hint(error.message()))]
        })?;
        let mut problems = Vec::new();
        let mut note = |problem| problems.push(problem);
        let limits = limits(text, &file.limits, defaults, &mut note);
        let routes = match file.routes {
            Some(written) => routes(text, &written, &mut note),
            None => {
                let own = Pattern::read(&format!("/{name}")).map(Route::of);
                own.into_iter().map(|route| (route, Policies::default())).collect()
            }
        };
        let place = |key: &str| place(text, key);
        let File { allow, deny, priority, rate, breaker, adaptive, .. } = file;
        let adaptive = adaptive.and_then(|written| policies::read_adaptive(&written, &place, &mut note));
        let service = policies::read(&Written { allow, deny, priority, rate, breaker }, &place, &mut note);
        let named = routes.iter().map(|(route, policies)| (route.to_string(), policies.clone()));
        let terms = Terms { service, adaptive, routes: named.collect() };
        let digest = file.digest.and_then(|text| {
            let digest = text.strip_prefix("sha256:").and_then(Digest::read);
            if digest.is_none() {
                note(format!("digest: `{text}` is not one; write \"sha256:\" and 64 hexadecimal digits"));
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
        let cpu_weight = file.cpu_weight.unwrap_or(WEIGHT);
        if !CPU_WEIGHTS.contains(&cpu_weight) {
            let (least, most) = CPU_WEIGHTS.into_inner();
            note(format!("cpu_weight: {cpu_weight} is not between {least} and {most}"));
        }
        let size: usize = file.env.iter().map(|(name, value)| name.len() + value.len()).sum();
        if size > ENV_BYTES {
            note(format!("env: {size} bytes are more than {ENV_BYTES}"));
        }
        for name in file.env.keys().filter(|name| name.is_empty() || name.contains(['=', '\0'])) {
            note(format!("env: `{}` cannot be the name of a variable", name.escape_debug()));
        }
        if problems.is_empty() {
            problems.extend(limits.disagreements(max_memory));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            enabled: file.enabled.unwrap_or(true),
            component: file.component,
            digest,
            routes: routes.into_iter().map(|(route, _)| route).collect(),
            isolation: file.isolation,
            limits,
            cpu_weight,
            env: file.env.into_iter().collect(),
            ready: file.ready.map(|ready| ready.path),
            terms,
        })
    }
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
                let near = nearest(name, LIMITS.iter().map(|limit| limit.name));
                let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                note(format!("{line}there is no limit `{name}`{hint}"));
            }
        }
    }
    limits
}

fn routes(text: &str, written: &[toml::Spanned<toml::Value>], note: &mut impl FnMut(String)) -> Vec<(Route, Policies)> {
    let mut routes: Vec<(Route, Policies)> = Vec::new();
    for written in written {
        let line = line_of(text, written.span().start);
        match route(written.get_ref()) {
            Ok((route, _)) if routes.iter().any(|(other, _)| *other == route) => {
                note(format!("{line}route `{route}` is there twice"));
            }
            Ok((route, written)) => {
                let policies = written.map(|written| policies::read(&written, &|_| line.clone(), note));
                routes.push((route, policies.unwrap_or_default()));
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
    let host = detailed.host.map(|host| host.to_ascii_lowercase());
    if let Some(host) = host.as_ref().filter(|host| !is_host(host)) {
        return Err(format!("host `{host}`: write it like \"api.example.com\", without a port"));
    }
    let methods = detailed.methods.iter().map(|text| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase());
        let method = Method::from_bytes(text.as_bytes()).ok().filter(|_| plain);
        method.ok_or_else(|| format!("method `{text}`: write it like \"GET\""))
    });
    let methods = methods.collect::<Result<_, _>>()?;
    let Detailed { path, strip_prefix, allow, deny, priority, rate, breaker, .. } = detailed;
    let route = Route { host, path: Pattern::read(&path)?, methods, strip_prefix };
    Ok((route, Some(Written { allow, deny, priority, rate, breaker })))
}

fn is_host(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !host.is_empty() && host.bytes().all(plain)
}

/// serde names what it does not know and what it does, between backticks.
fn with_hint(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let near = match (message.starts_with("unknown"), names.next()) {
        (true, Some(wrong)) => nearest(wrong, names),
        _ => None,
    };
    let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    format!("{message}{hint}")
}

/// Where a key of the file is, such as `rate.limit`: its table when it is not written itself.
fn place(text: &str, key: &str) -> String {
    let Ok(document) = toml::de::DeTable::parse(text) else { return String::new() };
    let (mut table, mut line) = (Some(document.get_ref()), String::new());
    for part in key.split('.') {
        let Some((name, value)) = table.and_then(|table| table.iter().find(|(name, _)| *name.get_ref() == part)) else {
            break;
        };
        line = line_of(text, name.span().start);
        table = value.get_ref().as_table();
    }
    line
}

fn line_of(text: &str, offset: usize) -> String {
    let line = text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
    format!("line {line}: ")
}

#[cfg(test)]
mod tests;
