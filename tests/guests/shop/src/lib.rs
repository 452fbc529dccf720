//! `POST /shop/orders` publishes its body to `orders.created`, and responds with 202.

use http::{Method, Response};
use http_body_util::BodyExt;
use wasip3::http::types::{ErrorCode, Request, Response as WasiResponse};
use wasip3::http_compat::{http_from_wasi_request, http_into_wasi_response};

wit_bindgen::generate!({ path: "../../../wit/deps/messaging.wit", world: "imports" });

use wasmcloud::messaging::consumer::{BrokerMessage, publish};

struct Shop;

wasip3::http::service::export!(Shop);

impl wasip3::exports::http::handler::Guest for Shop {
    async fn handle(request: Request) -> Result<WasiResponse, ErrorCode> {
        let (head, body) = http_from_wasi_request(request)?.into_parts();
        let (status, text) = match (head.method, head.uri.path()) {
            (Method::POST, "/shop/orders") => {
                let body = body.collect().await?.to_bytes().to_vec();
                match publish(&BrokerMessage { subject: "orders.created".into(), body, reply_to: None }) {
                    Ok(()) => (202, "it will be handled".to_owned()),
                    // Nobody has the message: the client may try again.
                    Err(why) => (503, why),
                }
            }
            _ => (404, "POST an order to /shop/orders".to_owned()),
        };
        http_into_wasi_response(Response::builder().status(status).body(text).unwrap_or_default())
    }
}
