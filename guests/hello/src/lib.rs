//! `GET /hello?name=Ada` answers `Hello, Ada!`: a wasi:http 0.3 service on plain `http` types.

use http::{Method, Response, StatusCode, header};
use wasip3::http::types::{ErrorCode, Request, Response as WasiResponse};
use wasip3::http_compat::{http_from_wasi_request, http_into_wasi_response};

struct Hello;

wasip3::http::service::export!(Hello);

impl wasip3::exports::http::handler::Guest for Hello {
    async fn handle(request: Request) -> Result<WasiResponse, ErrorCode> {
        let request = http_from_wasi_request(request)?;
        http_into_wasi_response(greet(request.method(), request.uri()))
    }
}

fn greet(method: &Method, uri: &http::Uri) -> Response<String> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = Response::new(String::new());
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        let allow = header::HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allow);
        return response;
    }
    let query = uri.query().unwrap_or_default().as_bytes();
    let name = form_urlencoded::parse(query).find(|(key, _)| key == "name");
    let name = name.map_or("World".into(), |(_, value)| value);
    let mut response = Response::new(format!("Hello, {name}!"));
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
