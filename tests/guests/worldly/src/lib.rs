//! Imports the whole world of Spin, as components of its Python SDK do, and calls one interface: `/SERVICE/INTERFACE`. Responds with
//! its error, and with 500 if there is none.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

wit_bindgen::generate!({
    inline: "
        package lodge:worldly;

        world worldly {
            import fermyon:spin/llm@2.0.0;
            import fermyon:spin/mqtt@2.0.0;
            import fermyon:spin/mysql@2.0.0;
            import fermyon:spin/postgres@2.0.0;
            import fermyon:spin/redis@2.0.0;
            import fermyon:spin/key-value@2.0.0;
            import wasi:cli/environment@0.3.0-rc-2026-03-15;
        }

        package fermyon:spin@2.0.0 {
            interface llm {
                record inferencing-params {
                    max-tokens: u32,
                    repeat-penalty: f32,
                    repeat-penalty-last-n-token-count: u32,
                    temperature: f32,
                    top-k: u32,
                    top-p: f32,
                }
                variant error { model-not-supported, runtime-error(string), invalid-input(string) }
                record inferencing-usage { prompt-token-count: u32, generated-token-count: u32 }
                record inferencing-result { text: string, usage: inferencing-usage }
                infer: func(model: string, prompt: string, params: option<inferencing-params>)
                    -> result<inferencing-result, error>;
            }
            interface mqtt {
                variant error { invalid-address, too-many-connections, connection-failed(string), other(string) }
                resource connection {
                    open: static func(address: string, username: string, password: string, keep-alive-interval-in-secs: u64)
                        -> result<connection, error>;
                }
            }
            interface rdbms-types {
                variant error {
                    connection-failed(string),
                    bad-parameter(string),
                    query-failed(string),
                    value-conversion-failed(string),
                    other(string),
                }
            }
            interface mysql {
                use rdbms-types.{error};
                resource connection {
                    open: static func(address: string) -> result<connection, error>;
                }
            }
            interface postgres {
                use rdbms-types.{error};
                resource connection {
                    open: static func(address: string) -> result<connection, error>;
                }
            }
            interface redis {
                variant error { invalid-address, too-many-connections, type-error, other(string) }
                resource connection {
                    open: static func(address: string) -> result<connection, error>;
                }
            }
            interface key-value {
                variant error { store-table-full, no-such-store, access-denied, other(string) }
                resource store {
                    open: static func(label: string) -> result<store, error>;
                    get: func(key: string) -> result<option<list<u8>>, error>;
                    set: func(key: string, value: list<u8>) -> result<_, error>;
                }
            }
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
        "redis" => format!("{:?}", redis::Connection::open(address).err()?),
        "arguments" => format!("{:?}", wasi::cli::environment::get_arguments()),
        "visits" => match visits() {
            Ok(count) => format!("visit {count}"),
            Err(error) => format!("{error:?}"),
        },
        _ => return None,
    })
}

/// Counts in the store, as a real component does.
fn visits() -> Result<u64, Error> {
    let store = Store::open("default")?;
    let text = store.get("visits")?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let count = text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) + 1;
    store.set("visits", count.to_string().as_bytes())?;
    Ok(count)
}
