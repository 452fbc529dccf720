//! Sleeps for an hour before it answers.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(_request: IncomingRequest, _outparam: ResponseOutparam) {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}
