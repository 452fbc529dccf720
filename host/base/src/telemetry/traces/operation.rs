//! The span of an operation of a guest on the state of its service.

use std::sync::Arc;
use std::time::Instant;

use super::context::Context;
use super::trace::{CANCELLED, End};
use super::{Finished, Inner, Sink};

/// The span of an operation in progress; empty if it is not recorded.
///
/// A span that is dropped is exported as `cancelled`.
#[derive(Default)]
#[must_use = "a span that is dropped says that the operation was cancelled"]
pub struct OperationSpan(Option<(Arc<Sink>, Box<Operated>)>);

/// The recording of an operation.
pub(super) struct Operated {
    /// Its trace context, with the span of the guest as parent.
    pub(super) context: Context,
    pub(super) id: u64,
    /// The service whose state it is.
    pub(super) service: Arc<str>,
    /// The name of the span, a constant.
    pub(super) name: &'static str,
    /// The part of the state, as the manifest or the guest calls it: a name of bounded length.
    pub(super) part: Arc<str>,
    /// The reason if it failed: a constant.
    pub(super) error: Option<&'static str>,
    pub(super) begin: Instant,
    pub(super) end: End,
}

impl OperationSpan {
    pub(super) fn begun(
        inner: &Inner,
        context: Context,
        name: &'static str,
        (service, part): (&Arc<str>, &Arc<str>),
    ) -> Self {
        let begin = Instant::now();
        let (service, part, id) = (Arc::clone(service), Arc::clone(part), inner.ids.span());
        let operated = Operated { context, id, service, name, part, error: None, begin, end: End::after(begin) };
        Self(Some((Arc::clone(&inner.sink), Box::new(operated))))
    }

    /// Ends the span. `error` is a constant reason if the operation failed.
    pub fn finish(mut self, error: Option<&'static str>) {
        self.close(error);
    }

    fn close(&mut self, error: Option<&'static str>) {
        if let Some((sink, mut operated)) = self.0.take() {
            (operated.error, operated.end) = (error, End::now());
            sink.push(Finished::Operated(operated));
        }
    }
}

impl Drop for OperationSpan {
    fn drop(&mut self) {
        self.close(Some(CANCELLED));
    }
}
