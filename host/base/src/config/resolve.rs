//! Merges the sources of settings into one [`Config`]; a later origin overrides an earlier one.

use std::collections::BTreeMap;

use super::key::nearest;
use super::origin::{Origin, place};
use super::settings::{Setting, names, settings};
use super::{Config, effect};

/// The most bytes that an HTTP/1.1 connection to a replica buffers for reading and writing.
const CONNECTION: usize = 128 << 10;

/// The memory of the process for each of the default `engine.instances`. A request of a small guest in Rust takes less than 100 KiB.
const SANDBOX: usize = 256 << 10;

/// The memory of the process for each of the default `engine.warm`, which keep their memory while they do nothing.
const WARM: usize = 1 << 20;

/// The values of one source: dotted key to text.
pub type Source = BTreeMap<String, String>;

/// A configuration and the origin of each value.
#[derive(Debug)]
pub struct Resolved {
    /// The values in force.
    pub config: Config,
    /// Every key with its text and origin, in the order of the docs.
    pub values: Vec<(String, String, Origin)>,
}

impl Resolved {
    /// Returns where the value of a key is from; `None` if there is no such key.
    pub fn origin(&self, key: &str) -> Option<Origin> {
        self.values.iter().find(|(name, ..)| name == key).map(|(_, _, origin)| *origin)
    }
}

/// Merges the sources; a later origin overrides an earlier one.
///
/// # Errors
/// Every unknown key, every invalid value and every conflict between values, one line each, which names its origin.
pub fn resolve(sources: &[(Origin, Source)]) -> Result<Resolved, Vec<String>> {
    let mut problems = unknown_keys(sources);
    let mut config = Config::blank();
    let mut values = Vec::new();
    for Setting { name, default, set, .. } in settings() {
        let said = sources.iter().filter_map(|(origin, source)| Some((*origin, source.get(&name)?)));
        let said = said.max_by_key(|(origin, _)| *origin);
        let (origin, text) = said.map_or((Origin::Default, default), |(origin, text)| (origin, text.as_str()));
        let (origin, text) = match (&*name, text) {
            // What the machine has is a source of its own.
            ("memory", "auto") => (Origin::Default, machine(sources).unwrap_or(text)),
            _ => (origin, text),
        };
        if let Err(expected) = set(&mut config, text) {
            problems.push(format!("{}: {expected}", place(origin, &name)));
        }
        values.push((name, text.to_owned(), origin));
    }
    let cpu = values.iter_mut().find(|(name, _, origin)| name == "limits.cpu" && *origin == Origin::Default);
    if let Some((_, text, _)) = cpu.filter(|_| config.limits.cpu > config.limits.wall) {
        // The default of `limits.cpu` must not conflict with an explicit `limits.wall`.
        config.limits.cpu = config.limits.wall;
        *text = humantime::format_duration(config.limits.cpu).to_string();
    }
    config.shrink(&mut values);
    if problems.is_empty() {
        problems.extend(config.disagreements());
        problems.extend(effect::without_effect(&values));
        problems.extend(effect::without_keys(&values));
    }
    if problems.is_empty() { Ok(Resolved { config, values }) } else { Err(problems) }
}

/// Returns the memory of the machine, if a source says it.
fn machine(sources: &[(Origin, Source)]) -> Option<&str> {
    let found = sources.iter().find(|(origin, _)| *origin == Origin::Default);
    found.and_then(|(_, source)| source.get("memory")).map(String::as_str)
}

/// Whether the value of a setting is secret and must not be shown.
pub fn is_secret(name: &str) -> bool {
    ["admin_token", "state.url", "state.blobs", "traces.headers"].contains(&name)
}

fn unknown_keys(sources: &[(Origin, Source)]) -> Vec<String> {
    let names: Vec<String> = names().collect();
    let said = sources.iter().flat_map(|(origin, source)| source.keys().map(move |name| (*origin, name)));
    said.filter(|(_, name)| !names.contains(name))
        .map(|(origin, name)| {
            let near = || nearest(name, names.iter().map(String::as_str)).map(str::to_owned);
            let hint = match elsewhere(name, &names) {
                Some(key) if !key.contains('.') => format!("; `{key}` stands above the first [section]"),
                other => other.or_else(near).map_or(String::new(), |near| format!("; did you mean `{near}`?")),
            };
            format!("{}: unknown key{hint}", place(origin, name))
        })
        .collect()
}

/// Returns the key with the last part of this name in another section, if there is one only, or above all sections.
fn elsewhere(name: &str, names: &[String]) -> Option<String> {
    let last = name.rsplit('.').next()?;
    let mut same = names.iter().filter(|known| known.rsplit('.').next() == Some(last));
    let above = names.iter().find(|known| *known == last);
    above.or_else(|| same.next().filter(|_| same.next().is_none())).cloned()
}

impl Config {
    /// Lowers defaults that do not fit into [`Config::memory`]: `listener.memory` to a quarter of it;
    /// `listener.unsent`, `responses.memory`, `engine.resident` and the buffers of `upstreams.connections` to an
    /// eighth; `listener.compression` and `listener.validation` to a sixteenth. Each keeps at least 4 MiB. `engine.instances` and
    /// `engine.warm` are lowered to what fits at [`SANDBOX`] and [`WARM`] each.
    fn shrink(&mut self, values: &mut [(String, String, Origin)]) {
        let Some(memory) = self.memory else { return };
        let sizes = [
            ("listener.memory", &mut self.listener.memory, 4),
            ("listener.unsent", &mut self.listener.unsent, 8),
            ("listener.compression", &mut self.listener.compression, 16),
            ("listener.validation", &mut self.listener.validation, 16),
            ("responses.memory", &mut self.responses.memory, 8),
            ("engine.resident", &mut self.engine.resident, 8),
        ];
        let mut lower = |name: &str, value: &mut usize, most: usize, show: fn(usize) -> String| {
            let shown = values.iter_mut().find(|(known, _, origin)| known == name && *origin == Origin::Default);
            if let Some((_, text, _)) = shown.filter(|_| *value > most) {
                *value = most;
                *text = show(most);
            }
        };
        for (name, size, part) in sizes {
            let show = |most| bytesize::ByteSize(most as u64).display().iec().to_string();
            lower(name, size, (memory / part).max(4 << 20), show);
        }
        let connections = (memory / 8).max(4 << 20) / CONNECTION;
        let counts = [
            ("upstreams.connections", &mut self.upstreams.connections, connections),
            ("engine.instances", &mut self.engine.instances, memory / SANDBOX),
            ("engine.warm", &mut self.engine.warm, memory / WARM),
        ];
        for (name, count, most) in counts {
            lower(name, count, most, |most| most.to_string());
        }
    }
}
