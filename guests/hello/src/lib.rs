//! `GET /hello?name=Ada` answers `Hello, Ada!`: a wasi:http 0.3 service on plain `http` types. `config.greeting` of the
//! manifest replaces `Hello`.

use http::{Method, Response};
use wasip3::http::types::{ErrorCode, Request, Response as WasiResponse};
use wasip3::http_compat::{http_from_wasi_request, http_into_wasi_response};

wit_bindgen::generate!({ path: "../../wit/deps/config.wit" });

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
        let refusal = Response::builder().status(405).header("allow", "GET, HEAD");
        return refusal.body(String::new()).unwrap_or_default();
    }
    let query = uri.query().unwrap_or_default().as_bytes();
    let name = form_urlencoded::parse(query).find(|(key, _)| key == "name");
    let name = name.map_or("World".into(), |(_, value)| value);
    let greeting = wasi::config::store::get("greeting").ok().flatten().unwrap_or("Hello".into());
    let response = Response::builder().header("content-type", "text/plain; charset=utf-8");
    response.body(format!("{greeting}, {name}!")).unwrap_or_default()
}
