//! Trials: each new version is instantiated once, and asked whether it is ready, before it serves.

use std::time::{Duration, Instant};

use http_body_util::Empty;
use tokio::sync::Semaphore;

use super::compile::{Compiled, TRIALS, misshapen};
use super::guest::Guest;
use super::instance::Instance;
use crate::capabilities::sandbox::RequestContext;
use crate::error::RunError;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::host_of;

/// The most time that a trial may take, however generous the version's own limits are.
const TRIAL: Duration = Duration::from_secs(10);

/// The sandboxes for trials. The engine's pool has room for them beside those that serve.
pub struct Trials {
    free: Semaphore,
    /// Whether guests can send requests.
    can_send: bool,
}

impl Trials {
    /// Creates the sandboxes of a host whose guests can send requests, or of a check in which they cannot.
    pub fn new(can_send: bool) -> Self {
        Self { free: Semaphore::new(TRIALS), can_send }
    }

    /// Instantiates the guest with this machine code under its own limits, and sends it the `ready` request of its manifest.
    ///
    /// # Errors
    /// Returns why the version cannot serve, or cannot serve yet.
    pub async fn run(&self, guest: &Guest, code: &Compiled) -> Result<(), Refusal> {
        let spec = &guest.deployment().spec;
        let file = file_name(&spec.path);
        // The wait is not part of the trial. The semaphore is never closed.
        let _free = self.free.acquire().await;
        let deadline = Instant::now() + TRIAL.min(guest.deployment().limits().wall);
        let instance = Instance::new(guest.blueprint(), code, deadline).await;
        let instance = instance.map_err(|error| unstartable(&file, &error))?;
        // A version that sends requests cannot be ready where it cannot send any.
        let incomplete = guest.sends() && !self.can_send;
        if let Some(path) = spec.manifest.ready.as_ref().filter(|_| !incomplete) {
            check_ready(guest, instance, path, deadline).await.map_err(|why| unready(&file, path, &why))?;
        }
        Ok(())
    }
}

/// Sends a GET request for `path`, which a version that is ready responds to with a 2xx status.
///
/// # Errors
/// Returns the status or error instead of that.
async fn check_ready(guest: &Guest, instance: Instance, path: &str, deadline: Instant) -> Result<(), String> {
    let uri = format!("http://{}{path}", host_of(&guest.deployment().name));
    let request = http::Request::get(uri).body(Empty::new()).map_err(|error| error.to_string())?;
    let context = RequestContext::new("ready".into(), deadline);
    match guest.call(instance, request, context).await {
        Ok(response) if response.head.status.is_success() => Ok(()),
        Ok(response) => Err(response.head.status.to_string()),
        Err(error) => Err(format!("{error}: {}", error.detail().unwrap_or_default())),
    }
}

/// Returns the refusal of a version that is not ready. It may become ready later.
fn unready(file: &str, path: &str, why: &str) -> Refusal {
    let reason = format!("it is not ready: GET {path} returned {why}");
    Refusal::new(file, reason, "Lodge will ask again; see the log of the service").passing()
}

/// Returns the refusal of a component that cannot be instantiated.
fn unstartable(file: &str, error: &RunError) -> Refusal {
    let detail = error.detail().unwrap_or_default();
    if matches!(error, RunError::PoolFull(_)) {
        return Refusal::new(file, format!("no sandbox was free for its trial: {detail}"), "Lodge will try again")
            .passing();
    }
    // The types of the handler are only compared when it is looked up in an instance.
    if detail.contains("type mismatch") || detail.contains("expected `") {
        return misshapen(file, &detail);
    }
    let reason = format!("it does not start: {error}{}{detail}", if detail.is_empty() { "" } else { ": " });
    Refusal::new(file, reason, "its start code must finish within limits.cpu, limits.wall and limits.memory")
}
