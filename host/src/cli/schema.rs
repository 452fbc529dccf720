//! `lodge schema`: the JSON Schema of a manifest, for editors. Made from the tables that read it.

use serde_json::{Map, Value, json};

use super::out::{self, Failure};
use crate::config::key::Key;
use crate::config::limits::LIMITS;
use crate::guests::manifest::MOST_ROUTES;
use crate::guests::manifest::policies::{ADAPTIVE, BREAKER, PRIORITIES, RATE};
use crate::upstreams::source::WEIGHT;
use crate::upstreams::spec::{KEYS, MOST_REPLICAS};

/// Prints it.
pub(super) fn run() -> Result<(), Failure> {
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

/// The keys of an object.
fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(keys) = value { keys } else { Map::new() }
}

fn path() -> Value {
    json!({ "type": "string", "pattern": "^/" })
}

/// What is served, and when.
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
            "description": "what the component must be",
        },
        "build": {
            "type": "object",
            "additionalProperties": false,
            "required": ["command", "directory"],
            "properties": { "command": { "type": "string" }, "directory": { "type": "string" } },
            "description": "how `lodge dev` builds a guest that is no Rust crate: what a shell runs, and where",
        },
        "ready": {
            "type": "object",
            "additionalProperties": false,
            "required": ["path"],
            "properties": { "path": path() },
            "description": "a path that must answer 2xx before a version is served",
        },
    }))
}

/// What its guests have.
fn sandbox() -> Map<String, Value> {
    let limit =
        |help: &str, default: &str| json!({ "type": ["string", "integer"], "description": help, "default": default });
    let limits: Map<_, _> = LIMITS.iter().map(|key| (key.name.to_owned(), limit(key.help, key.default))).collect();
    object(json!({
        "isolation": {
            "enum": ["request", "service"],
            "default": "request",
            "description": "a fresh sandbox per request, or warm instances that are used again",
        },
        "limits": { "type": "object", "additionalProperties": false, "properties": limits },
        "cpu_weight": {
            "type": "integer",
            "minimum": 1,
            "maximum": 10000,
            "default": 100,
            "description": "its part of the CPU among services that compute for long",
        },
        "calls": {
            "anyOf": [{ "const": "*" }, { "type": "array", "items": { "type": "string" } }],
            "description": "services of the same host that its guests may call; \"*\" is all of them",
        },
        "http": {
            "type": "array",
            "items": { "type": "string", "pattern": "^https?://" },
            "description": "origins that its guests may send requests to, such as https://*.example.org",
        },
        "env": { "type": "object", "additionalProperties": { "type": "string" } },
    }))
}

/// Where it answers, and what becomes of the answers.
fn routing() -> Map<String, Value> {
    object(json!({
        "routes": {
            "type": "array",
            "maxItems": MOST_ROUTES,
            "description": "where the service answers; the default is /NAME",
            "items": { "anyOf": [path(), route()] },
        },
        "cache": cache(),
        "sticky": {
            "type": "string",
            "pattern": "^(client|header:.+|cookie:.+)$",
            "description": "what decides which version a client gets, and gets again",
        },
    }))
}

/// A route that says more than its path.
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
            "description": "the service sees the path without the part that matched",
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
                "description": "how long a 200 is fresh that says nothing of it itself",
            }},
        }],
        "default": false,
        "description": "whether answers are kept and given again, as RFC 9111 has it",
    })
}

/// What a version says of its part of its service's requests.
fn version() -> Map<String, Value> {
    object(json!({
        "percent": percent("of a version such as NAME@2: its part of the service's requests"),
        "match": {
            "type": "array",
            "items": { "type": "string", "pattern": "^(header|cookie):[^=]+=" },
            "description": "of a version: requests that are for it whatever its part is",
        },
        "mirror": percent("of a version: the part of the requests that it is shown besides, its answers thrown away"),
        "rollback": {
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "errors": percent("so many more of its requests may fail than of the service's; 1 by default"),
                "p99": {
                    "type": "number",
                    "minimum": 1,
                    "maximum": 100,
                    "default": 1.5,
                    "description": "its 99th percentile may be so many times the service's",
                },
                "minimum": {
                    "type": "integer",
                    "minimum": 1,
                    "default": 100,
                    "description": "requests of the last minute, of each, before anything is concluded",
                },
            },
            "description": "of a version: it is taken out when it does worse than the service",
        },
    }))
}

