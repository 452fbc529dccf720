//! `wasi:logging`: log lines with a level. The bounds are those of stdout and stderr.

use wasmtime::component::{ComponentType, Lift, Linker};

use super::Ctx;
use super::stdio::{self, Stream};

/// The names under which toolchains import the interface.
const NAMES: [&str; 2] = ["wasi:logging/logging@0.1.0-draft", "wasi:logging/logging"];

#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "made by wasmtime out of what a guest passes")]
enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    Critical,
}

/// Adds `wasi:logging` to the linker, for the part of a composition at this position.
pub(super) fn link(linker: &mut Linker<Ctx>, position: usize) -> wasmtime::Result<()> {
    for name in NAMES {
        linker.instance(name)?.func_wrap("log", move |store, (level, context, message): (Level, String, String)| {
            let level = match level {
                Level::Trace | Level::Debug => tracing::Level::DEBUG,
                Level::Info => tracing::Level::INFO,
                Level::Warn => tracing::Level::WARN,
                Level::Error | Level::Critical => tracing::Level::ERROR,
            };
            let text = if context.is_empty() { message } else { format!("{context}: {message}") };
            stdio::log_message(&store.data().sandbox, (Stream::Log(level), position), text.as_bytes());
            Ok(())
        })?;
    }
    Ok(())
}
