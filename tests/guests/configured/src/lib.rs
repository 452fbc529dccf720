//! Responds with its configuration: `/SERVICE/INTERFACE/KEY`, without a key with all of it. `twice` reads a key, waits for a
//! second, and reads it again. `env` reads an environment variable. `print` and `print-env` write the value to all outputs and trap.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

wit_bindgen::generate!({
    path: ["../kit/wit/spin@2.0.0"],
    inline: "
        package lodge:configured;

        world configured {
            import wasi:config/store@0.2.0-rc.1;
            import wasi:config/store@0.2.0-draft;
            import wasi:config/store@0.2.0-draft-2024-09-27;
            import fermyon:spin/variables@2.0.0;
        }

        package wasi:config@0.2.0-rc.1 {
            interface store {
                variant error { upstream(string), io(string) }
                get: func(key: string) -> result<option<string>, error>;
                get-all: func() -> result<list<tuple<string, string>>, error>;
            }
        }

        package wasi:config@0.2.0-draft {
            interface store {
                variant error { upstream(string), io(string) }
                get: func(key: string) -> result<option<string>, error>;
                get-all: func() -> result<list<tuple<string, string>>, error>;
            }
        }

        package wasi:config@0.2.0-draft-2024-09-27 {
            interface store {
                variant error { upstream(string), io(string) }
                get: func(key: string) -> result<option<string>, error>;
                get-all: func() -> result<list<tuple<string, string>>, error>;
            }
        }
    ",
    generate_all,
});

use fermyon::spin::variables;
use wasi::config0_2_0_draft::store as draft;
use wasi::config0_2_0_draft_2024_09_27::store as dated;
use wasi::config0_2_0_rc_1::store as candidate;

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let parts: Vec<_> = target.splitn(4, '/').skip(2).collect();
        let text = match parts[..] {
            [interface, key] => read(interface, key),
            _ => format!("no key: {target}"),
        };
        kit::text(outparam, text);
    }
}

fn read(interface: &str, key: &str) -> String {
    let text = |value: Option<String>| value.unwrap_or("none".into());
    let all = |pairs: Vec<(String, String)>| {
        pairs.into_iter().map(|(key, value)| key + "=" + &value).collect::<Vec<_>>().join(",")
    };
    match (interface, key) {
        ("candidate", "") => all(candidate::get_all().unwrap()),
        ("draft", "") => all(draft::get_all().unwrap()),
        ("dated", "") => all(dated::get_all().unwrap()),
        ("candidate", key) => text(candidate::get(key).unwrap()),
        ("draft", key) => text(draft::get(key).unwrap()),
        ("dated", key) => text(dated::get(key).unwrap()),
        ("spin", key) => variables::get(key).unwrap_or_else(|error| format!("{error:?}")),
        ("twice", key) => {
            let before = text(draft::get(key).unwrap());
            wasip2::clocks::monotonic_clock::subscribe_duration(3_000_000_000).block();
            before + " " + &text(draft::get(key).unwrap())
        }
        ("env", key) => std::env::var(key).unwrap_or("none".into()),
        ("print" | "print-env", key) => {
            let value = match interface {
                "print" => text(draft::get(key).unwrap()),
                _ => std::env::var(key).unwrap(),
            };
            println!("stdout has {value}");
            eprintln!("stderr has {value}");
            panic!("the guest has failed with {value}");
        }
        _ => format!("no interface: {interface}"),
    }
}
