//! What the log says when a host starts.

use std::path::Path;

use tokio::net::TcpListener;

use crate::guests::trust;
use crate::listener::accept::Listeners;
use lodge_base::config::Config;
use lodge_base::cpu::scheduler;
use lodge_base::telemetry::logs::START;
use lodge_runtime::compile::Reset;

/// Logs where the host listens, and what it goes by.
pub(super) fn announce(config: &Config, listeners: &Listeners, admin: Option<&TcpListener>, reset: Reset) {
    let at = |listener: &TcpListener| listener.local_addr().map_or_else(|error| error.to_string(), |at| at.to_string());
    tracing::info!(target: START, "serving {} on http://{}", config.guests.display(), at(&listeners.plain.listener));
    if let Some((secure, _)) = &listeners.secure {
        tracing::info!(target: START, "serving {} on https://{}", config.guests.display(), at(&secure.listener));
    }
    if let Some(clients) = config.tls.clients() {
        tracing::info!("{clients}");
    }
    if let Some(admin) = admin {
        tracing::info!(target: START, "operators: page, metrics and API on http://{}", at(admin));
    }
    match &config.program.file {
        Some(file) => tracing::info!("settings are those of {}, variables LODGE_* and flags", file.display()),
        None => tracing::info!("no lodge.toml was read: settings are defaults, variables LODGE_* and flags"),
    }
    tracing::info!("{}", trust::described(&config.trust));
    if is_empty(&config.guests) {
        let guests = config.guests.display();
        tracing::warn!(
            "{guests} is empty: copy a component into it, and it is served at its name, as hello.wasm at /hello; `lodge dev` also \
             builds the crates in it"
        );
    }
    tracing::info!("sandboxes are reset {reset}");
    sizes(config).iter().for_each(|sizes| tracing::info!("{sizes}"));
}

/// Says what the process may use, and the sizes that follow from it.
fn sizes(config: &Config) -> Option<String> {
    let (engine, workers) = (&config.engine, scheduler::workers());
    let resident = bytesize::ByteSize(engine.resident as u64).display().iec();
    Some(format!(
        "this process may use {}: {workers} workers, engine.instances = {}, engine.warm = {}, engine.resident = {resident}",
        config.program.machine.as_deref()?,
        engine.instances,
        engine.warm
    ))
}

/// Whether a directory has nothing but files of Lodge and of editors, whose names begin with a dot.
fn is_empty(directory: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(directory) else { return false };
    entries.flatten().all(|entry| entry.file_name().as_encoded_bytes().starts_with(b"."))
}
