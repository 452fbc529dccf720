//! Mirroring: a second version receives a copy of a request, and its response is discarded. The client never waits for
//! the copy: the copy runs only if a slot is free at once, and is aborted when it reads more slowly than the original.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use wasmtime_wasi_http::Error;

use super::dispatch::{Admitted, dispatch};
use super::pages::ErrorPages;
use super::record::Record;
use super::respond;
use crate::guests::target::Target;
use lodge_base::budget::Budget;
use lodge_base::telemetry::traces::{Trace, Tracer};
use lodge_runtime::body::RequestBody;
use lodge_runtime::capabilities::sandbox::RequestContext;
use lodge_traffic::admission::TimeLimit;

/// The most frames by which the copy may be behind the original. A frame has at most 512 KiB (hyper's read buffer),
/// usually 8 KiB.
const BEHIND: usize = 64;

/// The body of a mirrored request, or of its copy.
pub type AnyBody = UnsyncBoxBody<Bytes, Error>;

/// The original body, which also sends its frames to the copy.
struct Original<B> {
    inner: B,
    copy: Option<Sender<Part>>,
}

/// The body of the copy.
struct Copy {
    parts: Receiver<Part>,
    ended: bool,
    hint: SizeHint,
}

enum Part {
    Frame(Frame<Bytes>),
    End,
}

/// Splits a request into the original and a copy. The copy receives the body as the original is read.
pub fn duplicate<B: RequestBody>(request: Request<B>) -> (Request<AnyBody>, Request<AnyBody>) {
    let (head, inner) = request.into_parts();
    let hint = inner.size_hint();
    let (sender, parts) = channel(BEHIND);
    if inner.is_end_stream() {
        let _ = sender.try_send(Part::End);
    }
    let copy = Copy { parts, ended: false, hint };
    let original = Original { inner, copy: Some(sender) };
    let mut shown = head.clone();
    // The extensions include the client's connection for a protocol switch, which only the original may use.
    shown.extensions.clear();
    (Request::from_parts(head, original.boxed_unsync()), Request::from_parts(shown, copy.boxed_unsync()))
}

/// Sends the copy of a request to a version, and counts the result for that version. Neither the copy nor requests that
/// the version sends are traced: they would appear as a part of the original request.
pub async fn run(
    (target, route, judged): (Arc<Target>, Arc<str>, bool),
    request: Request<AnyBody>,
    client: IpAddr,
    mut context: RequestContext,
    unsent: Arc<Budget>,
) {
    let mut record = Record::new(Arc::clone(&context.request_id), Trace::off());
    record.set_route(target.deployment(), &route);
    let admission = target.shadow.as_ref().unwrap_or(&target.admission);
    let mut permit = match admission.try_admit(record.start()) {
        // Not compared with the service where the original is not: a client could choose such requests on purpose.
        Ok(mut permit) => {
            if judged {
                permit.judge(&target.deployment().service.metrics.judged, record.start());
            }
            permit
        }
        // The version has not failed, so its comparison does not count this.
        Err(refusal) => return record.dismiss(&refusal.into()),
    };
    // The copy has its own limit, and the time of the original request is not its choice.
    let limit = TimeLimit::new(record.start(), target.deployment().limits().wall, Some(context.deadline));
    permit.limit(limit, record.start());
    context.deadline = limit.deadline;
    let (tracer, target) = (Tracer::off(), &*target);
    let admitted =
        Admitted { target, permit, client, from: None, context, tracer: &tracer, unsent: &unsent, record: &mut record };
    let response = match dispatch(admitted, request).await {
        Ok(response) => response,
        Err(error) => {
            record.record_failure(&error);
            respond::problem(&error, record.request_id(), ErrorPages::default())
        }
    };
    record.set_status(response.status());
    let mut body = response.into_body().with(record);
    while let Some(Ok(_)) = body.frame().await {}
}

impl<B: RequestBody> Body for Original<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let part = match &frame {
            Some(Ok(frame)) => Some(Part::Frame(copied(frame))),
            // The copy must be aborted as well.
            Some(Err(_)) => None,
            None => Some(Part::End),
        };
        let kept = part.is_some_and(|part| self.copy.as_ref().is_some_and(|copy| copy.try_send(part).is_ok()));
        if kept && self.inner.is_end_stream() {
            // The reader may stop here without polling for the end, so the copy gets the end now.
            let _ = self.copy.as_ref().map(|copy| copy.try_send(Part::End));
        }
        if !kept {
            self.copy = None;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn copied(frame: &Frame<Bytes>) -> Frame<Bytes> {
    match (frame.data_ref(), frame.trailers_ref()) {
        (Some(data), _) => Frame::data(data.clone()),
        (_, trailers) => Frame::trailers(trailers.cloned().unwrap_or_default()),
    }
}

impl Body for Copy {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.parts.poll_recv(cx)) {
            Some(Part::Frame(frame)) => Some(Ok(frame)),
            Some(Part::End) => {
                self.ended = true;
                None
            }
            None => Some(Err(Error::HttpProtocolError)),
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

#[cfg(test)]
mod tests {
    use http::header;
    use http_body_util::Empty;

    use super::*;
    use lodge_traffic::proxy::upgrade::{ClientUpgrade, OfferedProtocols};

    /// The request has one connection, which belongs to the original.
    #[test]
    fn the_copy_cannot_take_the_connection() {
        let request = Request::get("/").header(header::CONNECTION, "upgrade").header(header::UPGRADE, "websocket");
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        OfferedProtocols::detect(&mut head, None);
        let body = Empty::<Bytes>::new().map_err(|never| -> Error { match never {} });
        let (mut original, mut copy) = duplicate(Request::from_parts(head, body));
        assert!(copy.extensions().is_empty(), "whatever else is in there may be the client's alone, too");
        assert!(ClientUpgrade::take(&mut copy).is_none());
        assert!(ClientUpgrade::take(&mut original).is_some());
    }
}
