//! Actions of an operator: `lodge disable`, `enable`, `unload`, `purge`, `drain` and `log-level`.

use serde_json::json;

use super::client::{AdminClient, encoded};
use super::out::{self, CliError, clean};
use crate::admin::contract::{ActionResult, LogLevel, PurgeResult};

/// Disables, enables or unloads a service.
pub(super) fn service(client: &AdminClient, order: &str, name: &str, json: bool) -> Result<(), CliError> {
    let json_text = client.of_service("POST", &format!("/v1/services/{{}}/{order}"), name)?;
    let now: ActionResult = client.read(&json_text)?;
    print_reply(&json_text, json, &format!("{}: {}", now.service, now.state))
}

/// Removes the stored responses of a service at a path and below.
pub(super) fn purge(client: &AdminClient, name: &str, path: Option<&String>, json: bool) -> Result<(), CliError> {
    let path = encoded(path.map_or("/", String::as_str));
    let json_text = client.of_service("POST", &format!("/v1/services/{{}}/purge?path={path}"), name)?;
    let PurgeResult { service, path, purged } = client.read(&json_text)?;
    print_reply(&json_text, json, &format!("{service}: removed {purged} stored responses at {path} and below"))
}

/// Stops the host after a drain, as SIGTERM does.
pub(super) fn drain(client: &AdminClient, json: bool) -> Result<(), CliError> {
    let json_text = client.post("/v1/drain")?;
    print_reply(&json_text, json, "stopping; requests in flight may finish within the host's stop.grace")
}

/// Prints the log level or, with a level, sets it until the host stops.
pub(super) fn log_level(client: &AdminClient, level: Option<&String>, json: bool) -> Result<(), CliError> {
    let json_text = match level {
        Some(level) => client.put("/v1/log-level", &json!({ "level": level }).to_string())?,
        None => client.get("/v1/log-level")?,
    };
    let now: LogLevel = client.read(&json_text)?;
    print_reply(&json_text, json, &now.level)
}

fn print_reply(json_text: &str, json: bool, words: &str) -> Result<(), CliError> {
    if json { out::json(json_text) } else { out::line(&clean(words)) }
}
