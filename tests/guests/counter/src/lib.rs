//! Counts in memory how often this instance was used; traps on request.

use std::sync::atomic::{AtomicU32, Ordering};

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

static USES: AtomicU32 = AtomicU32::new(0);

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let uses = USES.fetch_add(1, Ordering::Relaxed) + 1;
        if request.path_with_query().is_some_and(|path| path.ends_with("/trap")) {
            core::arch::wasm32::unreachable();
        }
        kit::text(outparam, uses.to_string());
    }
}
