//! Tries to set hop-by-hop headers, and reports how many were refused.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let fields = Fields::new();
        let forbidden = ["connection", "keep-alive", "transfer-encoding", "upgrade", "proxy-connection"];
        let refused = forbidden.iter().filter(|name| fields.append(name, b"x").is_err()).count();
        // Sending back the request's own headers is another way to try it.
        for (name, value) in request.headers().entries() {
            let _ = fields.append(&name, &value);
        }
        let response = OutgoingResponse::new(fields);
        let body = response.body().unwrap();
        ResponseOutparam::set(outparam, Ok(response));
        let stream = body.write().unwrap();
        stream.blocking_write_and_flush(format!("{refused} refused").as_bytes()).unwrap();
        drop(stream);
        OutgoingBody::finish(body, None).unwrap();
    }
}
