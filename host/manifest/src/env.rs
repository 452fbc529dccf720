//! `[env]`: the environment variables of guests, with values as `[config]` has them.

use std::collections::BTreeMap;

use serde_json::json;

use crate::Manifest;
use crate::config::{ConfigKey, reference, schema_of};
use crate::section::{Capability, Owner, Section, Subject, View, of_manifest, words};
use crate::written::{Problems, Written};

/// The most bytes of all names and values. A guest copies them into its memory at every start.
pub const ENV_BYTES: usize = 64 << 10;

/// How a value is written.
const FORM: &str = "write text, between quotes, or a reference such as { file = \"PATH\" }, { env = \"NAME\" } or { config = \"KEY\" }";

/// The kinds of references.
const REFERENCES: &[&str] = &["file", "env", "host", "service", "config"];

/// `[env]`. Literal values may be secrets, so none is shown.
pub(crate) const SECTION: Section = Section {
    name: "env",
    schema: || json!({ "type": "object", "additionalProperties": schema_of(&json!({ "type": "string" }), REFERENCES) }),
    owner: Owner::All(|manifest, written, problems| {
        let env = read(manifest, written, problems);
        manifest.env = env;
    }),
    subject: Subject::Execution,
    // Names only.
    view: Some(View {
        label: "environment",
        value: |manifest| {
            let names: Vec<_> = manifest.env.keys().map(String::as_str).collect();
            (!names.is_empty()).then(|| json!(names))
        },
        text: words,
    }),
    capability: Some(&Capability {
        what: "environment",
        interfaces: &["wasi:cli/environment"],
        given: "imported by its runtime; empty except [env] of its manifest",
        grant: Some("[env]\n# GREETING = \"hi\"\n"),
    }),
    ..Section::DEFAULT
};

fn read(manifest: &Manifest, written: &Written<'_>, problems: &mut Problems) -> BTreeMap<String, ConfigKey> {
    let Some(variables) = written.table() else {
        problems.push(written.error("write a section [env], with texts in it"));
        return BTreeMap::new();
    };
    let (mut env, mut size) = (BTreeMap::new(), 0_usize);
    for variable in &variables {
        let name = variable.inside(written);
        let mut others = Problems::default();
        let is_value = match variable.item() {
            Some(parts) => reference(variable, &parts, REFERENCES, FORM, &mut others).is_some(),
            None => variable.string(FORM).is_ok(),
        };
        if let Some(hint) = of_manifest(manifest, variable, name, is_value) {
            problems.push(variable.at(format!("env: {hint}, or give the variable another name")));
            continue;
        }
        if name.is_empty() || name.contains(['=', '\0']) {
            problems.push(variable.at(format!("env: `{}` cannot be the name of a variable", name.escape_debug())));
        }
        let value = match variable.item() {
            Some(parts) => reference(variable, &parts, REFERENCES, FORM, problems),
            None => problems.take(variable.string(FORM)).map(ConfigKey::literal),
        };
        let Some(value) = value else { continue };
        size = size.saturating_add(name.len()).saturating_add(value.text().map_or(0, str::len));
        env.insert(name.to_owned(), value);
    }
    if size > ENV_BYTES {
        problems.push(written.error(format!("{size} bytes are more than {ENV_BYTES}")));
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigSource;
    use crate::tests::read;

    #[test]
    fn forms() {
        let text = "[env]\nA = 'b'\nURL = { env = 'URL', default = 'none' }\nKEY = { file = '/run/k', secret = true }\n\
                    REGION = { config = 'region' }";
        let env = read(text).unwrap().env;
        assert_eq!(env["A"], ConfigKey::literal("b"));
        let key = |source| ConfigKey { source, secret: false, default: None };
        let url = key(ConfigSource::Environment("URL".into()));
        assert_eq!(env["URL"], ConfigKey { default: Some("none".into()), ..url });
        assert_eq!(env["KEY"], ConfigKey { secret: true, ..key(ConfigSource::File("/run/k".into())) });
        assert_eq!(env["REGION"], key(ConfigSource::Config("region".into())));
        for (text, wanted) in [
            ("[env]\nA = 1", "line 2: env.A: write text, between quotes, or a reference"),
            ("[env]\nA = { file = 'x', env = 'y' }", "write one of `file`, `env`, `host`, `service` and `config`"),
            ("[env]\nA = { fil = 'x' }", "did you mean `file`?"),
            ("[env]\nA = { config = '../x' }", "env.A: `../x` is no key of [config]"),
            ("[config]\na = { config = 'b' }", "unknown key `config`"),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.contains(wanted), "{text}: {problem}");
        }
    }

    /// Names of keys of manifests are names of variables, unless the value is one that the key could have.
    #[test]
    fn a_key_of_manifests_may_be_the_name_of_a_variable() {
        for text in ["lock = '/var/lock'", "build = '17'", "ready = '/health'", "keyvalue = 'redis'"] {
            assert_eq!(read(&format!("[env]\n{text}")).unwrap().env.len(), 1, "{text}");
        }
        for text in ["isolation = 'service'", "keyvalue = true", "limits.wall = '1s'", "lock = {}", "cpu_weight = 5"] {
            let problem = read(&format!("[env]\n{text}")).unwrap_err();
            assert!(problem.contains("or give the variable another name"), "{text}: {problem}");
        }
    }
}
