//! Configuration and secrets: `wasi:config`, Spin's variables and `wasmcloud:secrets`.
//!
//! Each request has a snapshot of all values, so it never sees two versions of one. Lists of all keys leave secrets out, so that
//! a guest which prints its configuration prints no secret.

mod mask;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use wasmtime::component::{Accessor, ComponentType, Lift, Linker, Lower, Resource, ResourceType};

use self::mask::SecretMask;
use super::handles::TOO_MANY_HANDLES;
use super::{Ctx, GuestCall};
use lodge_base::lock::lock;

/// The names of `wasi:config` in use. A pre-release is only found by its exact name.
const WASI: [&str; 3] =
    ["wasi:config/store@0.2.0-rc.1", "wasi:config/store@0.2.0-draft", "wasi:config/store@0.2.0-draft-2024-09-27"];

/// The configuration of a service, as of the last reading.
pub struct Configuration {
    reading: ArcSwap<ConfigReading>,
    /// The secrets that are masked.
    mask: ArcSwap<SecretMask>,
    /// Why the values could not be read the last time.
    problem: Mutex<Option<String>>,
}

/// All values at one time.
#[derive(Default, PartialEq, Eq)]
pub struct ConfigReading {
    /// Those of the configuration.
    pub config: Values,
    /// Environment variables. The same allocation as in the reading before, if none has changed.
    pub env: Arc<Values>,
}

/// Values by their names.
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
    configuration: Arc<Configuration>,
    reading: Arc<ConfigReading>,
    /// The environment variables that the sandbox was created with.
    env: Arc<Values>,
}

impl Configuration {
    /// Creates a configuration with these values.
    pub fn new(reading: ConfigReading) -> Self {
        let new = Self { reading: ArcSwap::default(), mask: ArcSwap::default(), problem: Mutex::default() };
        new.replace(reading);
        new
    }

    /// Returns why the values could not be read the last time, and what is in force.
    pub fn problem(&self) -> Option<String> {
        lock(&self.problem).clone()
    }

    /// Records why the values cannot be read, or that they can. Returns whether that is new.
    pub fn set_problem(&self, problem: Option<String>) -> bool {
        let mut known = lock(&self.problem);
        let is_new = *known != problem;
        *known = problem;
        is_new
    }

    /// Returns the current values.
    pub fn reading(&self) -> Arc<ConfigReading> {
        self.reading.load_full()
    }

    /// Replaces all values, for requests that begin from now on. One caller at a time.
    pub fn replace(&self, mut reading: ConfigReading) {
        let before = self.reading();
        if before.env == reading.env {
            reading.env = Arc::clone(&before.env);
        }
        // Before a request can have the new values.
        let values = reading.config.values().chain(reading.env.values());
        self.mask.store(Arc::new(self.mask.load().after(values)));
        self.reading.store(Arc::new(reading));
    }

    /// Returns `line` with every secret masked.
    pub(super) fn mask<'a>(&self, line: &'a str) -> Cow<'a, str> {
        self.mask.load().apply(line)
    }
}

impl ConfigSnapshot {
    /// Takes a snapshot for the first request.
    pub(super) fn new(configuration: Arc<Configuration>) -> Self {
        let reading = configuration.reading();
        Self { configuration, env: Arc::clone(&reading.env), reading }
    }

    /// Takes a snapshot for the next request.
    pub(super) fn renew(&mut self) {
        self.reading = self.configuration.reading();
    }

    /// Returns the text of `key` for the current request.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.reading.config.get(key).map(|value| value.text.as_str())
    }

    /// Returns the environment variables of the sandbox.
    pub(super) fn env(&self) -> &Values {
        &self.env
    }

    /// Whether a new sandbox would have other environment variables. A guest reads them once, when it starts.
    pub(super) fn has_old_env(&self) -> bool {
        !Arc::ptr_eq(&self.env, &self.configuration.reading.load().env)
    }
}

