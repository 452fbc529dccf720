//! A gRPC service: Say responds once, Count many times, Chat to each message as it arrives, Fail with a status.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::{InputStream, OutputStream};

struct Guest;

wasip2::http::proxy::export!(Guest);

/// The prefix of a message: a flag for compression, and its length.
const PREFIX: usize = 5;

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let fields = Fields::new();
        fields.append("content-type", b"application/grpc").unwrap();
        let response = OutgoingResponse::new(fields);
        let outgoing = response.body().unwrap();
        ResponseOutparam::set(outparam, Ok(response));
        let incoming = request.consume().unwrap();
        let (mut from, to) = (Messages(incoming.stream().unwrap(), Vec::new()), outgoing.write().unwrap());
        let (mut status, mut reason) = ("0", "");
        match path.rsplit('/').next() {
            Some("Say") => {
                let name = from.next().unwrap_or_default();
                say(&to, &[b"Hello, ", &name[..], b"!"].concat());
            }
            Some("Count") => {
                let most: u32 = String::from_utf8(from.next().unwrap_or_default()).unwrap().parse().unwrap();
                (1..=most).for_each(|n| say(&to, n.to_string().as_bytes()));
            }
            Some("Chat") => from.for_each(|message| say(&to, &message)),
            _ => (status, reason) = ("5", "there is no such thing"),
        }
        drop(to);
        let trailers = Fields::new();
        trailers.append("grpc-status", status.as_bytes()).unwrap();
        trailers.append("grpc-message", reason.as_bytes()).unwrap();
        OutgoingBody::finish(outgoing, Some(trailers)).unwrap();
    }
}

fn say(to: &OutputStream, message: &[u8]) {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    for part in [&[&[0], &length[..]].concat(), message].into_iter().flat_map(|part| part.chunks(4096)) {
        to.blocking_write_and_flush(part).unwrap();
    }
}

/// The messages of a stream, as they arrive.
struct Messages(InputStream, Vec<u8>);

impl Iterator for Messages {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(prefix) = self.1.get(..PREFIX) {
                let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
                if self.1.len() >= PREFIX + length {
                    let rest = self.1.split_off(PREFIX + length);
                    return Some(std::mem::replace(&mut self.1, rest).split_off(PREFIX));
                }
            }
            self.1.extend(self.0.blocking_read(1 << 16).ok()?);
        }
    }
}
