//! `[config]` and `config_directories`: the configuration of a service, with its secrets.
//!
//! Values are literal, or references to files and to environment variables of the host. What is secret is a reference: a
//! manifest contains no secrets.

mod reference;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;
use toml::de::DeTable;

use crate::Manifest;
use crate::schema;
use crate::section::{Capability, Owner, Section, Subject, View, of_manifest, words};
use crate::written::{Problems, Written};
pub(crate) use reference::{reference, schema_of};

/// The most keys that a manifest lists.
const MOST_KEYS: usize = 256;

/// The most bytes of a key.
const MOST_NAME: usize = 128;

/// The most directories.
const MOST_DIRECTORIES: usize = 8;

/// How a value is written.
const FORM: &str = "write a value, or a reference such as { file = \"PATH\" } or { env = \"NAME\" }, with `secret` and `default` if need be";

/// The kinds of references.
const REFERENCES: &[&str] = &["file", "env", "host", "service"];

/// `[config]`.
pub(crate) const SECTION: Section = Section {
    name: "config",
    page: "config",
    schema: || {
        let literal = json!({ "type": ["string", "number", "boolean"] });
        json!({ "type": "object", "additionalProperties": schema_of(&literal, REFERENCES) })
    },
    owner: Owner::All(|manifest, written, problems| {
        let keys = keys(Some(manifest), written, problems);
        manifest.config.keys = keys;
    }),
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
    capability: Some(&VALUES),
};

/// What both sections grant.
const VALUES: Capability = Capability {
    what: "configuration",
    interfaces: &["wasi:config/", "wasmcloud:secrets/", "spin:variables/variables", "fermyon:spin/variables"],
    given: "imported; empty except [config] and `config_directories` of its manifest",
    grant: Some("[config]\n# greeting = \"Hello\"\n# password = { file = \"/run/secrets/password\", secret = true }\n"),
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
        manifest.config.directories = directories(written, problems);
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
    capability: Some(&VALUES),
};

/// `config_shared`.
pub(crate) const SHARED: Section = Section {
    name: "config_shared",
    page: "config",
    schema: || schema::described(schema::texts(json!({ "type": "string" })), "keys that other services may refer to"),
    owner: Owner::Service(|manifest, written, problems| {
        manifest.config.shared = shared(written, problems);
    }),
    subject: Subject::Execution,
    view: Some(View {
        label: "config for others",
        value: |manifest| (!manifest.config.shared.is_empty()).then(|| json!(manifest.config.shared)),
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
    /// The keys that other services may refer to.
    pub shared: Vec<String>,
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
    /// Under this key of the host's shared configuration.
    Host(String),
    /// Under this key of another service, whose manifest shares it.
    Service {
        /// The service.
        service: String,
        /// The key.
        key: String,
    },
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
            ConfigSource::Host(key) => format!("host {key}{secret}"),
            ConfigSource::Service { service, key } => format!("service {service}, {key}{secret}"),
        }
    }
}

/// Reads the configuration in the text of a manifest or of the host's shared configuration, whose other keys are left out.
///
/// # Errors
/// The first problem, without the values of the text.
pub fn of_text(text: &str) -> Result<ConfigGrant, String> {
    let document = DeTable::parse(text).map_err(|_| "it is not TOML".to_owned())?;
    let (mut grant, mut problems) = (ConfigGrant::default(), Problems::default());
    for key in Written::keys(text, document.get_ref(), "") {
        match key.name.as_str() {
            "config" => grant.keys = keys(None, &key, &mut problems),
            "config_directories" => grant.directories = directories(&key, &mut problems),
            "config_shared" => grant.shared = shared(&key, &mut problems),
            _ => {}
        }
    }
    problems.0.into_iter().next().map_or(Ok(grant), Err)
}

fn shared(written: &Written<'_>, problems: &mut Problems) -> Vec<String> {
    let items = problems.take(written.items("[\"api_url\"]")).unwrap_or_default();
    if items.len() > MOST_KEYS {
        problems.push(written.error(format!("{} keys are more than {MOST_KEYS}", items.len())));
    }
    let key = |item: &Written<'_>| {
        let text = item.string("write keys of [config], between quotes")?;
        is_config_key(text).then(|| text.to_owned()).ok_or_else(|| item.error("that is no key of [config]"))
    };
    items.iter().filter_map(|item| problems.take(key(item))).collect()
}

/// Whether this is the name of a key: also as the file of a directory.
pub fn is_config_key(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=MOST_NAME).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(allowed)
}

/// Reads the keys of [config], of a `manifest` if there is one.
fn keys(manifest: Option<&Manifest>, written: &Written<'_>, problems: &mut Problems) -> BTreeMap<String, ConfigKey> {
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
        let is_value = value(key, &mut Problems::default()).is_some();
        let hint = manifest.and_then(|manifest| of_manifest(manifest, key, name, is_value));
        if let Some(hint) = hint {
            let otherwise = "or give the key another name; a value in quotes, as \"true\", is the same for the service";
            problems.push(key.at(format!("config: {hint}, {otherwise}")));
        } else if !is_config_key(name) {
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

fn directories(written: &Written<'_>, problems: &mut Problems) -> Vec<ConfigDirectory> {
    let items = problems.take(written.items("[\"/etc/users\", { path = \"/run/secrets\", secret = true }]"));
    let items = items.unwrap_or_default();
    if items.len() > MOST_DIRECTORIES {
        problems.push(written.error(format!("more than {MOST_DIRECTORIES} directories")));
    }
    items.iter().filter_map(|item| directory(item, problems)).collect()
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
mod tests;
