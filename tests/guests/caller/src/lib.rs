//! Sends its request to the URL in the header `x-to`, and returns the response: wasi:http 0.2.
//!
//! If there are several URLs, the first one gets the request with the others as `x-to`; with `x-again` it gets all of
//! them. `x-many` sends this many requests at once and returns the result of each; `x-times` sends this many GETs in
//! sequence and returns the lengths of the responses; `x-leave` does not wait for the response; `x-connect`, `x-first`
//! and `x-between` are timeouts in milliseconds. The header `x-error` of the response names the error of a request that
//! failed.

use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingRequest, IncomingResponse, OutgoingBody,
    OutgoingRequest, OutgoingResponse, RequestOptions, ResponseOutparam, Scheme,
};
use wasip2::io::streams::StreamError;

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let times = header(&request, "x-times").and_then(|text| text.parse::<usize>().ok());
        if let Some(times) = times {
            let to = header(&request, "x-to").expect("a URL");
            let bytes: usize = (0..times).map(|_| plain(&to)).sum();
            return text(outparam, &bytes.to_string(), None);
        }
        let many = header(&request, "x-many").and_then(|text| text.parse::<usize>().ok());
        if let Some(many) = many {
            let sent: Vec<_> = (0..many).map(|_| send(&request).map(|(sent, _)| sent)).collect();
            let went: Vec<_> = sent.into_iter().map(|sent| went(sent.and_then(wait))).collect();
            return text(outparam, &went.join("\n"), None);
        }
        let (sent, body) = match send(&request) {
            Ok(sent) => sent,
            Err(code) => return text(outparam, "", Some(&format!("{code:?}"))),
        };
        let incoming = request.consume().unwrap();
        let (from, to) = (incoming.stream().unwrap(), body.write().unwrap());
        while to.blocking_splice(&from, 1 << 16).is_ok() {}
        drop((from, to));
        let trailers = IncomingBody::finish(incoming);
        trailers.subscribe().block();
        let trailers = trailers.get().and_then(Result::ok).and_then(Result::ok).flatten();
        let _ = OutgoingBody::finish(body, trailers);
        if header(&request, "x-leave").is_some() {
            return text(outparam, "left", None);
        }
        match wait(sent) {
            Ok(response) => relay(response, outparam),
            Err(code) => text(outparam, "", Some(&format!("{code:?}"))),
        }
    }
}

fn header(request: &IncomingRequest, name: &str) -> Option<String> {
    let value = request.headers().get(name).into_iter().next()?;
    String::from_utf8(value).ok()
}

/// The length of the response to a plain GET.
fn plain(url: &str) -> usize {
    let outgoing = to(url, Fields::new());
    let response = wait(outgoing_handler::handle(outgoing, None).unwrap()).unwrap();
    let body = response.consume().unwrap();
    let stream = body.stream().unwrap();
    let mut bytes = 0;
    while let Ok(read) = stream.blocking_read(1 << 16) {
        bytes += read.len();
    }
    bytes
}

fn to(url: &str, headers: Fields) -> OutgoingRequest {
    let (scheme, rest) = url.split_once("://").expect("a scheme");
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let outgoing = OutgoingRequest::new(headers);
    outgoing.set_scheme(Some(&if scheme == "https" { Scheme::Https } else { Scheme::Http })).unwrap();
    outgoing.set_authority(Some(authority)).unwrap();
    outgoing.set_path_with_query(Some(path)).unwrap();
    outgoing
}

/// Sends a request like the received one. Returns it in flight, with its body.
fn send(request: &IncomingRequest) -> Result<(FutureIncomingResponse, OutgoingBody), ErrorCode> {
    let all = header(request, "x-to").expect("a URL");
    let (first, rest) = all.split_once(' ').unwrap_or((&all, ""));
    let rest = if header(request, "x-again").is_some() { &*all } else { rest };
    let headers = Fields::new();
    for (name, value) in request.headers().entries() {
        if !["host", "content-length", "traceparent", "x-to", "x-many"].contains(&&*name) {
            let _ = headers.append(&name, &value);
        }
    }
    if !rest.is_empty() {
        headers.append("x-to", rest.as_bytes()).unwrap();
    }
    let outgoing = to(first, headers);
    outgoing.set_method(&request.method()).unwrap();
    let body = outgoing.body().unwrap();
    let options = RequestOptions::new();
    let nanos = |name: &str| Some(header(request, name)?.parse::<u64>().ok()? * 1_000_000);
    options.set_connect_timeout(nanos("x-connect")).unwrap();
    options.set_first_byte_timeout(nanos("x-first")).unwrap();
    options.set_between_bytes_timeout(nanos("x-between")).unwrap();
    Ok((outgoing_handler::handle(outgoing, Some(options))?, body))
}

fn wait(sent: FutureIncomingResponse) -> Result<IncomingResponse, ErrorCode> {
    sent.subscribe().block();
    sent.get().unwrap().unwrap()
}

fn went(answered: Result<IncomingResponse, ErrorCode>) -> String {
    match answered {
        Ok(response) => response.status().to_string(),
        Err(code) => format!("{code:?}"),
    }
}

/// Forwards the response as it arrives.
fn relay(response: IncomingResponse, outparam: ResponseOutparam) {
    let headers = Fields::new();
    for (name, value) in response.headers().entries() {
        let _ = headers.append(&name, &value);
    }
    let outgoing = OutgoingResponse::new(headers);
    outgoing.set_status_code(response.status()).unwrap();
    let body = outgoing.body().unwrap();
    ResponseOutparam::set(outparam, Ok(outgoing));
    let incoming = response.consume().unwrap();
    let (from, to) = (incoming.stream().unwrap(), body.write().unwrap());
    loop {
        match to.blocking_splice(&from, 1 << 16) {
            Ok(_) => {}
            Err(StreamError::Closed) => break,
            // A truncated response stays truncated for the client.
            Err(StreamError::LastOperationFailed(_)) => std::process::abort(),
        }
    }
    drop((from, to));
    let trailers = IncomingBody::finish(incoming);
    trailers.subscribe().block();
    let trailers = trailers.get().and_then(Result::ok).and_then(Result::ok).flatten();
    OutgoingBody::finish(body, trailers).unwrap();
}

fn text(outparam: ResponseOutparam, text: &str, error: Option<&str>) {
    let headers = Fields::new();
    if let Some(error) = error {
        headers.append("x-error", error.as_bytes()).unwrap();
    }
    let response = OutgoingResponse::new(headers);
    let body = response.body().unwrap();
    ResponseOutparam::set(outparam, Ok(response));
    if !text.is_empty() {
        body.write().unwrap().blocking_write_and_flush(text.as_bytes()).unwrap();
    }
    OutgoingBody::finish(body, None).unwrap();
}
