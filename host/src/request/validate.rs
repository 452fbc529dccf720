//! Validates a request, where the manifest says so: before the cache, and before a sandbox is made. The body is read for that, and
//! passed on as it was.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use wasmtime_wasi_http::Error;

use super::admit::{Routed, admit_and_dispatch};
use super::cached::{self, CacheUse};
use super::front::ClientFront;
use super::mirror::AnyBody;
use super::record::Record;
use super::respond::Body;
use crate::request::error::RequestError;
use lodge_base::telemetry::traces::Phase;
use lodge_runtime::body::RequestBody;
use lodge_traffic::admission::client_memory::{ClientMemory, ClientRoom};
use lodge_traffic::proxy::body::BodyError;
use lodge_traffic::validation::{BodyPresence, ExpectedBody, RequestHead, ValidationFault};

/// The bytes that the first frames of a body have room for.
const FIRST: usize = 4 << 10;

/// A request whose body has to be validated.
pub(super) struct Unvalidated<'a, B> {
    pub(super) expected: ExpectedBody,
    pub(super) routed: Routed<'a>,
    pub(super) request: Request<B>,
    /// How the request uses the cache, if it does.
    pub(super) cache: Option<CacheUse<'a>>,
}

/// The body of a request, in memory.
struct ReadBody {
    data: Bytes,
    trailers: Option<HeaderMap>,
    /// The memory, until the body is read or dropped.
    _room: ClientRoom,
}

/// Checks the head of a request. Returns what its body has to be; `None` if the request is passed on as it is. What the host sends
/// itself, a message or the call of a schedule, is.
///
/// # Errors
/// If the head is not valid, or allows no body that the request could have.
pub(super) fn expected<B: RequestBody>(
    routed: &Routed<'_>,
    request: &Request<B>,
    record: &Record,
) -> Result<Option<ExpectedBody>, ValidationFault> {
    let Some(checks) = routed.target.validation() else { return Ok(None) };
    if routed.caller.call.is_some_and(|call| call.from.is_none()) {
        return Ok(None);
    }
    let body = match request.body() {
        body if body.is_end_stream() => BodyPresence::Absent,
        body if body.size_hint().lower() > 0 => BodyPresence::Present,
        _ => BodyPresence::Unknown,
    };
    let headers = record.front.as_deref().and_then(ClientFront::request_changes);
    let changes = routed.target.header_changes(routed.route, headers);
    let head = RequestHead { method: request.method(), uri: request.uri(), headers: request.headers(), changes, body };
    checks.expected(routed.route, &head)
}

impl<B: RequestBody> Unvalidated<'_, B> {
    /// Returns the response to the request, after its body was read and validated.
    ///
    /// # Errors
    /// Those of [`super::handle::handle`].
    pub(super) async fn handle(self, record: &mut Record) -> Result<Response<Body>, RequestError> {
        let Self { expected, routed, request, cache } = self;
        record.begin_phase(Phase::Queue);
        let limits = routed.target.deployment().limits();
        let own = record.start() + limits.wall;
        let deadline = routed.caller.call.map_or(own, |call| own.min(call.deadline));
        let (head, body) = request.into_parts();
        let (most, room) = (expected.most_bytes().min(limits.request_body), &routed.handler.validation);
        let reading = read(body, most, (&room.memory, routed.caller.client), &expected);
        let read = tokio::time::timeout_at(deadline.into(), reading).await.map_err(|_| BodyError::Late)??;
        match expected.check_quickly(&read.data) {
            Some(result) => result?,
            None => {
                let checking = room.check(&expected, &read.data, routed.caller.client);
                let checked = tokio::time::timeout_at(deadline.into(), checking).await;
                checked.unwrap_or(Err(ValidationFault::Unavailable))?;
            }
        }
        let request: Request<AnyBody> = Request::from_parts(head, read.boxed_unsync());
        match cache {
            None => admit_and_dispatch(routed, request, None, record).await,
            Some(cache) => Box::pin(cached::handle(routed, request, cache, record)).await,
        }
    }
}

/// Reads a body of at most `most` bytes. Its memory is charged to the client as the bytes arrive. The first ones tell whether the
/// request has a body.
async fn read<B: RequestBody>(
    mut body: B,
    most: usize,
    (memory, client): (&Arc<ClientMemory>, IpAddr),
    expected: &ExpectedBody,
) -> Result<ReadBody, RequestError> {
    let known = body.size_hint().exact().map(|size| usize::try_from(size).unwrap_or(usize::MAX));
    if known.is_some_and(|size| size > most) {
        return Err(BodyError::TooLarge.into());
    }
    let mut room = memory.reserve(client, 0).ok_or(ValidationFault::Unavailable)?;
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.map_err(|_| BodyError::Broken)?.into_data() {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => {
                if data.is_empty() {
                    expected.begin()?;
                }
                let needed =
                    data.len().checked_add(bytes.len()).filter(|size| *size <= most).ok_or(BodyError::TooLarge)?;
                if needed > data.capacity() {
                    let doubled = data.capacity().saturating_mul(2).max(FIRST);
                    let size = doubled.min(known.unwrap_or(most)).max(needed);
                    if !room.grow(size.saturating_sub(room.bytes())) {
                        return Err(ValidationFault::Unavailable.into());
                    }
                    data.reserve_exact(size - data.len());
                }
                data.extend_from_slice(&bytes);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok(ReadBody { data: data.into(), trailers, _room: room })
}

impl http_body::Body for ReadBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if !self.data.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.data)))));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.len() as u64)
    }
}
