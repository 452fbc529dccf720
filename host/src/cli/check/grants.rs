//! `lodge check --grants`: lists what manifests grant to guests, without compiling anything.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::cli::out::{self, CliError, clean};
use crate::guests::scan::{FileState, Scanner};
use lodge_base::config::Config;
use lodge_manifest::section::{self, SECTIONS};

/// What the manifest of a service or version grants.
#[derive(Debug, PartialEq, Serialize)]
struct ServiceGrants {
    /// The name, with the label of a version.
    name: String,
    /// What each section grants, by the name of the section; nothing secret.
    grants: BTreeMap<String, Value>,
}

/// Prints the grants of every service in the directory. Fails if a file is refused: its grants are not known.
pub(super) fn run(config: &Config, json: bool) -> Result<(), CliError> {
    let scan = Scanner::new(&config.guests)
        .scan(config)
        .map_err(|error| CliError::new(format!("cannot read {}: {error}", config.guests.display())))?;
    let (mut services, mut refused) = (Vec::new(), false);
    for (name, found) in scan.found {
        match found.state {
            FileState::Ready(spec) => services.push(ServiceGrants { name, grants: section::grants(&spec.manifest) }),
            FileState::Refused(refusal) | FileState::Orphan(refusal) => {
                out::notice(&clean(&refusal.to_string()));
                refused = true;
            }
            FileState::Disabled | FileState::Changing | FileState::Pulling => {}
        }
    }
    if json {
        out::line(&serde_json::to_string_pretty(&services).unwrap_or_default())?;
    } else {
        out::print(&services.iter().map(format_grants).collect::<String>())?;
    }
    if refused { Err(CliError::Reported) } else { Ok(()) }
}

fn format_grants(service: &ServiceGrants) -> String {
    let mut text = format!("{}\n", clean(&service.name));
    for section in SECTIONS {
        let Some(value) = service.grants.get(section.name) else { continue };
        let (label, said) = match &section.view {
            Some(view) => (view.label, (view.text)(value)),
            None => (section.name, section::words(value)),
        };
        text.push_str(&format!("  {label:13} {}\n", clean(&said)));
    }
    if service.grants.is_empty() {
        text.push_str("  nothing beyond its requests, clocks, random numbers and log lines\n");
    }
    text
}
