//! Returns the wasi:http error code that the path names.

use wasip2::http::types::{ErrorCode, IncomingRequest, ResponseOutparam};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let code = match path.rsplit('/').next() {
            Some("timeout") => ErrorCode::HttpResponseTimeout,
            Some("refused") => ErrorCode::ConnectionRefused,
            Some("too-large") => ErrorCode::HttpRequestBodySize(None),
            Some("loop") => ErrorCode::LoopDetected,
            Some("denied") => ErrorCode::HttpRequestDenied,
            _ => ErrorCode::InternalError(Some("the secret of the errorcode guest".into())),
        };
        ResponseOutparam::set(outparam, Err(code));
    }
}
