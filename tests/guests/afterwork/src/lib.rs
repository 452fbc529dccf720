//! Responds, and continues to work for as many milliseconds as the path names.

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::wit_bindgen::spawn_local;
use wasip3::{wit_future, wit_stream};

struct Guest;

wasip3::http::service::export!(Guest);

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        let work = path.rsplit('/').next().and_then(|last| last.parse::<u64>().ok()).unwrap_or(0);
        let (mut body, body_rx) = wit_stream::new();
        let (end, end_rx) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(body_rx), end_rx);
        spawn_local(async move {
            body.write_all(b"answered".to_vec()).await;
            drop((body, end));
            wasip3::clocks::monotonic_clock::wait_for(work * 1_000_000).await;
            eprintln!("afterwork done");
        });
        Ok(response)
    }
}
