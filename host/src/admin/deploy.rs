//! Deploys, promotes and removes components for operators elsewhere, as the commands do on the machine of the host.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::CONTENT_RANGE;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::access::Requester;
use super::body::{Body, json, problem};
use super::contract::ActionResult;
use super::parameters::{BAD_QUERY, QueryParameters};
use super::record::OperatorRecord;
use super::rollout::{Done, Promotion, Rollout};
use super::routes::ApiRoute;
use super::slots::OperatorSlot;
use super::upload::{self, NotDeployed, StagedFile, UploadBounds};
use super::verdict::{self, Verdict};
use super::{Admin, report};
use crate::guests::deployer::Deployer;
use crate::guests::placement::{CANARY, NewComponent, Placement, check_label};
use crate::guests::service_files::ServiceFiles;
use crate::listener::intake::Upload;
use lodge_base::config::{Config, Tiers};
use lodge_base::telemetry::logs::CHANGE;
use lodge_manifest::digest::Digest;
use lodge_manifest::percent::Percent;
use lodge_manifest::spec::{GuestSpec, split};
use lodge_traffic::service::deployment::Deployment;

/// The longest wait of a component that has arrived for a slot, and then for another command on the same service.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// The interval between attempts to get the lock.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// What a request is about.
#[derive(Clone)]
struct Subject {
    service: String,
    /// The label, if it is about a version.
    label: Option<String>,
}

impl Subject {
    fn read(name: &str) -> Result<Self, NotDeployed> {
        let (service, label) = split(name);
        if let Some(label) = label {
            check_label(label).map_err(|why| NotDeployed(StatusCode::BAD_REQUEST, "bad-name", why))?;
        }
        Ok(Self { service: service.to_owned(), label: label.map(str::to_owned) })
    }

    fn files<'a>(&'a self, config: &'a Config) -> Result<ServiceFiles<'a>, NotDeployed> {
        ServiceFiles::new(&config.guests, &self.service, config.engine.max_file as u64).ok_or_else(|| {
            let why = format!("`{}` is not a valid name of a service; use letters, digits, `-` and `_`", self.service);
            NotDeployed(StatusCode::BAD_REQUEST, "bad-name", why)
        })
    }
}

/// Deploys the component in the body. Responds once the host serves or refuses it.
pub(super) async fn component(
    admin: &Arc<Admin>,
    sender: &Requester,
    name: &str,
    upload: (&QueryParameters, Request<Upload<Incoming>>, &mut OperatorRecord),
) -> Response<Body> {
    responded(admin, place(admin, sender, name, upload).await)
}

async fn place(
    admin: &Arc<Admin>,
    sender: &Requester,
    name: &str,
    (parameters, request, record): (&QueryParameters, Request<Upload<Incoming>>, &mut OperatorRecord),
) -> Result<Done, NotDeployed> {
    let subject = Subject::read(name)?;
    let (percent, new) = share(&subject, parameters)?;
    let (head, body) = request.into_parts();
    if head.headers.contains_key(CONTENT_RANGE) {
        let why = "a component arrives as a whole, without Content-Range";
        return Err(NotDeployed(StatusCode::BAD_REQUEST, "bad-body", why.into()));
    }
    let signature = upload::signature(&head.headers)?;
    let files = subject.files(&admin.config)?;
    let canary = percent.zip(subject.label.as_deref());
    let own_only = sender.is_key();
    // Where it has no place, it need not arrive, and no lock is left of it.
    Placement { config: &admin.config, files: &files, canary, new, own_only }.find()?;
    let _arrival = admin.slots.uploads.take(sender).map_err(|_| busy())?;
    let staged =
        upload::receive(&files, UploadBounds::new(admin.config.engine.max_file as u64), &head.headers, body).await?;
    record.set_digest(staged.digest);
    let slot = admin.slots.deployments.wait(sender, LOCK_TIMEOUT).await.map_err(|_| busy())?;
    // Minutes may have passed since the first look at the key.
    if !admin.still_grants(sender, &head.headers, ApiRoute::Component(name).needs()) {
        let why = "the key was revoked or changed, or has expired, while the component arrived; nothing was changed";
        return Err(NotDeployed(StatusCode::UNAUTHORIZED, "unauthorized", why.into()));
    }
    let to = subject.clone();
    change(admin, subject, (slot, LOCK_TIMEOUT, sender), "deployed", move |rollout| {
        let canary = percent.zip(to.label.as_deref());
        deploy(rollout, &staged, signature, (canary, new))
    })
    .await
}