/// A secret that a guest holds, and has not read yet: the values of the request, and its key. Copies of the text in a thousand
/// handles could have hundreds of megabytes.
struct Secret(Arc<ConfigReading>, String);

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
            let reading = caller.data().config.as_ref().map(|config| Arc::clone(&config.reading)).unwrap_or_default();
            let open = reading.config.iter().filter(|(_, value)| !value.secret);
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
            let reading = ctx.config.as_ref().map(|config| Arc::clone(&config.reading)).unwrap_or_default();
            if !reading.config.contains_key(&key) {
                return Err(SecretsError::NotFound);
            }
            let full = |_| SecretsError::Io(TOO_MANY_HANDLES.into());
            ctx.table.push(Secret(reading, key)).map_err(full)
        });
        Box::pin(async move { Ok((secret,)) })
    })?;
    linker.instance("wasmcloud:secrets/reveal@2.1.0")?.func_wrap_concurrent(
        "reveal",
        |accessor: &Accessor<Ctx>, (secret,): (Resource<Secret>,)| {
            let value = accessor.with(|mut access| {
                let ctx: &mut Ctx = access.get();
                let Secret(reading, key) = ctx.table.get(&secret)?;
                let text = reading.config.get(key).map(|value| value.text.clone()).unwrap_or_default();
                Ok::<_, wasmtime::Error>(SecretValue::String(text))
            });
            Box::pin(async move { Ok((value?,)) })
        },
    )
}

/// Returns the value of `key` for the current request.
fn get(ctx: &Ctx, key: &str) -> Option<String> {
    ctx.config.as_ref()?.value(key).map(str::to_owned)
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

    fn config(of: &[(&str, &str, bool)]) -> ConfigReading {
        ConfigReading { config: values(of), env: Arc::default() }
    }

    #[test]
    fn secrets_are_masked() {
        let configuration = Configuration::new(config(&[
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
        configuration.replace(config(&[("password", "rotated1", true)]));
        assert_eq!(masked("hunter22 rotated1"), "*** ***");
        for number in 0..100 {
            configuration.replace(config(&[("password", &format!("rotated{number}"), true)]));
        }
        assert_eq!(masked("hunter22 rotated1 rotated99"), "*** *** ***");
    }

    /// However many secrets there are, and however long one is: log lines have 8 KiB.
    #[test]
    fn all_secrets_are_masked() {
        let lines: String = (0..10_000).map(|number| format!("line-{number}-of-the-key\n")).collect();
        let long: String = (0..2_000).map(|number| format!("a{number}+")).collect();
        let many: Vec<_> = (0..800).map(|number| (format!("k{number}"), format!("secret-{number}."))).collect();
        let mut all: Vec<_> = many.iter().map(|(key, text)| (&**key, &**text, true)).collect();
        all.extend([("bundle", &*lines, true), ("token", &*long, true)]);
        let configuration = Configuration::new(config(&all));
        for text in ["secret-0.", "secret-799.", "line-0-of-the-key", "line-9999-of-the-key"] {
            assert_eq!(configuration.mask(text), "***", "{text}");
        }
        let shown = configuration.mask(long.get(3000..9000).unwrap()).into_owned();
        assert!(shown.replace("***", "").len() < 100, "{shown}");
    }

    #[test]
    fn a_request_keeps_its_snapshot() {
        let configuration = Arc::new(Configuration::new(config(&[("a", "1", false)])));
        let mut snapshot = ConfigSnapshot::new(Arc::clone(&configuration));
        configuration.replace(config(&[("a", "2", false)]));
        assert_eq!(snapshot.reading.config["a"].text, "1");
        snapshot.renew();
        assert_eq!(snapshot.reading.config["a"].text, "2");
    }

    #[test]
    fn a_sandbox_is_as_old_as_its_environment() {
        let reading = |env| ConfigReading { env: Arc::new(values(env)), ..config(&[]) };
        let configuration = Arc::new(Configuration::new(reading(&[("A", "1", false), ("KEY", "hunter22", true)])));
        let snapshot = ConfigSnapshot::new(Arc::clone(&configuration));
        assert_eq!(configuration.mask("it is hunter22"), "it is ***");
        configuration.replace(reading(&[("A", "1", false), ("KEY", "hunter22", true)]));
        assert!(!snapshot.has_old_env(), "nothing has changed");
        configuration.replace(reading(&[("A", "2", false)]));
        assert!(snapshot.has_old_env());
        assert_eq!(snapshot.env()["A"].text, "1");
    }
}
