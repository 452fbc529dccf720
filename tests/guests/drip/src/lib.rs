//! Sends one line every 100 ms, as many as the path names: /drip/5.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    #[expect(clippy::disallowed_methods, reason = "a guest may sleep: nothing else runs in its sandbox")]
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let lines = path.rsplit('/').next().and_then(|last| last.parse().ok()).unwrap_or(3);
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().unwrap();
        ResponseOutparam::set(outparam, Ok(response));
        let stream = body.write().unwrap();
        for line in 0..lines {
            stream.blocking_write_and_flush(format!("{line}\n").as_bytes()).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        drop(stream);
        OutgoingBody::finish(body, None).unwrap();
    }
}
