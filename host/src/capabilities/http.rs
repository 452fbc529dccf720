//! `wasi:http`, 0.2 and 0.3. Outgoing requests are denied until a manifest can allow them.

use http::HeaderName;
use wasmtime::component::Linker;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpHooks, p2, p3,
};

use super::Ctx;

/// Bytes of one header set in memory. Ours is wasmtime's own default, set so that it is nobody else's to change.
const FIELDS_BYTES: usize = 128 << 10;

/// The most that one write of a guest puts into the host's memory on its way to the client. With wasmtime's
/// default of 1 MiB, 1,000 slow clients would hold 2 GiB; above 128 KiB there was no throughput to gain.
const CHUNK_BYTES: usize = 128 << 10;

type Sent = Result<(http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

/// How `wasi:http` behaves here.
#[derive(Debug)]
pub struct Hooks;

/// Puts `wasi:http` 0.2 into the linker.
pub(super) fn link_02(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    p2::add_only_http_to_linker_async(linker)
}

/// Puts `wasi:http` 0.3 into the linker.
pub(super) fn link_03(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    p3::add_to_linker(linker)
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
        _request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(std::future::ready(Err(Error::HttpRequestDenied)))
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }
}
