//! stdout and stderr of guests become log lines with the service's name and the request id; stdin is empty.
//!
//! Output is bounded twice: a line is cut at `LINE_BYTES`, and a request has `limits.output` bytes. The rest is read
//! from the guest, counted and reported once. Writes never wait, so the log cannot slow a guest down.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::StoreContextMut;
use wasmtime::component::{
    FutureReader, Linker, Resource, Source, StreamConsumer, StreamReader, StreamResult as Consumed,
};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{DynOutputStream, OutputStream, Pollable, StreamResult};
use wasmtime_wasi::p3::bindings::cli::types::ErrorCode;

use super::Ctx;
use super::output_source::PartialLine;
pub(crate) use super::output_source::{OutputSource, Stream};
use super::sandbox::Sandbox;
use lodge_base::lock::lock;

/// The most bytes of one log line; a longer line is cut into several.
const LINE_BYTES: usize = 8 << 10;

/// The most bytes that a 0.2 guest may write at once.
const WRITE_BYTES: usize = 64 << 10;

/// stdout or stderr of a sandbox.
#[derive(Clone)]
struct Output {
    sandbox: Arc<Sandbox>,
    source: OutputSource,
}

/// Sets up both streams of a sandbox.
pub(super) fn state(wasi: &mut WasiCtxBuilder, sandbox: &Arc<Sandbox>) {
    wasi.stdout(Output { sandbox: Arc::clone(sandbox), source: (Stream::Stdout, 0) });
    wasi.stderr(Output { sandbox: Arc::clone(sandbox), source: (Stream::Stderr, 0) });
}

/// Replaces both streams in a linker by those of the part of a composition at this position: all parts have one sandbox.
pub(super) fn link_part(linker: &mut Linker<Ctx>, position: usize) -> wasmtime::Result<()> {
    for (name, stream) in [("stdout", Stream::Stdout), ("stderr", Stream::Stderr)] {
        let source = (stream, position);
        // The names that wasmtime-wasi links, which others of the same version lead to.
        linker.instance(&format!("wasi:cli/{name}@0.2.12"))?.func_wrap(
            &format!("get-{name}"),
            move |mut store: StoreContextMut<'_, Ctx>, (): ()| -> wasmtime::Result<(Resource<DynOutputStream>,)> {
                let output: DynOutputStream = Box::new(Output::new(&store, source));
                Ok((store.data_mut().table.push(output)?,))
            },
        )?;
        linker.instance(&format!("wasi:cli/{name}@0.3.0"))?.func_wrap(
            "write-via-stream",
            move |mut store: StoreContextMut<'_, Ctx>, (data,): (StreamReader<u8>,)| {
                let output = Output::new(&store, source);
                data.pipe(&mut store, output)?;
                let done = async { wasmtime::error::Ok(Ok::<(), ErrorCode>(())) };
                Ok((FutureReader::new(&mut store, done)?,))
            },
        )?;
    }
    Ok(())
}

/// Logs incomplete lines at the end of a request, and how much output was dropped.
pub fn finish(sandbox: &Sandbox) {
    if !sandbox.has_output() {
        return;
    }
    let partial = std::mem::take(&mut *lock(&sandbox.partial));
    for PartialLine { source, text } in partial.into_iter().filter(|line| !line.text.is_empty()) {
        log(sandbox, source, &text);
    }
    let dropped = sandbox.take_output_dropped();
    if dropped > 0 {
        sandbox.service.metrics.output_dropped.fetch_add(dropped as u64, Relaxed);
        let (service, request_id) = (&*sandbox.service.name, &*sandbox.request_id());
        tracing::warn!(target: "guest", service, request_id, dropped_bytes = dropped, "dropped guest output: over limits.output or limits.output_rate");
    }
}

/// Logs one message, within the bounds of all output.
pub(crate) fn log_message(sandbox: &Sandbox, source: OutputSource, line: &[u8]) {
    let granted = sandbox.take_output(line.len());
    for piece in line.get(..granted).unwrap_or_default().chunks(LINE_BYTES) {
        log(sandbox, source, piece);
    }
}

impl Output {
    fn new(store: &StoreContextMut<'_, Ctx>, source: OutputSource) -> Self {
        Self { sandbox: Arc::clone(&store.data().sandbox), source }
    }

    fn accept(&self, bytes: &[u8]) {
        let granted = self.sandbox.take_output(bytes.len());
        let Some(bytes) = bytes.get(..granted) else { return };
        let mut lines = lock(&self.sandbox.partial);
        let known = lines.iter().position(|line| line.source == self.source);
        let known = known.unwrap_or_else(|| {
            lines.push(PartialLine { source: self.source, text: Vec::new() });
            lines.len() - 1
        });
        let Some(PartialLine { text: partial, .. }) = lines.get_mut(known) else { return };
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for piece in piece.chunks(LINE_BYTES) {
                partial.extend_from_slice(piece);
                if partial.len() >= LINE_BYTES || partial.ends_with(b"\n") {
                    log(&self.sandbox, self.source, partial);
                    partial.clear();
                }
            }
        }
    }
}

fn log(sandbox: &Sandbox, (stream, position): OutputSource, line: &[u8]) {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end_matches(['\r', '\n']);
    let masked = sandbox.config.as_ref().map(|config| config.mask(line));
    let line = masked.as_deref().unwrap_or(line);
    if matches!(stream, Stream::Stderr) {
        sandbox.keep_stderr(line);
    }
    let (service, version, request_id) = (&*sandbox.service.name, &*sandbox.version.name, &*sandbox.request_id());
    let part = sandbox.version.middleware(position);
    macro_rules! emit {
        ($level:ident, $stream:literal) => {
            tracing::$level!(target: "guest", service, version, request_id, part, stream = $stream, "{line}")
        };
    }
    match stream {
        Stream::Stdout => emit!(info, "stdout"),
        Stream::Stderr => emit!(info, "stderr"),
        Stream::Log(tracing::Level::ERROR) => emit!(error, "log"),
        Stream::Log(tracing::Level::WARN) => emit!(warn, "log"),
        Stream::Log(tracing::Level::INFO) => emit!(info, "log"),
        Stream::Log(_) => emit!(debug, "log"),
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.accept(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.accept(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

impl Pollable for Output {
    fn ready<'a, 'b>(&'a mut self) -> Pin<Box<dyn Future<Output = ()> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(std::future::ready(()))
    }
}

/// The stdout or stderr of WASI 0.3.
impl StreamConsumer<Ctx> for Output {
    type Item = u8;

    fn poll_consume(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        store: StoreContextMut<'_, Ctx>,
        source: Source<'_, u8>,
        _: bool,
    ) -> Poll<wasmtime::Result<Consumed>> {
        let mut source = source.as_direct(store);
        let bytes = source.remaining();
        self.accept(bytes);
        let count = bytes.len();
        source.mark_read(count);
        Poll::Ready(Ok(Consumed::Completed))
    }
}
