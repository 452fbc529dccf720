//! Deploys on a host elsewhere, by its admin API.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::{DeployArgs, watch};
use crate::admin::SIGNATURE;
use crate::admin::contract::ActionResult;
use crate::admin::rollout::Promotion;
use crate::cli::client::{AdminClient, ApiResponse, encoded};
use crate::cli::out::{self, CliError, clean, notice};
use crate::guests::placement::check_label;
use crate::guests::service_files::failed;
use lodge_base::config::Config;
use lodge_base::files;
use lodge_manifest::refusal::file_name;
use lodge_manifest::spec::is_name;

/// The time for a component to arrive, to be compiled, and to be served.
pub(super) const TIMEOUT: Duration = Duration::from_secs(900);

/// The most bytes of a signature that is sent: it is in the head of the request, which the host bounds.
const MOST_SIGNATURE: usize = 24 << 10;

/// A service on a host elsewhere.
pub(super) struct RemoteHost<'a> {
    pub(super) config: &'a Config,
    pub(super) client: &'a AdminClient,
    pub(super) name: &'a str,
}

impl RemoteHost<'_> {
    /// Replaces the component of a service or adds a canary beside it. What the host checks is what it receives.
    pub(super) fn deploy(&self, component: DeployArgs<'_>) -> Result<Option<String>, CliError> {
        let (file, name) = (component.file, self.name);
        if !is_name(name) {
            return Err(super::invalid(name));
        }
        let (target, query) = match component.canary {
            Some((percent, label)) => {
                check_label(label).map_err(CliError::Usage)?;
                (format!("{name}@{label}"), format!("?percent={}", encoded(&percent.to_string())))
            }
            None if component.new => (name.to_owned(), "?new=true".to_owned()),
            None => (name.to_owned(), String::new()),
        };
        let content = files::read(file, self.config.engine.max_file as u64).map_err(|error| failed(file, &error))?;
        let digest = STANDARD.encode(Sha256::digest(&content));
        let mut headers = format!("content-type: application/wasm\r\ncontent-digest: sha-256=:{digest}:\r\n");
        if let Some(text) = component.signature(&content)? {
            if text.len() > MOST_SIGNATURE {
                let most = bytesize::ByteSize(MOST_SIGNATURE as u64).display().iec();
                return Err(CliError::new(format!("the signature of {} has over {most}", file.display())));
            }
            headers.push_str(&format!("{SIGNATURE}: :{}:\r\n", STANDARD.encode(text)));
        }
        notice(&format!("sending {} to {}", clean(&file_name(file)), self.client.url()));
        let path = format!("/v1/services/{}/component{query}", encoded(&target));
        let response = self.client.upload(&path, &headers, &content)?;
        self.print(&target, &path, &response)
    }

    /// Gives a version all requests of its service.
    pub(super) fn promote(&self, label: &str, promotion: Promotion) -> Result<Option<String>, CliError> {
        let target = format!("{}@{label}", self.name);
        let digest = promotion.wanted.map(|digest| format!("digest={digest}"));
        let query: Vec<_> = promotion.force.then(|| "force=true".to_owned()).into_iter().chain(digest).collect();
        let path = format!("/v1/services/{}/promote?{}", encoded(&target), query.join("&"));
        let path = path.trim_end_matches('?').to_owned();
        self.print(&target, &path, &self.client.exchange("POST", &path, Some(b""))?)
    }

    /// Removes a version or, if there is none and it is not the `only` thing to do, restores the previous component of the service.
    pub(super) fn rollback(&self, label: &str, only: bool) -> Result<Option<String>, CliError> {
        let path = |target: &str| format!("/v1/services/{}/rollback", encoded(target));
        let (name, target) = (self.name, format!("{}@{label}", self.name));
        let response = self.client.exchange("POST", &path(&target), Some(b""))?;
        // Only a host that knows the request and has no such version says this.
        if response.status == 404 && response.is("no-service") {
            if only {
                return super::nothing_to_remove(name, label);
            }
            let response = self.client.exchange("POST", &path(name), Some(b""))?;
            return self.print(name, &path(name), &response);
        }
        self.print(&target, &path(&target), &response)
    }

    /// Prints what was done. Returns the digest of the component that was placed.
    fn print(&self, target: &str, path: &str, response: &ApiResponse) -> Result<Option<String>, CliError> {
        if !matches!(response.status, 200 | 202) {
            return Err(match response.status {
                // The reason is about the component; the path of the API would add nothing.
                400 | 404 | 408 | 409 | 413 => CliError::new(format!("{target}: {}", response.why())),
                _ => self.client.failure(path, response),
            });
        }
        let done: ActionResult = self.client.read(&response.text)?;
        let service = clean(&done.service).into_owned();
        let Some(short) = done.digest.as_deref().map(|digest| digest.get(..12).unwrap_or(digest)) else {
            return out::line(&format!("removed {target}")).map(|()| None);
        };
        let short = clean(short);
        if response.status == 202 {
            let stays = if path.contains("/promote") { super::stays_too(target) } else { String::new() };
            let why = format!("{service} is {short} there, but the host does not serve it yet; see `lodge ps`{stays}");
            return Err(CliError::Problem(why));
        }
        watch::notice_unjudged(&service, done.judged.as_ref());
        let before = if done.unchanged { ", which was there already" } else { "" };
        let version = super::version_too(done.version.as_deref());
        out::line(&format!("{service} serves {short}{version}{before}")).map(|()| done.digest.clone())
    }
}