/// Returns the share of a canary, and whether the service may be created.
fn share(subject: &Subject, parameters: &QueryParameters) -> Result<(Option<Percent>, bool), NotDeployed> {
    let bad = |why: String| NotDeployed(StatusCode::BAD_REQUEST, BAD_QUERY, why);
    let percent = parameters.get("percent").map(Percent::parse).transpose();
    let (percent, new) = (percent.map_err(|why| bad(format!("percent: {why}")))?, parameters.flag("new").map_err(bad)?);
    match (&subject.label, percent) {
        (Some(_), None) => Err(bad("a version needs its share of the requests: `?percent=10%25`".into())),
        (None, Some(_)) => Err(bad(format!("a share is that of a version, such as {}@{CANARY}", subject.service))),
        (label, percent) => Ok((percent, new && label.is_none())),
    }
}

/// Deploys a component on trial, beside what this host serves.
fn try_out(admin: &Admin, spec: GuestSpec) -> Result<(), String> {
    if let Some(why) = admin.current.snapshot().conflict(&spec) {
        return Err(format!("{why}; nothing was changed"));
    }
    let mut config = (*admin.config).clone();
    // As `lodge deploy` does: what is compiled is kept in the cache, where this host finds it.
    config.program.tiers = Tiers::Optimised;
    Handle::current()
        .block_on(async { Deployer::offline(&config)?.deploy(spec).await.map(drop).map_err(|why| why.to_string()) })
}

fn deploy(
    rollout: &Rollout<'_>,
    staged: &StagedFile,
    signature: Option<Vec<u8>>,
    (canary, new): (Option<(Percent, &str)>, bool),
) -> Result<Done, NotDeployed> {
    let try_out = |spec: GuestSpec| {
        if spec.digest != staged.digest {
            return Err("another program has changed the component that arrived".into());
        }
        (rollout.try_out)(spec)
    };
    let signature = |_: &[u8]| Ok(signature.clone());
    let candidate =
        NewComponent { file: staged.path(), shown: "the component", signature: &signature, try_out: &try_out };
    Ok(rollout.deploy(&candidate, canary, new)?)
}

/// Gives a version all requests of its service: only the component that the host serves, and that the `parameters` name, if they do.
pub(super) async fn promote(
    admin: &Arc<Admin>,
    sender: &Requester,
    name: &str,
    parameters: &QueryParameters,
) -> Response<Body> {
    let promoted = async {
        let (subject, (force, wanted)) = (Subject::read(name)?, promotion(parameters)?);
        let snapshot = admin.current.snapshot();
        let found = |name: &str| snapshot.targets.iter().find(|target| &*target.deployment().name == name);
        let label = subject.label.clone();
        let Some(target) = found(name) else {
            let before = found(&subject.service).filter(|service| wanted == Some(service.deployment().spec.digest));
            if let (Some(_), Some(label)) = (before, label) {
                // It is that of the service already, unless files of such a version have come meanwhile.
                let promote = move |rollout: &Rollout<'_>| Ok(rollout.promote(&label, Promotion { force, wanted })?);
                drop(snapshot);
                return change(admin, subject, reversal(admin, sender)?, "promoted", promote).await;
            }
            let why = "no service of this name is served";
            return Err(NotDeployed(StatusCode::NOT_FOUND, "no-service", why.into()));
        };
        let Some(label) = label else {
            let why = "only a version, such as users@canary, can be promoted";
            return Err(NotDeployed(StatusCode::CONFLICT, "no-version", why.into()));
        };
        if let Some(why) = target.deployment().withdrawn().filter(|_| !force) {
            let why = format!("the host withdrew it: {why}; `lodge promote --force` promotes it anyway");
            return Err(NotDeployed(StatusCode::CONFLICT, "withdrawn", why));
        }
        let served = target.deployment().spec.digest;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != served) {
            let why = format!(
                "the host serves sha256:{served} as {name}, and sha256:{wanted} is to be promoted: another deployment has \
                 replaced it; nothing was changed"
            );
            return Err(NotDeployed(StatusCode::CONFLICT, "digest", why));
        }
        let promotion = Promotion { force, wanted: Some(served) };
        drop(snapshot);
        let promote = move |rollout: &Rollout<'_>| Ok(rollout.promote(&label, promotion)?);
        change(admin, subject, reversal(admin, sender)?, "promoted", promote).await
    };
    responded(admin, promoted.await)
}

