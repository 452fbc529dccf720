//! Executes an unreachable instruction instead of responding.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(_request: IncomingRequest, _outparam: ResponseOutparam) {
        core::arch::wasm32::unreachable()
    }
}
