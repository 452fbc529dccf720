//! Reads `lodge.toml` and the environment into a map from setting to text.

use super::settings::names;
use super::{Source, env_name};

/// Reads `lodge.toml` into a [`Source`]: `[listener] idle = "60s"` becomes `listener.idle`.
///
/// # Errors
/// The position and the problem, if it is not TOML.
pub fn read_file(text: &str) -> Result<Source, String> {
    fn flatten(prefix: &str, value: &toml::Value, into: &mut Source) {
        match value {
            // An empty section says that signatures are wanted, and not by whom.
            toml::Value::Table(table) if table.is_empty() && prefix == "trust" => {
                into.insert("trust.keys".to_owned(), String::new());
            }
            // A table of what other sources have as a list: `NAME=VALUE`, comma-separated.
            toml::Value::Table(table) if prefix == "errors.pages" => {
                let items: Vec<_> = table.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
                into.insert(prefix.to_owned(), items.join(","));
            }
            toml::Value::Table(table) => {
                for (name, value) in table {
                    let dot = if prefix.is_empty() { "" } else { "." };
                    flatten(&format!("{prefix}{dot}{name}"), value, into);
                }
            }
            toml::Value::Array(items) => {
                // Lists in a list are lists beside each other, as the names of several certificates.
                let nested = !items.is_empty() && items.iter().all(toml::Value::is_array);
                let items: Vec<_> =
                    items.iter().map(|item| item.as_array().map_or_else(|| plain(item), |items| list(items))).collect();
                into.insert(prefix.to_owned(), items.join(if nested { ";" } else { "," }));
            }
            value => drop(into.insert(prefix.to_owned(), plain(value))),
        }
    }
    let table: toml::Table =
        toml::from_str(text).map_err(|error| error.to_string().trim_end().replace('\n', "\n  "))?;
    let mut source = Source::new();
    flatten("", &toml::Value::Table(table), &mut source);
    Ok(source)
}

/// Reads the `LODGE_*` variables among `vars`. Also returns the names that are not settings, for a warning and not as
/// an error: Kubernetes sets `LODGE_SERVICE_HOST` and others for any Service called lodge.
pub fn read_environment(vars: impl Iterator<Item = (String, String)>) -> (Source, Vec<String>) {
    let (mut source, mut unknown) = (Source::new(), Vec::new());
    for (variable, value) in vars.filter(|(variable, _)| variable.starts_with("LODGE_")) {
        match names().find(|name| env_name(name) == variable) {
            Some(name) => drop(source.insert(name, value)),
            None => unknown.push(variable),
        }
    }
    (source, unknown)
}

fn list(items: &[toml::Value]) -> String {
    items.iter().map(plain).collect::<Vec<_>>().join(",")
}

/// Returns a scalar TOML value as the text of a flag or variable.
fn plain(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}
