//! The JSON Schema of a manifest, for editors: the schemas of all sections, and what these are made of.

use serde_json::{Map, Value, json};

use crate::section::SECTIONS;
use lodge_base::config::key::Key;

/// Returns the schema of a manifest.
pub fn manifest() -> Value {
    let properties: Map<_, _> = SECTIONS.iter().map(|section| (section.name.to_owned(), (section.schema)())).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Manifest of a Lodge service",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

/// Returns the schema of a table with these keys and no others.
pub(crate) fn table(required: &[&str], properties: Value) -> Value {
    let table = json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if required.is_empty() { table } else { with(table, "required", json!(required)) }
}

/// Returns a schema with a description.
pub(crate) fn described(schema: Value, description: &str) -> Value {
    with(schema, "description", description.into())
}

fn with(mut schema: Value, keyword: &str, value: Value) -> Value {
    if let Value::Object(keywords) = &mut schema {
        keywords.insert(keyword.to_owned(), value);
    }
    schema
}

/// Returns the schema of a list, for which a single text can stand.
pub(crate) fn list(text: Value, item: Value) -> Value {
    json!({ "anyOf": [text, { "type": "array", "items": item }] })
}

/// Returns the schema of a list of texts, for which one of them can stand.
pub(crate) fn texts(text: Value) -> Value {
    list(text.clone(), text)
}

/// Returns the schema of a path.
pub(crate) fn path() -> Value {
    json!({ "type": "string", "pattern": "^/" })
}

/// Returns the schema of a percentage.
pub(crate) fn percent(description: &str, default: u32) -> Value {
    json!({
        "type": ["number", "string"],
        "minimum": 0,
        "maximum": 100,
        "pattern": "^[0-9.]+ *%?$",
        "default": default,
        "description": description,
    })
}

/// Returns the schema of a section with these settings. `blank` is a value that they can write to.
pub(crate) fn settings<T: Clone>(keys: &[Key<T>], blank: &T, required: &[&str]) -> Value {
    let mut section = table(required, json!({}));
    for key in keys {
        add(&mut section, key.name, setting(key, blank));
    }
    section
}

/// Adds a property with a dotted name, in a table for each part of it.
pub(crate) fn add(table: &mut Value, name: &str, schema: Value) {
    let Some(Value::Object(properties)) = table.get_mut("properties") else { return };
    match name.split_once('.') {
        None => drop(properties.insert(name.to_owned(), schema)),
        Some((group, rest)) => {
            let group = properties.entry(group).or_insert_with(|| self::table(&[], json!({})));
            add(group, rest, schema);
        }
    }
}

/// Returns the schema of a setting. Settings are parsed from text whatever their TOML type, so the parser is tried with
/// examples.
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

#[cfg(test)]
mod tests;
