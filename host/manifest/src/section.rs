//! The sections of a manifest: every key at its top level, as a value.
//!
//! A [`Section`] describes its key completely. The reader of manifests, the list of known keys, "did you mean", the
//! JSON Schema, the check of the docs, the admin API and `lodge inspect` go through [`SECTIONS`].

use std::collections::BTreeMap;

use serde_json::Value;

use crate::policies::RouteSettings;
use crate::routes;
use crate::written::{Problems, Written, resembled};
use crate::{
    Manifest, adaptive, auth, blobstore, breaker, build, cache, clients, component, compress, config, consume, cors,
    env, errors, files, grants, headers, keyvalue, limits, lock, middleware, policies, postgres, rate,
};
use crate::{redirects, rules, sandbox, schedule, share, sqlite, upstream, validate, volumes};

/// Every section, in the order of the docs.
pub static SECTIONS: &[&Section] = &[
    &component::ENABLED,
    &component::COMPONENT,
    &component::DIGEST,
    &middleware::SECTION,
    &component::READY,
    &sandbox::ISOLATION,
    &sandbox::CPU_WEIGHT,
    &limits::SECTION,
    &env::SECTION,
    &grants::CALLS,
    &grants::HTTP,
    &config::SECTION,
    &config::DIRECTORIES,
    &config::SHARED,
    &keyvalue::SECTION,
    &lock::SECTION,
    &sqlite::SECTION,
    &postgres::SECTION,
    &blobstore::SECTION,
    &volumes::SECTION,
    &consume::PUBLISH,
    &consume::CONSUME,
    &schedule::SECTION,
    &routes::SECTION,
    &cache::SECTION,
    &cors::SECTION,
    &headers::SECTION,
    &compress::SECTION,
    &errors::SECTION,
    &redirects::SECTION,
    &clients::ALLOW,
    &clients::DENY,
    &auth::SECTION,
    &rules::SECTION,
    &validate::SECTION,
    &validate::api::SECTION,
    &policies::PRIORITY,
    &policies::AUDIT,
    &rate::SECTION,
    &breaker::SECTION,
    &adaptive::SECTION,
    &upstream::SECTION,
    &files::SECTION,
    &share::PERCENT,
    &share::MATCH,
    &share::MIRROR,
    &share::ROLLBACK,
    &share::STICKY,
    &build::SECTION,
];

/// A key at the top level of a manifest: a section such as `[rate]`, or a single value such as `digest`.
pub struct Section {
    /// The key.
    pub name: &'static str,
    /// The page of the docs with its keys: `docs/<page>.md`.
    pub page: &'static str,
    /// Its JSON Schema. The properties are the keys inside of it.
    pub schema: fn() -> Value,
    /// Who may have it, and how it is read.
    pub(crate) owner: Owner,
    /// What it configures.
    pub(crate) subject: Subject,
    /// What the admin API and `lodge inspect` show of it.
    pub view: Option<View>,
    /// The capability that it grants.
    pub capability: Option<&'static Capability>,
}

