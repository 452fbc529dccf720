//! The parts of the admin API that commands show. A field that is missing or `null` is empty, since the host may be of
//! another version.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{AdminClient, encoded};
use crate::cli::out::{CliError, clean};
use lodge_base::config::key::nearest;

/// The most service names in a message.
const NAMES: usize = 20;

/// A file of the directory, which is either served or refused.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Entry {
    pub(in crate::cli) file: String,
    pub(in crate::cli) service: Option<Service>,
    pub(in crate::cli) refused: Option<Refused>,
}

/// Why a file is refused.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Refused {
    pub(in crate::cli) reason: String,
    pub(in crate::cli) remedy: String,
}

/// A service with its traffic and, if requested alone, its limits and recent errors.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Service {
    pub(in crate::cli) name: String,
    pub(in crate::cli) digest: String,
    pub(in crate::cli) bytes: u64,
    pub(in crate::cli) routes: Vec<String>,
    pub(in crate::cli) isolation: Option<String>,
    pub(in crate::cli) host: String,
    pub(in crate::cli) state: String,
    pub(in crate::cli) since: String,
    pub(in crate::cli) loaded: bool,
    pub(in crate::cli) code: Option<String>,
    pub(in crate::cli) requests: u64,
    pub(in crate::cli) errors: u64,
    pub(in crate::cli) in_flight: u64,
    pub(in crate::cli) queued: u64,
    pub(in crate::cli) p50_ms: Option<f64>,
    pub(in crate::cli) p99_ms: Option<f64>,
    pub(in crate::cli) cpu_seconds: f64,
    pub(in crate::cli) memory_bytes: u64,
    pub(in crate::cli) bytes_in: u64,
    pub(in crate::cli) bytes_out: u64,
    pub(in crate::cli) cached: Option<CacheStats>,
    pub(in crate::cli) last_refusal: Option<LastRefusal>,
    pub(in crate::cli) withdrawn: Option<String>,
    pub(in crate::cli) share: Option<Share>,
    pub(in crate::cli) sticky: Option<String>,
    pub(in crate::cli) versions: Vec<Version>,
    /// `None` for a component; empty if an upstream has no known replica.
    pub(in crate::cli) replicas: Option<Vec<Replica>>,
    pub(in crate::cli) upstream: Option<Upstream>,
    pub(in crate::cli) calls: Vec<String>,
    pub(in crate::cli) http: Vec<String>,
    pub(in crate::cli) imports: Vec<String>,
    pub(in crate::cli) exports: Vec<String>,
    pub(in crate::cli) limits: BTreeMap<String, Value>,
    pub(in crate::cli) policies: Vec<Policy>,
    pub(in crate::cli) recent_errors: Vec<RecentError>,
}

/// A replica of an upstream.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Replica {
    pub(in crate::cli) url: String,
    pub(in crate::cli) weight: u64,
    pub(in crate::cli) state: String,
    pub(in crate::cli) why: Option<String>,
    pub(in crate::cli) until: Option<String>,
    pub(in crate::cli) in_flight: u64,
    pub(in crate::cli) connections: u64,
}

/// The settings of an upstream and the sources of its replicas.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Upstream {
    pub(in crate::cli) settings: BTreeMap<String, String>,
    pub(in crate::cli) sources: Vec<Source>,
}

/// A source of replica addresses, and its error.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Source {
    pub(in crate::cli) source: String,
    pub(in crate::cli) fails: Option<String>,
}

/// The share of its service's requests that a version gets.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Share {
    pub(in crate::cli) percent: f64,
    #[serde(rename = "match")]
    pub(in crate::cli) rules: Vec<String>,
    pub(in crate::cli) mirror: f64,
    pub(in crate::cli) rollback: Option<Rollback>,
}

/// How much worse than its service a version may do before it is withdrawn.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Rollback {
    pub(in crate::cli) errors: f64,
    pub(in crate::cli) p99: f64,
    pub(in crate::cli) minimum: u64,
}

/// A version of a service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Version {
    pub(in crate::cli) name: String,
    pub(in crate::cli) percent: f64,
    pub(in crate::cli) state: String,
}

/// A policy that can refuse requests, and its state.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Policy {
    pub(in crate::cli) policy: String,
    pub(in crate::cli) route: Option<String>,
    pub(in crate::cli) settings: String,
    pub(in crate::cli) state: Option<String>,
}

/// The stored responses of a service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct CacheStats {
    pub(in crate::cli) entries: u64,
    pub(in crate::cli) bytes: u64,
    pub(in crate::cli) hits: u64,
    pub(in crate::cli) misses: u64,
}

/// The last request that was refused.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct LastRefusal {
    pub(in crate::cli) at: String,
    pub(in crate::cli) reason: String,
}

/// A failed request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct RecentError {
    pub(in crate::cli) at: String,
    pub(in crate::cli) request_id: String,
    /// `None` if the transfer was aborted.
    pub(in crate::cli) status: Option<u16>,
    pub(in crate::cli) reason: String,
    pub(in crate::cli) detail: Option<String>,
    pub(in crate::cli) backtrace: Vec<String>,
    pub(in crate::cli) stderr: Vec<String>,
}

/// A line of the log.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct LogLine {
    pub(in crate::cli) at: String,
    pub(in crate::cli) level: String,
    pub(in crate::cli) kind: String,
    pub(in crate::cli) service: Option<String>,
    pub(in crate::cli) request_id: Option<String>,
    pub(in crate::cli) stream: Option<String>,
    pub(in crate::cli) message: String,
    #[serde(deserialize_with = "nothing_is_empty")]
    pub(in crate::cli) fields: BTreeMap<String, Value>,
}

