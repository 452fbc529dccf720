//! Validates the body of a request, where the manifest says so: before the cache, and before a sandbox is made. The body is read for
//! that, and passed on as it was.

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
use super::mirror::AnyBody;
use super::record::Record;
use super::respond::Body;
use crate::request::error::RequestError;
use lodge_base::telemetry::traces::Phase;
use lodge_runtime::body::RequestBody;
use lodge_traffic::admission::client_memory::{ClientMemory, ClientRoom};
use lodge_traffic::proxy::body::BodyError;
use lodge_traffic::validation::{BodyCheck, BodyFault, needs_body};

/// The bytes that the first frames of a body have room for.
const FIRST: usize = 4 << 10;

/// A request whose body has to be validated.
pub(super) struct Unvalidated<'a, B> {
    pub(super) check: Arc<BodyCheck>,
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

/// Returns the check for the body of a request; `None` if the request is passed on as it is. What the host sends itself, a message or
/// the call of a schedule, is.
///
/// # Errors
/// If the request can have no valid body.
pub(super) fn check_of<B: RequestBody>(
    routed: &Routed<'_>,
    request: &Request<B>,
) -> Result<Option<Arc<BodyCheck>>, RequestError> {
    let Some(check) = routed.target.bodies().and_then(|bodies| bodies.of_route(routed.route)) else { return Ok(None) };
    if routed.caller.call.is_some_and(|call| call.from.is_none()) {
        return Ok(None);
    }
    let (has_none, has_some) = (request.body().is_end_stream(), request.body().size_hint().lower() > 0);
    // Otherwise its first bytes tell whether it has a body.
    let applies = !has_none && !has_some && !needs_body(request.method())
        || check.applies(request.method(), request.headers(), !has_none)?;
    Ok(applies.then(|| Arc::clone(check)))
}

impl<B: RequestBody> Unvalidated<'_, B> {
    /// Returns the response to the request, after its body was read and validated.
    ///
    /// # Errors
    /// Those of [`super::handle::handle`].
    pub(super) async fn handle(self, record: &mut Record) -> Result<Response<Body>, RequestError> {
        let Self { check, routed, request, cache } = self;
        record.begin_phase(Phase::Queue);
        let limits = routed.target.deployment().limits();
        let own = record.start() + limits.wall;
        let deadline = routed.caller.call.map_or(own, |call| own.min(call.deadline));
        let (head, body) = request.into_parts();
        let (most, room) = (check.most_bytes().min(limits.request_body), &routed.handler.validation);
        let is_taken = || check.applies(&head.method, &head.headers, true).map(drop);
        let reading = read(body, most, (&room.memory, routed.caller.client), is_taken);
        let read = tokio::time::timeout_at(deadline.into(), reading).await.map_err(|_| BodyError::Late)??;
        let has_none = read.data.is_empty() && !needs_body(&head.method);
        let quick = if has_none { Some(Ok(())) } else { check.check_quickly(&read.data) };
        match quick {
            Some(result) => result?,
            None => {
                let checking = room.check(&check, &read.data, routed.caller.client);
                let checked = tokio::time::timeout_at(deadline.into(), checking).await;
                checked.unwrap_or(Err(BodyFault::Unavailable))?;
            }
        }
        let request: Request<AnyBody> = Request::from_parts(head, read.boxed_unsync());
        match cache {
            None => admit_and_dispatch(routed, request, None, record).await,
            Some(cache) => Box::pin(cached::handle(routed, request, cache, record)).await,
        }
    }
}

/// Reads a body of at most `most` bytes. Its memory is charged to the client as the bytes arrive. `is_taken` says of the first bytes
/// whether the request can have a body.
async fn read<B: RequestBody>(
    mut body: B,
    most: usize,
    (memory, client): (&Arc<ClientMemory>, IpAddr),
    is_taken: impl Fn() -> Result<(), BodyFault>,
) -> Result<ReadBody, RequestError> {
    let known = body.size_hint().exact().map(|size| usize::try_from(size).unwrap_or(usize::MAX));
    if known.is_some_and(|size| size > most) {
        return Err(BodyError::TooLarge.into());
    }
    let mut room = memory.reserve(client, 0).ok_or(BodyFault::Unavailable)?;
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.map_err(|_| BodyError::Broken)?.into_data() {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => {
                if data.is_empty() {
                    is_taken()?;
                }
                let needed =
                    data.len().checked_add(bytes.len()).filter(|size| *size <= most).ok_or(BodyError::TooLarge)?;
                if needed > data.capacity() {
                    let doubled = data.capacity().saturating_mul(2).max(FIRST);
                    let size = doubled.min(known.unwrap_or(most)).max(needed);
                    if !room.grow(size.saturating_sub(room.bytes())) {
                        return Err(BodyFault::Unavailable.into());
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
