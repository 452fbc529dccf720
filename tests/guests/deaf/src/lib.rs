//! Responds without reading the request body.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(_request: IncomingRequest, outparam: ResponseOutparam) {
        kit::text(outparam, "not listening");
    }
}