/// What a service, or one of its routes, may say of who may ask.
fn policies(of_service: bool) -> Map<String, Value> {
    let nets = |help: &str| json!({ "type": "array", "items": { "type": "string" }, "description": help });
    let words = PRIORITIES.map(|(word, _)| word);
    let help = "how much its requests matter when the host is full";
    let mut properties = Map::from_iter([
        ("allow".to_owned(), nets("networks and addresses that may ask; without it, all")),
        ("deny".to_owned(), nets("networks and addresses that may not")),
        ("priority".to_owned(), json!({ "enum": words, "default": "normal", "description": help })),
        ("rate".to_owned(), json!({ "anyOf": [{ "type": "string" }, section(RATE, &["limit"])] })),
        ("breaker".to_owned(), section(BREAKER, &[])),
    ]);
    if of_service {
        properties.insert("adaptive".to_owned(), section(ADAPTIVE, &["latency"]));
    }
    properties
}

fn section<T>(keys: &[Key<T>], required: &[&str]) -> Value {
    let property = |key: &Key<T>| {
        let default = (!key.default.is_empty()).then(|| ("default".to_owned(), key.default.into()));
        let said = [("type".to_owned(), json!(["string", "integer"])), ("description".to_owned(), key.help.into())];
        (key.name.to_owned(), Value::Object(said.into_iter().chain(default).collect()))
    };
    let properties: Map<_, _> = keys.iter().map(property).collect();
    json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties })
}

fn percent(description: &str) -> Value {
    json!({
        "type": ["number", "string"],
        "minimum": 0,
        "maximum": 100,
        "pattern": "^[0-9.]+ *%?$",
        "default": 0,
        "description": description,
    })
}

fn upstream() -> Value {
    let url = json!({ "type": "string", "pattern": "^(https?|dns|dns\\+https|srv|srv\\+https)://" });
    let replicas = json!({
        "type": "array",
        "maxItems": MOST_REPLICAS,
        "description": "where replicas of the service are",
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
    for key in KEYS {
        let mut section = &mut upstream;
        let mut names = key.name.split('.').peekable();
        while let Some(name) = names.next() {
            let inner = names.peek().is_some();
            let Value::Object(properties) = &mut section["properties"] else { break };
            section = properties.entry(name).or_insert_with(|| match inner {
                true => json!({ "type": "object", "additionalProperties": false, "properties": {} }),
                false => json!({
                    "type": ["string", "integer", "boolean"],
                    "description": key.help,
                    "default": key.default,
                }),
            });
        }
    }
    upstream
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::guests::manifest::Manifest;

    /// What the reader says it knows, between backticks.
    fn known(text: &str) -> Vec<String> {
        let limits = config::resolve(&[]).unwrap().config.limits;
        let problem = Manifest::read("x", text, &limits, 1 << 30).unwrap_err().join("\n");
        let (_, expected) = problem.split_once("expected").unwrap();
        let expected = expected.split(';').next().unwrap();
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    fn keys(schema: &Value) -> Vec<String> {
        schema["properties"].as_object().unwrap().keys().cloned().collect()
    }

    /// The schema knows every key that the reader knows, and no other.
    #[test]
    fn agrees_with_the_reader() {
        let schema = schema();
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        assert_eq!(keys(&schema), sorted(known("zzz = 1")));
        let route = &schema["properties"]["routes"]["items"]["anyOf"][1];
        assert_eq!(keys(route), sorted(known("routes = [{ path = '/', zzz = 1 }]")));
        assert_eq!(keys(&schema["properties"]["ready"]), known("ready.zzz = 1"));
        assert_eq!(keys(&schema["properties"]["build"]), sorted(known("build.zzz = 1")));
        assert_eq!(keys(&schema["properties"]["rollback"]), sorted(known("rollback.zzz = 1")));
        for (name, known) in [
            ("rate/anyOf/1", RATE.iter().map(|key| key.name.to_owned()).collect()),
            ("breaker", BREAKER.iter().map(|key| key.name.to_owned()).collect()),
            ("adaptive", ADAPTIVE.iter().map(|key| key.name.to_owned()).collect()),
        ] {
            let section = schema.pointer(&format!("/properties/{name}")).unwrap();
            assert_eq!(keys(section), sorted(known), "{name}");
        }
        let limits = sorted(LIMITS.iter().map(|limit| limit.name.to_owned()).collect());
        assert_eq!(keys(&schema["properties"]["limits"]), limits);
        let upstream = &schema["properties"]["upstream"];
        let mut written = Vec::new();
        for name in keys(upstream) {
            let section = &upstream["properties"][&name];
            match section["properties"].is_object() {
                true => written.extend(keys(section).iter().map(|key| format!("{name}.{key}"))),
                false => written.push(name),
            }
        }
        let names = KEYS.iter().map(|key| key.name).chain(["replicas"]).map(str::to_owned);
        assert_eq!(sorted(written), sorted(names.collect()));
    }
}
