//! Forwards a request to a replica of an upstream. Both bodies are streamed.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use wasmtime_wasi_http::Error;

use crate::request::error::RequestError;
use crate::request::tunnel::{Held, Tunnel};
use lodge_base::telemetry::traces::OutboundTrace;
use lodge_runtime::body::RequestBody;
use lodge_runtime::capabilities::http::non_empty::poll_non_empty;
use lodge_traffic::admission::{self, TimeLimit};
use lodge_traffic::proxy::body::BodyError;
use lodge_traffic::proxy::cluster_hop::{CLUSTER_HOP, ClusterHop};
use lodge_traffic::proxy::headers::filter_trailers;
use lodge_traffic::proxy::upgrade::ClientUpgrade;
use lodge_traffic::proxy::via::TooManyHops;
use lodge_traffic::service::Service;
use lodge_traffic::upstreams::Upstream;
use lodge_traffic::upstreams::send::{Attempt, Failure, UpstreamResponse};
use lodge_traffic::upstreams::transport::{AnyBody, BoxError, ReceivedBody};
use lodge_traffic::upstreams::upload_wait::UploadWait;

/// The most frames of a response that are taken together with its head, if they have arrived: enough for a short body
/// and its end.
const PRIMING: usize = 3;

/// The body of a replica's response, on its way to the client.
pub struct Relay {
    body: ReceivedBody<AnyBody>,
    /// The frames that arrived together with the head.
    early: VecDeque<Frame<Bytes>>,
    ended: bool,
    attempt: Attempt,
    /// The upload of the client's body, which may still be in progress.
    upload_wait: Option<Arc<UploadWait>>,
}

/// The client's body on its way to a replica, limited by `limits.request_body`.
struct Upload<B> {
    inner: B,
    left: usize,
    service: Arc<Service>,
    upload_wait: Arc<UploadWait>,
}

/// Whose request is forwarded.
#[derive(Clone, Copy)]
pub struct ForwardedSender<'a> {
    /// The address of the client.
    pub client: IpAddr,
    /// The number of calls that led to the request.
    pub depth: usize,
    /// The service that calls, if it is a call.
    pub service: Option<&'a str>,
}

/// The result of forwarding a request.
pub enum Forwarded {
    /// A response, and how much of the client's body the replica has received.
    Response(response::Parts, Relay, admission::Upload),
    /// A switch of protocols.
    Switch(response::Parts, Tunnel),
}

/// Returns the response of a replica. `onward` is the trace context that the replica receives.
///
/// # Errors
/// If no replica responds, if `Via` shows too many passes through this host, or if another host has forwarded the request here and this
/// one would forward it once more.
pub async fn forward<B: RequestBody>(
    upstream: &Upstream,
    mut request: Request<B>,
    sender: ForwardedSender<'_>,
    limit: TimeLimit,
    onward: Option<OutboundTrace>,
) -> Result<Forwarded, RequestError> {
    upstream.via().add_hop(&mut request, sender.depth, upstream.deployment().limits().call_depth)?;
    mark_hop(upstream, request.headers_mut(), sender, limit.deadline)?;
    let ours = if upstream.spec().upgrade { ClientUpgrade::take(&mut request) } else { None };
    let place = match &ours {
        Some(_) => Some(upstream.take_tunnel().ok_or(Failure::TunnelsFull)?),
        None => None,
    };
    if let Some(ours) = &ours {
        ours.write_offer(request.headers_mut());
    }
    let upload_wait = (!request.body().is_end_stream()).then(Arc::<UploadWait>::default);
    let request = request.map(|inner| {
        let Some(upload_wait) = upload_wait.clone() else {
            return Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
        };
        let (left, service) = (upstream.deployment().limits().request_body, Arc::clone(&upstream.deployment().service));
        Upload { inner, left, service, upload_wait }.map_err(BoxError::from).boxed_unsync()
    });
    match upstream.send(request, sender.client, limit, upload_wait.clone(), onward).await {
        Ok(UpstreamResponse { mut response, attempt }) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let theirs = hyper::upgrade::on(&mut response);
            let ours = ours.filter(|ours| ours.allows(response.headers()));
            let (ours, place) = ours
                .zip(place)
                .ok_or_else(|| Failure::Response("it switched to a protocol that the client did not request".into()))?;
            let held = Held::new(attempt, place);
            Ok(Forwarded::Switch(response.into_parts().0, Tunnel::new(ours, theirs, held, upstream.spec().idle)))
        }
        Ok(UpstreamResponse { response, .. }) if !(200..=599).contains(&response.status().as_u16()) => {
            Err(Failure::Response(format!("it responded with status {}", response.status().as_u16())).into())
        }
        Ok(UpstreamResponse { response, attempt }) => {
            let (head, body) = response.into_parts();
            let mut relay = Relay { body, early: VecDeque::new(), ended: false, attempt, upload_wait };
            std::future::poll_fn(|cx| Poll::Ready(relay.prime(cx))).await?;
            let upload = relay.upload_wait.as_ref().map(|upload_wait| admission::Upload {
                waited: upload_wait.waited(),
                broken: upload_wait.broken.load(Relaxed) || upload_wait.over.load(Relaxed),
            });
            Ok(Forwarded::Response(head, relay, upload.unwrap_or_default()))
        }
        Err(_) if upload_wait.as_ref().is_some_and(|upload_wait| upload_wait.over.load(Relaxed)) => {
            Err(BodyError::TooLarge.into())
        }
        Err(Failure::TimedOut(_)) if upload_wait.is_some_and(|upload_wait| upload_wait.is_client_slow()) => {
            Err(BodyError::Late.into())
        }
        Err(failure) => Err(failure.into()),
    }
}

