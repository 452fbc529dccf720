//! Actions of an operator: `lodge disable`, `enable`, `unload`, `purge`, `drain` and `log-level`.

use serde_json::json;

use super::client::{AdminClient, encoded};
use super::out::{self, CliError, clean};
use crate::admin::contract::{ActionResult, LogLevel, PurgeResult};

/// Disables, enables or unloads a service.
pub(super) fn service(client: &AdminClient, order: &str, name: &str, json: bool) -> Result<(), CliError> {
    let answer = client.of_service("POST", &format!("/v1/services/{{}}/{order}"), name)?;
    let now: ActionResult = client.read(&answer)?;
    print_reply(&answer, json, &format!("{}: {}", now.service, now.state))
}

/// Removes the stored responses of a service at a path and below.
pub(super) fn purge(client: &AdminClient, name: &str, path: Option<&String>, json: bool) -> Result<(), CliError> {
    let path = encoded(path.map_or("/", String::as_str));
    let answer = client.of_service("POST", &format!("/v1/services/{{}}/purge?path={path}"), name)?;
    let PurgeResult { service, path, purged } = client.read(&answer)?;
    print_reply(&answer, json, &format!("{service}: removed {purged} stored responses at {path} and below"))
}

/// Stops the host after a drain, as SIGTERM does.
pub(super) fn drain(client: &AdminClient, json: bool) -> Result<(), CliError> {
    let answer = client.post("/v1/drain")?;
    print_reply(&answer, json, "stopping; requests in flight may finish within the host's stop.grace")
}

/// Prints the log level or, with a level, sets it until the host stops.
pub(super) fn log_level(client: &AdminClient, level: Option<&String>, json: bool) -> Result<(), CliError> {
    let answer = match level {
        Some(level) => client.put("/v1/log-level", &json!({ "level": level }).to_string())?,
        None => client.get("/v1/log-level")?,
    };
    let now: LogLevel = client.read(&answer)?;
    print_reply(&answer, json, &now.level)
}

fn print_reply(answer: &str, json: bool, words: &str) -> Result<(), CliError> {
    if json { out::line(answer.trim_end()) } else { out::line(&clean(words)) }
}
