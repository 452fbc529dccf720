//! Responds, sends half of its body, and traps: wasi:http 0.3.

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::wit_bindgen::spawn_local;
use wasip3::{wit_future, wit_stream};

struct Guest;

wasip3::http::service::export!(Guest);

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        let (mut body, body_rx) = wit_stream::new();
        let (end, end_rx) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(body_rx), end_rx);
        spawn_local(async move {
            body.write_all(b"the first half, ".to_vec()).await;
            // Long enough for the half to be sent before the trap.
            wasip3::clocks::monotonic_clock::wait_for(100_000_000).await;
            drop(end);
            core::arch::wasm32::unreachable()
        });
        Ok(response)
    }
}
