//! `lodge diff`: what a directory would change on a host that served it. Compiles nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ArgMatches;
use serde::Serialize;

use super::client::AdminClient;
use super::out::{self, CliError, clean, notice};
use super::{flag, required_client};
use crate::admin::contract::ManifestComparison;
use crate::guests::scan::{FileState, MANIFEST, Scanner};
use crate::guests::service_files::failed;
use lodge_base::config::{Config, Resolved};
use lodge_base::files;
use lodge_manifest::component::ComponentSource;

/// The exit code if the two cannot be compared; 1 is that for differences.
const FAILED: u8 = 2;

/// A service that is not the same in both.
#[derive(Debug, PartialEq, Serialize)]
struct Difference {
    service: String,
    /// `added`, `changed` or `removed`.
    change: &'static str,
    /// The SHA-256 of both components, if they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    component: Option<ComponentDifference>,
    /// The keys of the manifest that differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    keys: Vec<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct ComponentDifference {
    host: String,
    directory: String,
}

/// What a directory has.
#[derive(Default)]
struct ComparedDirectory {
    /// The digest of each component that is in the directory.
    services: BTreeMap<String, Option<String>>,
    /// Why services cannot be compared.
    unknown: BTreeMap<String, String>,
}

impl Difference {
    fn whole(service: String, change: &'static str) -> Self {
        Self { service, change, component: None, keys: Vec::new() }
    }
}

/// Compares, and prints the differences.
pub(super) fn run(matches: &ArgMatches, resolved: &Resolved) -> ExitCode {
    let config = &resolved.config;
    let directory = matches.get_one::<PathBuf>("directory").map_or(config.guests.as_path(), PathBuf::as_path);
    let compared = required_client(matches, resolved).and_then(|client| compare(&client, config, directory));
    let printed = compared.and_then(|(differences, unknown)| {
        print(&differences, flag(matches, "json"))?;
        unknown.iter().for_each(|why| notice(why));
        Ok((differences.is_empty(), unknown.is_empty()))
    });
    match printed {
        Ok((_, false)) => FAILED.into(),
        Ok((true, true)) | Err(CliError::Closed) => ExitCode::SUCCESS,
        Ok((false, true)) => ExitCode::FAILURE,
        Err(CliError::Problem(why) | CliError::Unreachable(why)) => {
            notice(&why);
            FAILED.into()
        }
        Err(other) => out::exit_code(Err(other)),
    }
}

/// Returns the differences, and why services of the directory cannot be compared.
fn compare(
    client: &AdminClient,
    config: &Config,
    directory: &Path,
) -> Result<(Vec<Difference>, Vec<String>), CliError> {
    let ComparedDirectory { services: mut own, unknown } = read(config, directory)?;
    let mut differences = Vec::new();
    for service in client.services(None)? {
        let (name, host) = (service.info.name, service.info.digest);
        if unknown.contains_key(&name) {
            continue;
        }
        let Some(digest) = own.remove(&name) else {
            differences.push(Difference::whole(name, "removed"));
            continue;
        };
        let path = directory.join(format!("{name}.toml"));
        let text = match files::read(&path, MANIFEST) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            text => text.map_err(|error| failed(&path, &error))?,
        };
        let compared = client.of_service_with("POST", "/v1/services/{}/compare", &name, Some(&text))?;
        let ManifestComparison { keys } = client.read(&compared)?;
        let component = digest.filter(|digest| *digest != host);
        let component = component.map(|directory| ComponentDifference { host, directory });
        if component.is_some() || !keys.is_empty() {
            differences.push(Difference { service: name, change: "changed", component, keys });
        }
    }
    differences.extend(own.into_keys().map(|service| Difference::whole(service, "added")));
    differences.sort_by(|one, other| one.service.cmp(&other.service));
    Ok((differences, unknown.into_values().collect()))
}

/// Reads the services of a directory.
fn read(config: &Config, directory: &Path) -> Result<ComparedDirectory, CliError> {
    let failed = |error: std::io::Error| failed(directory, &error);
    if !directory.is_dir() {
        return Err(failed(ErrorKind::NotADirectory.into()).into());
    }
    let mut all = ComparedDirectory::default();
    for (name, service) in Scanner::new(directory).scan(config).map_err(failed)?.found {
        match service.state {
            FileState::Ready(spec) => {
                let pulled = matches!(spec.manifest.component, Some(ComponentSource::Registry(_)));
                // Without a component here, the digest is that of the manifest.
                let is_here = spec.manifest.has_component() && !pulled;
                all.services.insert(name, is_here.then(|| spec.digest.to_string()));
            }
            FileState::Refused(why) | FileState::Orphan(why) => {
                all.unknown.insert(name, clean(&why.to_string()).into_owned());
            }
            FileState::Disabled | FileState::Pulling | FileState::Changing => {}
        }
    }
    Ok(all)
}

fn print(differences: &[Difference], json: bool) -> Result<(), CliError> {
    if json {
        return out::json(&serde_json::to_string(differences).unwrap_or_default());
    }
    let mut text = String::new();
    for Difference { service, change, component, keys } in differences {
        let sign = match *change {
            "added" => '+',
            "removed" => '-',
            _ => '~',
        };
        let short = |digest: &str| clean(digest.get(..12).unwrap_or_default()).into_owned();
        let component =
            component.iter().map(|both| format!("component {} → {}", short(&both.host), short(&both.directory)));
        let all: Vec<_> = component.chain(keys.iter().map(|key| clean(key).into_owned())).collect();
        let what = if all.is_empty() { String::new() } else { format!(": {}", all.join(", ")) };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{sign} {}{what}", clean(service));
    }
    out::print(&text)
}
