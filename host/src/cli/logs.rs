//! `lodge logs` and `lodge events`: print log lines and changes of the directory.

use serde_json::Value;

use super::client::{AdminClient, encoded};
use super::out::{self, CliError, clean};
use crate::admin::contract::Line;

/// The earlier lines that `--follow` begins with by default.
const BEFORE: u64 = 10;

/// The arguments of the commands.
pub(super) struct LogQuery<'a> {
    pub(super) service: Option<&'a str>,
    pub(super) tail: Option<u64>,
    pub(super) follow: bool,
    pub(super) json: bool,
}

/// Prints log lines.
pub(super) fn logs(client: &AdminClient, query: &LogQuery) -> Result<(), CliError> {
    if let Some(name) = query.service {
        check_known(client, name)?;
    }
    if query.follow {
        let tail = query.tail.unwrap_or(BEFORE);
        follow(client, &path(query.service, Some(tail), true), "log", query.json, format)
    } else {
        recent(client, &path(query.service, query.tail, false), query.json, format)
    }
}

/// Prints changes of the directory and actions of operators.
pub(super) fn events(client: &AdminClient, query: &LogQuery) -> Result<(), CliError> {
    if query.follow {
        follow(client, "/v1/events?follow=true", "change", query.json, format_change)
    } else {
        recent(client, "/v1/events", query.json, format_change)
    }
}

fn recent(client: &AdminClient, path: &str, json: bool, format: impl Fn(&Line) -> String) -> Result<(), CliError> {
    let response = client.get(path)?;
    let lines: Vec<Line> = client.read(&response)?;
    if json {
        return out::json(&response);
    }
    out::print(&lines.iter().fold(String::new(), |text, line| text + &format(line) + "\n"))
}

fn follow(
    client: &AdminClient,
    path: &str,
    kind: &str,
    json: bool,
    format: impl Fn(&Line) -> String,
) -> Result<(), CliError> {
    for event in client.follow(path)? {
        let event = event?;
        if event.name != kind {
            continue;
        }
        let line: Line = client.read(&event.data)?;
        // In JSON, line feeds occur only between values.
        if json { out::json(&event.data.replace('\n', " "))? } else { out::line(&format(&line))? }
    }
    Ok(())
}

fn path(service: Option<&str>, tail: Option<u64>, follow: bool) -> String {
    let parts = [
        follow.then(|| "follow=true".to_owned()),
        service.map(|name| format!("service={}", encoded(name))),
        tail.map(|tail| format!("tail={tail}")),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "/v1/logs".into() } else { format!("/v1/logs?{}", parts.join("&")) }
}

/// Returns an error if no service of this name exists and the log has no line of one, since then the name is a typo.
fn check_known(client: &AdminClient, name: &str) -> Result<(), CliError> {
    match client.services(Some(name)) {
        Err(CliError::Problem(problem)) => {
            let lines: Vec<Line> = client.read(&client.get(&path(Some(name), Some(1), false))?)?;
            if lines.is_empty() { Err(CliError::Problem(problem)) } else { Ok(()) }
        }
        found => found.map(drop),
    }
}

/// Formats a line: `2026-11-21T10:22:03.123Z INFO  users stdout: hello  request_id=…`
fn format(line: &Line) -> String {
    let source = line.service.as_deref().unwrap_or("lodge");
    let how = line.stream.as_deref().unwrap_or(line.kind.name());
    let mut text = format!("{} {:5} {source} {how}: {}", line.at, line.level, line.message);
    let fields = line.fields.iter().map(|(name, value)| match value {
        Value::String(value) => format!(" {name}={value}"),
        value => format!(" {name}={value}"),
    });
    text.extend(fields);
    if let Some(id) = &line.request_id {
        text.push_str(&format!(" request_id={id}"));
    }
    clean(&text).into_owned()
}

fn format_change(change: &Line) -> String {
    let service = change.service.as_ref().map_or(String::new(), |name| format!("{name}: "));
    clean(&format!("{} {service}{}", change.at, change.message)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_lines() {
        let line = |json: &str| format(&serde_json::from_str(json).unwrap());
        let guest = r#"{"at":"2026-11-21T10:00:00.123Z","level":"INFO","kind":"guest","service":"users",
            "request_id":"9f","stream":"stderr","message":"a\u001b[31m\nb"}"#;
        assert_eq!(line(guest), r"2026-11-21T10:00:00.123Z INFO  users stderr: a\u{1b}[31m\nb request_id=9f");
        let request = r#"{"at":"T","level":"WARN","kind":"request","service":"users","message":"done",
            "fields":{"ms":1.5,"path":"/x"}}"#;
        assert_eq!(line(request), "T WARN  users request: done ms=1.5 path=/x");
        assert_eq!(line(r#"{"at":"T","level":"INFO","kind":"host","message":"m"}"#), "T INFO  lodge host: m");
        let changed = serde_json::from_str(r#"{"at":"T","service":"users","message":"replaced"}"#).unwrap();
        assert_eq!(format_change(&changed), "T users: replaced");
    }

    #[test]
    fn request_paths() {
        assert_eq!(path(None, None, false), "/v1/logs");
        assert_eq!(path(Some("a b"), Some(5), true), "/v1/logs?follow=true&service=a%20b&tail=5");
    }
}
