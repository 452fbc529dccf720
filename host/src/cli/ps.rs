//! `lodge ps`: lists services with their state and traffic, and files that are refused.

use std::borrow::Cow;
use std::time::SystemTime;

use super::client::AdminClient;
use super::out::{self, CliError, clean};
use super::rollout::short_share;
use super::table::Side::{Left, Right};
use super::table::TextTable;
use super::units::{UNKNOWN, ago, bytes, millis, seconds};
use crate::admin::contract::{FileReport, HostStatus, MessageCounts, ServiceInfo, ServiceStatus};

/// Requests the list and prints it.
pub(super) fn run(client: &AdminClient, json: bool) -> Result<(), CliError> {
    let json_text = client.get("/v1/services")?;
    let entries: Vec<FileReport> = client.read(&json_text)?;
    if json {
        return out::json(&json_text);
    }
    // A host of an older version has no such list, and the list of services does without it.
    let host = client.get("/v1/host").and_then(|text| client.read::<HostStatus>(&text));
    let problems = host.map_or_else(|_| Vec::new(), |host| host.problems);
    out::print(&text(&entries, &problems, SystemTime::now()))
}

fn text(entries: &[FileReport], of_host: &[String], now: SystemTime) -> String {
    let mut columns = vec![
        ("NAME", Left),
        ("VERSION", Left),
        ("STATE", Left),
        ("SINCE", Left),
        ("REQUESTS", Right),
        ("ERRORS", Right),
        ("P50", Right),
        ("P99", Right),
        ("CPU", Right),
        ("MEM", Right),
    ];
    // Most directories have no consumers.
    let services = || entries.iter().filter_map(|entry| entry.service.as_ref());
    let has_messages = services().any(|service| service.activity.messages.is_some());
    columns.extend(has_messages.then_some(("MESSAGES", Right)));
    columns.push(("ROUTES", Left));
    let mut table = TextTable::new(&columns);
    for service in services() {
        let ServiceStatus { info, activity } = service;
        let mut row: Vec<Cow<'_, str>> = vec![
            (&*info.name).into(),
            version(info).into(),
            state(service).into(),
            activity.since.as_ref().map_or(UNKNOWN.into(), |since| ago(since, now)).into(),
            activity.requests.to_string().into(),
            activity.errors.to_string().into(),
            millis(activity.p50_ms).into(),
            millis(activity.p99_ms).into(),
            seconds(activity.cpu_seconds).into(),
            bytes(activity.memory_bytes).into(),
        ];
        row.extend(has_messages.then(|| messages(activity.messages.as_ref()).into()));
        row.push(info.routes.join(", ").into());
        table.row(row);
    }
    let mut text = table.text();
    let refused = entries.iter().filter_map(|entry| Some((&entry.file, entry.refused.as_ref()?)));
    for (n, (file, refused)) in refused.enumerate() {
        if n == 0 {
            text.push_str("\nREFUSED\n");
        }
        text.push_str(&format!("{}: {}; {}\n", clean(file), clean(&refused.reason), clean(&refused.remedy)));
    }
    let problems = entries.iter().filter_map(|entry| entry.service.as_ref()).flat_map(|it| &it.activity.problems);
    for (n, problem) in problems.chain(of_host).enumerate() {
        text.push_str(if n == 0 { "\nPROBLEMS\n" } else { "" });
        text.push_str(&format!("{}\n", clean(problem)));
    }
    text
}

/// Returns how many messages wait or are being processed, and how many are dead.
fn messages(counts: Option<&MessageCounts>) -> String {
    let Some(MessageCounts { waiting, in_flight, dead, .. }) = counts else { return String::new() };
    let backlog = waiting.saturating_add(*in_flight);
    if *dead > 0 { format!("{backlog}, {dead} dead") } else { backlog.to_string() }
}

