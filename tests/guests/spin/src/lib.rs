//! Computes without end.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(_request: IncomingRequest, _outparam: ResponseOutparam) {
        loop {
            std::hint::black_box(0);
        }
    }
}
