//! Compares a response with the document of its service, for developers: only `lodge dev` does. The response stays as it is, and its body
//! goes on as it arrives.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::response::Parts;
use http::{Method, Request, Response};
use http_body::Frame;

use super::{Body, Source};
use crate::guests::target::Target;
use lodge_base::time::rfc3339;
use lodge_traffic::service::{ResponseMismatch, Service};
use lodge_traffic::validation::ExpectedBody;

/// The most characters of a path in a report.
const MOST_PATH: usize = 200;

/// A request whose response is compared.
pub(in crate::request) struct ResponseCheck {
    target: Arc<Target>,
    route: usize,
    method: Method,
    path: String,
    request_id: Arc<str>,
}

/// The body of a response, as far as it was sent.
pub(super) struct CheckedBody {
    report: MismatchReport,
    expected: ExpectedBody,
    data: Vec<u8>,
}

struct MismatchReport {
    service: Arc<Service>,
    request_id: Arc<str>,
    operation: String,
}

impl ResponseCheck {
    /// Returns the check of the response to a request; `None` where responses are not checked.
    pub(in crate::request) fn of<B>(
        target: &Arc<Target>,
        route: usize,
        request: &Request<B>,
        request_id: &Arc<str>,
    ) -> Option<Box<Self>> {
        target.validation()?.checks_responses(route).then(|| {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            Box::new(Self { target: Arc::clone(target), route, method, path, request_id: Arc::clone(request_id) })
        })
    }

    /// Checks the head, and goes on with the body while that is sent.
    pub(in crate::request) fn begin(self, response: Response<Body>) -> Response<Body> {
        let (head, mut body) = response.into_parts();
        let path: String = self.path.chars().take(MOST_PATH).collect();
        let operation = format!("{} {path}", self.method);
        let service = Arc::clone(&self.target.deployment().service);
        let report = MismatchReport { service, request_id: Arc::clone(&self.request_id), operation };
        match self.expected(&head) {
            Err(why) => report.tell(why),
            Ok(None) => {}
            Ok(Some(expected)) => body.check(CheckedBody { report, expected, data: Vec::new() }),
        }
        Response::from_parts(head, body)
    }

    fn expected(&self, head: &Parts) -> Result<Option<ExpectedBody>, String> {
        let Some(checks) = self.target.validation() else { return Ok(None) };
        checks.response(self.route, (&self.method, &self.path), (head.status, &head.headers))
    }
}

impl CheckedBody {
    /// Copies a frame. Returns whether the check goes on.
    pub(super) fn frame(&mut self, frame: &Frame<Bytes>) -> bool {
        let Some(data) = frame.data_ref() else { return true };
        if data.len() > self.expected.most_bytes().saturating_sub(self.data.len()) {
            let why = format!("the body has more than {} bytes, so that it is not checked", self.expected.most_bytes());
            self.report.tell(why);
            return false;
        }
        self.data.extend_from_slice(data);
        true
    }

    /// Checks the body at its end, on a thread that may compute for long.
    pub(super) fn end(self) {
        let Self { report, expected, data } = self;
        let check = move || {
            if let Err(fault) = expected.check(&data) {
                report.tell(fault.of_response());
            }
        };
        tokio::task::spawn_blocking(check);
    }
}

impl MismatchReport {
    fn tell(&self, why: String) {
        let Self { service, request_id, operation } = self;
        let name = &*service.name;
        tracing::warn!(
            service = name,
            request_id = &**request_id,
            "{operation}: the response is not as its document says: {why}"
        );
        let (at, request_id) = (rfc3339(SystemTime::now()), request_id.to_string());
        service.record_mismatch(ResponseMismatch { at, request_id, operation: operation.clone(), why });
    }
}

impl Body {
    /// Checks the body while it is sent; at once if nothing of it is left to send.
    fn check(&mut self, mut checked: CheckedBody) {
        match &self.source {
            Source::Text(None) => checked.end(),
            Source::Whole(frames) => {
                if frames.iter().all(|frame| checked.frame(frame)) {
                    checked.end();
                }
            }
            _ => self.checked = Some(Box::new(checked)),
        }
    }

    /// Copies a frame of a response that is checked, and ends the check with the last one.
    pub(super) fn see(&mut self, frame: Option<&Frame<Bytes>>) {
        let Some(mut checked) = self.checked.take() else { return };
        match frame {
            Some(frame) if !checked.frame(frame) => {}
            Some(_) if !self.source.is_end() => self.checked = Some(checked),
            _ => checked.end(),
        }
    }
}
