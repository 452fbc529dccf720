//! Sends a body that never ends: wasi:http 0.3.

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
            while body.write_all(vec![b'x'; 4096]).await.is_empty() {}
            drop(end);
        });
        Ok(response)
    }
}
