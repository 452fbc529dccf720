//! Middleware: writes lines and fails, as the path says. It keeps the names of its functions.

use wasip3::http::types::{ErrorCode, Request, Response};
use wasip3::wit_stream;

/// The import that a service does not have.
mod bindings {
    wit_bindgen::generate!({
        inline: "
            package lodge:witness;
            world witness { import wasi:http/handler@0.3.2; }
        ",
        path: "../../../wit/0.3.2",
        world: "lodge:witness/witness",
        with: {
            "wasi:clocks/types@0.3.2": wasip3::clocks::types,
            "wasi:http/types@0.3.2": wasip3::http::types,
        },
        generate_all,
    });
}

use bindings::wasi::http::handler;

struct Witness;

wasip3::http::service::export!(Witness);

impl wasip3::exports::http::handler::Guest for Witness {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        if path.ends_with("/lines") {
            // The standard library writes by WASI 0.2.
            println!("a line to stdout");
            eprint!("an unfinished line to stderr");
            let (mut to, data) = wit_stream::new();
            let written = wasip3::cli::stderr::write_via_stream(data);
            to.write_all(b"a line by WASI 0.3\n".to_vec()).await;
            drop(to);
            let _ = written.await;
        }
        if path.ends_with("/panic") {
            seat_of(&path, path.len());
        }
        if path.ends_with("/loop") {
            while !core::hint::black_box(&path).is_empty() {}
        }
        handler::handle(request).await
    }
}

#[inline(never)]
fn seat_of(path: &str, number: usize) {
    core::hint::black_box(path.as_bytes()[number]);
}
