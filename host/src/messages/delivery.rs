//! A message as an HTTP request, and what the response means for the message.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::Full;

use crate::request::message::Handled;
use lodge_manifest::consume::Consume;
use lodge_runtime::capabilities::messaging::MessageDelivery;
use lodge_state::messages::{Delivery, Fault, FaultReason, Message, Settlement};

/// The subject of the message.
const SUBJECT: HeaderName = HeaderName::from_static("message-subject");
/// Its id, the same in every delivery.
const ID: HeaderName = HeaderName::from_static("message-id");
/// The number of the delivery, from 1.
const ATTEMPT: HeaderName = HeaderName::from_static("message-attempt");
/// The subject of replies.
const REPLY_TO: HeaderName = HeaderName::from_static("message-reply-to");
/// The subject at which a dead message died.
const ORIGIN: HeaderName = HeaderName::from_static("message-origin");

/// Returns the request for a message to the service with this host name.
///
/// # Errors
/// If the message cannot be sent at all.
pub(super) fn request(host: &str, path: Option<&str>, message: &Message) -> Result<Request<Full<Bytes>>, http::Error> {
    let subject = message.subject.as_str();
    let uri = match path {
        Some(path) => format!("http://{host}{path}"),
        None => format!("http://{host}/messages/{subject}"),
    };
    let body = message.body.bytes();
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(header::CONTENT_TYPE, message.headers.get("content-type").unwrap_or("application/octet-stream"))
        .header(header::CONTENT_LENGTH, body.len())
        .header(SUBJECT, subject);
    let others = message.headers.iter().filter(|(name, _)| *name != "content-type");
    // Fields that the host or the next hop defines come from nobody else.
    for (name, value) in others.filter(|(name, _)| matches!(*name, "traceparent" | "tracestate")) {
        request = request.header(name, value);
    }
    if let Some(reply_to) = &message.reply_to {
        request = request.header(REPLY_TO, reply_to.as_str());
    }
    let reply_to = message.reply_to.as_ref().map(|reply_to| reply_to.as_str().to_owned());
    request.extension(MessageDelivery { subject: subject.to_owned(), reply_to }).body(Full::new(body))
}

/// Returns the request for a delivery.
///
/// # Errors
/// As [`request`].
pub(super) fn delivered(
    host: &str,
    path: Option<&str>,
    delivery: &Delivery,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut request = request(host, path, &delivery.message)?;
    let headers = request.headers_mut();
    headers.insert(ID, HeaderValue::from_str(delivery.id.as_str())?);
    headers.insert(ATTEMPT, delivery.attempt.into());
    if let Some(origin) = &delivery.origin {
        headers.insert(ORIGIN, HeaderValue::from_str(origin.as_str())?);
    }
    Ok(request)
}

/// Returns what becomes of a message of this age that was delivered for the `attempt`th time and handled in this way.
pub(super) fn settlement(handled: &Handled, (attempt, age): (u32, Duration), consume: &Consume) -> Settlement {
    let Handled { status, reached, complete, .. } = *handled;
    let fault = fault(handled);
    match status {
        status if status.is_success() && complete => Settlement::Acknowledge,
        // It was not delivered: the service is full, starting or disabled.
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS if !reached => {
            Settlement::Release(consume.pause)
        }
        // The host refused it, as its rules or routes are now. It waits for as long again as it has waited.
        status if is_of_the_host(status, reached) => Settlement::Release(age.max(consume.pause).min(consume.max_pause)),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Settlement::Retry(pause(attempt, consume), fault)
        }
        // The message is at fault, and will be the next time.
        status if status.is_client_error() => Settlement::Reject(fault),
        _ => Settlement::Retry(pause(attempt, consume), fault),
    }
}

/// Returns why a message was not handled.
pub(super) fn fault(handled: &Handled) -> Fault {
    let status = handled.status.as_u16();
    match (handled.reason, handled.complete) {
        (reason, false) => Fault::BrokenOff(FaultReason::new(reason.unwrap_or_default())),
        (Some(reason), true) => Fault::Failed(status, FaultReason::new(reason)),
        (None, true) => Fault::Status(status),
    }
}

