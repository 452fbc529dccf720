//! What an operator orders: `lodge disable`, `enable`, `unload`, `purge`, `drain` and `log-level`.

use serde_json::json;

use super::client::api::{Level, Purged, State};
use super::client::{Client, encoded};
use super::out::{self, Failure, clean};

/// Disables, enables or unloads a service.
pub(super) fn service(client: &Client, order: &str, name: &str, json: bool) -> Result<(), Failure> {
    let answer = client.of_service("POST", &format!("/v1/services/{{}}/{order}"), name)?;
    let now: State = client.read(&answer)?;
    say(&answer, json, &format!("{}: {}", now.service, now.state))
}

/// Drops what is kept of a service's answers, at a path and below.
pub(super) fn purge(client: &Client, name: &str, path: Option<&String>, json: bool) -> Result<(), Failure> {
    let path = encoded(path.map_or("/", String::as_str));
    let answer = client.of_service("POST", &format!("/v1/services/{{}}/purge?path={path}"), name)?;
    let Purged { service, path, purged } = client.read(&answer)?;
    say(&answer, json, &format!("{service}: {purged} kept answers dropped at {path} and below"))
}

/// Stops the host, as SIGTERM does.
pub(super) fn drain(client: &Client, json: bool) -> Result<(), Failure> {
    let answer = client.post("/v1/drain")?;
    say(&answer, json, "stopping; running requests may finish within the host's stop.grace")
}

/// Says how much is logged or, with a level, sets it until the host ends.
pub(super) fn log_level(client: &Client, level: Option<&String>, json: bool) -> Result<(), Failure> {
    let answer = match level {
        Some(level) => client.put("/v1/log-level", &json!({ "level": level }).to_string())?,
        None => client.get("/v1/log-level")?,
    };
    let now: Level = client.read(&answer)?;
    say(&answer, json, &now.level)
}

fn say(answer: &str, json: bool, words: &str) -> Result<(), Failure> {
    if json { out::line(answer.trim_end()) } else { out::line(&clean(words)) }
}
