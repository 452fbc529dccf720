//! `wasi:http` 0.2 and 0.3. Outgoing requests go to the [`Sender`] of the guest's service, which checks what the guest
//! may send.

mod bounds;
pub mod error_code;
pub mod non_empty;
mod outgoing_handler;

use std::sync::Arc;

use http::HeaderName;
use http_body::Body as _;
use http_body_util::BodyExt;
use wasmtime::component::Linker;
use wasmtime_wasi_http::p2::bindings::http::types;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, RequestOptions, WasiBody, WasiHttp, WasiHttpCtx, WasiHttpHooks, WasiHttpView, p2,
    p3,
};

use self::non_empty::NonEmptyFrames;
use super::Ctx;
use super::outbox::{SendFuture, refuse};
use super::sandbox::{RequestContext, Sandbox};

/// The newest name of `wasi:http` 0.2 types, which also matches older imports.
const TYPES: &str = "wasi:http/types@0.2.12";

/// The most bytes of one header set in memory. It equals wasmtime's default, and is set here so that an update does not
/// change it.
const FIELDS_BYTES: usize = 128 << 10;

/// The most bytes that one write of a guest can hold in the host's memory on the way to the client. With wasmtime's
/// default of 1 MiB, 1,000 slow clients would hold 2 GiB; above 128 KiB throughput did not improve.
const CHUNK_BYTES: usize = 128 << 10;

/// The sender of a service's outgoing requests.
pub trait Sender: Send + Sync {
    /// Sends one request for the guest in this sandbox, which works on the request of this context. Guest code is
    /// blocked during the call, so the work belongs in the returned future.
    fn send(
        self: Arc<Self>,
        from: (Arc<Sandbox>, RequestContext),
        request: http::Request<WasiBody>,
        options: RequestOptions,
    ) -> SendFuture;
}

/// A sender that denies every request.
#[derive(Debug)]
pub struct Denied;

impl Sender for Denied {
    fn send(
        self: Arc<Self>,
        _: (Arc<Sandbox>, RequestContext),
        _: http::Request<WasiBody>,
        _: RequestOptions,
    ) -> SendFuture {
        refuse(Error::HttpRequestDenied)
    }
}

/// The host's settings and hooks for `wasi:http`.
pub(super) struct Hooks {
    sender: Arc<dyn Sender>,
    sandbox: Arc<Sandbox>,
}

impl Hooks {
    /// Returns hooks that hand the sandbox's outgoing requests to `sender`.
    pub(super) fn new(sender: Arc<dyn Sender>, sandbox: Arc<Sandbox>) -> Self {
        Self { sender, sandbox }
    }
}

/// Adds `wasi:http` 0.2 to the linker.
pub(super) fn link_02(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    types::add_to_linker::<_, WasiHttp>(linker, &p2::bindings::LinkOptions::default().into(), Ctx::http)?;
    outgoing_handler::link(linker)?;
    bounds::link_02(linker)
}

/// Adds `wasi:http` 0.3 to the linker.
pub(super) fn link_03(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    p3::add_to_linker(linker)?;
    bounds::link_03(linker)
}

/// Returns the part of `wasi:http` in a sandbox.
pub(super) fn state() -> WasiHttpCtx {
    let mut ctx = WasiHttpCtx::new();
    ctx.set_field_size_limit(FIELDS_BYTES);
    ctx
}

impl WasiHttpHooks for Hooks {
    // The default allocates an `Arc` for every header name that it checks.
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> SendFuture {
        match self.sandbox.context() {
            Some(context) => {
                let (from, depth) = ((Arc::clone(&self.sandbox), context.clone()), context.depth);
                let non_empty =
                    |body: WasiBody| if body.is_end_stream() { body } else { NonEmptyFrames(body).boxed_unsync() };
                let request = request.map(non_empty);
                let sending = Arc::clone(&self.sender).send(from, request, options.unwrap_or_default());
                Box::new(self.sandbox.send(depth, sending))
            }
            // Start code runs for no request, so there is no context for its outgoing requests.
            None => refuse(Error::HttpRequestDenied),
        }
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }
}
