//! `lodge schema`: the JSON Schema of a manifest, for editors. Made from the tables that read it.

use serde_json::{Value, json};

use super::out::{self, Failure};
use crate::config::limits::LIMITS;

/// Prints it.
pub(super) fn run() -> Result<(), Failure> {
    out::line(&format!("{:#}", schema()))
}

fn schema() -> Value {
    let path = json!({ "type": "string", "pattern": "^/" });
    let limit =
        |help: &str, default: &str| json!({ "type": ["string", "integer"], "description": help, "default": default });
    let cache = json!({
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
    });
    let limits: serde_json::Map<_, _> =
        LIMITS.iter().map(|key| (key.name.to_owned(), limit(key.help, key.default))).collect();
    json!({
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
                        "cache": cache,
                    },
                }]},
            },
            "cache": cache,
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
    })
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
        let limits = sorted(LIMITS.iter().map(|limit| limit.name.to_owned()).collect());
        assert_eq!(keys(&schema["properties"]["limits"]), limits);
    }
}
