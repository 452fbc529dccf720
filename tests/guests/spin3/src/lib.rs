//! Computes without end: wasi:http 0.3.

use wasip3::http::types::{ErrorCode, Request, Response};

struct Guest;

wasip3::http::service::export!(Guest);

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        loop {
            std::hint::black_box(0);
        }
    }
}
