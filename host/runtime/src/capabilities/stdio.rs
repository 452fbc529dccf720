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
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

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
    stream: Stream,
}

/// The source of a log line.
#[derive(Clone, Copy)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
    /// `wasi:logging`, with the level.
    Log(tracing::Level),
}

/// Sets up both streams of a sandbox.
pub(super) fn state(wasi: &mut WasiCtxBuilder, sandbox: &Arc<Sandbox>) {
    wasi.stdout(Output { sandbox: Arc::clone(sandbox), stream: Stream::Stdout });
    wasi.stderr(Output { sandbox: Arc::clone(sandbox), stream: Stream::Stderr });
}

/// Logs incomplete lines at the end of a request, and how much output was dropped.
pub fn finish(sandbox: &Sandbox) {
    if !sandbox.has_output() {
        return;
    }
    for (stream, partial) in [Stream::Stdout, Stream::Stderr].into_iter().zip(&sandbox.partial) {
        let rest = std::mem::take(&mut *lock(partial));
        if !rest.is_empty() {
            log(sandbox, stream, &rest);
        }
    }
    let dropped = sandbox.take_output_dropped();
    if dropped > 0 {
        sandbox.service.metrics.output_dropped.fetch_add(dropped as u64, Relaxed);
        let (service, request_id) = (&*sandbox.service.name, &*sandbox.request_id());
        tracing::warn!(target: "guest", service, request_id, dropped_bytes = dropped, "dropped guest output: over limits.output or limits.output_rate");
    }
}

/// Logs one message, within the bounds of all output.
pub(crate) fn log_message(sandbox: &Sandbox, stream: Stream, line: &[u8]) {
    let granted = sandbox.take_output(line.len());
    for piece in line.get(..granted).unwrap_or_default().chunks(LINE_BYTES) {
        log(sandbox, stream, piece);
    }
}

impl Output {
    fn accept(&self, bytes: &[u8]) {
        let granted = self.sandbox.take_output(bytes.len());
        let Some(bytes) = bytes.get(..granted) else { return };
        let [stdout, stderr] = &self.sandbox.partial;
        let mut partial = lock(if matches!(self.stream, Stream::Stdout) { stdout } else { stderr });
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for piece in piece.chunks(LINE_BYTES) {
                partial.extend_from_slice(piece);
                if partial.len() >= LINE_BYTES || partial.ends_with(b"\n") {
                    log(&self.sandbox, self.stream, &partial);
                    partial.clear();
                }
            }
        }
    }
}

fn log(sandbox: &Sandbox, stream: Stream, line: &[u8]) {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end_matches(['\r', '\n']);
    let masked = sandbox.config.as_ref().map(|config| config.mask(line));
    let line = masked.as_deref().unwrap_or(line);
    if matches!(stream, Stream::Stderr) {
        sandbox.keep_stderr(line);
    }
    let (service, version, request_id) = (&*sandbox.service.name, &*sandbox.version, &*sandbox.request_id());
    macro_rules! emit {
        ($level:ident, $stream:literal) => {
            tracing::$level!(target: "guest", service, version, request_id, stream = $stream, "{line}")
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
