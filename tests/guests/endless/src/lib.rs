//! Sends a body that never ends or, below `/empty`, a thousand empty writes and then one byte.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().unwrap();
        ResponseOutparam::set(outparam, Ok(response));
        let stream = body.write().unwrap();
        if request.path_with_query().is_some_and(|path| path.ends_with("/empty")) {
            for bytes in [&b""[..]; 1000].into_iter().chain([&b"x"[..]]) {
                stream.subscribe().block();
                stream.check_write().unwrap();
                stream.write(bytes).unwrap();
            }
            drop(stream);
            OutgoingBody::finish(body, None).unwrap();
            return;
        }
        while stream.blocking_write_and_flush(&[b'x'; 4096]).is_ok() {}
    }
}