/// Returns the version. Hosts of earlier versions only have the digest.
fn version(info: &ServiceInfo) -> &str {
    if info.version.is_empty() { info.digest.get(..12).unwrap_or(&info.digest) } else { &info.version }
}

/// Returns the state and, where it applies, how many replicas are available or which share a version gets.
fn state(service: &ServiceStatus) -> String {
    let ServiceStatus { info, activity } = service;
    let state = &activity.state;
    if let Some(replicas) = &activity.replicas {
        let available = replicas.iter().filter(|replica| replica.state == "available").count();
        let all = available == replicas.len() && available > 0;
        return if all { state.to_string() } else { format!("{state} {available}/{}", replicas.len()) };
    }
    match &info.share {
        // In any other state it gets no requests.
        Some(share) if ["serving", "failing", "unloaded"].contains(&&**state) => {
            format!("{state} {}", short_share(share))
        }
        _ => state.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_state() {
        let message = |json: &str| state(&serde_json::from_str(json).unwrap());
        let replica = |state: &str| format!(r#"{{"state":"{state}"}}"#);
        let far = |replicas: &[&str]| {
            let replicas: Vec<_> = replicas.iter().map(|state| replica(state)).collect();
            message(&format!(r#"{{"state":"serving","replicas":[{}]}}"#, replicas.join(",")))
        };
        assert_eq!([far(&["available"]), far(&["available", "down"])], ["serving", "serving 1/2"]);
        assert_eq!(message(r#"{"state":"down","replicas":[]}"#), "down 0/0");
        let part = |state: &str| message(&format!(r#"{{"state":"{state}","share":{{"percent":2.5}}}}"#));
        assert_eq!([part("serving"), part("withdrawn")], ["serving 2.5%", "withdrawn"]);
    }

    #[test]
    fn lists_services_and_refused_files() {
        let entries = r#"[
            {"file": "bad.wasm", "refused": {"reason": "it is empty", "remedy": "copy it\u001b[2J again"}},
            {"file": "hello.wasm", "service": {"name": "hello", "digest": "0123456789abcdef", "state": "serving",
              "since": "2026-11-21T10:00:00Z", "requests": 1203, "errors": 2, "p50_ms": 0.123, "p99_ms": 2.5,
              "cpu_seconds": 1.25, "memory_bytes": 1310720, "routes": ["/hello", "/hi"],
              "problems": ["hello.toml: validate.body: a.json: it is empty"]}}
        ]"#;
        let entries: Vec<FileReport> = serde_json::from_str(entries).unwrap();
        let now = humantime::parse_rfc3339("2026-11-21T10:03:10Z").unwrap();
        let expected = r"
NAME    VERSION        STATE     SINCE           REQUESTS   ERRORS      P50     P99     CPU       MEM   ROUTES
hello   0123456789ab   serving   3 minutes ago       1203        2   0.12ms   2.5ms   1.25s   1.2 MiB   /hello, /hi

REFUSED
bad.wasm: it is empty; copy it\u{1b}[2J again

PROBLEMS
hello.toml: validate.body: a.json: it is empty
trust.keys: a.pem: it is empty
";
        assert_eq!(
            text(&entries, &["trust.keys: a.pem: it is empty".to_owned()], now),
            expected.trim_start_matches('\n')
        );
        let consumer = r#"{"service": {"name": "mail", "messages": {"waiting": 2, "in_flight": 1, "dead": 4}, "routes": ["/mail"]}}"#;
        let consumes = text(&[entries[1].clone(), serde_json::from_str(consumer).unwrap()], &[], now);
        let lines: Vec<_> =
            consumes.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert!(lines[0].ends_with("MEM MESSAGES ROUTES") && lines[1].ends_with("1.2 MiB /hello, /hi"), "{consumes}");
        assert!(lines[2].ends_with(" 3, 4 dead /mail"), "{consumes}");
        assert!(text(&[], &[], now).starts_with("NAME   VERSION") && !text(&[], &[], now).contains("REFUSED"));
    }
}
