//! Responds with the status that the path names: /status/101. Reads the body of a POST first.

use wasip2::http::types::{IncomingRequest, Method, ResponseOutparam};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        if matches!(request.method(), Method::Post) {
            let body = request.consume().unwrap();
            let stream = body.stream().unwrap();
            while stream.blocking_read(1 << 16).is_ok() {}
        }
        let path = request.path_with_query().unwrap_or_default();
        let status = path.rsplit('/').next().and_then(|last| last.parse().ok()).unwrap_or(200);
        kit::respond(outparam, status, "");
    }
}
