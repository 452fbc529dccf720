//! The sections about the sandbox of guests: `isolation`, `cpu_weight` and `[env]`.

use serde_json::{Value, json};

use crate::section::{Capability, Owner, Section, Subject, View, misplaced, words};
use crate::written::{Problems, Written};
use crate::{CPU_WEIGHTS, Isolation, Manifest};
use lodge_base::config::key::word;

/// The most bytes of all names and values of `[env]`. A guest copies them into its memory at every start.
const ENV_BYTES: usize = 64 << 10;

const ISOLATIONS: [(&str, Isolation); 2] = [("request", Isolation::Request), ("service", Isolation::Service)];

/// `isolation`.
pub(crate) const ISOLATION: Section = Section {
    name: "isolation",
    schema: || {
        json!({
            "enum": ISOLATIONS.map(|(word, _)| word),
            "default": "request",
            "description": "a new sandbox per request, or warm instances that are reused",
        })
    },
    owner: Owner::All(|manifest, isolation, problems| {
        let read = isolation.plain().and_then(|text| word(&text, &ISOLATIONS).map_err(|wrong| isolation.error(wrong)));
        manifest.isolation = problems.take(read).unwrap_or_default();
    }),
    subject: Subject::Execution,
    view: Some(View {
        label: "isolation",
        value: |manifest| {
            let named = ISOLATIONS.iter().find(|(_, isolation)| *isolation == manifest.isolation);
            named.map(|(word, _)| (*word).into())
        },
        text: explained,
    }),
    ..Section::DEFAULT
};

/// `cpu_weight`.
pub(crate) const CPU_WEIGHT: Section = Section {
    name: "cpu_weight",
    schema: || {
        json!({
            "type": "integer",
            "minimum": CPU_WEIGHTS.start(),
            "maximum": CPU_WEIGHTS.end(),
            "default": 100,
            "description": "its share of the CPU among long-running guests",
        })
    },
    owner: Owner::All(|manifest, weight, problems| {
        manifest.cpu_weight = problems.take(weight.number(CPU_WEIGHTS)).unwrap_or(manifest.cpu_weight);
    }),
    subject: Subject::Execution,
    ..Section::DEFAULT
};

/// `[env]`. Values may be secrets, so they are not shown.
pub(crate) const ENV: Section = Section {
    name: "env",
    schema: || json!({ "type": "object", "additionalProperties": { "type": "string" } }),
    owner: Owner::All(env),
    subject: Subject::Execution,
    capability: Some(&Capability {
        what: "environment",
        interfaces: &["wasi:cli/environment"],
        given: "imported by its runtime; empty except [env] of its manifest",
        grant: Some("[env]\n# GREETING = \"hi\"\n"),
    }),
    ..Section::DEFAULT
};

fn explained(isolation: &Value) -> String {
    let means = match isolation.as_str() {
        Some("service") => {
            ": several instances, each with memory of its own, and any may be replaced; keep no data in them"
        }
        Some("request") => ": a new instance for each request",
        _ => "",
    };
    format!("{}{means}", words(isolation))
}

fn env(manifest: &mut Manifest, written: &Written<'_>, problems: &mut Problems) {
    let Some(variables) = written.table() else {
        return problems.push(written.error("write a section [env], with texts in it"));
    };
    let (mut env, mut size) = (Vec::new(), 0);
    for variable in &variables {
        let name = variable.inside(written);
        // In TOML, keys after `[env]` belong to it, also those that were meant for the service.
        if let Some(problem) = misplaced(name) {
            problems.push(variable.at(format!("env: {problem}, or give the variable another name")));
            continue;
        }
        if name.is_empty() || name.contains(['=', '\0']) {
            problems.push(variable.at(format!("env: `{}` cannot be the name of a variable", name.escape_debug())));
        }
        let Some(value) = problems.take(variable.string("write text, between quotes")) else { continue };
        size += name.len() + value.len();
        env.push((name.to_owned(), value.to_owned()));
    }
    if size > ENV_BYTES {
        problems.push(written.error(format!("{size} bytes are more than {ENV_BYTES}")));
    }
    env.sort();
    manifest.env = env;
}