/// Whether the host has refused a message for a reason that is not in the message itself, as its form and its size are.
pub(super) fn is_of_the_host(status: StatusCode, reached: bool) -> bool {
    const OF_MESSAGE: [StatusCode; 6] = [
        StatusCode::BAD_REQUEST,
        StatusCode::PAYLOAD_TOO_LARGE,
        StatusCode::URI_TOO_LONG,
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        StatusCode::UNPROCESSABLE_ENTITY,
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    ];
    !reached && status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS && !OF_MESSAGE.contains(&status)
}

/// The pause after a delivery: doubled with each.
fn pause(attempt: u32, consume: &Consume) -> Duration {
    let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
    consume.pause.saturating_mul(doubled).min(consume.max_pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consume() -> Consume {
        Consume {
            subjects: vec!["a".into()],
            path: None,
            concurrency: 1,
            max_deliver: 10,
            pause: Duration::from_secs(1),
            max_pause: Duration::from_secs(60),
            dead_letter: None,
            messages: 1,
            bytes: 1,
            at_most_once: false,
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let seconds = |attempt| pause(attempt, &consume()).as_secs();
        assert_eq!([1, 2, 3, 6, 7, 8, 1000].map(seconds), [1, 2, 4, 32, 60, 60, 60]);
    }

    fn handled(status: u16, reached: bool, complete: bool) -> Handled {
        let (status, request_id) = (StatusCode::from_u16(status).unwrap(), "1".into());
        Handled { status, reached, complete, reason: None, request_id, body: None }
    }

    #[test]
    fn faults_have_the_reason_of_the_host() {
        let trapped = |complete| fault(&Handled { reason: Some("trapped"), ..handled(502, true, complete) });
        let reason = FaultReason::new("trapped");
        assert_eq!([trapped(true), trapped(false)], [Fault::Failed(502, reason), Fault::BrokenOff(reason)]);
        assert_eq!(fault(&handled(502, true, true)), Fault::Status(502), "a response of the service has none");
    }

    #[test]
    fn only_the_fault_of_the_message_ends_it_at_once() {
        let settled = |status: u16, reached, complete| {
            let handled = handled(status, reached, complete);
            settlement(&handled, (2, Duration::from_secs(7)), &consume())
        };
        let retry = |fault| Settlement::Retry(Duration::from_secs(2), fault);
        let reject = |status| Settlement::Reject(Fault::Status(status));
        let release = Settlement::Release(Duration::from_secs(1));
        assert_eq!(settled(200, true, true), Settlement::Acknowledge);
        assert_eq!(settled(204, true, true), Settlement::Acknowledge);
        assert_eq!(
            settled(200, true, false),
            retry(Fault::BrokenOff(FaultReason::new(""))),
            "a response that breaks off is no acknowledgement"
        );
        for status in [301, 408, 429, 500, 502, 503, 504] {
            assert_eq!(settled(status, true, true), retry(Fault::Status(status)), "{status}");
        }
        for status in [400, 404, 410, 422] {
            assert_eq!(settled(status, true, true), reject(status), "{status}");
        }
        assert_eq!([settled(503, false, true), settled(429, false, true)], [release, release]);
        for status in [401, 403, 404, 405, 418] {
            assert_eq!(settled(status, false, true), Settlement::Release(Duration::from_secs(7)), "{status}");
            assert_eq!(settled(status, true, true), reject(status), "{status}");
        }
        for status in [400, 413, 415, 422] {
            assert_eq!(settled(status, false, true), reject(status), "{status}");
        }
        // The pause grows with the age, within its bounds.
        let refused = handled(403, false, true);
        for (age, pause) in [(0, 1), (30, 30), (3600, 60)] {
            let settled = settlement(&refused, (1, Duration::from_secs(age)), &consume());
            assert_eq!(settled, Settlement::Release(Duration::from_secs(pause)));
        }
    }
}
