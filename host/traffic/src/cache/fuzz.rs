//! A fuzz target for what RFC 9111 makes of the headers of requests and responses.

use std::time::{Duration, SystemTime};

use http::{Response, StatusCode};

use super::freshness::{Terms, Times};
use lodge_base::fuzz::{header_lines, line};
use lodge_manifest::cache::Rules;

/// A status on the first line, the request's headers up to an empty line, and the response's below: a stored response
/// grows older with time, and what is fresh now was fresh before.
pub fn response(bytes: &[u8]) {
    let (status, rest) = line(bytes);
    let end = rest.windows(2).position(|two| two == b"\n\n").unwrap_or(rest.len());
    let (asked, answer) = rest.split_at_checked(end).unwrap_or_default();
    let asked = header_lines(asked);
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_bytes(status).unwrap_or(StatusCode::OK);
    *response.headers_mut() = header_lines(answer.get(2..).unwrap_or_default());
    let (head, ()) = response.into_parts();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let Some(terms) = Terms::of(&asked, &head, Rules::default(), Times { requested: now, received: now }) else {
        return;
    };
    let mut before: Option<(u64, i64, bool)> = None;
    for after in [0, 1, 59, 86_400, 1 << 31, 1 << 33] {
        let then = now + Duration::from_secs(after);
        let at = (terms.age(then), terms.left(then), terms.is_fresh(then));
        let _ = (terms.satisfies(&asked, then), terms.serves_meanwhile(then), terms.serves_on_error(then));
        assert!(before.is_none_or(|before| before.0 <= at.0 && before.1 >= at.1 && before.2 >= at.2), "{at:?}");
        before = Some(at);
    }
}
