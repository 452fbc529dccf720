//! Responds with its version, in two parts. Tests make other versions by overwriting the digits in the file.

use std::hint::black_box;

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

/// Tests find and replace this in the built component.
static VERSION: &[u8] = b"version-00000000";

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(_request: IncomingRequest, outparam: ResponseOutparam) {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().unwrap();
        ResponseOutparam::set(outparam, Ok(response));
        let stream = body.write().unwrap();
        stream.blocking_write_and_flush(black_box(VERSION)).unwrap();
        stream.blocking_write_and_flush(black_box(VERSION)).unwrap();
        drop(stream);
        OutgoingBody::finish(body, None).unwrap();
    }
}
