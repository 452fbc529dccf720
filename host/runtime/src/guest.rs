//! A component that can be served. Its machine code is dropped after a time without requests, and loaded again for the
//! next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::header;
use tokio::sync::Semaphore;

use super::body::RequestBody;
use super::compile::{Compiled, Compiler, Interfaces};
use super::instance::{Blueprint, Instance};
use super::pool::WarmPool;
use super::response::GuestResponse;
use crate::capabilities::blobstore::GrantedBlobs;
use crate::capabilities::config::Configuration;
use crate::capabilities::http::Sender;
use crate::capabilities::keyvalue::GrantedStore;
use crate::capabilities::sandbox::RequestContext;
use crate::capabilities::sandbox_version::SandboxVersion;
use crate::capabilities::{State, otel};
use crate::error::RunError;
use lodge_manifest::refusal::Refusal;
use lodge_traffic::proxy::body::BodyError;
use lodge_traffic::service::deployment::Deployment;

/// The name of baseline code.
const BASELINE: &str = "baseline";

/// A compiled component that can be served.
pub struct Guest {
    blueprint: Blueprint,
    /// The imports and exports, as written in the component.
    pub interfaces: Arc<Interfaces>,
    /// Whether it makes spans itself.
    makes_spans: bool,
    host: Arc<GuestHost>,
    code: ArcSwapOption<Compiled>,
    /// Held by the request that loads the code, while others wait for it.
    loading: tokio::sync::Mutex<()>,
    /// The tick of the last request.
    used: AtomicU64,
    pool: Arc<WarmPool>,
}

/// What all guests of a host share.
pub struct GuestHost {
    /// Compiles, stores and loads machine code.
    pub compiler: Arc<Compiler>,
    /// The permits for idle instances.
    pub warm: Arc<Semaphore>,
    /// The time without requests after which machine code is dropped; never when zero.
    pub idle_unload: Duration,
}

impl Guest {
    /// Creates the guest of a deployment whose component was compiled to `code`. `sender` sends its requests, and `state`
    /// is what it has beside itself.
    pub fn new(
        deployment: Arc<Deployment>,
        code: Arc<Compiled>,
        sender: Arc<dyn Sender>,
        state: State,
        host: &Arc<GuestHost>,
    ) -> Self {
        let (clock, version) = (&host.compiler.clock, Arc::new(SandboxVersion::new(&deployment)));
        Self {
            makes_spans: code.interfaces.imports.iter().any(|import| import.starts_with(otel::INTERFACES)),
            interfaces: Arc::clone(&code.interfaces),
            used: AtomicU64::new(clock.now()),
            code: ArcSwapOption::new(Some(code)),
            loading: tokio::sync::Mutex::new(()),
            pool: Arc::new(WarmPool::new(&deployment.spec.manifest, clock.clone(), Arc::clone(&host.warm))),
            blueprint: Blueprint { version, deployment, sender, state, clock: clock.clone() },
            host: Arc::clone(host),
        }
    }

    /// Returns the version that the guest runs.
    pub fn deployment(&self) -> &Arc<Deployment> {
        &self.blueprint.deployment
    }

    /// Returns the properties that all instances of the guest share.
    pub(super) fn blueprint(&self) -> &Blueprint {
        &self.blueprint
    }

    /// Returns the store of its service, if the manifest grants one.
    pub fn store(&self) -> Option<&Arc<GrantedStore>> {
        self.blueprint.state.keyvalue.as_ref()
    }

    /// Returns its configuration, if its values are in other places than its manifest.
    pub fn configuration(&self) -> Option<&Arc<Configuration>> {
        self.blueprint.state.config.as_ref()
    }

    /// Returns the objects of its service, if the manifest grants any.
    pub fn blobs(&self) -> Option<&Arc<GrantedBlobs>> {
        self.blueprint.state.blobs.as_ref()
    }

    /// Whether the manifest allows the guest to send requests or messages.
    pub fn sends(&self) -> bool {
        let manifest = &self.deployment().spec.manifest;
        !manifest.grants.is_empty() || !manifest.publish.is_empty()
    }

    /// Whether what the guest may do has spans or goes on in the trace of its request: operations on its state, requests,
    /// messages, and spans of its own.
    pub fn continues_trace(&self) -> bool {
        let State { keyvalue, lock, sqlite, postgres, blobs, .. } = &self.blueprint.state;
        let has_sql = sqlite.is_some() || postgres.is_some();
        let has_state = keyvalue.is_some() || lock.is_some() || has_sql || blobs.is_some();
        self.makes_spans || self.sends() || has_state
    }