/// A change of the directory, or an action of an operator.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct DirectoryChange {
    pub(in crate::cli) at: String,
    pub(in crate::cli) service: Option<String>,
    pub(in crate::cli) message: String,
}

/// The host process.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Host {
    pub(in crate::cli) version: String,
    pub(in crate::cli) directory: String,
    pub(in crate::cli) directory_id: String,
    pub(in crate::cli) uptime_seconds: f64,
    pub(in crate::cli) connections: u64,
    pub(in crate::cli) memory_bytes: u64,
    pub(in crate::cli) cpu_seconds: f64,
    pub(in crate::cli) sandbox_reset: String,
}

/// The state of a service after an action.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct ServiceState {
    pub(in crate::cli) service: String,
    pub(in crate::cli) state: String,
}

/// The result of a purge.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Purged {
    pub(in crate::cli) service: String,
    pub(in crate::cli) path: String,
    pub(in crate::cli) purged: u64,
}

/// The log level.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Level {
    pub(in crate::cli) level: String,
}

/// A problem (RFC 9457).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Problem {
    pub(super) title: Option<String>,
    pub(super) detail: Option<String>,
}

fn nothing_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl AdminClient {
    /// Returns every file of the directory.
    pub(in crate::cli) fn entries(&self) -> Result<Vec<Entry>, CliError> {
        self.read(&self.get("/v1/services")?)
    }

    /// Returns every service, or the one with this name.
    pub(in crate::cli) fn services(&self, only: Option<&str>) -> Result<Vec<Service>, CliError> {
        let mut entries = self.entries()?;
        let mut services: Vec<_> = entries.iter_mut().filter_map(|entry| entry.service.take()).collect();
        if let Some(name) = only {
            let names: Vec<_> = services.iter().map(|service| service.name.clone()).collect();
            services.retain(|service| service.name == name);
            if services.is_empty() {
                return Err(unknown(name, &names, &entries));
            }
        }
        Ok(services)
    }

    /// Sends a request about one service, whose name replaces `{}` in `path`. If there is no such service, the error
    /// lists those that exist.
    pub(in crate::cli) fn of_service(&self, method: &str, path: &str, name: &str) -> Result<String, CliError> {
        let path = path.replace("{}", &encoded(name));
        let answer = self.exchange(method, &path, (method == "POST").then_some(""))?;
        match answer.status {
            200..300 => Ok(answer.text),
            // If the service exists, the host does not know the path.
            404 => Err(self.services(Some(name)).err().unwrap_or_else(|| self.failure(&path, &answer))),
            _ => Err(self.failure(&path, &answer)),
        }
    }

    /// Parses the JSON of a response.
    pub(in crate::cli) fn read<'a, T: Deserialize<'a>>(&self, json: &'a str) -> Result<T, CliError> {
        serde_json::from_str(json).map_err(|error| {
            let why =
                if json.trim_start().starts_with('<') { "it is an HTML page".to_owned() } else { error.to_string() };
            CliError::new(format!("the response of {} is not that of a Lodge host: {why}", self.url()))
        })
    }
}

fn unknown(name: &str, names: &[String], entries: &[Entry]) -> CliError {
    let of_it = |entry: &&Entry| entry.file.rsplit_once('.').is_some_and(|(stem, _)| stem == name);
    let refused = entries.iter().filter(of_it).find_map(|entry| Some((&entry.file, entry.refused.as_ref()?)));
    if let Some((file, refused)) = refused {
        return CliError::new(format!("{file} is refused: {}; {}", refused.reason, refused.remedy));
    }
    let near = nearest(name, names.iter().map(String::as_str));
    let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    let shown: Vec<_> = names.iter().take(NAMES).map(|name| clean(name).into_owned()).collect();
    let more = match names.len().saturating_sub(NAMES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let there = if shown.is_empty() { "none".into() } else { shown.join(", ") };
    CliError::new(format!("there is no service `{name}` (there are {there}{more}){hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(failure: CliError) -> String {
        match failure {
            CliError::Problem(problem) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn unknown_names_are_helped() {
        let names: Vec<String> = vec!["hello".into(), "users".into()];
        assert_eq!(
            said(unknown("usres", &names, &[])),
            "there is no service `usres` (there are hello, users); did you mean `users`?"
        );
        assert_eq!(said(unknown("x\x1b[2J", &[], &[])), r"there is no service `x\u{1b}[2J` (there are none)");
        let many: Vec<String> = (0..25).map(|n| format!("s{n}")).collect();
        assert!(said(unknown("zzz", &many, &[])).contains("s19 and 5 more)"));
        let refused = Refused { reason: "it is empty".into(), remedy: "copy it again".into() };
        let entry = Entry { file: "bad.wasm".into(), service: None, refused: Some(refused) };
        assert_eq!(said(unknown("bad", &names, &[entry])), "bad.wasm is refused: it is empty; copy it again");
    }

    /// Hosts of other versions send fewer or more fields.
    #[test]
    fn what_is_missing_is_empty() {
        let line: LogLine = serde_json::from_str(r#"{"message":"x","fields":null,"new":1}"#).unwrap();
        assert_eq!((line.message.as_str(), line.fields.len(), line.service), ("x", 0, None));
        let service: Service = serde_json::from_str(r#"{"name":"x","p50_ms":null}"#).unwrap();
        assert_eq!((service.name.as_str(), service.p50_ms), ("x", None));
    }
}
