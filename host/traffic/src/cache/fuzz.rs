//! A fuzz target for the freshness of responses (RFC 9111).

use std::time::{Duration, SystemTime};

use http::{Response, StatusCode};

use super::freshness::{Freshness, Times};
use lodge_base::fuzz::{header_lines, line};
use lodge_manifest::cache::Rules;

/// Takes a status on the first line, then the request's headers up to an empty line, then the response's headers.
/// Checks that the age of a stored response never falls, and that a stale one never becomes fresh again.
pub fn response(bytes: &[u8]) {
    let (status, rest) = line(bytes);
    let end = rest.windows(2).position(|two| two == b"\n\n").unwrap_or(rest.len());
    let (request_headers, response_headers) = rest.split_at_checked(end).unwrap_or_default();
    let request_headers = header_lines(request_headers);
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_bytes(status).unwrap_or(StatusCode::OK);
    *response.headers_mut() = header_lines(response_headers.get(2..).unwrap_or_default());
    let (head, ()) = response.into_parts();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let Some(freshness) =
        Freshness::of(&request_headers, &head, Rules::default(), Times { requested: now, received: now })
    else {
        return;
    };
    let mut before: Option<(u64, i64, bool)> = None;
    for after in [0, 1, 59, 86_400, 1 << 31, 1 << 33] {
        let then = now + Duration::from_secs(after);
        let at = (freshness.age(then), freshness.left(then), freshness.is_fresh(then));
        let _ = (
            freshness.satisfies(&request_headers, then),
            freshness.allows_while_revalidating(then),
            freshness.allows_on_error(then),
        );
        assert!(before.is_none_or(|before| before.0 <= at.0 && before.1 >= at.1 && before.2 >= at.2), "{at:?}");
        before = Some(at);
    }
}
