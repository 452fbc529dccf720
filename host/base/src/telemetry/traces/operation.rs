//! The span of an operation of a guest on what its service has beside itself: keys, locks, databases, objects and messages.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;

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
    /// The service of the guest.
    pub(super) service: Arc<str>,
    /// The name of the span, a constant.
    pub(super) name: &'static str,
    pub(super) object: OperationObject,
    /// The reason if it failed: a constant.
    pub(super) error: Option<&'static str>,
    pub(super) begin: Instant,
    pub(super) end: End,
}

/// What an operation is on. Names have a bounded length; keys, values, statements and the names of locks
/// and of objects are in no span.
#[derive(Clone, Debug)]
pub enum OperationObject {
    /// A bucket of the store, or a container of objects.
    Bucket(Arc<str>),
    /// A lock.
    Lock,
    /// A SQL database, as the manifest calls it.
    Database(Arc<str>),
    /// The subject that a message is published to.
    Published(Arc<str>),
    /// The subject of a message that is sent at once, and whose reply is awaited.
    Requested(Arc<str>),
}

impl OperationSpan {
    pub(super) fn begun(
        inner: &Inner,
        context: Context,
        name: &'static str,
        (service, object): (&Arc<str>, OperationObject),
    ) -> Self {
        let begin = Instant::now();
        let (service, id) = (Arc::clone(service), inner.ids.span());
        let operated = Operated { context, id, service, name, object, error: None, begin, end: End::after(begin) };
        Self(Some((Arc::clone(&inner.sink), Box::new(operated))))
    }

    /// Writes the trace context into the headers of a message, with this span as parent; nothing if it is not recorded.
    pub fn inject(&self, headers: &mut HeaderMap) {
        if let Some((_, operated)) = &self.0 {
            operated.context.inject(headers, operated.id);
        }
    }

    /// Ends the span. `error` is a constant reason if the operation failed.
    pub fn finish(mut self, error: Option<&'static str>) {
        self.close(error);
    }

    fn close(&mut self, error: Option<&'static str>) {
        if let Some((sink, mut operated)) = self.0.take() {
            (operated.error, operated.end) = (error, End::now());
            sink.push_from_guest(Finished::Operated(operated));
        }
    }
}

impl Drop for OperationSpan {
    fn drop(&mut self) {
        self.close(Some(CANCELLED));
    }
}
