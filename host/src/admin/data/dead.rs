//! Dead messages of services, in the admin API.

use http::{Method, Response, StatusCode};
use lodge_state::Namespace;
use lodge_state::messages::Afterlife;

use super::super::Admin;
use super::super::body::{Body, json, problem};
use super::query::{AccessLog, Query, failed};
use crate::data::{DeadCount, DeadMessages};

/// What a request does.
enum DeadAction {
    List,
    Read,
    End(Afterlife),
}

/// Responds to a request for `/v1/services/NAME/data/dead` and below.
pub(super) async fn respond(
    admin: &Admin,
    name: &str,
    (method, rest): (&Method, &[&str]),
    query: &Query,
    log: &AccessLog<'_>,
) -> Response<Body> {
    let read = matches!(*method, Method::GET | Method::HEAD);
    let action = match (read, method, rest) {
        (true, _, []) => DeadAction::List,
        (true, _, ["message"]) => DeadAction::Read,
        (_, &Method::POST, ["retry"]) => DeadAction::End(Afterlife::Retry),
        (_, &Method::DELETE, []) => DeadAction::End(Afterlife::Drop),
        (_, _, [] | ["message" | "retry"]) => {
            let why = "see /v1/openapi.json for the methods";
            return problem(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", why);
        }
        _ => return problem(StatusCode::NOT_FOUND, "not-found", "see /v1/openapi.json for the paths"),
    };
    let dead = match dead_of(admin, name) {
        Ok(dead) => dead,
        Err(response) => return *response,
    };
    let result = match (action, query.id.as_deref()) {
        (DeadAction::List, _) => dead.list(query.after(), query.limit).await.map(|list| {
            log.seen("listed its dead messages");
            json(&list)
        }),
        (DeadAction::Read, None) => return missing_id(),
        (DeadAction::Read, Some(id)) => dead.get(id).await.map(|content| match content {
            Some(content) => {
                log.seen(&format!("read the dead message {id}"));
                json(&content)
            }
            None => no_message(),
        }),
        (DeadAction::End(afterlife), _) => return end(&dead, query, afterlife, log).await,
    };
    result.unwrap_or_else(|error| failed(&error))
}

/// Retries or drops what the request names.
async fn end(dead: &DeadMessages, query: &Query, afterlife: Afterlife, log: &AccessLog<'_>) -> Response<Body> {
    let id = match (query.id.as_deref(), query.all) {
        (Some(id), false) => Some(id),
        (None, true) => None,
        _ => return missing_id(),
    };
    let done = if afterlife == Afterlife::Retry { "retried" } else { "dropped" };
    match dead.end(id, afterlife).await {
        Ok(DeadCount { ended: 0, .. }) if id.is_some() => no_message(),
        Ok(count) => {
            log.changed(&format!("{done} {} dead messages, {} are left", count.ended, count.left));
            json(&count)
        }
        Err(error) => failed(&error),
    }
}

fn missing_id() -> Response<Body> {
    problem(StatusCode::BAD_REQUEST, "bad-query", "write `id=ID`, as the list of dead messages has it, or `all=true`")
}

fn no_message() -> Response<Body> {
    problem(StatusCode::NOT_FOUND, "no-message", "the service has no such dead message")
}

/// The dead messages of a service.
///
/// # Errors
/// The response, if there is no such service, or it consumes nothing.
fn dead_of(admin: &Admin, name: &str) -> Result<DeadMessages, Box<Response<Body>>> {
    let refused = |status, kind, why| Err(Box::new(problem(status, kind, why)));
    let snapshot = admin.current.snapshot();
    let Some(target) = snapshot.targets.iter().find(|target| &*target.deployment().name == name) else {
        return refused(StatusCode::NOT_FOUND, "no-service", "no service of this name is served");
    };
    // The versions of a service share its messages.
    if target.deployment().spec.manifest.consume.is_none() {
        let why = "its manifest has no [consume], so it has no dead messages";
        return refused(StatusCode::CONFLICT, "no-consumer", why);
    }
    let (Some(queue), Ok(consumer)) = (admin.stores.opened_messages(false), Namespace::new(name)) else {
        let why = "the host has not opened the messages yet: try again";
        return refused(StatusCode::SERVICE_UNAVAILABLE, "store", why);
    };
    Ok(DeadMessages { queue, consumer })
}
