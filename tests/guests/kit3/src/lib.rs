//! What guests of the tests have in common, with wasi:http 0.3.

use wasip3::http::types::{Fields, Response};
use wasip3::wit_bindgen::spawn_local;
use wasip3::{wit_future, wit_stream};

/// Returns the response with a result: its text, or status 500 and its error.
pub fn result(result: Result<String, String>) -> Response {
    match result {
        Ok(text) => respond(200, text),
        Err(error) => respond(500, error),
    }
}

/// Returns the response with a status and a text, which is written after the guest has returned.
pub fn respond(status: u16, text: String) -> Response {
    let (mut to, body) = wit_stream::new();
    let (end, trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(Fields::new(), Some(body), trailers);
    response.set_status_code(status).unwrap();
    spawn_local(async move {
        to.write_all(text.into_bytes()).await;
        drop((to, end));
    });
    response
}
