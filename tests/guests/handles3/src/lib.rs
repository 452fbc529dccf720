//! Handles messages by `wasmcloud:messaging@0.3.0`, and no requests. It publishes `SUBJECT BODY` to `seen.message`, replies to messages that
//! have an inbox, and ends those to `work.retry`, `work.reject` and `work.other` with that error. To `work.ask` it sends a request to
//! `ask.any`, and publishes the reply, or the error, to `seen.message`; to `work.large` it publishes more than a message may have, and
//! `work.denied` is published to `denied`. To `work.hoard` it sends requests with as many bytes as the body says until one fails, without
//! reading the replies, and publishes how many there were, the error, and whether a request succeeds after all were dropped.

wit_bindgen::generate!({ path: "../../../wit/0.3.2/deps/messaging.wit", world: "handler-service" });

use exports::wasmcloud::messaging::handler::Guest;
use wasmcloud::messaging::consumer::{publish, request};
use wasmcloud::messaging::types::{BrokerMessage, Error, HandleMessageError};

struct Handler;

export!(Handler);

/// A body that is written while it is read.
fn stream(content: Vec<u8>) -> wit_bindgen::StreamReader<u8> {
    let (mut to, body) = wit_stream::new();
    wit_bindgen::spawn_local(async move {
        to.write_all(content).await;
    });
    body
}

async fn send(subject: &str, content: Vec<u8>) -> Result<(), Error> {
    publish(BrokerMessage { subject: subject.into(), body: stream(content), reply_to: None }).await
}

/// Keeps replies without reading them until there is an error.
async fn hoard(size: &[u8]) -> String {
    let size = String::from_utf8_lossy(size).parse().unwrap();
    let ask = || request("ask.any".into(), stream(vec![b'x'; size]), Some(5_000));
    let mut unread = Vec::new();
    let error = loop {
        match ask().await {
            Ok(reply) => unread.push(reply),
            Err(error) => break error,
        }
    };
    let count = unread.len();
    drop(unread);
    format!("{count} {error:?} {}", ask().await.is_ok())
}

impl Guest for Handler {
    async fn handle_message(message: BrokerMessage) -> Result<(), HandleMessageError> {
        let BrokerMessage { subject, body, reply_to } = message;
        let body = body.collect().await;
        let failed = |error: Error| HandleMessageError::Other(format!("{error:?}"));
        if let Some(inbox) = reply_to {
            return send(&inbox, [b"reply: ", body.as_slice()].concat()).await.map_err(failed);
        }
        let seen = match subject.as_str() {
            "work.ask" => match request("ask.any".into(), stream(body), Some(5_000)).await {
                Ok(reply) => reply.body.collect().await,
                Err(error) => format!("{error:?}").into_bytes(),
            },
            "work.hoard" => hoard(&body).await.into_bytes(),
            "work.large" => format!("{:?}", send("seen.message", vec![b'x'; (1 << 20) + 1]).await).into_bytes(),
            "work.denied" => format!("{:?}", send("denied", body).await).into_bytes(),
            "work.wrong" => format!("{:?}", send("not a subject", body).await).into_bytes(),
            _ => [subject.as_bytes(), b" ", &body].concat(),
        };
        send("seen.message", seen).await.map_err(failed)?;
        match subject.as_str() {
            "work.retry" => Err(HandleMessageError::Retry),
            "work.reject" => Err(HandleMessageError::Reject),
            "work.other" => Err(HandleMessageError::Other("not today".into())),
            _ => Ok(()),
        }
    }
}
