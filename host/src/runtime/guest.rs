//! A component that can be served. Its machine code is dropped when no request comes for long, and loaded again for the next one.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwapOption;

use super::compile::{Compiled, Compiler, Interfaces};
use crate::base::clock::Clock;
use crate::base::lock::lock;
use crate::capabilities::http::Sender;
use crate::capabilities::logged_denials::LoggedDenials;
use crate::manifest::Isolation;
use crate::manifest::refusal::Refusal;
use crate::manifest::spec::GuestSpec;
use crate::runtime::instance::Instance;
use crate::service::deployment::Deployment;

/// What baseline code is called.
const BASELINE: &str = "baseline";

/// A component that can be served.
pub struct Guest {
    deployment: Deployment,
    /// What it imports and exports, as written in the component.
    pub interfaces: Arc<Interfaces>,
    sender: Arc<dyn Sender>,
    compiler: Arc<Compiler>,
    code: ArcSwapOption<Compiled>,
    /// One request loads; the others wait for it.
    loading: tokio::sync::Mutex<()>,
    /// Its code is not baseline code any more, and instances of that are not to be used again.
    improved: AtomicBool,
    /// The tick of the last request.
    used: AtomicU64,
    idle: Mutex<Vec<Idle>>,
    late_trap: AtomicBool,
    denials: Arc<LoggedDenials>,
}

/// A warm instance between two requests.
struct Idle {
    instance: Instance,
    /// The tick at which its last request ended.
    since: u64,
}

impl Deref for Guest {
    type Target = Deployment;

    fn deref(&self) -> &Deployment {
        &self.deployment
    }
}

impl Guest {
    /// A service that runs this code.
    pub(super) fn new(spec: GuestSpec, code: Arc<Compiled>, compiler: &Arc<Compiler>) -> Self {
        let deployment = Deployment::new(spec, &compiler.services);
        let manifest = &deployment.spec.manifest;
        let sender = compiler.outgoing.sender(&deployment.service, &manifest.grants, &manifest.limits);
        Self {
            deployment,
            sender,
            interfaces: Arc::clone(&code.interfaces),
            used: AtomicU64::new(compiler.clock.now()),
            compiler: Arc::clone(compiler),
            code: ArcSwapOption::new(Some(code)),
            loading: tokio::sync::Mutex::new(()),
            improved: AtomicBool::new(false),
            idle: Mutex::new(Vec::new()),
            late_trap: AtomicBool::new(false),
            denials: Arc::default(),
        }
    }

    /// Whether its manifest lets it send requests.
    pub fn sends(&self) -> bool {
        !self.spec.manifest.grants.is_empty()
    }

    /// Instances that are ready for the next request.
    pub fn warm(&self) -> usize {
        self.idle().len()
    }

    /// What sends the requests of its sandboxes.
    pub(crate) fn sender(&self) -> Arc<dyn Sender> {
        Arc::clone(&self.sender)
    }

    /// What was denied to its sandboxes and logged.
    pub(crate) fn denials(&self) -> &Arc<LoggedDenials> {
        &self.denials
    }

    /// The host's coarse clock.
    pub(crate) fn clock(&self) -> &Clock {
        &self.compiler.clock
    }

    /// Whether its machine code is in memory.
    pub fn is_loaded(&self) -> bool {
        self.code.load().is_some()
    }

    /// Its machine code, unless that was dropped.
    pub(crate) fn code(&self) -> Option<Arc<Compiled>> {
        self.code.load_full()
    }

    /// Its machine code, loaded once for all who wait. Takes as long as a compilation if the cache has lost it.
    ///
    /// # Errors
    /// When both the cache and the file have lost it.
    pub(crate) async fn load(&self) -> Result<Arc<Compiled>, Refusal> {
        let _loading = self.loading.lock().await;
        if let Some(code) = self.code() {
            return Ok(code);
        }
        let code = self.compiler.code(&self.spec).await?;
        self.code.store(Some(Arc::clone(&code)));
        Ok(code)
    }

    /// Gives it better code for what it is. A request in flight goes on with what it runs on.
    pub(super) async fn improve(&self, code: Arc<Compiled>) {
        // Nobody may load the old code after this.
        let _loading = self.loading.lock().await;
        self.improved.store(true, Relaxed);
        if self.is_loaded() {
            self.code.store(Some(code));
        }
        let idle = std::mem::take(&mut *self.idle());
        drop(idle);
    }

    /// Whether it runs baseline code, which is made fast and is slow.
    pub fn is_baseline(&self) -> bool {
        self.tier() == Some(BASELINE)
    }

    /// Which compiler made its machine code: `baseline` or `optimised`; `None` when the code is not in memory.
    pub fn tier(&self) -> Option<&'static str> {
        let code = self.code.load();
        code.as_ref().map(|code| if code.kind.baseline { BASELINE } else { "optimised" })
    }

    /// A warm instance that is still fit to use, if there is one; the one used last, so that the others can go.
    pub(crate) fn take_warm(&self) -> Option<Instance> {
        // A store only where it says something new: all cores read this.
        let now = self.clock().now();
        if self.used.load(Relaxed) != now {
            self.used.store(now, Relaxed);
        }
        let idle = self.idle().pop()?;
        (self.clock().between(idle.since, now) < self.limits().warm_idle).then_some(idle.instance)
    }

    /// Takes an instance back after a request that ended well, if there is a use and a place for it.
    pub(crate) fn keep_warm(&self, mut instance: Instance) {
        let fit = self.spec.manifest.isolation == Isolation::Service && instance.uses() < self.limits().warm_uses;
        let old = instance.is_baseline() && self.improved.load(Relaxed);
        if fit && !old && instance.stays(&self.compiler.warm) {
            self.idle().push(Idle { instance, since: self.clock().now() });
        }
    }

    /// Whether this is the first time that this version trapped after a complete answer.
    pub(crate) fn first_late_trap(&self) -> bool {
        !self.late_trap.swap(true, Relaxed)
    }

    /// Drops what has been idle for too long: warm instances, then the machine code, if it would be found again. A
    /// request in flight keeps what it runs on.
    pub fn drop_idle(&self) {
        let (clock, limit) = (self.clock(), self.limits().warm_idle);
        let now = clock.now();
        let expired: Vec<_> = self.idle().extract_if(.., |idle| clock.between(idle.since, now) >= limit).collect();
        // Outside the lock: giving memory back takes a while.
        drop(expired);
        let limit = self.compiler.idle_unload;
        if !limit.is_zero() && clock.between(self.used.load(Relaxed), now) >= limit {
            self.unload();
        }
    }

    /// Drops its machine code and its idle instances, if the code would be found again; says whether. The next request
    /// loads it.
    pub fn unload(&self) -> bool {
        if let Some(code) = self.code.load_full()
            && self.compiler.keeps(&code, self.digest())
        {
            let idle = std::mem::take(&mut *self.idle());
            drop(idle);
            self.code.store(None);
            tracing::debug!("{} is unloaded until somebody asks for it", self.name);
        }
        !self.is_loaded()
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        lock(&self.idle)
    }
}
