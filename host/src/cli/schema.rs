//! `lodge schema`: prints the JSON Schema of a manifest for editors, generated from the tables of the parser.

use serde_json::{Map, Value, json};

use super::out::{self, CliError};
use lodge_base::config::key::Key;
use lodge_base::config::limits::{LIMITS, Limits};
use lodge_manifest::MOST_ROUTES;
use lodge_manifest::policies::read::{ADAPTIVE, BREAKER, PRIORITIES, RATE, blank_adaptive, blank_breaker, blank_rate};
use lodge_manifest::upstream::source::WEIGHT;
use lodge_manifest::upstream::{KEYS, MOST_REPLICAS, Spec};

/// Prints the schema.
pub(super) fn run() -> Result<(), CliError> {
    out::line(&format!("{:#}", schema()))
}

fn schema() -> Value {
    let parts = [component(), sandbox(), routing(), version(), policies(true)];
    let mut properties: Map<_, _> = parts.into_iter().flatten().collect();
    properties.insert("upstream".to_owned(), upstream());
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Manifest of a Lodge service",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

/// Returns the keys of an object.
fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(keys) = value { keys } else { Map::new() }
}

fn path() -> Value {
    json!({ "type": "string", "pattern": "^/" })
}

/// The component, and when it is served.
fn component() -> Map<String, Value> {
    object(json!({
        "enabled": { "type": "boolean", "default": true, "description": "whether the service is served" },
        "component": {
            "type": "string",
            "pattern": "^[^/\\\\]+\\.wasm$",
            "description": "file of the component, in the same directory; the default is the manifest's own name",
        },
        "digest": {
            "type": "string",
            "pattern": "^sha256:[0-9a-fA-F]{64}$",
            "description": "the SHA-256 of the component",
        },
        "build": {
            "type": "object",
            "additionalProperties": false,
            "required": ["command", "directory"],
            "properties": { "command": { "type": "string" }, "directory": { "type": "string" } },
            "description": "how `lodge dev` builds a guest that is not a Rust crate: a shell command, and its directory",
        },
        "ready": {
            "type": "object",
            "additionalProperties": false,
            "required": ["path"],
            "properties": { "path": path() },
            "description": "a path that must respond with 2xx before a version is served",
        },
    }))
}

/// The sandbox of its guests.
fn sandbox() -> Map<String, Value> {
    let limits: Map<_, _> = LIMITS.iter().map(|key| (key.name.to_owned(), setting(key, &Limits::blank()))).collect();
    object(json!({
        "isolation": {
            "enum": ["request", "service"],
            "default": "request",
            "description": "a new sandbox per request, or warm instances that are reused",
        },
        "limits": { "type": "object", "additionalProperties": false, "properties": limits },
        "cpu_weight": {
            "type": "integer",
            "minimum": 1,
            "maximum": 10000,
            "default": 100,
            "description": "its share of the CPU among long-running guests",
        },
        "calls": {
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
            "description": "services of this host that its guests may call, one or a list; \"*\" is all",
        },
        "http": {
            "type": "array",
            "items": { "type": "string", "pattern": "^https?://" },
            "description": "origins that its guests may send requests to, such as https://*.example.org",
        },
        "env": { "type": "object", "additionalProperties": { "type": "string" } },
    }))
}

/// Routes and caching.
fn routing() -> Map<String, Value> {
    object(json!({
        "routes": {
            "type": "array",
            "maxItems": MOST_ROUTES,
            "description": "routes of the service; the default is /NAME",
            "items": { "anyOf": [path(), route()] },
        },
        "cache": cache(),
        "sticky": {
            "type": "string",
            "pattern": "^(client|header:.+|cookie:.+)$",
            "description": "the property of a client that decides which version it gets",
        },
    }))
}

/// A route with more than a path.
fn route() -> Value {
    let own = object(json!({
        "path": path(),
        "host": { "type": "string", "description": "only requests for this host" },
        "methods": {
            "type": "array",
            "items": { "type": "string", "pattern": "^[A-Z]+$" },
            "description": "only these methods; HEAD comes with GET",
        },
        "strip_prefix": {
            "type": "boolean",
            "default": false,
            "description": "the service receives the path without the matched prefix",
        },
        "cache": cache(),
    }));
    let properties: Map<_, _> = own.into_iter().chain(policies(false)).collect();
    json!({ "type": "object", "additionalProperties": false, "required": ["path"], "properties": properties })
}

fn cache() -> Value {
    json!({
        "anyOf": [{ "type": "boolean" }, {
            "type": "object",
            "additionalProperties": false,
            "properties": { "ttl": {
                "type": "string",
                "description": "the freshness lifetime of a 200 response without one of its own",
            }},
        }],
        "default": false,
        "description": "whether responses are cached (RFC 9111)",
    })
}

