//! `GET /users` and `GET /users/1` as JSON: a wasi:http 0.2 service generated from `wit/`.

use exports::wasi::http::incoming_handler::Guest;
use serde::Serialize;
use wasi::http::types::{Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam};

wit_bindgen::generate!({ path: "../../wit", world: "service", generate_all });

#[derive(Serialize)]
struct User {
    id: u32,
    name: &'static str,
}

const USERS: [User; 2] = [User { id: 1, name: "Alice" }, User { id: 2, name: "Bob" }];

struct Users;

export!(Users);

impl Guest for Users {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        let id = path.trim_matches('/').strip_prefix("users").map(|rest| rest.trim_matches('/'));
        match (request.method(), id) {
            (Method::Get | Method::Head, Some("")) => json(outparam, 200, &USERS),
            (Method::Get | Method::Head, Some(id)) => match USERS.iter().find(|user| user.id.to_string() == id) {
                Some(user) => json(outparam, 200, user),
                None => json(outparam, 404, &serde_json::json!({ "error": "no such user" })),
            },
            (Method::Get | Method::Head, None) => {
                json(outparam, 404, &serde_json::json!({ "error": "no such page" }));
            }
            _ => respond(outparam, 405, &[("allow", "GET, HEAD")], b""),
        }
    }
}

fn json(outparam: ResponseOutparam, status: u16, value: &impl Serialize) {
    let body = serde_json::to_vec(value).expect("plain structs serialise");
    respond(outparam, status, &[("content-type", "application/json")], &body);
}

fn respond(outparam: ResponseOutparam, status: u16, headers: &[(&str, &str)], body: &[u8]) {
    let fields = Fields::new();
    for (name, value) in headers {
        fields.append(name, value.as_bytes()).expect("a valid header");
    }
    let length = body.len().to_string();
    fields.append("content-length", length.as_bytes()).expect("a valid header");
    let response = OutgoingResponse::new(fields);
    response.set_status_code(status).expect("a valid status");
    let outgoing = response.body().expect("taken once");
    ResponseOutparam::set(outparam, Ok(response));
    let stream = outgoing.write().expect("taken once");
    for chunk in body.chunks(4096) {
        stream.blocking_write_and_flush(chunk).expect("the client is there");
    }
    drop(stream);
    OutgoingBody::finish(outgoing, None).expect("the whole body was written");
}
