//! A guest written with `wstd`, independent of Lodge: greets, and sends a body back.

use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    if request.method() == wstd::http::Method::POST {
        return Ok(Response::new(request.into_body()));
    }
    Ok(Response::new("Hello from wstd".to_owned().into()))
}
