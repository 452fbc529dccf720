//! Fuzz targets for trace headers of callers and responses of collectors.

use http::header::HeaderMap;

use super::{context, otlp};
use crate::fuzz::header_lines;

/// Reads a trace context from headers, writes it and reads it again, which must give the same trace.
pub fn context(bytes: &[u8]) {
    let headers = header_lines(bytes);
    let Some(context) = context::extract(&headers) else { return };
    let mut onward = HeaderMap::new();
    context.inject(&mut onward, 1);
    if context.trace_id != 0 {
        let again = context::extract(&onward).map(|again| (again.trace_id, again.parent));
        assert_eq!(again, Some((context.trace_id, 1)), "{onward:?}");
    }
}

/// A collector's response to an export.
pub fn otlp(bytes: &[u8]) {
    let _ = otlp::rejected(bytes);
}
