//! `wasi:http/handler` as an import: what a component has behind it, if it is in front of the component of a service.
//!
//! All parts of a composition are instances in one Store. A request or response that one part passes to the next is a handle in the
//! table of the host, and its body goes from one to the other.

use std::sync::Arc;

use wasmtime::component::{Accessor, Linker, Resource};
use wasmtime_wasi_http::p3::bindings::Service;
use wasmtime_wasi_http::p3::bindings::http::types::{ErrorCode, Request, Response};

use super::{Ctx, logging, otel, stdio};

/// The interface, in its newest name, which also matches older imports.
const HANDLER: &str = "wasi:http/handler@0.3.2";

/// Part of the name of the interface in every version.
pub(crate) const INTERFACE: &str = "wasi:http/handler@0.3.";

/// What a part calls to pass a request on.
pub(crate) type NextHandler = Service;

/// The result of a handler.
type NextResponse = Result<Resource<Response>, ErrorCode>;

/// Adds what the part at this position has of its own, in place of what another one has: the handler behind it, and output of which the
/// log names the part. The outermost part is at 0.
///
/// # Errors
/// If another interface has the name.
pub(crate) fn link_part(linker: &mut Linker<Ctx>, position: usize) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    link(linker, position)?;
    logging::link(linker, position)?;
    otel::link_logs(linker, position)?;
    stdio::link_part(linker, position)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Adds the handler behind the part at this position to the linker.
///
/// # Errors
/// If another interface has the name.
pub(crate) fn link(linker: &mut Linker<Ctx>, position: usize) -> wasmtime::Result<()> {
    linker
        .instance(HANDLER)?
        .func_wrap_concurrent("handle", move |accessor: &Accessor<Ctx>, (request,): (Resource<Request>,)| {
            Box::pin(handle(accessor, position, request))
        })
}

async fn handle(
    accessor: &Accessor<Ctx>,
    position: usize,
    request: Resource<Request>,
) -> wasmtime::Result<(NextResponse,)> {
    let next = accessor.with(|mut store| store.get().behind.get(position).map(Arc::clone));
    // Only start code runs before all parts are instances.
    let next = next.ok_or_else(|| wasmtime::Error::msg("no component is behind this one yet"))?;
    Ok((next.wasi_http_handler().call_handle(accessor, request).await?,))
}

impl Ctx {
    /// Sets the handlers behind the outermost part.
    pub(crate) fn set_behind(&mut self, handlers: Vec<Arc<NextHandler>>) {
        self.behind = handlers;
    }
}
