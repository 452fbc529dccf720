//! Imports the whole world of Spin, as components of its Python SDK do, and calls one interface: `/SERVICE/INTERFACE`. Responds with
//! its error, and with 500 if there is none.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

wit_bindgen::generate!({
    path: ["../kit/wit/spin@2.0.0", "../kit/wit/spin-postgres@3.0.0"],
    inline: "
        package lodge:worldly;

        world worldly {
            import fermyon:spin/llm@2.0.0;
            import fermyon:spin/mqtt@2.0.0;
            import fermyon:spin/mysql@2.0.0;
            import fermyon:spin/postgres@2.0.0;
            import fermyon:spin/redis@2.0.0;
            import fermyon:spin/key-value@2.0.0;
            import spin:postgres/postgres@3.0.0;
            import wasi:cli/environment@0.3.0-rc-2026-03-15;
        }

        package wasi:cli@0.3.0-rc-2026-03-15 {
            interface environment {
                get-arguments: func() -> list<string>;
            }
        }
    ",
    generate_all,
});

use fermyon::spin::key_value::{Error, Store};
use fermyon::spin::{llm, mqtt, mysql, postgres, redis};
use spin::postgres::postgres as postgres3;

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (status, text) = match call(target.rsplit('/').next().unwrap_or_default()) {
            Some(text) => (200, text),
            None => (500, String::new()),
        };
        kit::respond(outparam, status, text);
    }
}

fn call(interface: &str) -> Option<String> {
    let address = "127.0.0.1:9";
    Some(match interface {
        "llm" => format!("{:?}", llm::infer("model", "prompt", None).err()?),
        "mqtt" => format!("{:?}", mqtt::Connection::open(address, "", "", 1).err()?),
        "mysql" => format!("{:?}", mysql::Connection::open(address).err()?),
        "postgres" => format!("{:?}", postgres::Connection::open(address).err()?),
        "postgres3" => format!("{:?}", postgres3(address).err()?),
        "redis" => format!("{:?}", redis::Connection::open(address).err()?),
        "arguments" => format!("{:?}", wasi::cli::environment::get_arguments()),
        "visits" => match visits() {
            Ok(count) => format!("visit {count}"),
            Err(error) => format!("{error:?}"),
        },
        _ => return None,
    })
}

/// Imports all functions of the interface, with all their types.
fn postgres3(address: &str) -> Result<u64, postgres3::Error> {
    let connection = postgres3::Connection::open(address)?;
    connection.query("SELECT 1", &[])?;
    connection.execute("SELECT 1", &[])
}

/// Counts in the store, as a real component does.
fn visits() -> Result<u64, Error> {
    let store = Store::open("default")?;
    let text = store.get("visits")?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let count = text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) + 1;
    store.set("visits", count.to_string().as_bytes())?;
    Ok(count)
}
