//! `[config]` and `config_directories`: the configuration of a service, with its secrets.
//!
//! Values are literal, or references to files and to environment variables of the host. What is secret is a reference: a
//! manifest contains no secrets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::schema;
use crate::section::{Capability, Owner, Section, Subject, View, words};
use crate::written::{Problems, Written};

/// The most keys that a manifest lists.
const MOST_KEYS: usize = 256;

/// The most bytes of a key.
const MOST_NAME: usize = 128;

/// The most directories.
const MOST_DIRECTORIES: usize = 8;

/// How a value is written.
const FORM: &str =
    "write a value, { file = \"PATH\" } or { env = \"NAME\" }, the last two with `secret` and `default` if need be";

/// The kinds of references.
const REFERENCES: &[&str] = &["file", "env"];

/// `[config]`.
pub(crate) const SECTION: Section = Section {
    name: "config",
    page: "config",
    schema: || {
        let literal = json!({ "type": ["string", "number", "boolean"] });
        json!({ "type": "object", "additionalProperties": schema_of(&literal, REFERENCES) })
    },
    owner: Owner::All(|manifest, written, problems| manifest.config.keys = keys(written, problems)),
    subject: Subject::Execution,
    view: Some(View {
        label: "configuration",
        value: |manifest| {
            let keys: BTreeMap<_, _> =
                manifest.config.keys.iter().map(|(name, key)| (name.as_str(), key.shown())).collect();
            (!keys.is_empty()).then(|| json!(keys))
        },
        text: words,
    }),
    capability: Some(&Capability {
        what: "configuration",
        interfaces: &["wasi:config/", "wasmcloud:secrets/", "spin:variables/variables", "fermyon:spin/variables"],
        given: "imported; empty except [config] and `config_directories` of its manifest",
        grant: Some(
            "[config]\n# greeting = \"Hello\"\n# password = { file = \"/run/secrets/password\", secret = true }\n",
        ),
    }),
};

/// `config_directories`.
pub(crate) const DIRECTORIES: Section = Section {
    name: "config_directories",
    page: "config",
    schema: || {
        let item = json!({
            "anyOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": { "path": { "type": "string" }, "secret": { "type": "boolean", "default": false } },
                    "required": ["path"],
                    "additionalProperties": false,
                },
            ],
        });
        schema::described(json!({ "type": "array", "items": item }), "directories with a file for each key")
    },
    owner: Owner::All(|manifest, written, problems| {
        if let Some(items) =
            problems.take(written.items("[\"/etc/users\", { path = \"/run/secrets\", secret = true }]"))
        {
            if items.len() > MOST_DIRECTORIES {
                problems.push(written.error(format!("more than {MOST_DIRECTORIES} directories")));
            }
            manifest.config.directories = items.iter().filter_map(|item| directory(item, problems)).collect();
        }
    }),
    subject: Subject::Execution,
    view: Some(View {
        label: "config from",
        value: |manifest| {
            let paths: Vec<_> =
                manifest.config.directories.iter().map(|from| from.path.display().to_string()).collect();
            (!paths.is_empty()).then(|| paths.into())
        },
        text: words,
    }),
    ..Section::DEFAULT
};

/// The configuration of a service, as its manifest describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigGrant {
    /// The keys of `[config]`.
    pub keys: BTreeMap<String, ConfigKey>,
    /// Directories with a file for each key. Keys of `[config]` have precedence, and the first directory over the second.
    pub directories: Vec<ConfigDirectory>,
}

/// A key of `[config]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigKey {
    /// Where the value is.
    pub source: ConfigSource,
    /// Whether the value is masked wherever the host writes it.
    pub secret: bool,
    /// The value where its source has none; without it, that is a reason to refuse the service.
    pub default: Option<String>,
}

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// In the manifest.
    Literal(String),
    /// In a file. A relative path begins at the directory of the manifest.
    File(PathBuf),
    /// In an environment variable of the host.
    Environment(String),
    /// Under this key of the configuration; for environment variables.
    Config(String),
}

/// A directory with a file for each key, as Kubernetes mounts ConfigMaps and Secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigDirectory {
    /// Its path. A relative one begins at the directory of the manifest.
    pub path: PathBuf,
    /// Whether its values are masked.
    pub secret: bool,
}

impl ConfigGrant {
    /// Whether there is no configuration.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.directories.is_empty()
    }
}

impl ConfigKey {
    /// A value in the manifest.
    pub(crate) fn literal(text: impl Into<String>) -> Self {
        Self { source: ConfigSource::Literal(text.into()), secret: false, default: None }
    }

    /// Returns the value, if it is in the manifest.
    pub fn text(&self) -> Option<&str> {
        if let ConfigSource::Literal(text) = &self.source { Some(text) } else { None }
    }

    /// Where the value is, in words. The value itself is not shown.
    fn shown(&self) -> String {
        let secret = if self.secret { ", secret" } else { "" };
        match &self.source {
            ConfigSource::Literal(_) => "manifest".into(),
            ConfigSource::File(path) => format!("file {}{secret}", path.display()),
            ConfigSource::Environment(name) => format!("environment {name}{secret}"),
            ConfigSource::Config(key) => format!("config.{key}{secret}"),
        }
    }
}

/// Whether this is the name of a key: also as the file of a directory.
pub fn is_config_key(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=MOST_NAME).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(allowed)
}

