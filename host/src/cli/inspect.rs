//! `lodge inspect`: shows a service of a running host, or a component file without a host.

mod capabilities;
pub(super) mod component;
mod failures;
mod traffic;
mod upstream;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use self::capabilities::CapabilityUse;
use self::failures::{failed, mismatch};
use super::client::AdminClient;
use super::out::{self, CliError, clean};
use super::rollout;
use super::units::{UNKNOWN_CALL, addresses, ago, bytes};
use crate::admin::contract::{RefusedFile, ScheduleStatus, ServiceDetails, ServiceStatus};
use crate::guests::scan::{FileState, Scanner};
use lodge_base::config::Config;
use lodge_base::files;
use lodge_manifest::digest::Digest;
use lodge_manifest::section::{self, SECTIONS};

/// The width of the labels.
const INDENT: usize = 14;

/// Returns the path if `name` denotes a file and not a service.
pub(super) fn file(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    (name.ends_with(".wasm") || name.contains('/') || path.is_file()).then(|| path.to_owned())
}

/// Prints a service of a running host.
pub(super) fn service(client: &AdminClient, name: &str, json: bool) -> Result<(), CliError> {
    let json_text = client.of_service("GET", "/v1/services/{}", name)?;
    let service: ServiceDetails = client.read(&json_text)?;
    if json { out::json(&json_text) } else { out::print(&format_service(&service, SystemTime::now())) }
}

/// A component file, and what a host would do with it.
#[derive(Serialize)]
struct Component {
    file: String,
    bytes: u64,
    digest: String,
    wasi: Vec<String>,
    imports: Vec<String>,
    exports: Vec<String>,
    asks: Vec<CapabilityUse>,
    manifest: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_middleware: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<String>,
    /// What the sections of its manifest say, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sections: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<RefusedFile>,
}

/// Prints a component file. Fails if a host would refuse it. Compiles nothing, so `lodge check` may find further
/// problems.
pub(super) fn component(config: &Config, path: &Path, json: bool) -> Result<(), CliError> {
    let component = Component::read(config, path)?;
    if json {
        out::json(&serde_json::to_string_pretty(&component).unwrap_or_default())?;
    } else {
        out::print(&component.text())?;
    }
    match component.refused {
        Some(refused) => Err(CliError::new(format!("a host would refuse it: {}; {}", refused.reason, refused.remedy))),
        None => Ok(()),
    }
}

