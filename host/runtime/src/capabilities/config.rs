//! Configuration and secrets: `wasi:config`, Spin's variables and `wasmcloud:secrets`.
//!
//! Each request has a snapshot of all values, so it never sees two versions of one. Lists of all keys leave secrets out, so that
//! a guest which prints its configuration prints no secret.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use wasmtime::component::{Accessor, ComponentType, Lift, Linker, Lower, Resource, ResourceType};

use super::{Ctx, GuestCall, TOO_MANY_HANDLES};
use lodge_base::lock::lock;

/// The names of `wasi:config` in use. A pre-release is only found by its exact name.
const WASI: [&str; 3] =
    ["wasi:config/store@0.2.0-rc.1", "wasi:config/store@0.2.0-draft", "wasi:config/store@0.2.0-draft-2024-09-27"];

/// Texts that are masked, of secrets that a service has or had; older ones are forgotten.
const MASKED: usize = 512;

/// The least bytes of a text that is masked. Shorter ones would mask parts of other words.
const LEAST_MASKED: usize = 4;

/// The text in the place of a secret.
const MASK: &str = "***";

/// The configuration of a service, as of the last reading.
pub struct Configuration {
    values: ArcSwap<Values>,
    /// Texts to mask, oldest first.
    masked: Mutex<VecDeque<Arc<str>>>,
}

/// All values at one time.
pub type Values = BTreeMap<String, ConfigValue>;

/// A value.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigValue {
    /// Its text.
    pub text: String,
    /// Whether it is masked where the host writes it.
    pub secret: bool,
}

/// The configuration of a sandbox, with the snapshot of its current request.
pub(super) struct ConfigSnapshot {
    pub(super) configuration: Arc<Configuration>,
    values: Arc<Values>,
}

impl Configuration {
    /// Creates a configuration with these values.
    pub fn new(values: Values) -> Self {
        let new = Self { values: ArcSwap::default(), masked: Mutex::default() };
        new.replace(values);
        new
    }

    /// Returns the current values.
    pub fn values(&self) -> Arc<Values> {
        self.values.load_full()
    }

    /// Replaces all values, for requests that begin from now on.
    pub fn replace(&self, values: Values) {
        let mut masked = lock(&self.masked);
        for value in values.values().filter(|value| value.secret) {
            // A secret of several lines, such as a key in PEM, is logged line by line.
            for text in [value.text.trim()].into_iter().chain(value.text.lines().map(str::trim)) {
                if text.len() < LEAST_MASKED || masked.iter().any(|known| **known == *text) {
                    continue;
                }
                if masked.len() >= MASKED {
                    masked.pop_front();
                }
                masked.push_back(text.into());
            }
        }
        drop(masked);
        self.values.store(Arc::new(values));
    }

    /// Returns `line` with every secret masked.
    pub(super) fn mask<'a>(&self, line: &'a str) -> Cow<'a, str> {
        let mut line = Cow::Borrowed(line);
        let mut found: Vec<_> = lock(&self.masked).iter().filter(|secret| line.contains(&***secret)).cloned().collect();
        // The longest first: one secret may contain another.
        found.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        for secret in found {
            line = Cow::Owned(line.replace(&*secret, MASK));
        }
        line
    }
}

impl ConfigSnapshot {
    /// Takes a snapshot for the first request.
    pub(super) fn new(configuration: Arc<Configuration>) -> Self {
        let values = configuration.values();
        Self { configuration, values }
    }

    /// Takes a snapshot for the next request.
    pub(super) fn renew(&mut self) {
        self.values = self.configuration.values();
    }
}

/// A secret that a guest holds, and has not read yet.
struct Secret(String);

