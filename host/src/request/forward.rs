//! A request to a service whose replicas are elsewhere: there and back, streamed both ways.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use wasmtime_wasi_http::Error;

use super::body::RequestBody;
use crate::error::RequestError;
use crate::service::Service;
use crate::upstreams::Upstream;
use crate::upstreams::send::{Answer, AnyBody, Failure, Source};
use crate::upstreams::transport::Received;

/// Frames of an answer that are waited for with its head, if they are here: a short one has its body and its end.
const PRIMING: usize = 3;

/// The body of a replica's answer, on its way to the client.
pub struct Relay {
    body: Received<AnyBody>,
    /// Came with the head.
    early: VecDeque<Frame<Bytes>>,
    ended: bool,
    source: Source,
}

/// The client's body on its way to a replica, within the service's limit.
struct Upload<B> {
    inner: B,
    left: usize,
    over: Arc<AtomicBool>,
    service: Arc<Service>,
}

/// Has a replica answer.
///
/// # Errors
/// When none does.
pub async fn forward<B: RequestBody>(
    upstream: &Upstream,
    request: Request<B>,
    client: IpAddr,
    deadline: Instant,
) -> Result<(response::Parts, Relay), RequestError> {
    let over = Arc::new(AtomicBool::new(false));
    let request = request.map(|inner| {
        if inner.is_end_stream() {
            return Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
        }
        let (left, service) = (upstream.limits().request_body, Arc::clone(&upstream.service));
        Upload { inner, left, over: Arc::clone(&over), service }.boxed_unsync()
    });
    match upstream.send(request, client, deadline).await {
        Ok(Answer { response, source }) => {
            let (head, body) = response.into_parts();
            let mut relay = Relay { body, early: VecDeque::new(), ended: false, source };
            std::future::poll_fn(|cx| Poll::Ready(relay.prime(cx))).await?;
            Ok((head, relay))
        }
        Err(_) if over.load(Relaxed) => Err(RequestError::BodyTooLarge),
        Err(Failure::NoReplica) => Err(RequestError::NoReplica),
        Err(Failure::Overloaded(cause)) => Err(RequestError::UpstreamBusy(cause)),
        Err(Failure::TimedOut(cause)) => Err(RequestError::UpstreamTimeout(cause)),
        Err(Failure::Unanswered(cause)) => Err(RequestError::Upstream(cause)),
        Err(Failure::Request(cause)) => Err(RequestError::Unforwardable(cause)),
    }
}

impl Relay {
    /// The next frame; `None` only when the replica has ended its answer properly.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
        if let Some(frame) = self.early.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.ended { Poll::Ready(None) } else { self.poll_inner(cx) }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.ended = frame.is_none() || self.body.is_end_stream();
        Poll::Ready(frame.map(|frame| frame.map_err(|error| self.broken(&error))))
    }

    /// Takes what is here already: an answer that is whole needs no watchdog, and one that breaks off at once is a failure
    /// that can still be told.
    fn prime(&mut self, cx: &mut Context<'_>) -> Result<(), RequestError> {
        self.ended = self.body.is_end_stream();
        while !self.ended && self.early.len() < PRIMING {
            match self.poll_inner(cx) {
                Poll::Ready(Some(frame)) => self.early.push_back(frame?),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn broken(&mut self, error: &hyper::Error) -> RequestError {
        let cause = format!("its answer broke off: {error}");
        self.source.broke(&cause);
        RequestError::Upstream(cause)
    }

    /// Every frame is here.
    pub fn is_whole(&self) -> bool {
        self.ended
    }

    /// Nothing is left to say.
    pub fn is_end(&self) -> bool {
        self.ended && self.early.is_empty()
    }

    /// Bytes still to come, when that is known.
    pub fn exact_size(&self) -> Option<u64> {
        let mut early = 0;
        for frame in &self.early {
            early += frame.data_ref()?.len() as u64;
        }
        if self.ended { Some(early) } else { Some(early + self.body.size_hint().exact()?) }
    }
}

impl<B: RequestBody> Body for Upload<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => return Poll::Ready(None),
        };
        let size = frame.data_ref().map_or(0, Bytes::len);
        match self.left.checked_sub(size) {
            Some(left) => {
                self.left = left;
                self.service.figures.received.fetch_add(size as u64, Relaxed);
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.over.store(true, Relaxed);
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
