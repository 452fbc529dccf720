//! Handles messages by the interface that Spin's SDKs have since version 4, and no requests. It publishes `got BODY` to `seen.message`,
//! fails `fails` and traps on `traps`.

wit_bindgen::generate!({
    inline: "
        package lodge:inbound3;

        world inbound3 {
            import wasmcloud:messaging/consumer@0.2.0;
            export spin:redis/inbound-redis@3.0.0;
        }

        package spin:redis@3.0.0 {
            interface redis {
                variant error { invalid-address, too-many-connections, type-error, other(string) }
                type payload = list<u8>;
                resource connection {
                    open: static async func(address: string) -> result<connection, error>;
                }
            }
            interface inbound-redis {
                use redis.{payload, error};
                handle-message: async func(message: payload) -> result<_, error>;
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

use exports::spin::redis::inbound_redis::{Error, Guest, Payload};
use wasmcloud::messaging::consumer::publish;
use wasmcloud::messaging::types::BrokerMessage;

struct Handler;

export!(Handler);

impl Guest for Handler {
    async fn handle_message(message: Payload) -> Result<(), Error> {
        let body = [b"got ", message.as_slice()].concat();
        let seen = BrokerMessage { subject: "seen.message".into(), body, reply_to: None };
        publish(&seen).map_err(Error::Other)?;
        match message.as_slice() {
            b"fails" => Err(Error::Other("not today".into())),
            b"traps" => panic!("it traps"),
            _ => Ok(()),
        }
    }
}
