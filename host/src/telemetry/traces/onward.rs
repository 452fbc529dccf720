//! Where a request stands, for what is sent on from it: that is told, and if the request is recorded it has a span of its
//! own, whose id is what it is told.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Request};

use super::Inner;
use super::client::{ClientSpan, Origin};
use super::context::{self, Context, RECORDED};

/// Where a request stands in its trace. Nothing is allocated for it.
#[derive(Clone)]
pub struct Onward {
    /// Its parent is the span that the guest was told.
    stands: Context,
    /// Only for a request that is recorded.
    recorder: Option<Arc<Inner>>,
}

impl Onward {
    /// What is in the headers of a request that [`begin`](super::Tracer::begin) has seen.
    pub(super) fn of(headers: &HeaderMap, inner: &Arc<Inner>) -> Option<Self> {
        let (found, _) = context::read(headers);
        found.map(|stands| Self { recorder: (stands.flags & RECORDED != 0).then(|| Arc::clone(inner)), stands })
    }

    /// Tells it in headers that say nothing of the kind; a guest that says itself where it stands knows better.
    pub fn put(&self, headers: &mut HeaderMap) {
        if !context::is_told(headers) {
            self.stands.inject(headers, self.stands.parent);
        }
    }

    /// A guest of `sender` sends this request, whose URL is absolute. What it says itself of where it stands is the span's
    /// parent, if that is in the same trace and recorded; else it is left alone.
    pub fn sends<B>(&self, request: &mut Request<B>, sender: &Arc<str>) -> ClientSpan {
        let Some(inner) = &self.recorder else {
            self.put(request.headers_mut());
            return ClientSpan::off();
        };
        let stands = if context::is_told(request.headers()) {
            let same = |own: &Context| own.trace_id == self.stands.trace_id && own.flags & RECORDED != 0;
            let Some(own) = context::read(request.headers()).0.filter(same) else { return ClientSpan::off() };
            own
        } else {
            self.stands.clone()
        };
        let id = inner.ids.span();
        stands.inject(request.headers_mut(), id);
        ClientSpan::begun(inner, (stands, id), request, Origin::of(request.uri()), (sender, 0))
    }

    /// The host sends the request itself to a replica of `service`, for the first time or again.
    pub fn tries<B>(&self, request: &mut Request<B>, service: &Arc<str>, to: Origin<'_>, resent: usize) -> ClientSpan {
        let Some(inner) = &self.recorder else { return ClientSpan::off() };
        let id = inner.ids.span();
        // Whatever an earlier try has put there speaks of another span.
        self.stands.inject(request.headers_mut(), id);
        ClientSpan::begun(inner, (self.stands.clone(), id), request, to, (service, resent))
    }
}

impl fmt::Debug for Onward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Onward").field("stands", &self.stands).finish_non_exhaustive()
    }
}
