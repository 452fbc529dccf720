//! `lodge schema`: the JSON Schema of a manifest, for editors. Made from the tables that read it.

use serde_json::{Map, Value, json};

use super::out::{self, Failure};
use crate::config::key::Key;
use crate::config::limits::LIMITS;
use crate::guests::manifest::policies::{ADAPTIVE, BREAKER, PRIORITIES, RATE};

/// Prints it.
pub(super) fn run() -> Result<(), Failure> {
    out::line(&format!("{:#}", schema()))
}

fn schema() -> Value {
    let path = json!({ "type": "string", "pattern": "^/" });
    let limit =
        |help: &str, default: &str| json!({ "type": ["string", "integer"], "description": help, "default": default });
    let limits: serde_json::Map<_, _> =
        LIMITS.iter().map(|key| (key.name.to_owned(), limit(key.help, key.default))).collect();
    let service = policies(true);
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Manifest of a Lodge service",
        "type": "object",
        "additionalProperties": false,
        "properties": {
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
            "routes": {
                "type": "array",
                "description": "where the service answers; the default is /NAME",
                "items": { "anyOf": [path, {
                    "type": "object",
                    "additionalProperties": false,
                    "required": ["path"],
                    "properties": {
                        "path": path,
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
                    },
                }]},
            },
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
            "env": { "type": "object", "additionalProperties": { "type": "string" } },
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
                "properties": { "path": path },
                "description": "a path that must answer 2xx before a version is served",
            },
        },
    });
    let places = ["/properties", "/properties/routes/items/anyOf/1/properties"];
    for (place, policies) in places.into_iter().zip([service, policies(false)]) {
        if let Some(properties) = schema.pointer_mut(place).and_then(Value::as_object_mut) {
            properties.extend(policies);
        }
    }
    schema
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
    }
}
