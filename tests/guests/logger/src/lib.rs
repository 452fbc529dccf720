//! Writes hostile text through wasi:logging and to both streams; on /flood, lines of 10 MiB before that.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

wit_bindgen::generate!({
    inline: "
        package lodge:logger;

        world logger {
            import wasi:logging/logging@0.1.0-draft;
        }

        package wasi:logging@0.1.0-draft {
            interface logging {
                enum level { trace, debug, info, warn, error, critical }
                log: func(level: level, context: string, message: string);
            }
        }
    ",
    generate_all,
});

use wasi::logging::logging::{Level, log};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        if request.path_with_query().unwrap_or_default().ends_with("/flood") {
            eprintln!("{}", "x".repeat(10 << 20));
            log(Level::Info, "", &"y".repeat(10 << 20));
        }
        log(Level::Warn, "orders", "stock is low");
        log(Level::Debug, "orders", "too quiet to hear");
        log(Level::Critical, "con\ntext", "two\nlines \u{1b}[31mred\u{1b}[0m");
        println!("{{\"level\":\"ERROR\",\"service\":\"users\",\"message\":\"forged\"}}");
        println!("2026-01-01T00:00:00Z ERROR forged service=users");
        eprintln!("\u{1b}[2J\u{1b}]0;title\u{7}\rgone\u{9b}31m\u{202e}");
        eprint!("no end");
        kit::text(outparam, "");
    }
}
