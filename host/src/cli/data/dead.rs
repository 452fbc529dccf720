//! `lodge data dead`: messages that a service has not handled.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use clap::ArgMatches;

use super::super::out::{self, CliError, clean};
use super::super::table::{Side, TextTable};
use super::super::{flag, text, units};
use super::{print, shown};
use crate::cli::client::{AdminClient, encoded};
use crate::data::{DeadContent, DeadCount, DeadEntry, DeadList};
use lodge_base::config::Resolved;

pub(super) fn run(matches: &ArgMatches, resolved: &Resolved, json: bool) -> Result<(), CliError> {
    let config = resolved.config.clone();
    let none = || CliError::new("the setting admin is `off`, so no host can be reached");
    let client = AdminClient::new(config.admin.ok_or_else(none)?, config.admin_token)?;
    let service = text(matches, "name").map_or("", String::as_str);
    let (id, all) = (text(matches, "id").map(String::as_str), flag(matches, "all"));
    let (retry, drop) = (flag(matches, "retry"), flag(matches, "drop"));
    match (id, all, retry || drop) {
        (None, true, true) | (Some(_), false, true) => end(&client, service, id, retry, json),
        (None, false, true) => Err(CliError::Usage("name a message by its ID, or write --all".into())),
        (_, true, _) => Err(CliError::Usage("write --retry or --drop with --all".into())),
        (Some(id), ..) => print_one(&client, service, id, (flag(matches, "raw"), json)),
        (None, ..) => list(&client, service, json),
    }
}

/// Sends a request about the dead messages of a service.
fn ask(client: &AdminClient, method: &str, service: &str, path: &str) -> Result<String, CliError> {
    client.of_service(method, &format!("/v1/services/{{}}/data/dead{path}"), service)
}

fn list(client: &AdminClient, service: &str, json: bool) -> Result<(), CliError> {
    let columns = [
        ("ID", Side::Left),
        ("MESSAGE ID", Side::Left),
        ("DIED", Side::Left),
        ("SUBJECT", Side::Left),
        ("DELIVERIES", Side::Right),
        ("BYTES", Side::Right),
        ("LAST ERROR", Side::Left),
    ];
    let (mut table, mut after) = (TextTable::new(&columns), None);
    loop {
        let query = after.map_or(String::new(), |after: String| format!("?after={}", encoded(&after)));
        let response = ask(client, "GET", service, &query)?;
        let page: DeadList = client.read(&response)?;
        if json {
            out::json(&response)?;
        }
        for DeadEntry { id, message_id, subject, died, deliveries, bytes, error, .. } in &page.messages {
            let unknown = || units::UNKNOWN.to_owned();
            table.row([
                id.as_str().into(),
                message_id.as_str().into(),
                died.clone().unwrap_or_else(unknown).into(),
                subject.as_str().into(),
                deliveries.map_or_else(unknown, |deliveries| deliveries.to_string()).into(),
                units::bytes(*bytes).into(),
                error.clone().unwrap_or_else(unknown).into(),
            ]);
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if json { Ok(()) } else { out::print(&table.text()) }
}

fn print_one(client: &AdminClient, service: &str, id: &str, (raw, json): (bool, bool)) -> Result<(), CliError> {
    let response = ask(client, "GET", service, &format!("/message?id={}", encoded(id)))?;
    if json {
        return out::json(&response);
    }
    let content: DeadContent = client.read(&response)?;
    let body = BASE64_STANDARD.decode(&content.body).map_err(|error| CliError::new(error.to_string()))?;
    if raw {
        return out::bytes(&body);
    }
    out::notice(&clean(&known(&content.entry)));
    for line in content.headers.iter().chain(&content.reply_to.map(|to| format!("message-reply-to: {to}"))) {
        out::notice(&clean(line));
    }
    out::line(&shown(&body))
}

/// Formats what is known of a message beside its content.
fn known(entry: &DeadEntry) -> String {
    let DeadEntry { message_id, subject, origin, died, deliveries, error, .. } = entry;
    let origin = origin.as_ref().map_or(String::new(), |origin| format!(", published to {origin} at first"));
    let died = died.as_ref().map_or(String::new(), |died| format!(" {died}"));
    let deliveries =
        deliveries.map_or(String::new(), |times| format!(" after {}", units::count(times.into(), "delivery")));
    let error = error.as_ref().map_or(String::new(), |error| format!(": {error}"));
    format!("message {message_id} to {subject}{origin}; it died{died}{deliveries}{error}")
}

fn end(client: &AdminClient, service: &str, id: Option<&str>, retry: bool, json: bool) -> Result<(), CliError> {
    let which = id.map_or_else(|| "all=true".to_owned(), |id| format!("id={}", encoded(id)));
    let (method, path, done) =
        if retry { ("POST", format!("/retry?{which}"), "retried") } else { ("DELETE", format!("?{which}"), "dropped") };
    let count: DeadCount = client.read(&ask(client, method, service, &path)?)?;
    print(&count, json, &format!("{service}: {done} {}; {} are left", count.ended, count.left))
}
