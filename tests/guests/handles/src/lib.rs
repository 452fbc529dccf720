//! Handles messages, and no requests. It publishes `SUBJECT BODY` to `seen.message`, replies to messages that have an inbox, fails
//! those to `work.fails` and traps on those to `work.traps`.

wit_bindgen::generate!({
    inline: "
        package lodge:handles;

        world handles {
            import wasmcloud:messaging/consumer@0.2.0;
            export wasmcloud:messaging/handler@0.2.0;
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
            interface handler {
                use types.{broker-message};
                handle-message: func(msg: broker-message) -> result<_, string>;
            }
        }
    ",
    generate_all,
});

use exports::wasmcloud::messaging::handler::Guest;
use wasmcloud::messaging::consumer::publish;
use wasmcloud::messaging::types::BrokerMessage;

struct Handler;

export!(Handler);

impl Guest for Handler {
    fn handle_message(message: BrokerMessage) -> Result<(), String> {
        let BrokerMessage { subject, body, reply_to } = message;
        if let Some(inbox) = reply_to {
            let body = [b"reply: ", body.as_slice()].concat();
            return publish(&BrokerMessage { subject: inbox, body, reply_to: None });
        }
        let body = [subject.as_bytes(), b" ", &body].concat();
        publish(&BrokerMessage { subject: "seen.message".into(), body, reply_to: None })?;
        match subject.as_str() {
            "work.fails" => Err("not today".into()),
            "work.traps" => panic!("it traps"),
            _ => Ok(()),
        }
    }
}