/// The share of requests of a version.
fn version() -> Map<String, Value> {
    object(json!({
        "percent": percent("of a version such as NAME@2: its share of the service's requests", 0),
        "match": {
            "type": "array",
            "items": { "type": "string", "pattern": "^(header|cookie):[^=]+=" },
            "description": "of a version: requests that it always gets, whatever its percentage",
        },
        "mirror": percent("of a version: the percentage of requests that are copied to it; its responses are discarded", 0),
        "rollback": {
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "errors": percent("how many more percent of its requests may fail than of the service's", 1),
                "p99": {
                    "type": "number",
                    "minimum": 1,
                    "maximum": 100,
                    "default": 1.5,
                    "description": "its 99th percentile may be this many times the service's",
                },
                "minimum": {
                    "type": "integer",
                    "minimum": 1,
                    "default": 100,
                    "description": "requests that both need in the last minute before they are compared",
                },
            },
            "description": "of a version: it is withdrawn when it does worse than the service",
        },
    }))
}

/// The policies of a service or of one of its routes.
fn policies(of_service: bool) -> Map<String, Value> {
    let nets = |help: &str| json!({ "type": "array", "items": { "type": "string" }, "description": help });
    let words = PRIORITIES.map(|(word, _)| word);
    let help = "the importance of its requests when the host is full";
    let mut properties = Map::from_iter([
        ("allow".to_owned(), nets("networks and addresses of permitted clients; all without it")),
        ("deny".to_owned(), nets("networks and addresses of refused clients")),
        ("priority".to_owned(), json!({ "enum": words, "default": "normal", "description": help })),
        ("rate".to_owned(), json!({ "anyOf": [{ "type": "string" }, section(RATE, &blank_rate(), &["limit"])] })),
        ("breaker".to_owned(), section(BREAKER, &blank_breaker(), &[])),
    ]);
    if of_service {
        properties.insert("adaptive".to_owned(), section(ADAPTIVE, &blank_adaptive(), &["latency"]));
    }
    properties
}

fn section<T: Clone>(keys: &[Key<T>], blank: &T, required: &[&str]) -> Value {
    let properties: Map<_, _> = keys.iter().map(|key| (key.name.to_owned(), setting(key, blank))).collect();
    json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties })
}

/// Returns the schema of a setting. Settings are parsed from text whatever their TOML type, so the parser is tried with
/// examples. `blank` is a value that it can write to.
fn setting<T: Clone>(key: &Key<T>, blank: &T) -> Value {
    // A zero by itself is also a valid duration, so it would not tell the types apart.
    const NUMBERS: [&str; 3] = ["1", "100", "1048576"];
    let takes = |text: &str| (key.set)(&mut blank.clone(), text).is_ok();
    let (any, number) = (takes("no-such-word"), NUMBERS.into_iter().any(takes));
    let (kinds, default) = match key.default {
        text if !any && takes("true") => (json!("boolean"), json!(text == "true")),
        text if !any && number => {
            (json!(["integer", "string"]), text.parse::<u64>().map_or_else(|_| text.into(), Value::from))
        }
        text => (json!("string"), text.into()),
    };
    let mut setting = Map::from_iter([("type".to_owned(), kinds), ("description".to_owned(), key.help.into())]);
    if !key.default.is_empty() {
        setting.insert("default".to_owned(), default);
    }
    Value::Object(setting)
}

fn percent(description: &str, default: u32) -> Value {
    json!({
        "type": ["number", "string"],
        "minimum": 0,
        "maximum": 100,
        "pattern": "^[0-9.]+ *%?$",
        "default": default,
        "description": description,
    })
}

fn upstream() -> Value {
    let url = json!({ "type": "string", "pattern": "^(https?|dns|dns\\+https|srv|srv\\+https)://" });
    let replicas = json!({
        "type": "array",
        "maxItems": MOST_REPLICAS,
        "description": "the replicas of the service",
        "items": { "anyOf": [url, {
            "type": "object",
            "additionalProperties": false,
            "required": ["url"],
            "properties": {
                "url": url,
                "weight": { "type": "integer", "minimum": 1, "maximum": WEIGHT, "default": 1 },
            },
        }]},
    });
    let mut upstream =
        json!({ "type": "object", "additionalProperties": false, "properties": { "replicas": replicas } });
    let blank = Spec::defaults();
    for key in KEYS {
        let mut section = &mut upstream;
        let mut names = key.name.split('.').peekable();
        while let Some(name) = names.next() {
            let inner = names.peek().is_some();
            let Value::Object(properties) = &mut section["properties"] else { break };
            section = properties.entry(name).or_insert_with(|| match inner {
                true => json!({ "type": "object", "additionalProperties": false, "properties": {} }),
                false => setting(key, &blank),
            });
        }
    }
    upstream
}

#[cfg(test)]
mod tests;
