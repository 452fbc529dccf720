//! Writes 16 MiB to stderr, then responds.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(_request: IncomingRequest, outparam: ResponseOutparam) {
        let line = "noise ".repeat(170);
        for _ in 0..16 * 1024 {
            eprintln!("{line}");
        }
        kit::text(outparam, "quiet now");
    }
}
