//! `<name>.toml` beside `<name>.wasm`: where a service answers, how it is isolated, and what it may use.
//!
//! Pure: text and defaults in, [`Manifest`] or every problem out. A service without a manifest has the manifest
//! of an empty file.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::config::key::nearest;
use crate::config::limits::{LIMITS, Limits};
use crate::config::plain;
use crate::request::route::Pattern;

/// What a manifest says, with the defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Paths that the service answers at.
    pub routes: Vec<Pattern>,
    /// Who shares a sandbox.
    pub isolation: Isolation,
    /// What it may use.
    pub limits: Limits,
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
    routes: Option<Vec<String>>,
    #[serde(default)]
    isolation: Isolation,
    #[serde(default)]
    limits: BTreeMap<toml::Spanned<String>, toml::Value>,
}

impl Manifest {
    /// Reads the manifest of the service `name`; `defaults` and `max_memory` come from the configuration.
    ///
    /// # Errors
    /// Every problem, each with its line where it has one.
    pub fn read(name: &str, text: &str, defaults: &Limits, max_memory: usize) -> Result<Self, Vec<String>> {
        let file: File = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(String::new(), |span| line_of(text, span.start));
            vec![format!("{line}{}", error.message())]
        })?;
        let mut problems = Vec::new();
        let mut limits = defaults.clone();
        for (key, value) in &file.limits {
            let line = line_of(text, key.span().start);
            let name = key.get_ref();
            match LIMITS.iter().find(|limit| limit.name == name) {
                Some(limit) => {
                    if let Err(expected) = (limit.set)(&mut limits, &plain(value)) {
                        problems.push(format!("{line}limits.{name}: {expected}"));
                    }
                }
                None => {
                    let near = nearest(name, LIMITS.iter().map(|limit| limit.name));
                    let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                    problems.push(format!("{line}there is no limit `{name}`{hint}"));
                }
            }
        }
        let routes = file.routes.unwrap_or_else(|| vec![format!("/{name}")]);
        let (routes, bad): (Vec<_>, Vec<_>) = routes.iter().map(|route| Pattern::read(route)).partition(Result::is_ok);
        problems.extend(bad.into_iter().filter_map(Result::err));
        if problems.is_empty() {
            problems.extend(limits.disagreements(max_memory));
        }
        let routes = routes.into_iter().filter_map(Result::ok).collect();
        if problems.is_empty() { Ok(Self { routes, isolation: file.isolation, limits }) } else { Err(problems) }
    }
}

fn line_of(text: &str, offset: usize) -> String {
    let line = text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
    format!("line {line}: ")
}

#[cfg(test)]
mod tests;