// The errors of the interfaces. Values are read before the request, so most of them do not happen.

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum ConfigError {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum VariableError {
    #[component(name = "invalid-name")]
    InvalidName(String),
    #[component(name = "undefined")]
    Undefined(String),
    #[component(name = "provider")]
    Provider(String),
    #[component(name = "other")]
    Other(String),
}

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum SecretsError {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
    #[component(name = "not-found")]
    NotFound,
}

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum SecretValue {
    #[component(name = "string")]
    String(String),
    #[component(name = "bytes")]
    Bytes(Vec<u8>),
}

/// Links all interfaces, and into a `concurrent` engine also those with async functions.
pub(super) fn link(linker: &mut Linker<Ctx>, concurrent: bool) -> wasmtime::Result<()> {
    for name in WASI {
        let mut store = linker.instance(name)?;
        store.func_wrap("get", |caller: GuestCall<'_>, (key,): (String,)| {
            Ok((Ok::<_, ConfigError>(get(caller.data(), &key)),))
        })?;
        store.func_wrap("get-all", |caller: GuestCall<'_>, (): ()| {
            let values = caller.data().config.as_ref().map(|config| Arc::clone(&config.values)).unwrap_or_default();
            let open = values.iter().filter(|(_, value)| !value.secret);
            let all: Vec<_> = open.map(|(key, value)| (key.clone(), value.text.clone())).collect();
            Ok((Ok::<_, ConfigError>(all),))
        })?;
    }
    linker
        .instance("fermyon:spin/variables@2.0.0")?
        .func_wrap("get", |caller: GuestCall<'_>, (name,): (String,)| Ok((variable(caller.data(), name),)))?;
    if concurrent {
        linker.instance("spin:variables/variables@3.0.0")?.func_wrap_concurrent(
            "get",
            |accessor: &Accessor<Ctx>, (name,): (String,)| {
                let value = accessor.with(|mut access| variable(access.get(), name));
                Box::pin(async move { Ok((value,)) })
            },
        )?;
        link_secrets(linker)?;
    }
    Ok(())
}

fn link_secrets(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut store = linker.instance("wasmcloud:secrets/store@2.1.0")?;
    store.resource("secret", ResourceType::host::<Secret>(), |mut caller, rep| {
        caller.data_mut().table.delete(Resource::<Secret>::new_own(rep))?;
        Ok(())
    })?;
    store.func_wrap_concurrent("get", |accessor: &Accessor<Ctx>, (key,): (String,)| {
        let secret = accessor.with(|mut access| {
            let ctx: &mut Ctx = access.get();
            let Some(text) = get(ctx, &key) else { return Err(SecretsError::NotFound) };
            let full = |_| SecretsError::Io(TOO_MANY_HANDLES.into());
            ctx.table.push(Secret(text)).map_err(full)
        });
        Box::pin(async move { Ok((secret,)) })
    })?;
    linker.instance("wasmcloud:secrets/reveal@2.1.0")?.func_wrap_concurrent(
        "reveal",
        |accessor: &Accessor<Ctx>, (secret,): (Resource<Secret>,)| {
            let value = accessor.with(|mut access| {
                let ctx: &mut Ctx = access.get();
                ctx.table.get(&secret).map(|secret| SecretValue::String(secret.0.clone()))
            });
            Box::pin(async move { Ok((value?,)) })
        },
    )
}

/// Returns the value of `key` for the current request.
fn get(ctx: &Ctx, key: &str) -> Option<String> {
    ctx.config.as_ref()?.values.get(key).map(|value| value.text.clone())
}

fn variable(ctx: &Ctx, name: String) -> Result<String, VariableError> {
    get(ctx, &name).ok_or(VariableError::Undefined(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(of: &[(&str, &str, bool)]) -> Values {
        let value = |(key, text, secret): &(&str, &str, bool)| {
            ((*key).to_owned(), ConfigValue { text: (*text).to_owned(), secret: *secret })
        };
        of.iter().map(value).collect()
    }

    #[test]
    fn secrets_are_masked() {
        let configuration = Configuration::new(values(&[
            ("password", "hunter22\n", true),
            ("longer", "hunter22-and-more", true),
            ("key", "-----BEGIN-----\nabcdefgh\n-----END-----\n", true),
            ("short", "abc", true),
            ("greeting", "Hello", false),
        ]));
        let masked = |line: &str| configuration.mask(line).into_owned();
        assert_eq!(masked("it is hunter22, hunter22!"), "it is ***, ***!");
        assert_eq!(masked("hunter22-and-more"), "***");
        assert_eq!(masked("abcdefgh"), "***");
        assert_eq!(masked("abc Hello"), "abc Hello");
        // One that was replaced stays a secret.
        configuration.replace(values(&[("password", "rotated1", true)]));
        assert_eq!(masked("hunter22 rotated1"), "*** ***");
    }

    #[test]
    fn a_request_keeps_its_snapshot() {
        let configuration = Arc::new(Configuration::new(values(&[("a", "1", false)])));
        let mut snapshot = ConfigSnapshot::new(Arc::clone(&configuration));
        configuration.replace(values(&[("a", "2", false)]));
        assert_eq!(snapshot.values["a"].text, "1");
        snapshot.renew();
        assert_eq!(snapshot.values["a"].text, "2");
    }
}
