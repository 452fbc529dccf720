//! `lodge inspect`: all about a service that a host serves, or about a component file, for which no host is needed.

mod asks;
mod component;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use self::asks::Ask;
use super::client::Client;
use super::client::api::{Error, Policy, Replica, Service};
use super::out::{self, Failure, clean};
use super::units::{ago, bytes, millis, seconds};
use crate::config::Config;
use crate::guests::digest::Digest;
use crate::guests::load::{Scanner, State};
use crate::guests::manifest::grants::Grants;
use crate::guests::report::Refused;

/// Between the name of a thing and what is said of it.
const INDENT: usize = 14;

/// The file that was meant, if it was no service.
pub(super) fn file(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    (name.ends_with(".wasm") || name.contains('/') || path.is_file()).then(|| path.to_owned())
}

/// Asks the host about a service.
pub(super) fn service(client: &Client, name: &str, json: bool) -> Result<(), Failure> {
    let answer = client.of_service("GET", "/v1/services/{}", name)?;
    let service: Service = client.read(&answer)?;
    if json { out::line(answer.trim_end()) } else { out::print(&served(&service, SystemTime::now())) }
}

/// What a file is, and what a host would do with it.
#[derive(Serialize)]
struct Component {
    file: String,
    bytes: u64,
    digest: String,
    wasi: Vec<String>,
    imports: Vec<String>,
    exports: Vec<String>,
    asks: Vec<Ask>,
    manifest: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<String>,
    /// Services that its manifest lets it call, and origins that it lets it ask.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    calls: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    http: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<Refused>,
}

/// Reads a file. Fails when a host would refuse it; compiles nothing, so some of that is found only by `lodge check`.
pub(super) fn component(config: &Config, path: &Path, json: bool) -> Result<(), Failure> {
    let component = Component::read(config, path)?;
    if json {
        out::line(&serde_json::to_string_pretty(&component).unwrap_or_default())?;
    } else {
        out::print(&component.text())?;
    }
    match component.refused {
        Some(refused) => Err(Failure::new(format!("it would be refused: {}; {}", refused.reason, refused.remedy))),
        None => Ok(()),
    }
}

impl Component {
    fn read(config: &Config, path: &Path) -> Result<Self, Failure> {
        let name = path.display();
        let unreadable = |error| Failure::new(format!("{name}: {error}"));
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(Failure::new(format!("{name}: it is not a regular file")));
        }
        // First by the eyes of a host: it knows what else is dropped into directories, and looks before it reads.
        let (mut routes, mut grants, mut refused) = (Vec::new(), Grants::default(), None);
        match Scanner::new(path).scan(config).map_err(unreadable)?.into_values().next().map(|found| found.state) {
            Some(State::Ready(spec)) => {
                routes = spec.manifest.routes.iter().map(ToString::to_string).collect();
                grants = spec.manifest.grants;
            }
            Some(State::Refused(why) | State::Orphan(why)) => {
                refused = Some(Refused { reason: why.reason, remedy: why.remedy });
            }
            Some(State::Disabled) | None => {}
        }
        let refusal = |other: String| match &refused {
            Some(why) => Failure::new(format!("{name}: {}; {}", why.reason, why.remedy)),
            None => Failure::new(format!("{name}: {other}")),
        };
        if metadata.len() > config.engine.max_file as u64 {
            return Err(refusal("it is over engine.max_file".into()));
        }
        let content = std::fs::read(path).map_err(unreadable)?;
        let interfaces = component::interfaces(&content).map_err(refusal)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        Ok(Self {
            file: name.to_string(),
            bytes: metadata.len(),
            digest: Digest::of(&content).to_string(),
            wasi: component::wasi_versions(&interfaces),
            asks: asks::of(&interfaces.imports),
            manifest: asks::manifest(&stem, &interfaces.imports),
            imports: interfaces.imports,
            exports: interfaces.exports,
            routes,
            calls: grants.calls.names(),
            http: grants.http.iter().map(ToString::to_string).collect(),
            refused,
        })
    }

    fn text(&self) -> String {
        let mut text = format!("{}  {}\n", clean(&self.file), bytes(self.bytes));
        item(&mut text, "sha256", [&self.digest]);
        item(&mut text, "WASI", [self.wasi.join(", ")]);
        item(&mut text, "answers at", [self.routes.join(", ")]);
        item(&mut text, "may call", [self.calls.join(", ")]);
        item(&mut text, "may ask", [self.http.join(", ")]);
        item(&mut text, "asks for", self.asks.iter().map(ToString::to_string));
        item(&mut text, "exports", &self.exports);
        item(&mut text, "imports", &self.imports);
        let name = Path::new(&self.file).with_extension("toml");
        text.push_str(&format!(
            "\nA manifest for it, {}, all of which is optional:\n\n",
            clean(&name.to_string_lossy())
        ));
        for line in self.manifest.lines() {
            let line = format!("    {line}");
            text.push_str(&format!("{}\n", line.trim_end()));
        }
        text
    }
}