impl Component {
    fn read(config: &Config, path: &Path) -> Result<Self, CliError> {
        let name = path.display();
        let unreadable = |error| CliError::new(format!("{name}: {error}"));
        let (file, metadata) = files::open(path).map_err(unreadable)?;
        // The scanner first, as in a host: it recognises files that are not components, and checks the size before
        // reading.
        let (mut routes, mut sections, mut refused) = (Vec::new(), BTreeMap::new(), None);
        match Scanner::new(path).scan(config).map_err(unreadable)?.found.into_values().next().map(|found| found.state) {
            Some(FileState::Ready(spec)) => {
                routes = spec.manifest.routes.iter().map(ToString::to_string).collect();
                sections = section::views(&spec.manifest);
            }
            Some(FileState::Refused(why) | FileState::Orphan(why)) => {
                refused = Some(RefusedFile { reason: why.reason, remedy: why.remedy, digest: None });
            }
            Some(FileState::Disabled | FileState::Changing | FileState::Pulling) | None => {}
        }
        let refusal = |other: String| match &refused {
            Some(why) => CliError::new(format!("{name}: {}; {}", why.reason, why.remedy)),
            None => CliError::new(format!("{name}: {other}")),
        };
        let content = files::rest_of(&file, metadata.len(), config.engine.max_file as u64);
        let content = content.map_err(|error| refusal(error.to_string()))?;
        let interfaces = component::interfaces(&content).map_err(refusal)?;
        let is_middleware = capabilities::is_middleware(&interfaces);
        if is_middleware {
            // It answers nowhere by itself.
            (routes, sections) = (Vec::new(), BTreeMap::new());
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        Ok(Self {
            file: name.to_string(),
            bytes: metadata.len(),
            digest: Digest::of(&content).to_string(),
            wasi: component::wasi_versions(&interfaces),
            asks: capabilities::of(&interfaces.imports, &sections),
            manifest: capabilities::manifest(&stem, &interfaces),
            is_middleware,
            imports: interfaces.imports,
            exports: interfaces.exports,
            routes,
            sections,
            refused,
        })
    }

    fn text(&self) -> String {
        let mut text = format!("{}  {}\n", clean(&self.file), bytes(self.bytes));
        push_item(&mut text, "sha256", [&self.digest]);
        push_item(&mut text, "WASI", [self.wasi.join(", ")]);
        push_item(&mut text, "answers at", [self.routes.join(", ")]);
        push_sections(&mut text, &self.sections);
        push_item(&mut text, "asks for", self.asks.iter().map(ToString::to_string));
        push_item(&mut text, "exports", &self.exports);
        push_item(&mut text, "imports", &self.imports);
        let name = Path::new(&self.file).with_extension("toml");
        text.push_str(&if self.is_middleware {
            "\nIt is middleware. Keep it in a directory below that of the services, and name it in the manifests of those that it is \
             to be in front of:\n\n"
                .to_owned()
        } else {
            format!("\nA manifest for it, {}; every key is optional:\n\n", clean(&name.to_string_lossy()))
        });
        for line in self.manifest.lines() {
            let line = format!("    {line}");
            text.push_str(&format!("{}\n", line.trim_end()));
        }
        text
    }
}

fn format_service(details: &ServiceDetails, now: SystemTime) -> String {
    let ServiceStatus { info: service, activity } = &details.status;
    let mut text = clean(&service.name).into_owned();
    if activity.replicas.is_none() {
        text.push_str(&format!("  {}", bytes(service.bytes)));
    }
    text.push('\n');
    let more = match (&activity.replicas, activity.loaded) {
        (Some(replicas), _) => upstream::available(replicas),
        (None, _) if service.sections.contains_key("files") => "a directory of files".into(),
        (None, true) => match activity.code.as_deref() {
            Some("baseline") => "its machine code is in memory: baseline code, slower until it is optimised".into(),
            Some(code) => format!("its machine code is in memory: {code}"),
            // Hosts of earlier versions do not report it.
            None => "its machine code is in memory".into(),
        },
        (None, false) => "its machine code is not in memory".into(),
    };
    push_item(&mut text, "version", [&service.version]);
    push_item(&mut text, "sha256", [&service.digest]);
    push_item(&mut text, "parts", service.parts.iter().map(|part| format!("{}  {}", part.digest, part.file)));
    push_item(&mut text, "state", [format!("{}; {more}", activity.state)]);
    push_item(&mut text, "refused", &details.refused);
    push_item(&mut text, "problems", &activity.problems);
    push_item(&mut text, "withdrawn", activity.withdrawn.iter());
    push_item(&mut text, "gets", service.share.iter().map(rollout::format_share));
    push_item(&mut text, "versions", activity.versions.iter().map(rollout::format_version));
    push_item(&mut text, "sticky", service.sticky.iter());
    if let Some(replicas) = &activity.replicas {
        let upstream = service.upstream.clone().unwrap_or_default();
        push_item(&mut text, "replicas", upstream::replicas(replicas, &upstream.sources));
        if !replicas.is_empty() {
            push_item(&mut text, "unresolved", upstream::failing(&upstream.sources));
        }
        push_item(&mut text, "upstream", upstream::settings(&upstream));
        push_item(&mut text, "certificate", upstream::certificate(&upstream));
    }
    push_item(&mut text, "since", activity.since.iter().map(|since| format!("{since} ({})", ago(since, now))));
    push_item(&mut text, "answers at", [addresses(&service.routes, &service.host)]);
    push_sections(&mut text, &service.sections);
    push_item(&mut text, "due", details.schedules.iter().map(|schedule| due(schedule, now)));
    let unreachable =
        service.login_fails.iter().map(|why| format!("the configuration of its provider cannot be fetched: {why}"));
    let refused = service
        .login_refusal
        .iter()
        .map(|last| format!("the last that failed, {}: {}", ago(&last.at, now), last.reason));
    push_item(&mut text, "logins", unreachable.chain(refused));
    let unknown = service.unknown_calls.iter().map(|name| format!("{name}: {UNKNOWN_CALL}"));
    let remote = service.remote_calls.iter().map(|call| format!("{}: {}", call.name, call.state));
    push_item(&mut text, "calls", unknown.chain(remote));
    traffic::push(&mut text, activity, now);
    let limits = details.limits.iter().map(|(name, value)| format!("{name} {value}"));
    push_item(&mut text, "limits", [limits.collect::<Vec<_>>().join(", ")]);
    push_item(&mut text, "policies", details.policies.iter().map(traffic::policy));
    push_item(
        &mut text,
        "asks for",
        capabilities::of(&service.imports, &service.sections).iter().map(ToString::to_string),
    );
    push_item(&mut text, "exports", &service.exports);
    push_item(&mut text, "imports", &service.imports);
    push_item(&mut text, "lacks", &service.absent_imports);
    push_item(&mut text, "not as in api", details.response_mismatches.iter().map(|it| mismatch(it, now)));
    push_item(&mut text, "last errors", details.recent_errors.iter().flat_map(|error| failed(error, now)));
    text
}

/// Formats when a schedule is due, and what became of its last call.
fn due(schedule: &ScheduleStatus, now: SystemTime) -> String {
    let ScheduleStatus { path, next, last, failed, .. } = schedule;
    let next = next.as_deref().unwrap_or("never again");
    let last = last.as_ref().map_or("no call yet since the host started".into(), |last| {
        let what = last.status.map_or_else(|| last.outcome.to_string(), |status| status.to_string());
        format!("last {what}, {}", ago(&last.at, now))
    });
    let failed = if *failed > 1 { format!("{failed} failed in succession, ") } else { String::new() };
    format!("{path}: next {next}; {failed}{last}")
}

/// Adds what the sections of the manifest say.
fn push_sections(text: &mut String, sections: &BTreeMap<String, Value>) {
    for (name, view) in SECTIONS.iter().filter_map(|section| Some((section.name, section.view.as_ref()?))) {
        push_item(text, view.label, sections.get(name).map(view.text));
    }
}

/// Adds a label with one line per item; nothing without items.
fn push_item(text: &mut String, name: &str, lines: impl IntoIterator<Item = impl AsRef<str>>) {
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
    fn formats_service() {
        let service: ServiceDetails = serde_json::from_str(
            r#"{"name":"users","digest":"ab","version":"cd","parts":[{"file":"middleware/gate.wasm","digest":"ef"},{"file":"users.wasm","digest":"ab"}],"state":"serving","loaded":true,"code":"baseline","since":"2026-11-21T10:00:00Z",
                "routes":["/users"],"host":"users.localhost","requests":12,"errors":1,"limits":{"cpu":"5s","queue":"1024"},
                "last_refusal":{"at":"2026-11-21T10:59:00Z","reason":"auth-invalid","detail":"expired-key, key ci"},
                "policies":[{"policy":"rate","route":"/login","settings":"5/m, burst 5, by client","state":"3 in use"},
                  {"policy":"priority","settings":"low"}],
                "unknown_calls":["orders"],"remote_calls":[{"name":"hello","state":"on host vm (http://a)"}],
                "sections":{"calls":["hello","orders"],"http":["https://*.example.org","http://10.0.0.0/8"],"isolation":"service"},
                "imports":["wasi:http/outgoing-handler@0.2.3"],"login_fails":"no response",
                "schedules":[{"cron":"0 3 * * *","path":"/clean","next":"2026-11-22T03:00:00Z"},
                  {"path":"/a","last":{"at":"2026-11-21T10:58:00Z","outcome":"ok","status":204},"next":"2026-11-22T03:00:00Z"},
                  {"path":"/b","last":{"at":"2026-11-21T10:58:00Z","outcome":"failed","status":404},"failed":3},
                  {"path":"/c","last":{"at":"2026-11-21T10:58:00Z","outcome":"missed"},"failed":1,"next":"x"}],
                "recent_errors":[{"at":"2026-11-21T10:58:00Z","request_id":"9f","status":null,"reason":"trapped","part":"middleware/gate.wasm",
                  "detail":"wasm `unreachable`\u001b[2J","backtrace":["0: users::run"],"stderr":["Traceback:"]}]}"#,
        )
        .unwrap();
        let text = format_service(&service, humantime::parse_rfc3339("2026-11-21T11:00:00Z").unwrap());
        for line in [
            "  state         serving; its machine code is in memory: baseline code, slower until it is optimised\n",
            "  version       cd\n  sha256        ab\n  parts         ef  middleware/gate.wasm\n                ab  users.wasm\n",
            "  since         2026-11-21T10:00:00Z (1 hour ago)\n",
            "  answers at    /users and users.localhost\n",
            "  may call      hello, orders\n",
            "  may send to   https://*.example.org, http://10.0.0.0/8\n",
            "  last refusal  auth-invalid (expired-key, key ci), 1 minute ago\n",
            "  limits        cpu 5s, queue 1024\n",
            "  policies      /login rate 5/m, burst 5, by client: 3 in use\n                priority low\n",
            "  calls         orders: no service of this name (it may come later)\n                hello: on host vm (http://a)\n",
            "  asks for      outgoing HTTP: granted by `calls` and `http`\n",
            "  last errors   2 minutes ago  aborted trapped in middleware/gate.wasm: wasm `unreachable`\\u{1b}[2J request_id=9f\n",
            "                  0: users::run\n                  stderr: Traceback:\n",
            "  due           /clean: next 2026-11-22T03:00:00Z; no call yet since the host started\n",
            "                /a: next 2026-11-22T03:00:00Z; last 204, 2 minutes ago\n",
            "                /b: next never again; 3 failed in succession, last 404, 2 minutes ago\n",
            "                /c: next x; last missed, 2 minutes ago\n",
            "  logins        the configuration of its provider cannot be fetched: no response\n",
            "  isolation     service: several instances, each with memory of its own,",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn every_section_with_a_view_is_shown() {
        for section in SECTIONS.iter().filter(|section| section.view.is_some()) {
            let json = format!(r#"{{"sections":{{"{}":["a","b"]}}}}"#, section.name);
            let text = format_service(&serde_json::from_str(&json).unwrap(), SystemTime::UNIX_EPOCH);
            let line = format!("  {:INDENT$}a, b", section.view.as_ref().unwrap().label);
            assert!(text.contains(&line), "{line:?} is not in\n{text}");
        }
    }

    /// The status of versions, and of an upstream with unavailable replicas.
    #[test]
    fn formats_rollouts_and_replicas() {
        let text = |json: &str| {
            let service: ServiceDetails = serde_json::from_str(json).unwrap();
            format_service(&service, humantime::parse_rfc3339("2026-11-21T11:00:00Z").unwrap())
        };
        let version = text(
            r#"{"name":"users@2","state":"serving","host":"2.users.localhost","share":{"percent":10.0,
                "match":["header:x-version=2"],"mirror":0.0}}"#,
        );
        assert!(version.contains("  gets          10 %, header:x-version=2\n"), "{version}");
        assert!(version.contains("  answers at    2.users.localhost\n"), "{version}");
        let service = text(
            r#"{"name":"users","sticky":"cookie:sid","versions":[{"name":"users@2","percent":10.0,"state":"serving"},
                {"name":"users@3","percent":0.5,"state":"withdrawn"}]}"#,
        );
        let lines =
            "  versions      users@2 10 %\n                users@3 0.5 %, withdrawn\n  sticky        cookie:sid\n";
        assert!(service.contains(lines), "{service}");
        let far = text(
            r#"{"name":"far","state":"serving","loaded":true,"replicas":[
                {"url":"http://a","weight":3,"state":"available","in_flight":2,"connections":1},
                {"url":"http://b","weight":1,"state":"down","why":"refused\u001b[2J","in_flight":0,"connections":0},
                {"url":"http://c","weight":1,"state":"ejected","until":"2026-11-21T11:00:10Z","why":"it responded with 503",
                 "in_flight":0,"connections":2}],
                "upstream":{"settings":{"connect":"1s","policy":"hash","retry.attempts":"2","retry.budget":"20%"},
                 "sources":[{"source":"http://a"},{"source":"far.list","fails":"No such file"}],
                 "certificate":{"subject":"CN=orders","names":["spiffe://a.test/orders"],"expires":"2027-01-01T00:00:00Z"},
                 "tls_fails":"upstream.tls.key: k cannot be read"}}"#,
        );
        for line in [
            "far\n",
            "  state         serving; 1 of 3 replicas available\n",
            "  replicas      http://a  available; weight 3, 2 in flight, 1 connection\n",
            "                http://b  down: refused\\u{1b}[2J; weight 1, 0 in flight, 0 connections\n",
            "                http://c  ejected until 2026-11-21T11:00:10Z: it responded with 503; weight 1, 0 in flight, 2 connections\n",
            "  unresolved    far.list: No such file\n",
            "  upstream      policy hash, connect 1s\n                health: none, without health.path\n",
            "                retry: attempts 2, budget 20%\n",
            "  certificate   spiffe://a.test/orders (CN=orders), expires 2027-01-01T00:00:00Z\n                upstream.tls.key: k",
        ] {
            assert!(far.contains(line), "{line:?} is not in\n{far}");
        }
        assert!(!far.contains("CPU") && !far.contains("machine code"), "{far}");
        let lost = text(
            r#"{"name":"far","state":"serving","loaded":true,"replicas":[],
            "upstream":{"sources":[{"source":"far.list","fails":"No such file"}]}}"#,
        );
        assert!(lost.contains("  state         serving; 0 of 0 replicas available\n"), "{lost}");
        assert!(
            lost.contains("  replicas      none: far.list: No such file\n") && !lost.contains("unresolved"),
            "{lost}"
        );
    }

    #[test]
    fn recognises_files() {
        assert!(file("users").is_none());
        assert!(file("users.wasm").is_some() && file("./users").is_some());
    }
}
