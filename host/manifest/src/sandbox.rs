//! The sections about the sandbox of guests: `isolation` and `cpu_weight`.

use serde_json::{Value, json};

use crate::section::{Owner, Section, Subject, View, words};
use crate::{CPU_WEIGHTS, Isolation};
use lodge_base::config::key::word;

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
