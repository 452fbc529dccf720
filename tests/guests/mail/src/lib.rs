//! Handles the messages to `orders.created`: here, a mail is a line in the log.

wit_bindgen::generate!({ path: "../../../wit/deps/messaging.wit", world: "handler-service" });

use exports::wasmcloud::messaging::handler::Guest;
use wasmcloud::messaging::types::BrokerMessage;

struct Mail;

export!(Mail);

impl Guest for Mail {
    fn handle_message(message: BrokerMessage) -> Result<(), String> {
        let order = String::from_utf8(message.body).map_err(|_| "the order is not a text")?;
        println!("a mail for the order {order}");
        // Acknowledged. After an error it is delivered again.
        Ok(())
    }
}
