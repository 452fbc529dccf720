//! Responds, sends half of its body, and traps.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingResponse, ResponseOutparam};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    #[expect(clippy::disallowed_methods, reason = "a guest may sleep: nothing else runs in its sandbox")]
    fn handle(_request: IncomingRequest, outparam: ResponseOutparam) {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().unwrap();
        ResponseOutparam::set(outparam, Ok(response));
        let stream = body.write().unwrap();
        stream.blocking_write_and_flush(b"the first half, ").unwrap();
        // Long enough for the half to be sent before the trap.
        std::thread::sleep(std::time::Duration::from_millis(100));
        core::arch::wasm32::unreachable()
    }
}