/// Returns whether a version is promoted that the host withdrew, and which component is wanted.
fn promotion(parameters: &QueryParameters) -> Result<(bool, Option<Digest>), NotDeployed> {
    let bad = |why: String| NotDeployed(StatusCode::BAD_REQUEST, BAD_QUERY, why);
    let wanted = parameters.get("digest").map(|value| {
        let why = "`digest` has the SHA-256 of the component, 64 hexadecimal digits";
        Digest::read(value.strip_prefix("sha256:").unwrap_or(value)).ok_or_else(|| bad(why.into()))
    });
    Ok((parameters.flag("force").map_err(bad)?, wanted.transpose()?))
}

/// Removes a version, or restores the previous component of a service.
pub(super) async fn rollback(admin: &Arc<Admin>, sender: &Requester, name: &str) -> Response<Body> {
    let removed = async {
        let subject = Subject::read(name)?;
        let label = subject.label.clone();
        let missing = |what| {
            let why = format!("there is no {what} of this name");
            NotDeployed(StatusCode::NOT_FOUND, "no-service", why)
        };
        let files = subject.files(&admin.config)?;
        // Looked at before the lock, of which a file stays.
        if !label.as_deref().map_or_else(|| files.is_any(), |label| files.has_version(label)) {
            return Err(missing(if label.is_some() { "version" } else { "service" }));
        }
        let what = if label.is_some() { "removed" } else { "rolled back" };
        change(admin, subject, reversal(admin, sender)?, what, move |rollout| match label {
            Some(label) => rollout.remove(&label)?.ok_or_else(|| missing("version")),
            None => Ok(rollout.restore_previous(CANARY)?),
        })
        .await
    };
    responded(admin, removed.await)
}

/// Returns what a promotion or a rollback needs, which waits for nothing.
fn reversal<'a>(admin: &Admin, sender: &'a Requester) -> Result<(OperatorSlot, Duration, &'a Requester), NotDeployed> {
    admin.slots.reversals.take(sender).map(|slot| (slot, Duration::ZERO, sender)).map_err(|_| busy())
}

fn busy() -> NotDeployed {
    let why = "as many services are being changed as can be at once, by this key or by all; try again";
    NotDeployed(StatusCode::SERVICE_UNAVAILABLE, "busy", why.into())
}

/// Changes the files of a service, for which it waits at `most` for another command, and logs `what` was done with it; a key
/// changes none of the manifests that an operator wrote. Finishes also if the client disconnects.
async fn change(
    admin: &Arc<Admin>,
    subject: Subject,
    (slot, most, sender): (OperatorSlot, Duration, &Requester),
    what: &'static str,
    act: impl FnOnce(&Rollout<'_>) -> Result<Done, NotDeployed> + Send + 'static,
) -> Result<Done, NotDeployed> {
    let (admin, own_only, who) = (Arc::clone(admin), sender.is_key(), sender.shown());
    let work = spawn_blocking(move || {
        let _slot = slot;
        let (config, files) = (&admin.config, subject.files(&admin.config)?);
        let start = Instant::now();
        let _lock = loop {
            match files.try_lock().map_err(|error| upload::unwritable(&files, &error.to_string()))? {
                Some(lock) => break lock,
                None if start.elapsed() < most => std::thread::park_timeout(RETRY_INTERVAL),
                None => {
                    let why = format!("another command works on the files of {}; try again", subject.service);
                    return Err(NotDeployed(StatusCode::CONFLICT, "locked", why));
                }
            }
        };
        let reports = || Ok(report::statuses(&admin.current.snapshot()));
        let try_out = |spec: GuestSpec| try_out(&admin, spec);
        let done = act(&Rollout {
            config,
            files: &files,
            reports: &reports,
            timeout: verdict::TIMEOUT,
            try_out: &try_out,
            own_only,
        })?;
        log(&subject, what, &done, &who);
        Ok(done)
    });
    let failed = "the change of the files failed; see the log";
    work.await.unwrap_or_else(|_| Err(NotDeployed(StatusCode::INTERNAL_SERVER_ERROR, "panic", failed.into())))
}

/// Logs what was done with a service or version, and what the host says of it.
fn log(subject: &Subject, what: &str, done: &Done, who: &str) {
    let label = subject.label.as_ref().map_or(String::new(), |label| format!("@{label}"));
    let name = format!("{}{label}", subject.service);
    let (digest, verdict) = match done {
        Done::Placed { unchanged: true, .. } => return,
        Done::Placed { digest, verdict, .. } => (format!("; it is {}", digest.short()), verdict),
        Done::Removed(_) => (String::new(), &Verdict::Serving),
    };
    match verdict {
        Verdict::Refused(why) => {
            tracing::error!(target: CHANGE, service = name, "{name}: refused what was to be {what} by {who}{digest}: {why}");
        }
        Verdict::Serving => tracing::info!(target: CHANGE, service = name, "{name}: {what} by {who}{digest}"),
        Verdict::TimedOut | Verdict::Unreachable(_) => {
            tracing::info!(target: CHANGE, service = name, "{name}: {what} by {who}, and not served yet{digest}");
        }
    }
}

/// Returns the version of a service with this component, if it is of more than that: with others in front of it.
pub(crate) fn composed<'a>(version: &'a str, component: &Digest) -> Option<&'a str> {
    (!version.is_empty() && version != component.short()).then_some(version)
}

