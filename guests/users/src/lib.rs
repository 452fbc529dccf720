//! Users as JSON, kept in the key-value store of the service: a wasi:http 0.2 service generated from `wit/`.
//!
//! `GET`, `POST /users` list and create; `GET`, `PUT`, `PATCH`, `DELETE /users/ID` read, replace, change and delete. An ETag is
//! the version of a user: with `If-Match`, a change that somebody else has made meanwhile is not overwritten. Without a store
//! there are two users, which nobody can change.

mod http;
mod users;

use exports::wasi::http::incoming_handler::Guest;
use http::{Problem, Reply, body};
use users::{Store, User};
use wasi::http::types::{IncomingRequest, Method, ResponseOutparam};

wit_bindgen::generate!({ path: "../../wit", world: "service-with-store", generate_all });

struct Users;

export!(Users);

impl Guest for Users {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        respond(request).unwrap_or_else(Reply::from).send(outparam);
    }
}

fn respond(request: IncomingRequest) -> Result<Reply, Problem> {
    let target = request.path_with_query().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let id = path.trim_matches('/').strip_prefix("users").map(|rest| rest.trim_matches('/'));
    let if_match = http::header(&request, "if-match");
    match (request.method(), id) {
        (Method::Get | Method::Head, Some(id)) => match (Store::open()?, id) {
            (None, id) => users::without_store(id),
            (Some(store), "") => store.list(http::parameter(query, "cursor").as_deref()),
            (Some(store), id) => Ok(store.get(id)?.reply(200)),
        },
        (Method::Post, Some("")) => {
            let user = Store::writable()?.create(User::read(&body(request)?)?)?;
            Ok(user.reply(201).header("location", &format!("/users/{}", user.id)))
        }
        (Method::Put, Some(id)) if !id.is_empty() => {
            let user = User::read(&body(request)?)?;
            Ok(Store::writable()?.change(id, if_match.as_deref(), |_| Ok(user.clone()))?.reply(200))
        }
        (Method::Patch, Some(id)) if !id.is_empty() => {
            if http::header(&request, "content-type").is_none_or(|kind| !http::is_merge_patch(&kind)) {
                let problem = Problem(415, format!("send {}", http::MERGE_PATCH));
                return Ok(Reply::from(problem).header("accept-patch", http::MERGE_PATCH));
            }
            let patch = body(request)?;
            Ok(Store::writable()?.change(id, if_match.as_deref(), |user| user.patched(&patch))?.reply(200))
        }
        (Method::Delete, Some(id)) if !id.is_empty() => {
            Store::writable()?.delete(id, if_match.as_deref())?;
            Ok(Reply::empty(204))
        }
        (_, None) => Err(Problem(404, "there is no such page".into())),
        (_, Some("")) => Ok(Reply::empty(405).header("allow", "GET, HEAD, POST")),
        (_, Some(_)) => Ok(Reply::empty(405).header("allow", "GET, HEAD, PUT, PATCH, DELETE")),
    }
}
