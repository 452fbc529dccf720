//! The trace context for requests that are sent on behalf of a request: to the world by its guest, or to a replica. If
//! the request is recorded, each of them gets a span, whose id goes into its headers.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Request};

use super::client::{ClientSpan, ServerAddress};
use super::context::{self, Context, RECORDED};
use super::guest_span::GuestSpan;
use super::operation::{OperationObject, OperationSpan};
use super::{Finished, Inner};

/// The trace context of a request, for requests sent on its behalf. Creating it allocates nothing.
#[derive(Clone)]
pub struct OutboundTrace {
    /// The context. Its parent is the span id that the guest got.
    stands: Context,
    /// The tracer, if the request is recorded.
    recorder: Option<Arc<Inner>>,
}

impl OutboundTrace {
    /// Reads the context from the headers that [`begin`](super::Tracer::begin) wrote.
    pub(super) fn of(headers: &HeaderMap, inner: &Arc<Inner>) -> Option<Self> {
        let (found, _) = context::read(headers);
        found.map(|stands| Self { recorder: (stands.flags & RECORDED != 0).then(|| Arc::clone(inner)), stands })
    }

    /// Writes the context into headers without one. A context that the guest has set takes precedence.
    pub fn inject(&self, headers: &mut HeaderMap) {
        if !context::has_context(headers) {
            self.stands.inject(headers, self.stands.parent);
        }
    }

    /// Begins the span of a request that a guest of `sender` sends; its URL is absolute. A context that the guest has
    /// set is the parent of the span if it belongs to the same trace and is recorded; else the request stays unchanged
    /// and has no span.
    pub fn begin_guest_request<B>(&self, request: &mut Request<B>, sender: &Arc<str>) -> ClientSpan {
        let Some(inner) = &self.recorder else {
            self.inject(request.headers_mut());
            return ClientSpan::off();
        };
        let stands = if context::has_context(request.headers()) {
            let same = |own: &Context| own.trace_id == self.stands.trace_id && own.flags & RECORDED != 0;
            let Some(own) = context::read(request.headers()).0.filter(same) else { return ClientSpan::off() };
            own
        } else {
            self.stands.clone()
        };
        let id = inner.ids.span();
        stands.inject(request.headers_mut(), id);
        ClientSpan::begun(inner, (stands, id), request, ServerAddress::of(request.uri()), (sender, 0))
    }

    /// Begins the span of an attempt to send the request to a replica of `service`. `resent` is the number of earlier
    /// attempts.
    pub fn begin_attempt<B>(
        &self,
        request: &mut Request<B>,
        service: &Arc<str>,
        to: ServerAddress<'_>,
        resent: usize,
    ) -> ClientSpan {
        let Some(inner) = &self.recorder else { return ClientSpan::off() };
        let id = inner.ids.span();
        // The headers may contain the span of an earlier attempt.
        self.stands.inject(request.headers_mut(), id);
        ClientSpan::begun(inner, (self.stands.clone(), id), request, to, (service, resent))
    }
}

impl OutboundTrace {
    /// Whether the request is recorded.
    pub fn is_recorded(&self) -> bool {
        self.recorder.is_some()
    }

    /// The trace id, and the id of the guest's span.
    pub fn ids(&self) -> (u128, u64) {
        (self.stands.trace_id, self.stands.parent)
    }

    /// `tracestate`.
    pub fn state(&self) -> Option<&str> {
        self.stands.state.as_ref().and_then(|state| state.to_str().ok())
    }

    /// Exports a span that the guest has made, in the trace of its request. Returns whether the queue had room for it.
    pub fn export_guest_span(&self, span: GuestSpan) -> bool {
        let Some(inner) = &self.recorder else { return true };
        inner.sink.push_from_guest(Finished::Guest(Box::new((self.stands.clone(), span))))
    }

    /// Begins the span of an operation of a guest of `service`. `name` is a constant.
    pub fn begin_operation(&self, name: &'static str, service: &Arc<str>, object: OperationObject) -> OperationSpan {
        let Some(inner) = &self.recorder else { return OperationSpan::default() };
        OperationSpan::begun(inner, self.stands.clone(), name, (service, object))
    }
}

impl fmt::Debug for OutboundTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboundTrace").field("stands", &self.stands).finish_non_exhaustive()
    }
}
