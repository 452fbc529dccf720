//! Translates the standard `OTEL_*` variables into settings, so that Lodge sends traces where other services do.
//!
//! They are a source of their own, which `lodge.toml` overrides. Only variables about traces are read. Pure, like all
//! of [`config`](super): the variables are passed in as text.

use std::collections::BTreeMap;

use super::traces::{TRACES, Traces};
use super::{Origin, Source};

/// A translation from the text of a variable to the text of a setting.
type Translate = fn(&str) -> Result<String, String>;

/// (setting, its variables in descending precedence, translation)
const NAMED: &[(&str, &[&str], Translate)] = &[
    ("protocol", &["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"], plain),
    ("service", &["OTEL_SERVICE_NAME"], plain),
    ("resource", &["OTEL_RESOURCE_ATTRIBUTES"], plain),
    ("queue", &["OTEL_BSP_MAX_QUEUE_SIZE"], plain),
    ("batch", &["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"], plain),
    ("delay", &["OTEL_BSP_SCHEDULE_DELAY"], milliseconds),
];

const OTLP: &[(&str, &[&str], Translate)] = &[
    ("headers", &["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"], plain),
    ("timeout", &["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"], milliseconds),
    ("endpoint", &["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"], whole),
];

const ZIPKIN: &[(&str, &[&str], Translate)] = &[
    ("endpoint", &["OTEL_EXPORTER_ZIPKIN_ENDPOINT"], whole),
    ("timeout", &["OTEL_EXPORTER_ZIPKIN_TIMEOUT"], milliseconds),
];

const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const RATIO: &str = "OTEL_TRACES_SAMPLER_ARG";

/// Reads the `OTEL_*` variables among `vars` into a source. `stronger` are the other sources: the exporter that they
/// name decides which variables apply.
///
/// An OTLP endpoint alone turns tracing on, because OTLP is the default exporter of OpenTelemetry. While tracing is
/// off, no other variable is read: they are meant for other programs.
///
/// # Errors
/// One line for each variable with an invalid value.
pub fn read(
    vars: impl Iterator<Item = (String, String)>,
    stronger: &[(Origin, Source)],
) -> Result<Source, Vec<String>> {
    let said: Vars = vars.filter(|(name, value)| name.starts_with("OTEL_") && !value.trim().is_empty()).collect();
    let named = |key: &str| {
        let among = stronger.iter().filter_map(|(origin, source)| Some((*origin, source.get(key)?.as_str())));
        among.max_by_key(|(origin, _)| *origin).map(|(_, text)| text)
    };
    let mut found = Found { source: Source::new(), problems: Vec::new() };
    let exporter = match named("traces.exporter") {
        Some(text) => text.to_owned(),
        None => found.exporter(&said),
    };
    let wanted = match exporter.as_str() {
        "otlp" => OTLP,
        "zipkin" => ZIPKIN,
        _ => return found.done(),
    };
    for (key, variables, translate) in NAMED.iter().chain(wanted) {
        if let Some((variable, text)) = variables.iter().find_map(|name| said.get_key_value(*name)) {
            found.take(key, variable, translate(text));
        }
    }
    if let (Some(base), "otlp", false) =
        (said.get(BASE), exporter.as_str(), found.source.contains_key("traces.endpoint"))
    {
        let protocol = named("traces.protocol").or(found.source.get("traces.protocol").map(String::as_str));
        // Over HTTP each signal has its own path below the endpoint; over gRPC it has not.
        let path = if protocol == Some("grpc") { "" } else { "/v1/traces" };
        found.take("endpoint", BASE, Ok(format!("{}{path}", base.trim().trim_end_matches('/'))));
    }
    found.sampler(&said);
    found.done()
}

type Vars = BTreeMap<String, String>;

struct Found {
    source: Source,
    problems: Vec<String>,
}

impl Found {
    /// Stores `text` for the setting `traces.KEY` if it is valid; else notes a problem of `variable`.
    fn take(&mut self, key: &str, variable: &str, text: Result<String, String>) {
        let checked = text.and_then(|text| {
            let setting = TRACES.iter().find(|setting| setting.name == key);
            setting.map_or(Ok(()), |setting| (setting.set)(&mut Traces::blank(), &text)).map(|()| text)
        });
        match checked {
            Ok(text) => drop(self.source.insert(format!("traces.{key}"), text)),
            Err(expected) => self.problems.push(format!("{variable}: {expected}")),
        }
    }

    fn exporter(&mut self, said: &Vars) -> String {
        let disabled = said.get("OTEL_SDK_DISABLED").is_some_and(|text| text.trim().eq_ignore_ascii_case("true"));
        let endpoint = [BASE, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"].iter().any(|name| said.contains_key(*name));
        let text = match said.get(EXPORTER).map(|text| text.trim()) {
            _ if disabled => "off",
            Some("none") => "off",
            Some("otlp") => "otlp",
            Some("zipkin") => "zipkin",
            Some(text) => {
                self.problems.push(format!("{EXPORTER}: `{text}` is not one of `none`, `otlp`, `zipkin`"));
                "off"
            }
            None if endpoint => "otlp",
            None => return "off".into(),
        };
        self.take("exporter", EXPORTER, Ok(text.into()));
        text.into()
    }

    fn sampler(&mut self, said: &Vars) {
        let Some(name) = said.get(SAMPLER).map(|text| text.trim()) else { return };
        let (parent, sampler) = match name.strip_prefix("parentbased_") {
            Some(root) => ("true", root),
            None => ("false", name),
        };
        let ratio = said.get(RATIO).map_or("1", |text| text.trim());
        let (variable, share) = match sampler {
            "always_on" => (SAMPLER, "1"),
            "always_off" => (SAMPLER, "0"),
            "traceidratio" => (RATIO, ratio),
            _ => {
                let names = "`always_on`, `always_off`, `traceidratio`, each alone or after `parentbased_`";
                return self.problems.push(format!("{SAMPLER}: `{name}` is not one of {names}"));
            }
        };
        self.take("sample", variable, Ok(share.into()));
        self.take("follow_parent", SAMPLER, Ok(parent.into()));
    }

    fn done(self) -> Result<Source, Vec<String>> {
        if self.problems.is_empty() { Ok(self.source) } else { Err(self.problems) }
    }
}

fn plain(text: &str) -> Result<String, String> {
    Ok(text.trim().to_owned())
}

fn milliseconds(text: &str) -> Result<String, String> {
    let number: u64 = text.trim().parse().map_err(|_| format!("`{text}` is not a number of milliseconds"))?;
    Ok(format!("{number}ms"))
}

/// Translates a URL that is used unchanged: without a path it means `/`, while `traces.endpoint` would mean the usual
/// path.
fn whole(text: &str) -> Result<String, String> {
    let text = text.trim();
    let bare = text.split_once("://").is_some_and(|(_, rest)| !rest.contains(['/', '?']));
    Ok(if bare { format!("{text}/") } else { text.to_owned() })
}

#[cfg(test)]
mod tests;
