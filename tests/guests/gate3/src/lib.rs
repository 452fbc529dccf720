//! Middleware: refuses paths that end in `/refused`, and adds the header `x-gate` to the responses of what is behind it.

use http::{HeaderValue, Response};
use wasip3::http::types::{ErrorCode, Request, Response as WasiResponse};
use wasip3::http_compat::{http_from_wasi_response, http_into_wasi_response};

/// The import that a service does not have: what is behind the middleware. `wasip3` has the types, so that requests and responses fit.
mod bindings {
    wit_bindgen::generate!({
        inline: "
            package lodge:gate;
            world gate { import wasi:http/handler@0.3.2; }
        ",
        path: "../../../wit/0.3.2",
        world: "lodge:gate/gate",
        with: {
            "wasi:clocks/types@0.3.2": wasip3::clocks::types,
            "wasi:http/types@0.3.2": wasip3::http::types,
        },
        generate_all,
    });
}

use bindings::wasi::http::handler;

struct Gate;

wasip3::http::service::export!(Gate);

impl wasip3::exports::http::handler::Guest for Gate {
    async fn handle(request: Request) -> Result<WasiResponse, ErrorCode> {
        if request.get_path_with_query().unwrap_or_default().ends_with("/refused") {
            let refusal = Response::builder().status(403).header("content-type", "text/plain");
            return http_into_wasi_response(refusal.body("refused by the gate".to_owned()).unwrap_or_default());
        }
        let mut response = http_from_wasi_response(handler::handle(request).await?)?;
        response.headers_mut().append("x-gate", HeaderValue::from_static("passed"));
        http_into_wasi_response(response)
    }
}
