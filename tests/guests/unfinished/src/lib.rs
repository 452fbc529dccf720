//! Does not finish its body: drops it, leaks it, or writes less than declared.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let fields = Fields::new();
        if path.ends_with("/short") {
            fields.append("content-length", b"100").unwrap();
        }
        let response = OutgoingResponse::new(fields);
        let body = response.body().unwrap();
        ResponseOutparam::set(outparam, Ok(response));
        let stream = body.write().unwrap();
        stream.blocking_write_and_flush(b"some").unwrap();
        drop(stream);
        match path.rsplit('/').next() {
            Some("leaked") => std::mem::forget(body),
            Some("short") => drop(OutgoingBody::finish(body, None)),
            _ => drop(body),
        }
    }
}
