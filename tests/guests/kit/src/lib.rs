//! What guests of the tests have in common, with wasi:http 0.2.

use wasip2::http::types::{Fields, OutgoingBody, OutgoingResponse, ResponseOutparam};

/// The most bytes that one call of `blocking-write-and-flush` takes.
const CHUNK: usize = 4096;

/// Responds with a text.
pub fn text(outparam: ResponseOutparam, text: impl AsRef<[u8]>) {
    respond(outparam, 200, text);
}

/// Responds with a result: its text, or status 500 and its error.
pub fn result(outparam: ResponseOutparam, result: Result<impl AsRef<[u8]>, String>) {
    match result {
        Ok(body) => respond(outparam, 200, body),
        Err(error) => respond(outparam, 500, error),
    }
}

/// Responds with a status and a body.
pub fn respond(outparam: ResponseOutparam, status: u16, bytes: impl AsRef<[u8]>) {
    let response = OutgoingResponse::new(Fields::new());
    response.set_status_code(status).unwrap();
    let body = response.body().unwrap();
    ResponseOutparam::set(outparam, Ok(response));
    let stream = body.write().unwrap();
    for chunk in bytes.as_ref().chunks(CHUNK) {
        stream.blocking_write_and_flush(chunk).unwrap();
    }
    drop(stream);
    OutgoingBody::finish(body, None).unwrap();
}
