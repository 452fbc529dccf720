//! Streams the request body and its trailers back; /echo3/head describes the request instead.

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::wit_bindgen::{StreamResult, spawn_local};
use wasip3::{wit_future, wit_stream};

struct Guest;

wasip3::http::service::export!(Guest);

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        let fields = Fields::new();
        for value in request.get_headers().get("trailer") {
            fields.append("trailer", &value).unwrap();
        }
        let head = describe(&request, &path);
        let (_, result) = wit_future::new(|| Ok(()));
        let (mut body, trailers) = Request::consume_body(request, result);
        if path.split('?').next().is_some_and(|path| path.ends_with("/straight")) {
            return Ok(Response::new(fields, Some(body), trailers).0);
        }
        let (mut to, to_rx) = wit_stream::new();
        let (end, end_rx) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(fields, Some(to_rx), end_rx);
        spawn_local(async move {
            if path.split('?').next().is_some_and(|path| path.ends_with("/head")) {
                to.write_all(head.into_bytes()).await;
                drop((to, end));
                return;
            }
            loop {
                let (status, chunk) = body.read(Vec::with_capacity(1 << 16)).await;
                let stopped = !to.write_all(chunk).await.is_empty();
                if stopped || status == StreamResult::Dropped {
                    break;
                }
            }
            drop(to);
            let _ = end.write(trailers.await).await;
        });
        Ok(response)
    }
}

fn describe(request: &Request, path: &str) -> String {
    let (method, scheme) = (request.get_method(), request.get_scheme());
    let authority = request.get_authority().unwrap_or_default();
    let mut text = format!("{method:?} {scheme:?} {authority} {path}\n");
    for (name, value) in request.get_headers().copy_all() {
        text += &format!("{name}: {}\n", String::from_utf8_lossy(&value));
    }
    text
}
