//! The data of services: what they store, one entry at a time or by pages, and a backup of all.
//!
//! Values belong to users of the services, so each access is a line in the log, with bucket and key and without the value.

mod dead;
mod query;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use lodge_base::telemetry::logs::CHANGE;
use lodge_state::{Quota, Sqlite, limits};
use tokio::sync::OwnedSemaphorePermit;

use self::query::{AccessLog, Query, failed};
use super::Admin;
use super::access::Requester;
use super::body::{Body, json, problem, streamed};
use super::parameters::{BAD_QUERY, QueryParameters};
use crate::data::{ServiceData, StoreStatus, StoredEntry};
use crate::listener::intake::Upload;

/// The most operations at a time: each may have some megabytes of values in memory.
pub const OPERATIONS: usize = 4;

/// The most bytes of the entries of an import: a value of the largest size in base64, or more small ones.
const IMPORT: usize = 4 << 20;

/// The longest time in which the body of a request must arrive.
const UPLOAD: Duration = Duration::from_secs(30);

/// The bytes of a part of a backup.
const PART: usize = 256 << 10;

/// Why a request is refused: the status, the kind of the problem, and what is wrong.
struct Refused(StatusCode, &'static str, String);

impl Refused {
    fn bad_body(why: String) -> Self {
        Self(StatusCode::BAD_REQUEST, "bad-body", why)
    }

    fn response(&self) -> Response<Body> {
        problem(self.0, self.1, &self.2)
    }
}

/// Responds to a request for `/v1/services/NAME/data` and below.
pub(super) async fn respond(
    admin: &Arc<Admin>,
    operator: &Requester,
    (name, rest): (&str, &[&str]),
    (parameters, request): (&QueryParameters, Request<Upload<Incoming>>),
) -> Response<Body> {
    let log = AccessLog { service: name, operator };
    let (seen, changed) = (|what: &str| log.seen(what), |what: &str| log.changed(what));
    let Ok(_permit) = admin.data.try_acquire() else { return busy() };
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    let method = request.method().clone();
    let query = Query::of(parameters);
    let bad_query = |why: &str| problem(StatusCode::BAD_REQUEST, BAD_QUERY, why);
    if let ["dead", rest @ ..] = rest {
        return match &query {
            Ok(query) => dead::respond(admin, name, (&method, rest), query, &log).await,
            Err(why) => bad_query(why),
        };
    }
    let data = match data_of(admin, name).await {
        Ok(data) => data,
        Err(refused) => return refused.response(),
    };
    let query = match query {
        Ok(query) => query,
        Err(why) => return bad_query(&why),
    };
    let (bucket, key) = (query.bucket.as_str(), query.key.as_str());
    let result = match (read, method, rest) {
        (true, _, []) => data.details(&query.after).await.map(|details| {
            seen("listed its buckets");
            json(&details)
        }),
        (true, _, ["keys"]) => {
            let keys = data.keys(bucket, &query.prefix, query.cursor.as_deref(), query.limit).await;
            keys.map(|page| {
                seen(&format!("listed keys of the bucket {bucket}"));
                json(&page)
            })
        }
        (true, _, ["entries"]) => data.entries(bucket, query.cursor.as_deref()).await.map(|page| {
            seen(&format!("read {} entries of the bucket {bucket}", page.entries.len()));
            json(&page)
        }),
        (_, Method::POST, ["entries"]) => match entries(request.into_body()).await {
            Ok(entries) => data.import(&entries, SystemTime::now()).await.map(|count| {
                changed(&format!("imported {} entries", count.stored));
                json(&count)
            }),
            Err(refused) => return refused.response(),
        },
        (true, _, ["entry"]) => data.get(bucket, key).await.map(|entry| {
            seen(&format!("read the key {key} of the bucket {bucket}"));
            entry.map_or_else(|| problem(StatusCode::NOT_FOUND, "no-key", "the bucket has no such key"), |it| json(&it))
        }),
        (_, Method::PUT, ["entry"]) => match upload(request.into_body(), limits::MAX_VALUE).await {
            Ok(value) => data.set((bucket, key), value, query.ttl, query.absent).await.map(|written| {
                changed(&format!("set the key {key} of the bucket {bucket}"));
                json(&written)
            }),
            Err(refused) => return refused.response(),
        },
        (_, Method::DELETE, ["entry"]) => data.delete(bucket, key).await.map(|deleted| {
            changed(&format!("deleted the key {key} of the bucket {bucket}"));
            json(&deleted)
        }),
        (_, _, [] | ["keys" | "entries" | "entry"]) => {
            return problem(
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "see /v1/openapi.json for the methods",
            );
        }
        _ => return problem(StatusCode::NOT_FOUND, "not-found", "see /v1/openapi.json for the paths"),
    };
    result.unwrap_or_else(|error| failed(&error))
}

fn busy() -> Response<Body> {
    let why = format!("{OPERATIONS} requests for data are in progress; try again");
    problem(StatusCode::SERVICE_UNAVAILABLE, "busy", &why)
}

/// The data of a service, also of one that is not served any more, if it has left some in a file.
///
/// # Errors
/// If there is no such service, or it stores nothing.
async fn data_of(admin: &Admin, name: &str) -> Result<ServiceData, Refused> {
    let refused = match service_data(admin, name) {
        Err(refused) if refused.1 == NO_SERVICE => refused,
        found => return found,
    };
    // Its manifest is gone, and its quota with it.
    let quota = Quota::default();
    match admin.stores.left_behind(name, quota).await {
        Ok(Some(store)) => Ok(ServiceData { service: name.to_owned(), store, quota }),
        Ok(None) => Err(refused),
        Err(why) => Err(Refused(StatusCode::SERVICE_UNAVAILABLE, "store", why)),
    }
}

/// The kind of the problem that no service has a name.
const NO_SERVICE: &str = "no-service";

/// The data of a service that is served.
///
/// # Errors
/// If there is no such service, or it stores nothing.
fn service_data(admin: &Admin, name: &str) -> Result<ServiceData, Refused> {
    let snapshot = admin.current.snapshot();
    let Some(target) = snapshot.targets.iter().find(|target| &*target.deployment().name == name) else {
        let why = "no service of this name is served, or has left data";
        return Err(Refused(StatusCode::NOT_FOUND, NO_SERVICE, why.into()));
    };
    let manifest = &target.deployment().spec.manifest;
    let store = target.backend.guest().and_then(|guest| guest.store());
    let Some((grant, store)) = manifest.keyvalue.as_ref().zip(store) else {
        let why = "its manifest has no [keyvalue], so it has no keys";
        return Err(Refused(StatusCode::CONFLICT, "no-store", why.into()));
    };
    let quota = Quota { keys: grant.keys, bytes: grant.bytes };
    Ok(ServiceData { service: name.to_owned(), store: Arc::clone(&store.store), quota })
}

/// Responds with what all services store: those that are served, and in a file also those that were.
pub(super) async fn all(admin: &Arc<Admin>) -> Response<Body> {
    let Ok(_permit) = admin.data.try_acquire() else { return busy() };
    let snapshot = admin.current.snapshot();
    let names: BTreeSet<_> = snapshot
        .targets
        .iter()
        .filter(|target| target.deployment().spec.version_of().is_none())
        .map(|target| target.deployment().name.to_string())
        .collect();
    drop(snapshot);
    let mut statuses = Vec::new();
    for data in names.iter().filter_map(|name| service_data(admin, name).ok()) {
        match data.status().await {
            Ok(status) => statuses.push(status),
            Err(error) => return failed(&error),
        }
    }
    if let Some(file) = admin.stores.database() {
        let others = file
            .namespaces()
            .into_iter()
            .filter(|(name, usage)| usage.keys > 0 && !statuses.iter().any(|status| status.service == name.as_str()));
        let others: Vec<_> = others.map(|(name, usage)| StoreStatus::without_service(name.as_str(), usage)).collect();
        statuses.extend(others);
    }
    json(&statuses)
}

/// Reads the body of a request.
async fn upload(body: Upload<Incoming>, most: usize) -> Result<Bytes, Refused> {
    match tokio::time::timeout(UPLOAD, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(Refused::bad_body(format!("the body has over {most} bytes, or broke off"))),
        Err(_) => Err(Refused::bad_body("the body did not arrive in time".into())),
    }
}

/// Reads the entries of an import, each a line of JSON.
async fn entries(body: Upload<Incoming>) -> Result<Vec<StoredEntry>, Refused> {
    let bytes = upload(body, IMPORT).await?;
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let entries: Result<Vec<_>, _> = lines.take(limits::MAX_BATCH + 1).map(serde_json::from_slice).collect();
    entries.map_err(|error| Refused::bad_body(format!("each line must be an entry: {error}")))
}

/// Responds with a copy of the database as it is at one moment.
pub(super) async fn backup(admin: &Arc<Admin>) -> Response<Body> {
    let Ok(permit) = Arc::clone(&admin.data).try_acquire_many_owned(OPERATIONS as u32) else { return busy() };
    let Some(database) = admin.stores.database() else {
        let why = "no service has opened a database in a file; a server has tools of its own for backups";
        return problem(StatusCode::CONFLICT, "no-file", why);
    };
    let copied = copy(&database).await.and_then(|file| Ok((file.metadata()?.len(), file)));
    match copied {
        Ok((size, file)) => {
            tracing::info!(target: CHANGE, "made a backup of the state of all services ({size} bytes), for an operator");
            streamed("application/vnd.sqlite3", size, |parts| read_parts(file, permit, &parts))
        }
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, "backup", &format!("there is no backup: {error}")),
    }
}

/// Makes a backup beside the database and opens it. It has no name then, and is gone when it is closed.
async fn copy(database: &Sqlite) -> io::Result<File> {
    let mut path = database.path().as_os_str().to_owned();
    path.push("-backup");
    let path = PathBuf::from(path);
    let remove = || match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    // Left behind by a host that was killed.
    remove()?;
    database.backup(&path).await.map_err(io::Error::other)?;
    let file = File::open(&path)?;
    remove()?;
    Ok(file)
}

/// Sends a file until its end, or until nobody receives it.
fn read_parts(mut file: File, permit: OwnedSemaphorePermit, parts: &tokio::sync::mpsc::Sender<Bytes>) {
    let mut part = vec![0; PART];
    // An error ends the response before its length, which the client notices.
    while let Ok(size @ 1..) = file.read(&mut part) {
        let bytes = Bytes::copy_from_slice(part.get(..size).unwrap_or_default());
        if parts.blocking_send(bytes).is_err() {
            break;
        }
    }
    drop(permit);
}