fn keys(written: &Written<'_>, problems: &mut Problems) -> BTreeMap<String, ConfigKey> {
    let Some(keys) = written.table() else {
        problems.push(written.error("write a section [config], with a key for each value"));
        return BTreeMap::new();
    };
    if keys.len() > MOST_KEYS {
        problems
            .push(written.error(format!("{} keys are more than {MOST_KEYS}; use `config_directories`", keys.len())));
    }
    let mut read = BTreeMap::new();
    for key in &keys {
        let name = key.inside(written);
        if !is_config_key(name) {
            problems.push(key.error("a key has letters, digits, `_`, `-` and `.`, and does not begin with `.`"));
        } else if let Some(value) = value(key, problems) {
            read.insert(name.to_owned(), value);
        }
    }
    read
}

fn value(key: &Written<'_>, problems: &mut Problems) -> Option<ConfigKey> {
    match key.item() {
        Some(parts) => reference(key, &parts, REFERENCES, FORM, problems),
        None => problems.take(key.plain().map_err(|_| key.error(FORM))).map(ConfigKey::literal),
    }
}

/// Reads a reference of one of these `kinds`, which is written as `form` says.
pub(crate) fn reference(
    key: &Written<'_>,
    parts: &[Written<'_>],
    kinds: &[&str],
    form: &str,
    problems: &mut Problems,
) -> Option<ConfigKey> {
    let (mut sources, mut secret, mut default) = (Vec::new(), false, None);
    for part in parts {
        match part.name.as_str() {
            "secret" => secret = problems.take(part.boolean())?,
            "default" => default = Some(problems.take(part.plain())?),
            kind if kinds.contains(&kind) => {
                let text = problems.take(part.string(form))?;
                sources.push(match kind {
                    "file" => ConfigSource::File(text.into()),
                    "env" => ConfigSource::Environment(text.to_owned()),
                    _ if is_config_key(text) => ConfigSource::Config(text.to_owned()),
                    _ => {
                        problems.push(key.error(format!("`{}` is no key of [config]", text.escape_debug())));
                        return None;
                    }
                });
            }
            _ => {
                let known: Vec<_> = kinds.iter().copied().chain(["secret", "default"]).collect();
                problems.push(part.unknown("", &known));
                return None;
            }
        }
    }
    match (sources.pop(), sources.is_empty()) {
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
        json!({
            "type": "object",
            "properties": { *kind: { "type": "string" }, "secret": flag, "default": { "type": "string" } },
            "required": [kind],
            "additionalProperties": false,
        })
    };
    let all: Vec<_> = [literal.clone()].into_iter().chain(kinds.iter().map(reference)).collect();
    json!({ "anyOf": all })
}

fn directory(item: &Written<'_>, problems: &mut Problems) -> Option<ConfigDirectory> {
    let Some(parts) = item.item() else {
        let path = problems.take(item.string("write paths, between quotes"))?.into();
        return Some(ConfigDirectory { path, secret: false });
    };
    let (mut path, mut secret) = (None, false);
    for part in &parts {
        match part.name.as_str() {
            "path" => path = Some(problems.take(part.string("write a path, between quotes"))?.into()),
            "secret" => secret = problems.take(part.boolean())?,
            _ => {
                problems.push(part.unknown("", &["path", "secret"]));
                return None;
            }
        }
    }
    let path = path.ok_or_else(|| item.error("`path` is missing"));
    Some(ConfigDirectory { path: problems.take(path)?, secret })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read;

    fn key(source: ConfigSource) -> ConfigKey {
        ConfigKey { source, secret: false, default: None }
    }

    #[test]
    fn forms() {
        let text = "config_directories = ['/etc/a', { path = 'b', secret = true }]\n[config]\nname = 'Ada'\nport = 80\non = true\n\
                    url = { env = 'URL', default = 'none' }\npassword = { file = '/run/p', secret = true }";
        let config = read(text).unwrap().config;
        let literal = |text: &str| key(ConfigSource::Literal(text.into()));
        assert_eq!(config.keys["name"], literal("Ada"));
        assert_eq!((config.keys["port"].clone(), config.keys["on"].clone()), (literal("80"), literal("true")));
        let url = key(ConfigSource::Environment("URL".into()));
        assert_eq!(config.keys["url"], ConfigKey { default: Some("none".into()), ..url });
        let password = key(ConfigSource::File("/run/p".into()));
        assert_eq!(config.keys["password"], ConfigKey { secret: true, ..password });
        let directory = |path: &str, secret| ConfigDirectory { path: path.into(), secret };
        assert_eq!(config.directories, [directory("/etc/a", false), directory("b", true)]);
        assert!(read("").unwrap().config.is_empty());
    }

    #[test]
    fn values_are_not_shown() {
        let manifest = read("[config]\nname = 'canary'\npassword = { env = 'P', secret = true }").unwrap();
        let view = (SECTION.view.unwrap().value)(&manifest).unwrap();
        assert_eq!(view, json!({ "name": "manifest", "password": "environment P, secret" }));
    }

    #[test]
    fn problems_name_the_key() {
        let problem = |text: &str| read(text).unwrap_err();
        assert!(problem("config = 1").starts_with("line 1: config: write a section [config]"));
        assert_eq!(problem("[config]\na = { fil = 'x' }"), "line 2: unknown key `fil`; did you mean `file`?");
        assert_eq!(problem("[config]\na = { secret = true }"), "line 2: config.a: write one of `file` and `env`");
        let both = "[config]\na = { file = 'x', env = 'Y' }";
        assert_eq!(problem(both), "line 2: config.a: write one of `file` and `env`");
        let default = "[config]\na = { env = 'Y', secret = true, default = 'z' }";
        assert!(problem(default).contains("a secret has no default"));
        assert!(problem("[config]\n'a/b' = 'x'").contains("a key has letters"));
        assert!(problem("config_directories = [{ secret = true }]").contains("`path` is missing"));
    }
}