/// Says to another host of the cluster what is forwarded. Other replicas have nothing to do with what led to this host.
fn mark_hop(
    upstream: &Upstream,
    headers: &mut HeaderMap,
    sender: ForwardedSender<'_>,
    deadline: Instant,
) -> Result<(), TooManyHops> {
    let is_forwarded = headers.remove(CLUSTER_HOP).is_some();
    let Some(service) = upstream.spec().cluster_service() else { return Ok(()) };
    if is_forwarded {
        return Err(TooManyHops);
    }
    let left = deadline.saturating_duration_since(Instant::now());
    let (calls, from) = (sender.depth, sender.service.map(Box::from));
    ClusterHop { service: (**service).into(), calls, left, from, key: upstream.host_key().cloned() }.write(headers);
    Ok(())
}

impl Relay {
    /// Polls for the next frame. `None` means that the replica has completed the response.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if let Some(frame) = self.early.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.ended { Poll::Ready(None) } else { self.poll_inner(cx) }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let frame = ready!(poll_non_empty(Pin::new(&mut self.body), cx));
        self.ended = frame.is_none() || self.body.is_end_stream();
        Poll::Ready(frame.map(|frame| frame.map_err(|error| self.broken(&error))))
    }

    /// Takes the frames that have arrived. A response that is complete needs no watchdog, and one that breaks off at
    /// once can still become a problem response.
    fn prime(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        self.ended = self.body.is_end_stream();
        while !self.ended && self.early.len() < PRIMING {
            match self.poll_inner(cx) {
                Poll::Ready(Some(frame)) => self.early.push_back(frame?),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// Returns the error for a response that is incomplete at the deadline.
    pub fn late(&self) -> RequestError {
        let clients = self.upload_wait.as_ref().is_some_and(|upload_wait| upload_wait.is_client_slow());
        if clients { BodyError::Late.into() } else { RequestError::WallTime }
    }

    fn broken(&mut self, error: &hyper::Error) -> Failure {
        let cause = format!("its response broke off: {error}");
        self.attempt.record_broken_body(&cause);
        Failure::BrokenOff(cause)
    }

    /// Returns the bytes of a complete body; `None` if frames may follow.
    pub fn size(&self) -> Option<usize> {
        self.ended.then(|| self.early.iter().filter_map(Frame::data_ref).map(Bytes::len).sum())
    }

    /// Returns the frames of a complete body, and releases the replica.
    pub fn into_frames(self) -> VecDeque<Frame<Bytes>> {
        self.early
    }

    /// Returns the bytes that are left, if known.
    pub fn exact_size(&self) -> Option<u64> {
        let mut early = 0_u64;
        for frame in &self.early {
            early = early.checked_add(frame.data_ref()?.len() as u64)?;
        }
        // The replica announces the size, so the sum may overflow.
        if self.ended { Some(early) } else { early.checked_add(self.body.size_hint().exact()?) }
    }
}

impl<B: RequestBody> Body for Upload<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = poll_non_empty(Pin::new(&mut self.inner), cx);
        self.upload_wait.record_poll(polled.is_ready());
        let frame = match ready!(polled) {
            Some(Ok(frame)) => filter_trailers(frame),
            Some(Err(error)) => {
                self.upload_wait.broken.store(true, Relaxed);
                return Poll::Ready(Some(Err(error.into())));
            }
            None => return Poll::Ready(None),
        };
        let size = frame.data_ref().map_or(0, Bytes::len);
        match self.left.checked_sub(size) {
            Some(left) => {
                self.left = left;
                self.service.metrics.received.fetch_add(size as u64, Relaxed);
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.upload_wait.over.store(true, Relaxed);
                Poll::Ready(Some(Err(Error::HttpRequestBodySize(None))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