fn served(service: &Service, now: SystemTime) -> String {
    let mut text = format!("{}  {}\n", clean(&service.name), bytes(service.bytes));
    let code = match (service.replicas.is_empty(), service.loaded) {
        (false, _) => String::new(),
        (_, true) => "; its machine code is in memory".into(),
        _ => "; its machine code is not in memory".into(),
    };
    item(&mut text, "sha256", [&service.digest]);
    item(&mut text, "state", [format!("{}{code}", service.state)]);
    item(&mut text, "withdrawn", service.withdrawn.iter());
    let replica =
        |it: &Replica| format!("{}  {}, {} in flight, {} connections", it.url, it.state, it.in_flight, it.connections);
    item(&mut text, "replicas", service.replicas.iter().map(replica));
    item(&mut text, "since", [format!("{} ({})", service.since, ago(&service.since, now))]);
    let host = if service.host.is_empty() { String::new() } else { format!(" and {}", service.host) };
    item(&mut text, "answers at", [format!("{}{host}", service.routes.join(", "))]);
    item(&mut text, "may call", [service.calls.join(", ")]);
    item(&mut text, "may ask", [service.http.join(", ")]);
    item(
        &mut text,
        "requests",
        [format!(
            "{}, {} of them errors; {} in flight, {} queued",
            service.requests, service.errors, service.in_flight, service.queued
        )],
    );
    item(&mut text, "latency", [format!("p50 {}, p99 {}", millis(service.p50_ms), millis(service.p99_ms))]);
    item(&mut text, "CPU", [seconds(service.cpu_seconds)]);
    item(&mut text, "memory", [bytes(service.memory_bytes)]);
    item(&mut text, "bodies", [format!("{} in, {} out", bytes(service.bytes_in), bytes(service.bytes_out))]);
    let kept = service
        .cached
        .iter()
        .map(|kept| format!("{}, {}; {} hits, {} misses", kept.entries, bytes(kept.bytes), kept.hits, kept.misses));
    item(&mut text, "kept answers", kept);
    let refusal = service.last_refusal.iter().map(|last| format!("{}, {}", last.reason, ago(&last.at, now)));
    item(&mut text, "last refusal", refusal);
    let limits = service.limits.iter().map(|(name, value)| match value {
        serde_json::Value::String(value) => format!("{name} {value}"),
        value => format!("{name} {value}"),
    });
    item(&mut text, "limits", [limits.collect::<Vec<_>>().join(", ")]);
    item(&mut text, "policies", service.policies.iter().map(policy));
    item(&mut text, "asks for", asks::of(&service.imports).iter().map(ToString::to_string));
    item(&mut text, "exports", &service.exports);
    item(&mut text, "imports", &service.imports);
    item(&mut text, "last errors", service.recent_errors.iter().flat_map(|error| failed(error, now)));
    text
}

/// A policy: how it is set, and how it does.
fn policy(policy: &Policy) -> String {
    let route = policy.route.as_ref().map_or(String::new(), |route| format!("{route} "));
    let state = policy.state.as_ref().map_or(String::new(), |state| format!(": {state}"));
    format!("{route}{} {}{state}", policy.policy, policy.settings)
}

/// A failure: what and when, then what the guest left behind.
fn failed(error: &Error, now: SystemTime) -> Vec<String> {
    let status = error.status.map_or("aborted".into(), |status| status.to_string());
    let detail = error.detail.as_ref().map_or(String::new(), |detail| format!(": {detail}"));
    let mut lines =
        vec![format!("{}  {status} {}{detail} request_id={}", ago(&error.at, now), error.reason, error.request_id)];
    lines.extend(error.backtrace.iter().map(|frame| format!("  {frame}")));
    lines
}

/// Says something in as many lines as there are; nothing when there is nothing to say.
fn item(text: &mut String, name: &str, lines: impl IntoIterator<Item = impl AsRef<str>>) {
    let lines = lines.into_iter();
    for (n, line) in lines.filter(|line| !line.as_ref().is_empty()).enumerate() {
        let name = if n == 0 { name } else { "" };
        text.push_str(&format!("  {name:INDENT$}{}\n", clean(line.as_ref())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_in_words() {
        let service: Service = serde_json::from_str(
            r#"{"name":"users","digest":"ab","state":"serving","loaded":true,"since":"2026-11-21T10:00:00Z",
                "routes":["/users"],"host":"users.localhost","requests":12,"errors":1,"limits":{"cpu":"5s","queue":1024},
                "last_refusal":{"at":"2026-11-21T10:59:00Z","reason":"queue-full"},
                "policies":[{"policy":"rate","route":"/login","settings":"5/m, burst 5, by client","state":"3 in use"},
                  {"policy":"priority","settings":"low"}],
                "calls":["hello","orders"],"http":["https://*.example.org","http://10.0.0.0/8"],
                "imports":["wasi:http/outgoing-handler@0.2.3"],
                "recent_errors":[{"at":"2026-11-21T10:58:00Z","request_id":"9f","status":null,"reason":"trapped",
                  "detail":"wasm `unreachable`\u001b[2J","backtrace":["0: users::run"]}]}"#,
        )
        .unwrap();
        let text = served(&service, humantime::parse_rfc3339("2026-11-21T11:00:00Z").unwrap());
        for line in [
            "  since         2026-11-21T10:00:00Z (1 hour ago)\n",
            "  answers at    /users and users.localhost\n",
            "  may call      hello, orders\n",
            "  may ask       https://*.example.org, http://10.0.0.0/8\n",
            "  last refusal  queue-full, 1 minute ago\n",
            "  limits        cpu 5s, queue 1024\n",
            "  policies      /login rate 5/m, burst 5, by client: 3 in use\n                priority low\n",
            "  asks for      outgoing HTTP: imported, denied but for `calls` and `http` of its manifest\n",
            "  last errors   2 minutes ago  aborted trapped: wasm `unreachable`\\u{1b}[2J request_id=9f\n",
            "                  0: users::run\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn files_are_told_from_services() {
        assert!(file("users").is_none());
        assert!(file("users.wasm").is_some() && file("./users").is_some());
    }
}