    /// Returns a warm instance if there is one, else a new one.
    ///
    /// # Errors
    /// As [`Guest::instantiate`].
    pub async fn take(&self, deadline: Instant) -> Result<Instance, RunError> {
        let now = self.blueprint.clock.now();
        // Stored only when it changes: all cores read this.
        if self.used.load(Relaxed) != now {
            self.used.store(now, Relaxed);
        }
        if let Some(warm) = self.pool.take(now) {
            if !warm.has_old_env() {
                return Ok(warm);
            }
            // All that are idle are as old, but for those that have come back meanwhile.
            self.pool.clear();
        }
        // In a box: the future of every request would have room for it, and that future is moved.
        Box::pin(self.instantiate(deadline)).await
    }

    /// Creates an instance, and loads the machine code for it if that was dropped.
    ///
    /// # Errors
    /// When the start code traps or exceeds a limit, the machine code is lost or not loaded before `deadline`, or the
    /// engine's pool has no room.
    pub async fn instantiate(&self, deadline: Instant) -> Result<Instance, RunError> {
        let code = match self.code.load_full() {
            Some(code) => code,
            None => match tokio::time::timeout_at(deadline.into(), Box::pin(self.load())).await {
                Ok(loaded) => loaded.map_err(|lost| RunError::Unavailable(lost.to_string()))?,
                Err(_) => return Err(RunError::WallTime),
            },
        };
        Instance::new(&self.blueprint, &code, deadline).await
    }

    /// Runs `instance` until it has made the head of its response, and a little further: a body that fails before anything
    /// of it was sent is still a failed request, not a broken transfer.
    ///
    /// # Errors
    /// When there is no response that could be sent.
    pub fn call<B: RequestBody>(
        &self,
        instance: Instance,
        request: http::Request<B>,
        context: RequestContext,
    ) -> impl Future<Output = Result<GuestResponse, RunError>> + Send + use<B> {
        let expects = request.headers().contains_key(header::EXPECT);
        let is_head = request.method() == http::Method::HEAD;
        let (sandbox, running) = instance.start(request, context, self.deployment().limits().request_body);
        let pool = Arc::clone(&self.pool);
        async move {
            let response = GuestResponse::begin(pool, running, &sandbox, is_head).await;
            if expects && sandbox.body_awaited.load(Relaxed) {
                // The guest waits for a body that the client only sends after `100 Continue`, which hyper writes when this
                // task yields.
                tokio::task::yield_now().await;
            }
            // A response to a body that was cut off is not sent.
            if sandbox.body_too_large.load(Relaxed) {
                Err(BodyError::TooLarge.into())
            } else {
                response.map_err(|error| sandbox.attribute(error))
            }
        }
    }

    /// Returns the number of instances that are ready for the next request.
    pub fn warm(&self) -> usize {
        self.pool.len()
    }

    /// Whether the machine code is in memory.
    pub fn is_loaded(&self) -> bool {
        self.code.load().is_some()
    }

    /// Loads the machine code, once for all requests that wait for it. Takes as long as a compilation if the cache has lost
    /// it.
    ///
    /// # Errors
    /// When both the cache and the component's file are lost.
    async fn load(&self) -> Result<Arc<Compiled>, Refusal> {
        let _loading = self.loading.lock().await;
        if let Some(code) = self.code.load_full() {
            return Ok(code);
        }
        let code = self.host.compiler.code(&self.deployment().spec).await?;
        self.code.store(Some(Arc::clone(&code)));
        Ok(code)
    }

    /// Replaces baseline code by optimised code. A request in flight goes on with the code that it runs on.
    pub(super) async fn optimise(&self, code: Arc<Compiled>) {
        // No request may load the baseline code after this.
        let _loading = self.loading.lock().await;
        if self.is_loaded() {
            self.code.store(Some(code));
        }
        self.pool.refuse_baseline();
    }

    /// Whether the guest runs baseline code, which is fast to compile and slow to run.
    pub fn is_baseline(&self) -> bool {
        self.tier() == Some(BASELINE)
    }

    /// Returns which compiler made the machine code, `baseline` or `optimised`; `None` when the code is not in memory.
    pub fn tier(&self) -> Option<&'static str> {
        let code = self.code.load();
        code.as_ref().map(|code| if code.kind.baseline { BASELINE } else { "optimised" })
    }

    /// Drops the warm instances that have been idle for too long. Unloads the guest if it had no request for too long. A
    /// request in flight keeps what it runs on.
    pub fn drop_idle(&self) {
        let (clock, limit) = (&self.blueprint.clock, self.host.idle_unload);
        let now = clock.now();
        self.pool.drop_expired(now);
        if !limit.is_zero() && clock.between(self.used.load(Relaxed), now) >= limit {
            self.unload();
        }
    }

    /// Drops the machine code and the idle instances, if the code can be loaded again. Returns whether the code is gone. The
    /// next request loads it.
    pub fn unload(&self) -> bool {
        if let Some(code) = self.code.load_full()
            && self.host.compiler.keeps(&code, self.deployment().digest())
        {
            self.pool.clear();
            self.code.store(None);
            tracing::debug!("{} unloaded; the next request loads it again", self.deployment().name);
        }
        !self.is_loaded()
    }
}
