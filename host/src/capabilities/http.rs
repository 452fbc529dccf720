//! `wasi:http`, 0.2 and 0.3. What a guest sends goes to the [`Sender`] of its service, which knows what it may.

mod bounds;
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

/// `wasi:http` 0.2 by its newest name: those before it are found by this, too.
const TYPES: &str = "wasi:http/types@0.2.12";

/// Bytes of one header set in memory. Ours is wasmtime's own default, set so that it is nobody else's to change.
const FIELDS_BYTES: usize = 128 << 10;

/// The most that one write of a guest puts into the host's memory on its way to the client. With wasmtime's
/// default of 1 MiB, 1,000 slow clients would hold 2 GiB; above 128 KiB there was no throughput to gain.
const CHUNK_BYTES: usize = 128 << 10;

/// Sends what the guests of a service send.
pub trait Sender: Send + Sync {
    /// Sends one request for the guest in this sandbox, on this context. Called while guest code waits: what is to be done
    /// is for the future.
    fn send(
        self: Arc<Self>,
        from: (Arc<Sandbox>, RequestContext),
        request: http::Request<WasiBody>,
        options: RequestOptions,
    ) -> SendFuture;
}

/// Sends nothing.
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

/// How `wasi:http` behaves here.
pub(super) struct Hooks {
    sender: Arc<dyn Sender>,
    sandbox: Arc<Sandbox>,
}

impl Hooks {
    /// What a guest in this sandbox sends goes to `sender`.
    pub(super) fn new(sender: Arc<dyn Sender>, sandbox: Arc<Sandbox>) -> Self {
        Self { sender, sandbox }
    }
}

/// Puts `wasi:http` 0.2 into the linker.
pub(super) fn link_02(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    types::add_to_linker::<_, WasiHttp>(linker, &p2::bindings::LinkOptions::default().into(), Ctx::http)?;
    outgoing_handler::link(linker)?;
    bounds::link_02(linker)
}

/// Puts `wasi:http` 0.3 into the linker.
pub(super) fn link_03(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    p3::add_to_linker(linker)?;
    bounds::link_03(linker)
}

/// `wasi:http`'s part of a sandbox.
pub(super) fn state() -> WasiHttpCtx {
    let mut ctx = WasiHttpCtx::new();
    ctx.set_field_size_limit(FIELDS_BYTES);
    ctx
}

impl WasiHttpHooks for Hooks {
    // The default builds an `Arc` for every header name that it checks.
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
            // Start code runs for no request, and nobody would know whose.
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
