//! Sends its request to the URL in the header `x-to`, and returns the response, both as streams: wasi:http 0.3.
//!
//! If there are several URLs, the first one gets the request with the others as `x-to`; with `x-again` it gets all of
//! them. With `x-read` the guest reads the response and returns its length; `x-times` sends this many GETs in sequence
//! and returns the lengths of the responses. The header `x-error` of the response names the error of a request that
//! failed.

use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, RequestOptions, Response, Scheme};
use wasip3::wit_bindgen::StreamResult;
use wasip3::{wit_future, wit_stream};

struct Guest;

wasip3::http::service::export!(Guest);

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let times = header(&request, "x-times").and_then(|text| text.parse::<usize>().ok());
        if let Some(times) = times {
            let url = header(&request, "x-to").expect("a URL");
            let mut bytes = 0;
            for _ in 0..times {
                let (_, end) = wit_future::new(|| Ok(None));
                let (outgoing, _sent) = Request::new(Fields::new(), None, end, None);
                bytes += length(client::send(to(outgoing, &url)).await?).await?;
            }
            return Ok(text(None, bytes.to_string()));
        }
        let reads = header(&request, "x-read").is_some();
        match client::send(onward(request)).await {
            Ok(response) if reads => Ok(text(None, length(response).await?.to_string())),
            Ok(response) => Ok(response),
            Err(code) => Ok(text(Some(&format!("{code:?}")), String::new())),
        }
    }
}

fn header(request: &Request, name: &str) -> Option<String> {
    let value = request.get_headers().get(name).into_iter().next()?;
    String::from_utf8(value).ok()
}

/// A request like the received one, with its body.
fn onward(request: Request) -> Request {
    let all = header(&request, "x-to").expect("a URL");
    let (first, rest) = all.split_once(' ').unwrap_or((&all, ""));
    let rest = if header(&request, "x-again").is_some() { &*all } else { rest };
    let headers = Fields::new();
    for (name, value) in request.get_headers().copy_all() {
        if !["host", "content-length", "traceparent", "x-to"].contains(&&*name) {
            let _ = headers.append(&name, &value);
        }
    }
    if !rest.is_empty() {
        headers.append("x-to", rest.as_bytes()).unwrap();
    }
    let options = RequestOptions::new();
    let nanos = |name: &str| Some(header(&request, name)?.parse::<u64>().ok()? * 1_000_000);
    options.set_first_byte_timeout(nanos("x-first")).unwrap();
    options.set_between_bytes_timeout(nanos("x-between")).unwrap();
    let method = request.get_method();
    let (_, result) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, result);
    let (outgoing, _sent) = Request::new(headers, Some(body), trailers, Some(options));
    outgoing.set_method(&method).unwrap();
    to(outgoing, first)
}

fn to(outgoing: Request, url: &str) -> Request {
    let (scheme, rest) = url.split_once("://").expect("a scheme");
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    outgoing.set_scheme(Some(&if scheme == "https" { Scheme::Https } else { Scheme::Http })).unwrap();
    outgoing.set_authority(Some(authority)).unwrap();
    outgoing.set_path_with_query(Some(path)).unwrap();
    outgoing
}

async fn length(response: Response) -> Result<usize, ErrorCode> {
    let (_, result) = wit_future::new(|| Ok(()));
    let (mut body, trailers) = Response::consume_body(response, result);
    let mut bytes = 0;
    loop {
        let (status, chunk) = body.read(Vec::with_capacity(1 << 16)).await;
        bytes += chunk.len();
        if status == StreamResult::Dropped {
            break;
        }
    }
    trailers.await?;
    Ok(bytes)
}

fn text(error: Option<&str>, text: String) -> Response {
    let headers = Fields::new();
    if let Some(error) = error {
        headers.append("x-error", error.as_bytes()).unwrap();
    }
    let (mut to, body) = wit_stream::new();
    let (_, end) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, Some(body), end);
    wasip3::wit_bindgen::spawn_local(async move {
        to.write_all(text.into_bytes()).await;
    });
    response
}
