//! A message as a request: sent to the service that consumes it, through the same path as a client's request.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::header::HeaderValue;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};

use super::handle::handle;
use super::handler::{Call, Caller, Handler};
use super::record::Record;
use super::respond::{Aborted, Body};
use lodge_traffic::proxy::headers::{Peer, REQUEST_ID};

/// How the service has handled a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handled {
    /// The status of its response, or that of the error.
    pub status: StatusCode,
    /// Whether the service worked on it; otherwise it was refused before.
    pub reached: bool,
    /// Whether its response was complete.
    pub complete: bool,
    /// Why there is no response of the service, or not all of it.
    pub reason: Option<&'static str>,
    /// The id of the request, which is in the log with its failure.
    pub request_id: Arc<str>,
    /// The body of the response; `None` if it is larger than what was wanted, or not complete.
    pub body: Option<Bytes>,
}

/// On whose behalf a message is sent.
pub struct MessageSender<'a> {
    /// The peer that policies see.
    pub peer: &'a Peer,
    /// The id of the request; a new one if `None`.
    pub request_id: Option<Arc<str>>,
    /// The number of calls that led to it.
    pub depth: usize,
    /// When its time is used up, if that is before the service's own limit.
    pub deadline: Instant,
}

impl Handler {
    /// Sends a message to the service with this host name, and returns how it was handled, with up to `wanted` bytes of the
    /// body of its response.
    pub async fn send_message(
        &self,
        host: &str,
        sender: MessageSender<'_>,
        mut request: Request<Full<Bytes>>,
        wanted: usize,
    ) -> Handled {
        let MessageSender { peer, request_id, depth, deadline } = sender;
        let id = request_id.unwrap_or_else(|| self.ids.request());
        let call = Call { host, elsewhere: None, from: None, request_id: Arc::clone(&id), deadline, depth };
        // The id is made of hexadecimal digits, or was a header already.
        let id_header = HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("invalid"));
        request.headers_mut().insert(REQUEST_ID, id_header);
        let mut record = Record::new(Arc::clone(&id), self.tracer.begin(request.headers_mut()));
        let caller = Caller { peer, call: Some(&call), client: peer.address() };
        match Box::pin(handle(self, &caller, request, &mut record)).await {
            Ok(response) => {
                let status = response.status();
                record.set_status(status);
                let read = read(response.into_body().with(record), wanted).await;
                let reason = read.as_ref().err().map(Aborted::reason);
                let complete = reason.is_none();
                Handled { status, reached: true, complete, reason, request_id: id, body: read.unwrap_or_default() }
            }
            Err(error) => {
                record.report_failure(&error, &self.unmatched, peer.address());
                record.set_status(error.status());
                // No response is sent, so it is complete.
                record.set_complete();
                let (reached, reason) = (error.reached_backend(), Some(error.reason()));
                Handled { status: error.status(), reached, complete: true, reason, request_id: id, body: None }
            }
        }
    }
}

/// Reads a body to its end, and returns it if it has at most `wanted` bytes.
///
/// # Errors
/// If it breaks off.
async fn read(mut body: Body, wanted: usize) -> Result<Option<Bytes>, Aborted> {
    let mut whole = Some(BytesMut::new());
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        if let (Some(data), Some(read)) = (frame.data_ref(), &mut whole) {
            if data.len() > wanted.saturating_sub(read.len()) {
                whole = None;
            } else {
                read.extend_from_slice(data);
            }
        }
    }
    Ok(whole.map(BytesMut::freeze))
}
