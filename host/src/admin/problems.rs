//! Files that cannot be used now, with what is in force: lines for operators, and their number for metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::guests::snapshot::Snapshot;
use crate::guests::target::Target;
use crate::request::handler::Handler;
use lodge_base::problems::HostProblems;
use lodge_manifest::refusal::file_name;
use lodge_traffic::auth::Authentication;
use lodge_traffic::auth::api_keys::KeyRing;
use lodge_traffic::auth::operator_keys_problem;
use lodge_traffic::error_pages::ServicePages;
use lodge_traffic::live_files::LiveValue;
use lodge_traffic::validation::RequestChecks;

/// The most problems of a service in a report.
const MOST_PROBLEMS: usize = 50;

/// What problems are counted by: the beginnings of their lines, which are settings and keys of manifests.
const KINDS: [&str; 14] = [
    "admin_keys",
    "api",
    "auth.api_keys",
    "auth.jwt",
    "auth.login",
    "auth.passwords",
    "config",
    "env",
    "errors.pages",
    "tls.certificates",
    "tls.client_ca",
    "trust.keys",
    "upstream",
    "validate.body",
];

/// The kind of the others.
const OTHER: &str = "other";

/// Where the host learns of files that its settings name.
#[derive(Clone)]
pub struct HostFiles {
    /// Those that are known by their settings.
    pub settings: HostProblems,
    /// The keys of `admin_keys`.
    pub keys: Option<Arc<LiveValue<KeyRing>>>,
    /// It has the error pages of the host.
    pub handler: Arc<Handler>,
}

impl HostFiles {
    /// Returns what is wrong now with files that settings name, a line each.
    pub fn problems(&self) -> Vec<String> {
        let mut all = self.settings.lines();
        all.extend(self.keys.as_deref().and_then(operator_keys_problem));
        all.extend(self.handler.pages.host_problems());
        all
    }

    /// Returns the number of problems of the host and of all services, by kind.
    pub(super) fn counts(&self, snapshot: &Snapshot) -> BTreeMap<&'static str, u64> {
        count(snapshot.targets.iter().flat_map(|target| unnamed(target)).chain(self.problems()))
    }
}

/// Returns what a service uses and cannot be read now, with what is in force, a line each.
pub(super) fn of_service(target: &Target) -> Vec<String> {
    let manifest = file_name(&target.deployment().spec.path.with_extension("toml"));
    unnamed(target).into_iter().map(|why| format!("{manifest}: {why}")).collect()
}

/// Returns the same without the name of the manifest.
fn unnamed(target: &Target) -> Vec<String> {
    let deployment = target.deployment();
    let validation = deployment.validation.iter().flat_map(RequestChecks::problems);
    let pages = deployment.pages.iter().flat_map(ServicePages::problems);
    let auth = deployment.auth.iter().flat_map(Authentication::problems);
    let configuration = target.backend.guest().and_then(|guest| guest.configuration()?.problem());
    let upstream = target.backend.upstream().map(|upstream| upstream.problems()).unwrap_or_default();
    let all = validation.chain(pages).chain(auth).chain(configuration).chain(upstream);
    all.take(MOST_PROBLEMS).collect()
}

fn count(lines: impl Iterator<Item = String>) -> BTreeMap<&'static str, u64> {
    let mut counts: BTreeMap<_, _> = KINDS.into_iter().chain([OTHER]).map(|kind| (kind, 0)).collect();
    for line in lines {
        *counts.entry(kind(&line)).or_default() += 1;
    }
    counts
}

/// Returns the kind of a line: `config` for `config.greeting: …` and `config_directories: …`.
fn kind(line: &str) -> &'static str {
    let is_of = |kind: &&str| line.strip_prefix(*kind).is_some_and(|rest| rest.starts_with([':', '.', '_']));
    KINDS.into_iter().find(is_of).unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_are_few() {
        for (line, of) in [
            ("auth.api_keys: /g/shop.keys: it is empty", "auth.api_keys"),
            ("auth.jwt.keys: https://i.example: no response", "auth.jwt"),
            ("auth.login.cookie_keys: k: it is empty", "auth.login"),
            ("api.openapi: a.yaml: line 3", "api"),
            ("config.api: a cannot be read", "config"),
            ("config_directories: a cannot be read", "config"),
            ("env.HOME: [config] has no `home`", "env"),
            ("environment: it is none", OTHER),
            ("upstream.tls.ca: it is gone", "upstream"),
            ("its files change again and again", OTHER),
        ] {
            assert_eq!(kind(line), of, "{line}");
        }
        let counts = count(["upstream: a", "upstream.tls: b", "x"].map(str::to_owned).into_iter());
        assert_eq!((counts["upstream"], counts[OTHER], counts["env"]), (2, 1, 0));
        assert_eq!(counts.len(), KINDS.len() + 1, "kinds without a problem are known");
    }
}
