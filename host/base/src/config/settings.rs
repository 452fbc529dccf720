//! The list of all settings, from which flags, variables, `lodge.toml` and the docs derive.

use super::key::Key;
use super::{
    Config, acme, audit, cache, calls, cluster, engine, errors, keys, kubernetes, limits, listener, pull, responses,
    state, stop, tls, traces, trust, upstreams, watch,
};

/// Every section of `lodge.toml`, in the order of the docs.
const SECTIONS: &[fn() -> Vec<Setting>] = &[
    || section("", keys::KEYS, |config| config),
    || section("stop.", stop::KEYS, |config| &mut config.stop),
    || section("listener.", listener::KEYS, |config| &mut config.listener),
    || section("tls.", tls::KEYS, |config| &mut config.tls),
    || section("tls.acme.", acme::KEYS, |config| &mut config.tls.acme),
    || section("engine.", engine::KEYS, |config| &mut config.engine),
    || section("calls.", calls::KEYS, |config| &mut config.calls),
    || section("upstreams.", upstreams::KEYS, |config| &mut config.upstreams),
    || section("cluster.", cluster::KEYS, |config| &mut config.cluster),
    || section("kubernetes.", kubernetes::KEYS, |config| &mut config.kubernetes),
    || section("watch.", watch::KEYS, |config| &mut config.watch),
    || section("trust.", trust::KEYS, |config| &mut config.trust),
    || section("audit.", audit::KEYS, |config| &mut config.audit),
    || section("pull.", pull::KEYS, |config| &mut config.pull),
    || section("state.", state::KEYS, |config| &mut config.state),
    || section("cache.", cache::KEYS, |config| &mut config.cache),
    || section("responses.", responses::KEYS, |config| &mut config.responses),
    || section("errors.", errors::KEYS, |config| &mut config.errors),
    || section("limits.", limits::LIMITS, |config| &mut config.limits),
    || section("traces.", traces::TRACES, |config| &mut config.traces),
];

/// A parser that stores the value in a configuration.
type SetFn = dyn Fn(&mut Config, &str) -> Result<(), String>;

/// A key of any section.
pub(super) struct Setting {
    /// The dotted name.
    pub(super) name: String,
    /// The default as text.
    pub(super) default: &'static str,
    help: &'static str,
    /// Parses a text and stores the value.
    pub(super) set: Box<SetFn>,
}

/// Returns the settings of a section, which `part` finds in a configuration.
fn section<T: 'static>(prefix: &str, keys: &'static [Key<T>], part: fn(&mut Config) -> &mut T) -> Vec<Setting> {
    let setting = |key: &'static Key<T>| Setting {
        name: format!("{prefix}{}", key.name),
        default: key.default,
        help: key.help,
        set: Box::new(move |config, text| (key.set)(part(config), text)),
    };
    keys.iter().map(setting).collect()
}

/// Returns every setting, in the order of the docs.
pub(super) fn settings() -> impl Iterator<Item = Setting> {
    SECTIONS.iter().flat_map(|section| section())
}

/// Returns name, default and help of every setting, in the order of the docs.
pub fn described() -> impl Iterator<Item = (String, &'static str, &'static str)> {
    settings().map(|setting| (setting.name, setting.default, setting.help))
}

/// Returns the name of every setting.
pub(super) fn names() -> impl Iterator<Item = String> {
    settings().map(|setting| setting.name)
}
