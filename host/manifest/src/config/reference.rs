//! References to values: how they are written, and their schema.

use serde_json::{Value, json};

use super::{ConfigKey, ConfigSource, MOST_NAME, is_config_key};
use crate::written::{Problems, Written};

/// Reads a reference of one of these `kinds`, which is written as `form` says.
pub(crate) fn reference(
    key: &Written<'_>,
    parts: &[Written<'_>],
    kinds: &[&str],
    form: &str,
    problems: &mut Problems,
) -> Option<ConfigKey> {
    let (mut sources, mut secret, mut default, mut of) = (Vec::new(), false, None, None);
    for part in parts {
        match part.name.as_str() {
            "secret" => secret = problems.take(part.boolean())?,
            "default" => default = Some(problems.take(part.plain())?),
            kind if kinds.contains(&kind) => {
                let text = problems.take(part.string(form))?;
                let named = || match is_config_key(text) {
                    true => Ok(text.to_owned()),
                    false => Err(key.error(format!("`{}` is no key of [config]", text.escape_debug()))),
                };
                sources.push(match kind {
                    "file" => ConfigSource::File(text.into()),
                    "env" => ConfigSource::Environment(text.to_owned()),
                    "host" => ConfigSource::Host(problems.take(named())?),
                    "service" if is_service_name(text) => {
                        ConfigSource::Service { service: text.to_owned(), key: String::new() }
                    }
                    "service" => {
                        problems.push(key.error(format!("`{}` is no name of a service", text.escape_debug())));
                        return None;
                    }
                    _ => ConfigSource::Config(problems.take(named())?),
                });
            }
            "key" if kinds.contains(&"service") => {
                let text = problems.take(part.string(form))?;
                of = Some(text.to_owned());
                if !is_config_key(text) {
                    problems.push(key.error(format!("`{}` is no key of [config]", text.escape_debug())));
                    return None;
                }
            }
            _ => {
                let known: Vec<_> = kinds.iter().copied().chain(["secret", "default"]).collect();
                problems.push(part.unknown("", &known));
                return None;
            }
        }
    }
    let source = match (sources.pop(), of) {
        (Some(ConfigSource::Service { service, .. }), Some(key)) => Some(ConfigSource::Service { service, key }),
        (Some(ConfigSource::Service { service, .. }), None) => {
            problems.push(key.error(format!("write the key, too: {{ service = \"{service}\", key = \"KEY\" }}")));
            return None;
        }
        (_, Some(_)) => {
            problems.push(key.error("`key` belongs to `service`"));
            return None;
        }
        (source, None) => source,
    };
    match (source, sources.is_empty()) {
        (Some(_), true) if secret && default.is_some() => {
            problems.push(key.error("a secret has no default: a manifest contains no secrets"));
            None
        }
        (Some(source), true) => Some(ConfigKey { source, secret, default }),
        _ => {
            let kinds: Vec<_> = kinds.iter().map(|kind| format!("`{kind}`")).collect();
            let (last, others) = kinds.split_last()?;
            problems.push(key.error(format!("write one of {} and {last}", others.join(", "))));
            None
        }
    }
}

/// Returns the schema of a value that is a literal or a reference of one of these kinds.
pub(crate) fn schema_of(literal: &Value, kinds: &[&str]) -> Value {
    let flag = json!({ "type": "boolean", "default": false });
    let reference = |kind: &&str| {
        let text = json!({ "type": "string" });
        let (properties, required) = match *kind {
            "service" => (json!({ *kind: text, "key": text, "secret": flag, "default": text }), vec![*kind, "key"]),
            _ => (json!({ *kind: text, "secret": flag, "default": text }), vec![*kind]),
        };
        json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
    };
    let all: Vec<_> = [literal.clone()].into_iter().chain(kinds.iter().map(reference)).collect();
    json!({ "anyOf": all })
}

fn is_service_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=MOST_NAME).contains(&text.len()) && text.bytes().all(allowed)
}
