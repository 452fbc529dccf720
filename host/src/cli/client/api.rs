//! Requests to the admin API whose responses several commands read.

use serde::Deserialize;

use super::{AdminClient, ApiResponse, encoded};
use crate::admin::contract::{FileReport, ServiceStatus};
use crate::cli::out::{CliError, clean};
use lodge_base::config::key::nearest;

/// The most service names in a message.
const NAMES: usize = 20;

impl AdminClient {
    /// Returns every file of the directory.
    pub(in crate::cli) fn entries(&self) -> Result<Vec<FileReport>, CliError> {
        self.read(&self.get("/v1/services")?)
    }

    /// Returns every service, or the one with this name.
    pub(in crate::cli) fn services(&self, only: Option<&str>) -> Result<Vec<ServiceStatus>, CliError> {
        let mut entries = self.entries()?;
        let mut services: Vec<_> = entries.iter_mut().filter_map(|entry| entry.service.take()).collect();
        if let Some(name) = only {
            let names: Vec<_> = services.iter().map(|service| service.info.name.clone()).collect();
            services.retain(|service| service.info.name == name);
            if services.is_empty() {
                return Err(unknown(name, &names, &entries));
            }
        }
        Ok(services)
    }

    /// Sends a request about one service, whose name replaces `{}` in `path`. If there is no such service, the error
    /// lists those that exist.
    pub(in crate::cli) fn of_service(&self, method: &str, path: &str, name: &str) -> Result<String, CliError> {
        self.of_service_with(method, path, name, (method == "POST").then_some(b""))
    }

    /// Like [`of_service`](Self::of_service), with a body.
    pub(in crate::cli) fn of_service_with(
        &self,
        method: &str,
        path: &str,
        name: &str,
        body: Option<&[u8]>,
    ) -> Result<String, CliError> {
        let path = path.replacen("{}", &encoded(name), 1);
        let response = self.exchange(method, &path, body)?;
        match response.status {
            200..300 => Ok(response.text),
            _ => Err(self.failure_of(name, &path, &response)),
        }
    }

    /// Returns the error message for an unsuccessful response to a request about one service.
    pub(in crate::cli) fn failure_of(&self, name: &str, path: &str, response: &ApiResponse) -> CliError {
        // The reason is about the service; the path of the API would add nothing.
        if response.status == 409 {
            return CliError::new(format!("{name}: {}", response.why()));
        }
        // If the service exists, the host does not know the path.
        let unknown = (response.status == 404).then(|| self.services(Some(name)).err()).flatten();
        unknown.unwrap_or_else(|| self.failure(path, response))
    }

    /// Parses the JSON of a response.
    pub(in crate::cli) fn read<'a, T: Deserialize<'a>>(&self, json: &'a str) -> Result<T, CliError> {
        serde_json::from_str(json).map_err(|error| {
            let why =
                if json.trim_start().starts_with('<') { "it is an HTML page".to_owned() } else { error.to_string() };
            let why = format!("{why}; does the address lead to the admin listener?");
            CliError::new(format!("the response of {} is not that of a Lodge host: {why}", self.url()))
        })
    }
}

fn unknown(name: &str, names: &[String], entries: &[FileReport]) -> CliError {
    let of_it = |entry: &&FileReport| entry.file.rsplit_once('.').is_some_and(|(stem, _)| stem == name);
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
    use crate::admin::contract::{RefusedFile, ServiceDetails};
    use lodge_base::telemetry::logs::tail::{Line, LineKind};

    fn message(failure: CliError) -> String {
        match failure {
            CliError::Problem(problem) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn unknown_name_suggests_known_ones() {
        let names: Vec<String> = vec!["hello".into(), "users".into()];
        assert_eq!(
            message(unknown("usres", &names, &[])),
            "there is no service `usres` (there are hello, users); did you mean `users`?"
        );
        assert_eq!(message(unknown("x\x1b[2J", &[], &[])), r"there is no service `x\u{1b}[2J` (there are none)");
        let many: Vec<String> = (0..25).map(|n| format!("s{n}")).collect();
        assert!(message(unknown("zzz", &many, &[])).contains("s19 and 5 more)"));
        let refused = RefusedFile { reason: "it is empty".into(), remedy: "copy it again".into(), digest: None };
        let entry = FileReport { file: "bad.wasm".into(), service: None, refused: Some(refused) };
        assert_eq!(message(unknown("bad", &names, &[entry])), "bad.wasm is refused: it is empty; copy it again");
    }

    /// Hosts of other versions send fewer or more fields.
    #[test]
    fn hosts_of_other_versions_are_read() {
        let line: Line = serde_json::from_str(r#"{"message":"x","kind":"new","new":1}"#).unwrap();
        assert_eq!((line.message.as_str(), line.kind, line.service), ("x", LineKind::Host, None));
        let text = r#"{"name":"x","state":"new","p50_ms":null,"share":{"new":1},"replicas":[{"new":1}],"new":{}}"#;
        let ServiceDetails { status: ServiceStatus { info, activity }, limits, .. } =
            serde_json::from_str(text).unwrap();
        assert_eq!((info.name.as_str(), &*activity.state, activity.p50_ms), ("x", "new", None));
        assert_eq!((info.share.unwrap().percent, activity.replicas.unwrap().len(), limits.len()), (0.0, 1, 0));
    }
}
