//! Publishes a message at `/SERVICE/publish/SUBJECT?BODY`, and sends a request at `/SERVICE/request/SUBJECT?BODY`, to which it
//! responds with the reply. Errors are responses with status 500. Receives messages at `/messages/SUBJECT`: it replies to
//! `ask.inbox` by a message, to `ask.self` with the reply to another request, to `ask.late` after a second, and to all others with
//! its body in its response.

use wasip2::http::types::{IncomingBody, IncomingRequest, ResponseOutparam};

wit_bindgen::generate!({
    inline: "
        package lodge:publisher;

        world publisher {
            import wasmcloud:messaging/consumer@0.2.0;
        }

        package wasmcloud:messaging@0.2.0 {
            interface types {
                record broker-message { subject: string, body: list<u8>, reply-to: option<string> }
            }
            interface consumer {
                use types.{broker-message};
                request: func(subject: string, body: list<u8>, timeout-ms: u32) -> result<broker-message, string>;
                publish: func(msg: broker-message) -> result<_, string>;
            }
        }
    ",
    generate_all,
});

use wasmcloud::messaging::consumer::{BrokerMessage, publish, request};

/// How long it waits for a reply.
const TIMEOUT: u32 = 500;

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        kit::result(outparam, respond(&request));
    }
}

fn respond(incoming: &IncomingRequest) -> Result<Vec<u8>, String> {
    let target = incoming.path_with_query().unwrap_or_default();
    let (path, text) = target.split_once('?').unwrap_or((&target, ""));
    let body = text.as_bytes().to_vec();
    match path.splitn(4, '/').skip(1).collect::<Vec<_>>()[..] {
        ["messages", subject] => receive(incoming, subject),
        [_, "publish", subject] => {
            publish(&BrokerMessage { subject: subject.to_owned(), body, reply_to: None })?;
            Ok(b"published".to_vec())
        }
        [_, "request", subject] => request(subject, &body, TIMEOUT).map(|reply| reply.body),
        _ => Err(format!("no operation: {path}")),
    }
}

fn receive(incoming: &IncomingRequest, subject: &str) -> Result<Vec<u8>, String> {
    let body = read(incoming.consume().map_err(|()| "no body")?);
    let header =
        |name: &str| incoming.headers().get(name).first().map(|value| String::from_utf8_lossy(value).into_owned());
    assert_eq!(header("message-subject").as_deref(), Some(subject));
    match subject {
        "ask.inbox" => {
            let subject = header("message-reply-to").ok_or("no inbox")?;
            let body = [b"inbox: ", body.as_slice()].concat();
            publish(&BrokerMessage { subject, body, reply_to: None })?;
            Ok(Vec::new())
        }
        "ask.nobody" => Ok(Vec::new()),
        "ask.self" => request("ask.self", &body, TIMEOUT).map(|reply| reply.body),
        "ask.late" => {
            wasip2::clocks::monotonic_clock::subscribe_duration(1_000_000_000).block();
            Ok(body)
        }
        _ => Ok([b"response: ", body.as_slice()].concat()),
    }
}

fn read(body: IncomingBody) -> Vec<u8> {
    let stream = body.stream().unwrap();
    let mut whole = Vec::new();
    while let Ok(part) = stream.blocking_read(65536) {
        whole.extend(part);
    }
    whole
}