/// Who may have a section, and its reader.
#[derive(Clone, Copy)]
pub(crate) enum Owner {
    /// A service and each of its versions.
    All(fn(&mut Manifest, &Written<'_>, &mut Problems)),
    /// A service, for all its versions.
    Service(fn(&mut Manifest, &Written<'_>, &mut Problems)),
    /// A version.
    Version(fn(&mut Manifest, &Written<'_>, &mut Problems)),
    /// A service, for all its versions, and each of its routes.
    Route(fn(&mut RouteSettings, &Written<'_>, &mut Problems)),
}

/// What a section configures. Decides whether it may stand beside `[upstream]` or `[files]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Requests, or the service as a whole.
    Service,
    /// The file of the component.
    File,
    /// The execution of the component. An upstream or a directory may inherit it, for versions that are components.
    Execution,
}

/// What the admin API and `lodge inspect` show of a section.
pub struct View {
    /// The label in `lodge inspect`.
    pub label: &'static str,
    /// The value in the API; `None` if there is nothing to show. It must not contain secrets.
    pub value: fn(&Manifest) -> Option<Value>,
    /// The value in words.
    pub text: fn(&Value) -> String,
}

/// A capability of guests: what a component imports, and the keys that grant it.
pub struct Capability {
    /// Its name; empty for interfaces that others are built on.
    pub what: &'static str,
    /// The interfaces; one that ends with `/` is a prefix.
    pub interfaces: &'static [&'static str],
    /// Whether and how it is granted.
    pub given: &'static str,
    /// The lines of a manifest that grant it.
    pub grant: Option<&'static str>,
}

impl Section {
    /// A section about a service, which is not shown. For `..` in the definition of a section.
    pub(crate) const DEFAULT: Self = Self {
        name: "",
        page: "manifest",
        schema: || Value::Null,
        owner: Owner::All(|_, _, _| {}),
        subject: Subject::Service,
        view: None,
        capability: None,
    };

    /// Returns the keys inside of the section, with dots between the parts, and their defaults as text. A default that
    /// does not exist is empty. Returns nothing for a single value.
    pub fn keys(&self) -> Vec<(String, String)> {
        let mut keys = Vec::new();
        collect("", &(self.schema)(), &mut keys);
        keys
    }

    /// Whether it is written as `[name]`, if not as several `[[name]]` as well.
    fn is_table(&self) -> bool {
        let schema = (self.schema)();
        let forms = schema.get("anyOf").and_then(Value::as_array);
        let table_or_list = |form| is(form, "object") || is_list(form);
        is(&schema, "object") || forms.is_some_and(|forms| forms.iter().all(table_or_list))
    }

    /// Whether there may be several, as `[[name]]`.
    pub(crate) fn is_list(&self) -> bool {
        let schema = (self.schema)();
        let forms = schema.get("anyOf").and_then(Value::as_array);
        is_list(&schema) || forms.is_some_and(|forms| forms.iter().any(is_list))
    }
}

fn is(schema: &Value, kind: &str) -> bool {
    schema.get("type").is_some_and(|it| it == kind)
}

/// Whether a schema is that of a list of tables.
fn is_list(schema: &Value) -> bool {
    is(schema, "array") && schema.get("items").is_some_and(|items| is(items, "object"))
}

/// Adds the properties of a schema and those of its alternatives.
fn collect(prefix: &str, schema: &Value, into: &mut Vec<(String, String)>) {
    for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let name = format!("{prefix}{name}");
        if inner.get("properties").is_some() {
            collect(&format!("{name}."), inner, into);
        } else {
            into.push((name, inner.get("default").map_or(String::new(), words)));
        }
    }
    for alternative in schema.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        collect(prefix, alternative, into);
    }
}

/// Returns the section with this key.
pub(crate) fn find(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().copied().find(|section| section.name == name)
}

/// Returns what the admin API shows of a manifest, by section.
pub fn views(manifest: &Manifest) -> BTreeMap<String, Value> {
    let shown = |section: &&&Section| manifest.has_component() || section.subject == Subject::Service;
    let view = |section: &&Section| Some((section.name.to_owned(), (section.view.as_ref()?.value)(manifest)?));
    SECTIONS.iter().filter(shown).filter_map(view).collect()
}

/// Returns what a manifest grants, by section: the views of the sections with a [`Capability`], and what a service without guests
/// reaches for its clients: a directory or replicas.
pub fn grants(manifest: &Manifest) -> BTreeMap<String, Value> {
    let mut grants = views(manifest);
    grants.retain(|name, _| name == "files" || find(name).is_some_and(|section| section.capability.is_some()));
    if let Some(upstream) = &manifest.upstream {
        grants.insert(upstream::SECTION.name.to_owned(), upstream.reached());
    }
    grants
}

/// Returns the value of a view in words: items and keys with commas between them.
pub fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Object(keys) => {
            keys.iter().map(|(key, value)| format!("{key} {}", words(value))).collect::<Vec<_>>().join(", ")
        }
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Returns the hint for a key in the section `path` that is meant for one below it, or is to turn the section on or off.
pub(crate) fn within(path: &str, name: &str) -> Option<String> {
    let (head, below) = path.split_once('.').unwrap_or((path, ""));
    let section = find(head)?;
    if name == "enabled" && below.is_empty() {
        let switches = |schema: &Value| schema.get("type").is_some_and(|kind| kind == "boolean");
        let schema = (section.schema)();
        let alternatives = schema.get("anyOf").and_then(Value::as_array);
        // Elsewhere it is meant for the service.
        return alternatives
            .is_some_and(|all| all.iter().any(switches))
            .then(|| format!("a section [{head}] is on; to turn it off, write `{head} = false` in place of it"));
    }
    let prefix = if below.is_empty() { String::new() } else { format!("{below}.") };
    let keys = section.keys();
    let inner = keys.iter().filter_map(|(key, _)| key.strip_prefix(&prefix));
    let meant: Vec<_> = inner
        .filter(|key| key.rsplit_once('.').is_some_and(|(_, last)| last == name))
        .map(|key| format!("`{path}.{key}`"))
        .collect();
    (!meant.is_empty()).then(|| format!("did you mean {}?", meant.join(" or ")))
}

/// Returns the hint for a key or section of `lodge.toml`.
fn of_host(key: &Written<'_>) -> Option<String> {
    let settings: Vec<_> = config_names().collect();
    let (name, table) = (&key.name, key.table());
    let is_of_host = match &table {
        Some(keys) => !keys.is_empty() && keys.iter().all(|key| settings.iter().any(|known| is_part(known, &key.name))),
        None => settings.contains(name),
    };
    is_of_host.then(|| match table {
        Some(_) => format!("[{name}] is a section of lodge.toml, the settings of the host"),
        None => format!("`{name}` is a key of lodge.toml, the settings of the host"),
    })
}

/// Whether a setting has this name, or is below it.
fn is_part(setting: &str, name: &str) -> bool {
    setting.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Returns the names of the settings of a host.
fn config_names() -> impl Iterator<Item = String> {
    lodge_base::config::described().map(|(name, ..)| name)
}

/// Returns the hint for a key that is in a section and belongs to the top level of the manifest.
pub fn misplaced(name: &str) -> Option<String> {
    let section = find(name.split('.').next().unwrap_or(name))?;
    Some(match section.is_table() {
        true => format!("`{0}` is a section of the manifest; write [{0}]", section.name),
        false => format!("`{name}` is a key of the manifest; write it above the first [section]"),
    })
}

/// Returns the hint for a key of [config] or [env] that was meant as a key of the manifest: in TOML, keys after a section belong to
/// it, also those that were meant for the service. `is_value` says whether the section could have it. A value that the key of the
/// manifest could not have is one of the section, so that a new key of manifests takes no name from those of values.
pub(crate) fn of_manifest(manifest: &Manifest, key: &Written<'_>, name: &str, is_value: bool) -> Option<String> {
    let hint = misplaced(name)?;
    if !is_value {
        return Some(hint);
    }
    let section = find(name)?;
    let (key, mut problems) = (key.named(name), Problems::default());
    match section.owner {
        Owner::All(read) | Owner::Service(read) | Owner::Version(read) => {
            read(&mut manifest.clone(), &key, &mut problems);
        }
        Owner::Route(read) => read(&mut RouteSettings::default(), &key, &mut problems),
    }
    problems.0.is_empty().then_some(hint)
}

/// Returns the problem that the manifest has no such section. The hint names a similar one, or the section that has
/// this key.
pub(crate) fn unknown(key: &Written<'_>) -> String {
    let known: Vec<_> = SECTIONS.iter().map(|section| section.name).collect();
    let near = || Some(format!("did you mean `{}`?", resembled(&key.name, &known)?));
    let of_route = || routes::KEYS.contains(&&*key.name).then(|| routes::own_key(&key.name));
    let elsewhere = || of_other_systems(&key.name).map(|meant| format!("did you mean {meant}?"));
    key.unknown_with(elsewhere().or_else(|| of_host(key)).or_else(of_route).or_else(|| home(key)).or_else(near), &known)
}

/// What is meant by keys that other systems have at this place, where likeness would find another one.
const OF_OTHER_SYSTEMS: [(&[&str], &str); 17] = [
    (&["apikey", "apikeys", "api_key", "api_keys"], "`auth.api_keys`"),
    (&["basic_auth", "passwords"], "`auth.passwords`"),
    (&["canary", "weight"], "`percent`, in the manifest of a version such as NAME@canary.toml"),
    (&["cron", "crontab"], "`schedule.cron`"),
    (&["memory"], "`limits.memory`"),
    (&["environment"], "`env`"),
    (&["jwt", "login"], "a part of [auth]"),
    (&["subscribe", "subject", "topic"], "`consume.subject`"),
    (&["openapi", "swagger"], "`api.openapi`"),
    (&["ratelimit", "rate_limit"], "`rate.limit`"),
    (&["target", "backend", "proxy"], "`upstream.replicas`"),
    (&["port", "bind"], "the address of the host, which lodge.toml has"),
    (&["retries"], "`upstream.retry.attempts`"),
    (&["schema"], "`validate.body`"),
    (&["secret", "secrets"], "a value of [config] with `secret = true`"),
    (&["timeout", "deadline"], "`limits.wall`"),
    (&["version"], "a version, which is a file of its own such as NAME@2.wasm"),
];

fn of_other_systems(name: &str) -> Option<&'static str> {
    OF_OTHER_SYSTEMS.iter().find(|(names, _)| names.contains(&name)).map(|(_, meant)| *meant)
}

/// Returns the hint for a key that is at the top level and belongs into a section.
fn home(key: &Written<'_>) -> Option<String> {
    let (name, is_table) = (&key.name, key.item().is_some());
    let part = format!("{name}.");
    SECTIONS.iter().filter(|section| section.is_table()).find_map(|section| {
        let keys = section.keys();
        if keys.iter().any(|(known, _)| known.starts_with(&part)) {
            return Some(format!("`{name}` is a part of [{0}]; write [{0}.{name}]", section.name));
        }
        let has = !is_table && keys.iter().any(|(known, _)| known == name);
        has.then(|| format!("`{name}` is a key of [{}]", section.name))
    })
}

#[cfg(test)]
mod tests;