fn responded(admin: &Admin, done: Result<Done, NotDeployed>) -> Response<Body> {
    let (service, digest, unchanged, verdict, judged) = match done {
        Err(NotDeployed(status, kind, why)) => return problem(status, kind, &why),
        Ok(Done::Removed(trial)) => (split(&trial).0.to_owned(), None, false, Verdict::Serving, None),
        Ok(Done::Placed { service, digest, unchanged, verdict, judged, .. }) => {
            (service, Some(digest), unchanged, verdict, judged)
        }
    };
    if let Verdict::Refused(why) = verdict {
        return problem(StatusCode::CONFLICT, "refused", &format!("the host refuses {service}: {why}"));
    }
    let snapshot = admin.current.snapshot();
    let target = snapshot.targets.iter().find(|target| *target.deployment().name == *service);
    let state = target.map_or("unloaded", |target| report::state(target)).into();
    let is_placed = |of: &&Deployment| Some(of.digest()) == digest;
    let served = target.map(|target| target.deployment()).filter(is_placed);
    let version = served.and_then(|served| composed(&served.version, digest.as_ref()?)).map(str::to_owned);
    let digest = digest.map(|digest| digest.to_string());
    let mut response = json(&ActionResult { service, state, digest, version, unchanged, judged });
    if !matches!(verdict, Verdict::Serving) {
        // The files are in place, and the host has not compiled them yet.
        *response.status_mut() = StatusCode::ACCEPTED;
    }
    response
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn parameters_of_a_deployment() {
        let read = |name: &str, query: &str| {
            let parameters = QueryParameters::read(query, ApiRoute::Component(name).parameters(&Method::PUT))?;
            share(&Subject::read(name).unwrap(), &parameters).map_err(|why| why.2)
        };
        assert_eq!(read("a", "").unwrap(), (None, false));
        assert_eq!(read("a", "new=true").unwrap(), (None, true));
        assert_eq!(read("a@c", "percent=2.5%25&new=false").unwrap(), (Some(Percent(250)), false));
        for (query, why) in [
            ("new=true&new=false", "more than once"),
            ("percent=1&percent=1", "more than once"),
            ("percent=1&x=y", "unknown parameter"),
            ("percent=1&new=1", "must be `true`"),
            ("percent=1e1", "not a percentage"),
            ("percent=%2B5", "not a percentage"),
            ("percent=10%25%25", "not a percentage"),
            ("percent=inf", "not a percentage"),
            ("percent=", "not a percentage"),
        ] {
            assert!(read("a@c", query).is_err_and(|said| said.contains(why)), "{query}");
        }
    }

    /// The guards of a promotion hold, however they are written, or it is refused.
    #[test]
    fn parameters_of_a_promotion() {
        let (one, other) = ("0".repeat(64), "1".repeat(64));
        let read = |query: &str| {
            let parameters = QueryParameters::read(query, ApiRoute::Promote("a@c").parameters(&Method::POST))?;
            promotion(&parameters).map_err(|why| why.2)
        };
        assert_eq!(read("").unwrap(), (false, None));
        assert_eq!(read(&format!("force=true&digest=sha256:{one}")).unwrap(), (true, Digest::read(&one)));
        for query in
            [format!("Digest={one}"), format!("digest={one}&digest={other}"), "digest=0".into(), "force=1".into()]
        {
            assert!(read(&query).is_err(), "{query}");
        }
    }
}
