//! The capabilities of guests: [`Ctx`], the data of a Store, with one file per capability.
//!
//! A capability's file has up to three functions: `link` adds its functions to the linker (once), `grant` decides from
//! a manifest what a guest gets (per guest), `state` makes its part of a `Ctx` (per sandbox). Capabilities know neither
//! each other nor the request path.
//!
//! Everything that a language's runtime imports is linked for every guest: refusal by import name would refuse nearly
//! every guest. Arguments, names and sockets are empty or [`denied`]; files, the environment and outgoing requests are
//! limited to what the manifest grants.

pub(crate) mod absent;
pub mod blobstore;
pub mod config;
mod connections;
pub mod denied;
pub(crate) mod handles;
mod held_locks;
pub mod http;
pub mod keyvalue;
pub mod last_lines;
mod limiter;
pub mod lock;
pub mod logged_denials;
mod logging;
pub mod messaging;
pub(crate) mod middleware;
pub(crate) mod otel;
pub mod outbox;
mod outcome;
mod output_source;
pub mod postgres;
pub mod sandbox;
pub mod sandbox_version;
pub mod sqlite;
pub mod stdio;
mod streamed;
pub mod volumes;
pub mod waker;

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::error::backtrace::PartImages;
use blobstore::GrantedBlobs;
use config::{ConfigSnapshot, Configuration};
use keyvalue::{GrantedStore, SandboxStore};
use limiter::Limiter;
use lock::GrantedLocks;
use lodge_base::config::limits::Limits;
use lodge_manifest::config::ConfigKey;
use messaging::{GrantedMessages, SandboxMessages};
use otel::RequestSpans;
use postgres::{GrantedPostgres, RequestPostgres};
use sandbox::Sandbox;
use sqlite::{GrantedDatabases, RequestDatabases};
use volumes::GrantedVolumes;

/// The most random bytes that a guest can request in one call; more is a trap. wasmtime's own bound is 64 MiB, all of
/// which the host would allocate.
const RANDOM_BYTES: u64 = 16 << 20;

/// The data of a guest's Store. It contains only what the guest was granted.
pub struct Ctx {
    /// The limits of memories and tables, which wasmtime checks before each growth.
    pub limiter: Limiter,
    /// The part of the sandbox that the host can access from outside the Store.
    pub sandbox: Arc<Sandbox>,
    /// The configuration, if the manifest has one.
    config: Option<ConfigSnapshot>,
    /// The store of the service, if its manifest grants one.
    keyvalue: Option<SandboxStore>,
    /// The locks of the service, if its manifest grants any.
    lock: Option<Arc<GrantedLocks>>,
    /// The databases of the service, if its manifest grants any.
    sqlite: Option<RequestDatabases>,
    /// The databases on servers of the service, if its manifest grants any.
    postgres: Option<RequestPostgres>,
    /// The objects of the service, if its manifest grants any.
    blobs: Option<Arc<GrantedBlobs>>,
    /// The directories of the host that it sees, if any.
    volumes: Option<Arc<GrantedVolumes>>,
    /// The entries of directories that the current request may still list.
    entries_left: usize,
    /// The messages that it may publish, if any.
    messages: Option<SandboxMessages>,
    /// The spans that it has made during the current request.
    otel: RequestSpans,
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: http::Hooks,
    /// The code of the parts of a composition; `None` for a component without middleware.
    pub(crate) parts: Option<Arc<PartImages>>,
    /// The handlers behind the outermost part of a composition, in their order.
    behind: Vec<Arc<middleware::NextHandler>>,
}

/// The Store of a guest, in a function that the guest calls.
type GuestCall<'a> = StoreContextMut<'a, Ctx>;

