//! Sends a body that never ends or, below `/empty`, a thousand empty writes and then one byte: wasi:http 0.3.

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::wit_bindgen::spawn_local;
use wasip3::{wit_future, wit_stream};

struct Guest;

wasip3::http::service::export!(Guest);

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (mut body, body_rx) = wit_stream::new();
        let (end, end_rx) = wit_future::new(|| Ok(None));
        let empty = request.get_path_with_query().is_some_and(|path| path.ends_with("/empty"));
        let (response, _sent) = Response::new(Fields::new(), Some(body_rx), end_rx);
        spawn_local(async move {
            if empty {
                for _ in 0..1000 {
                    let _ = body.write(Vec::new()).await;
                }
                body.write_all(vec![b'x']).await;
                drop(body);
                let _ = end.write(Ok(None)).await;
                return;
            }
            while body.write_all(vec![b'x'; 4096]).await.is_empty() {}
            drop(end);
        });
        Ok(response)
    }
}
