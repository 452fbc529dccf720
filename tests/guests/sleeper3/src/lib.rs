//! Sleeps for an hour before it responds: wasi:http 0.3.

use wasip3::http::types::{ErrorCode, Request, Response};

struct Guest;

wasip3::http::service::export!(Guest);

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        wasip3::clocks::monotonic_clock::wait_for(3_600_000_000_000).await;
        Err(ErrorCode::InternalError(None))
    }
}
