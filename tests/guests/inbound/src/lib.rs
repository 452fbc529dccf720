//! Handles messages by the interface that Spin's SDKs had until version 3, and no requests. It publishes `got BODY` to `seen.message`,
//! fails `fails` and traps on `traps`.

wit_bindgen::generate!({
    inline: "
        package lodge:inbound;

        world inbound {
            import wasmcloud:messaging/consumer@0.2.0;
            export fermyon:spin/inbound-redis;
        }

        package fermyon:spin {
            interface redis-types {
                enum error { success, error }
                type payload = list<u8>;
            }
            interface inbound-redis {
                use redis-types.{payload, error};
                handle-message: func(message: payload) -> result<_, error>;
            }
        }

        package wasmcloud:messaging@0.2.0 {
            interface types {
                record broker-message { subject: string, body: list<u8>, reply-to: option<string> }
            }
            interface consumer {
                use types.{broker-message};
                publish: func(msg: broker-message) -> result<_, string>;
            }
        }
    ",
    generate_all,
});

use exports::fermyon::spin::inbound_redis::{Error, Guest, Payload};
use wasmcloud::messaging::consumer::publish;
use wasmcloud::messaging::types::BrokerMessage;

struct Handler;

export!(Handler);

impl Guest for Handler {
    fn handle_message(message: Payload) -> Result<(), Error> {
        let body = [b"got ", message.as_slice()].concat();
        let seen = BrokerMessage { subject: "seen.message".into(), body, reply_to: None };
        publish(&seen).map_err(|_| Error::Error)?;
        match message.as_slice() {
            b"fails" => Err(Error::Error),
            b"traps" => panic!("it traps"),
            _ => Ok(()),
        }
    }
}
