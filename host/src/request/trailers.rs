//! The trailers of a request on its way to a service: some servers merge them into the headers, where they would stand for what the
//! manifest says of a header, or what it checks.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::HeaderName;
use http_body::{Body, Frame, SizeHint};

use super::front::ClientFront;
use crate::guests::target::Target;
use lodge_base::headers::remove_where;
use lodge_manifest::front::Front;
use lodge_runtime::body::RequestBody;

/// The body of a request, without trailers that may only be headers on its route.
pub(super) struct GuardedBody<B> {
    inner: B,
    guard: Option<Box<TrailerGuard>>,
}

/// What knows the headers that the manifest writes, removes or checks.
struct TrailerGuard {
    target: Arc<Target>,
    route: usize,
    front: Option<Arc<Front>>,
}

impl<B: RequestBody> GuardedBody<B> {
    /// Returns the body of a request to this service, on the route with this number.
    pub(super) fn new(inner: B, target: &Arc<Target>, route: usize, front: Option<&ClientFront>) -> Self {
        let front = front.map(ClientFront::rules).filter(|front| front.headers.is_some());
        let has_any =
            target.auth().is_some() || target.rules().is_some() || target.validation().is_some() || front.is_some();
        let guard = || TrailerGuard { target: Arc::clone(target), route, front: front.cloned() };
        // Most requests have no body.
        let guard = (has_any && !inner.is_end_stream()).then(|| Box::new(guard()));
        Self { inner, guard }
    }
}

impl TrailerGuard {
    fn drops(&self, name: &HeaderName) -> bool {
        let headers = self.front.as_ref().and_then(|front| front.headers.as_ref()).map(|rules| &rules.request);
        let changes = self.target.header_changes(self.route, headers);
        let checks = || self.target.validation().is_some_and(|checks| checks.checks_header(self.route, name));
        changes.replace(name) || changes.may_remove(name) || checks()
    }
}

impl<B: RequestBody> Body for GuardedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut polled = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let (Some(guard), Some(Ok(frame))) = (&self.guard, &mut polled)
            && let Some(trailers) = frame.trailers_mut()
        {
            remove_where(trailers, |name| guard.drops(name));
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
