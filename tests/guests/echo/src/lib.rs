//! Streams the request body and its trailers back; /echo/head describes the request instead.

use wasip2::http::types::{Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        if path.split('?').next().is_some_and(|path| path.ends_with("/head")) {
            return describe(&request, &path, outparam);
        }
        let fields = Fields::new();
        for value in request.headers().get("trailer") {
            fields.append("trailer", &value).unwrap();
        }
        let response = OutgoingResponse::new(fields);
        let outgoing = response.body().unwrap();
        ResponseOutparam::set(outparam, Ok(response));
        let incoming = request.consume().unwrap();
        let (from, to) = (incoming.stream().unwrap(), outgoing.write().unwrap());
        while to.blocking_splice(&from, 1 << 16).is_ok() {}
        drop((from, to));
        let trailers = IncomingBody::finish(incoming);
        trailers.subscribe().block();
        let trailers = trailers.get().and_then(Result::ok).and_then(Result::ok).flatten();
        OutgoingBody::finish(outgoing, trailers).unwrap();
    }
}

fn describe(request: &IncomingRequest, path: &str, outparam: ResponseOutparam) {
    let (method, scheme) = (request.method(), request.scheme());
    let authority = request.authority().unwrap_or_default();
    let mut text = format!("{method:?} {scheme:?} {authority} {path}\n");
    for (name, value) in request.headers().entries() {
        text += &format!("{name}: {}\n", String::from_utf8_lossy(&value));
    }
    let environment = std::env::vars().count() + std::env::args().count();
    for (name, value) in std::env::vars() {
        text += &format!("{name}={value}\n");
    }
    let files = std::fs::read_dir("/").is_ok();
    let sockets = std::net::TcpStream::connect("127.0.0.1:9").map_err(|error| error.kind());
    let names = std::net::ToSocketAddrs::to_socket_addrs("localhost:80").is_ok();
    text += &format!("granted: {environment} {files} {sockets:?} {names}\n");
    kit::text(outparam, text);
}
