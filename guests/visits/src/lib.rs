//! Counts visits: every `GET /visits/PAGE` answers with the next number of that page. A wasi:http 0.2 service generated from
//! `wit/`. The store increments in one step, so that no visit is lost, however many there are at a time and on how many hosts.

use exports::wasi::http::incoming_handler::Guest;
use wasi::http::types::{Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasi::keyvalue::atomics::increment;
use wasi::keyvalue::store::{Error, open};

wit_bindgen::generate!({ path: "../../wit", world: "service-with-store", generate_all });

struct Visits;

export!(Visits);

impl Guest for Visits {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let (status, text) = match request.method() {
            Method::Get => match count(&request.path_with_query().unwrap_or_default()) {
                Ok(visits) => (200, format!("{{\"visits\":{visits}}}")),
                Err(Error::AccessDenied) => (503, problem("the manifest of this service needs `keyvalue = true`")),
                Err(Error::Other(_) | Error::NoSuchStore) => (503, problem("the store does not respond")),
            },
            _ => (405, problem("GET a page to visit it")),
        };
        respond(outparam, status, text.as_bytes());
    }
}

/// Counts a visit of the page at this path, and returns its number. All paths below `/visits` are pages.
fn count(path: &str) -> Result<i64, Error> {
    let page = path.split('?').next().unwrap_or_default().trim_end_matches('/');
    increment(&open("visits")?, page, 1)
}

fn problem(why: &str) -> String {
    format!("{{\"error\":\"{why}\"}}")
}

fn respond(outparam: ResponseOutparam, status: u16, body: &[u8]) {
    // A number that was stored somewhere on the way would be another visitor's.
    let headers = [("content-type", "application/json"), ("cache-control", "no-store")];
    let fields = headers.map(|(name, value)| (name.to_owned(), value.into()));
    let response = OutgoingResponse::new(Fields::from_list(&fields).expect("valid headers"));
    response.set_status_code(status).expect("a valid status");
    let outgoing = response.body().expect("taken once");
    ResponseOutparam::set(outparam, Ok(response));
    let stream = outgoing.write().expect("taken once");
    stream.blocking_write_and_flush(body).expect("the client is there");
    drop(stream);
    OutgoingBody::finish(outgoing, None).expect("the whole body was written");
}
