//! Promotes and removes versions for operators. Like the commands, this changes files of the directory, which the host then
//! follows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Response, StatusCode};

use super::body::{Body, json, problem};
use super::contract::ActionResult;
use super::{Admin, report};
use crate::guests::service_files::{FileError, ServiceFiles};
use lodge_base::telemetry::logs::CHANGE;
use lodge_manifest::digest::Digest;

/// The longest wait for the host to notice that a version is disabled, before its files are removed anyway.
const DISABLE_TIMEOUT: Duration = Duration::from_secs(5);

/// The interval between looks at the snapshot.
const POLL: Duration = Duration::from_millis(50);

/// An action on a version.
#[derive(Clone, Copy)]
pub(super) enum VersionAction {
    /// Gives it all requests of its service.
    Promote,
    /// Removes it.
    Rollback,
}

/// Why a version was not changed.
enum ActionError {
    /// A command changes the files of the service.
    Locked,
    /// The version has no component to promote.
    NoComponent,
    Files(FileError),
}

impl From<FileError> for ActionError {
    fn from(error: FileError) -> Self {
        Self::Files(error)
    }
}

/// Promotes or removes a version. Responds when the files are changed.
pub(super) async fn act(admin: &Arc<Admin>, version: &str, action: VersionAction) -> Response<Body> {
    let snapshot = admin.current.snapshot();
    let Some(target) = snapshot.targets.iter().find(|target| &*target.deployment().name == version) else {
        return problem(StatusCode::NOT_FOUND, "no-service", "no service of this name is served");
    };
    let Some((service, label)) = target.deployment().spec.version_of() else {
        let why = "only a version, such as users@canary, can be promoted or rolled back";
        return problem(StatusCode::CONFLICT, "no-version", why);
    };
    if let (VersionAction::Promote, Some(why)) = (action, target.deployment().withdrawn()) {
        let why = format!("the host withdrew it: {why}; `lodge promote --force` promotes it anyway");
        return problem(StatusCode::CONFLICT, "withdrawn", &why);
    }
    let (service, label, served) = (service.to_owned(), label.to_owned(), target.deployment().spec.digest);
    drop(snapshot);
    // Finishes also if the client disconnects.
    let work = tokio::task::spawn_blocking({
        let (admin, service) = (Arc::clone(admin), service.clone());
        move || change(&admin, (&service, &label, served), action)
    });
    let conflict = |why: &str| problem(StatusCode::CONFLICT, "files", why);
    match work.await {
        Ok(Ok(())) => {}
        Ok(Err(ActionError::Locked)) => {
            let why = format!("another command works on the files of {service}; try again");
            return problem(StatusCode::CONFLICT, "locked", &why);
        }
        Ok(Err(ActionError::NoComponent)) => return conflict("the version has no component"),
        Ok(Err(ActionError::Files(error))) => return conflict(&error.to_string()),
        Err(_) => {
            return problem(StatusCode::INTERNAL_SERVER_ERROR, "panic", "the change of the files failed; see the log");
        }
    }
    let action = match action {
        VersionAction::Promote => "promoted",
        VersionAction::Rollback => "removed",
    };
    tracing::info!(target: CHANGE, service = version, "{version}: {action} by an operator");
    let snapshot = admin.current.snapshot();
    let target = snapshot.targets.iter().find(|target| *target.deployment().name == service);
    let state = target.map_or("unloaded", |target| report::state(target));
    json(&ActionResult { service, state: state.into() })
}

fn change(
    admin: &Admin,
    (service, label, served): (&str, &str, Digest),
    action: VersionAction,
) -> Result<(), ActionError> {
    let config = &admin.config;
    let files = ServiceFiles::new(&config.guests, service, config.engine.max_file as u64);
    let files = files.ok_or(ActionError::NoComponent)?;
    let Some(_lock) = files.try_lock()? else { return Err(ActionError::Locked) };
    match action {
        VersionAction::Promote => files.promote(label, config, Some(served))?.map(drop).ok_or(ActionError::NoComponent),
        VersionAction::Rollback => {
            files.disable_version(label)?;
            let (start, version) = (Instant::now(), format!("{service}@{label}"));
            let is_served =
                || admin.current.snapshot().targets.iter().any(|target| *target.deployment().name == version);
            while start.elapsed() < DISABLE_TIMEOUT && is_served() {
                std::thread::park_timeout(POLL);
            }
            Ok(files.remove_version(label)?)
        }
    }
}