/// What a service has beside itself, as its manifest grants it.
#[derive(Clone, Default)]
pub struct State {
    /// Its configuration.
    pub config: Option<Arc<Configuration>>,
    /// Its store.
    pub keyvalue: Option<Arc<GrantedStore>>,
    /// Its locks.
    pub lock: Option<Arc<GrantedLocks>>,
    /// Its databases.
    pub sqlite: Option<Arc<GrantedDatabases>>,
    /// Its databases on servers.
    pub postgres: Option<Arc<GrantedPostgres>>,
    /// Its objects.
    pub blobs: Option<Arc<GrantedBlobs>>,
    /// The directories that it sees.
    pub volumes: Option<Arc<GrantedVolumes>>,
    /// Its messages.
    pub messages: Option<Arc<GrantedMessages>>,
}

impl Ctx {
    /// Begins another request: a snapshot of the configuration lasts as long as a request, and so do the guest's spans.
    pub(crate) fn renew(&mut self) {
        self.otel = RequestSpans::default();
        self.entries_left = volumes::REQUEST;
        if let Some(config) = &mut self.config {
            config.renew();
        }
    }

    /// Ends a request, after which the instance may be idle.
    pub(crate) fn end_request(&mut self) {
        if let Some(sqlite) = &mut self.sqlite {
            sqlite.reset();
        }
        if let Some(postgres) = &mut self.postgres {
            postgres.reset();
        }
    }

    /// Whether a new sandbox would have other environment variables.
    pub(crate) fn has_old_env(&self) -> bool {
        self.config.as_ref().is_some_and(ConfigSnapshot::has_old_env)
    }

    /// Returns the data of a new sandbox. `env` are the environment variables of its manifest, for a service whose values are
    /// all in there. `sender` sends its outgoing requests, and `state` is what it has beside itself.
    pub fn new(
        limits: &Limits,
        env: &BTreeMap<String, ConfigKey>,
        sender: Arc<dyn http::Sender>,
        state: &State,
        sandbox: Arc<Sandbox>,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.resources);
        let mut wasi = WasiCtx::builder();
        wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false).max_random_size(RANDOM_BYTES);
        let config = state.config.clone().map(ConfigSnapshot::new);
        match &config {
            Some(config) => {
                for (name, value) in config.env() {
                    wasi.env(name, &value.text);
                }
            }
            None => {
                for (name, text) in env.iter().filter_map(|(name, key)| Some((name, key.text()?))) {
                    wasi.env(name, text);
                }
            }
        }
        stdio::state(&mut wasi, &sandbox);
        Self {
            limiter: Limiter::new(limits, Arc::clone(&sandbox)),
            config,
            keyvalue: state.keyvalue.clone().map(SandboxStore::new),
            lock: state.lock.clone(),
            sqlite: state.sqlite.clone().map(RequestDatabases::new),
            postgres: state.postgres.clone().map(RequestPostgres::new),
            blobs: state.blobs.clone(),
            volumes: state.volumes.clone(),
            entries_left: volumes::REQUEST,
            messages: state.messages.clone().map(SandboxMessages::new),
            otel: RequestSpans::default(),
            table,
            wasi: wasi.build(),
            http: http::state(),
            hooks: http::Hooks::new(sender, Arc::clone(&sandbox)),
            parts: None,
            behind: Vec::new(),
            sandbox,
        }
    }
}

/// Links every capability for WASI 0.2 and, into a `concurrent` engine, also for 0.3: a 0.3 guest built by rustc still
/// imports 0.2 through std.
///
/// # Errors
/// Only when two capabilities define the same name.
pub fn link(linker: &mut Linker<Ctx>, concurrent: bool) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    denied::link_02(linker)?;
    volumes::link_02(linker)?;
    http::link_02(linker)?;
    logging::link(linker, 0)?;
    config::link(linker, concurrent)?;
    keyvalue::link(linker, concurrent)?;
    lock::link(linker, concurrent)?;
    sqlite::link(linker, concurrent)?;
    postgres::link(linker, concurrent)?;
    blobstore::link(linker, concurrent)?;
    messaging::link(linker, concurrent)?;
    otel::link(linker)?;
    if concurrent {
        wasmtime_wasi::p3::add_to_linker(linker)?;
        denied::link_03(linker)?;
        volumes::link_03(linker)?;
        http::link_03(linker)?;
        middleware::link(linker, 0)?;
    }
    Ok(())
}

impl WasiView for Ctx {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Ctx {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}
