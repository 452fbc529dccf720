//! Recurses until the stack overflows.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(_request: IncomingRequest, _outparam: ResponseOutparam) {
        std::hint::black_box(deeper(0));
    }
}

#[expect(unconditional_recursion, reason = "this is what the test needs")]
fn deeper(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    deeper(depth + 1) + frame[7]
}
