//! The list of replicas in a manifest: URLs, or tables with `url` and `weight`.

use std::collections::HashSet;

use serde_json::{Value, json};
use toml::de::{DeTable, DeValue};

use crate::schema;
use crate::upstream::source::{Source, WEIGHT};
use crate::written::Written;
use lodge_base::config::key::nearest;

/// The most replicas of one upstream, listed or discovered.
pub const MOST_REPLICAS: usize = 1000;

/// The schema of `replicas`.
pub(super) fn replicas_schema() -> Value {
    let url = json!({ "type": "string", "pattern": "^(https?|dns|dns\\+https|srv|srv\\+https|k8s|k8s\\+https|cluster|cluster\\+https)://" });
    let weight = json!({ "type": "integer", "minimum": 1, "maximum": WEIGHT, "default": 1 });
    let weighted = schema::table(&["url"], json!({ "url": url, "weight": weight }));
    json!({
        "type": "array",
        "maxItems": MOST_REPLICAS,
        "description": "the replicas of the service",
        "items": { "anyOf": [url, weighted] },
    })
}

/// Reads the value of `replicas`.
pub(super) fn read(written: &Written<'_>) -> Result<Vec<Source>, String> {
    let list = written.list().ok_or_else(|| written.error("must be a list, like [\"http://10.0.0.7:8080\"]"))?;
    let (mut sources, mut places) = (Vec::new(), HashSet::new());
    for item in list {
        let source = match item.get_ref() {
            DeValue::String(url) => Source::parse(url),
            DeValue::Table(table) => with_weight(table),
            _ => Err("a replica is a URL, or a table with `url` and `weight`".into()),
        };
        let source = source.and_then(|source| match source {
            // A path outside of the directory is not watched, unlike `replicas_file`.
            Source::File(path) => Err(format!("`file:{}`: use replicas_file for a file of replicas", path.display())),
            source => Ok(source),
        });
        let added = source.and_then(|source| add(&mut sources, &mut places, source));
        added.map_err(|problem| written.error(problem))?;
    }
    Ok(sources)
}

/// Converts a table with `url` and `weight` into the one-line form and parses that.
fn with_weight(table: &DeTable<'_>) -> Result<Source, String> {
    let (mut url, mut weight) = (None, None);
    for (key, value) in table {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("url", DeValue::String(text)) => url = Some(text),
            ("url", _) => return Err("a replica's `url` is text, like \"http://10.0.0.7:8080\"".into()),
            ("weight", DeValue::Integer(number)) => weight = Some(number.as_str()),
            ("weight", _) => return Err("a replica's `weight` is a whole number".into()),
            (key, _) => {
                let near = nearest(key, ["url", "weight"].into_iter());
                let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                return Err(format!("a replica has no `{key}`{hint}"));
            }
        }
    }
    let url = url.ok_or("a replica needs its `url`, like \"http://10.0.0.7:8080\"")?;
    Source::parse(&weight.map_or(url.to_string(), |weight| format!("{url} weight={weight}")))
}

/// Adds a source, unless there are too many or it is a duplicate.
pub(super) fn add(sources: &mut Vec<Source>, places: &mut HashSet<String>, source: Source) -> Result<(), String> {
    if sources.len() >= MOST_REPLICAS {
        return Err(format!("there are more than {MOST_REPLICAS} replicas"));
    }
    if !places.insert(source.to_string()) {
        return Err(format!("duplicate replica `{source}`; give it a weight instead"));
    }
    sources.push(source);
    Ok(())
}
