//! Sleeps for an hour before it responds.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    #[expect(clippy::disallowed_methods, reason = "a guest may sleep: nothing else runs in its sandbox")]
    fn handle(_request: IncomingRequest, _outparam: ResponseOutparam) {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}
