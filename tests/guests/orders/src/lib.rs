//! Prices an order: `POST /orders` with `{"item":"tea","count":3}` gets `{"item":"tea","count":3,"cents":1350}`.

use http::{Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use wasip3::http::types::{ErrorCode, Request, Response as WasiResponse};
use wasip3::http_compat::{http_from_wasi_request, http_into_wasi_response};

#[derive(Deserialize)]
struct Order {
    item: String,
    count: u32,
}

#[derive(Serialize)]
struct Priced {
    item: String,
    count: u32,
    cents: u64,
}

#[derive(Serialize)]
struct Problem {
    error: String,
}

struct Orders;

wasip3::http::service::export!(Orders);

impl wasip3::exports::http::handler::Guest for Orders {
    async fn handle(request: Request) -> Result<WasiResponse, ErrorCode> {
        let (head, body) = http_from_wasi_request(request)?.into_parts();
        let response = match (head.method, head.uri.path()) {
            (Method::POST, "/orders") => {
                let bytes = body.collect().await?.to_bytes();
                price(&bytes)
            }
            (_, "/orders") => problem(StatusCode::METHOD_NOT_ALLOWED, "POST an order here".into()),
            _ => problem(StatusCode::NOT_FOUND, "there is nothing here".into()),
        };
        http_into_wasi_response(response)
    }
}

fn price(bytes: &[u8]) -> Response<String> {
    let order: Order = match serde_json::from_slice(bytes) {
        Ok(order) => order,
        Err(error) => return problem(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
    };
    let each = match order.item.as_str() {
        "tea" => 450,
        "cake" => 520,
        other => return problem(StatusCode::UNPROCESSABLE_ENTITY, format!("there is no {other}")),
    };
    let cents = u64::from(order.count) * each;
    json(StatusCode::OK, &Priced { item: order.item, count: order.count, cents })
}

fn problem(status: StatusCode, error: String) -> Response<String> {
    json(status, &Problem { error })
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<String> {
    let mut response = Response::new(serde_json::to_string(value).expect("plain structs serialise"));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
