//! Compilation of a component: by which compiler, within which bounds, and with which error message.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use tokio::sync::oneshot;

use super::child::{CancelOnDrop, Compilation, CompileError};
use super::engine::{Linked, pool};
use super::explain::uncompilable;
use super::job::{CodeKind, CompileJob, niceness};
use super::lane::LanePermit;
use super::one_line::one_line;
use super::source;
use super::{Compiled, Compiler};
use crate::code_cache::deserialize;
use lodge_base::config::Config;
use lodge_base::cpu::scheduler;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::GuestSpec;

/// Part of the name of every interface of WASI 0.3.
const WASI_03: &[u8] = b"@0.3.";

/// The wall time that a compilation may take for each second of CPU time. It runs at a low priority, so it waits
/// for long on a busy machine; one that takes longer hangs.
const PATIENCE: u32 = 20;

/// The bounds of one run of a compiler.
pub(super) struct Bounds {
    /// The program that compiles; `None` compiles in the host's own process.
    program: Option<PathBuf>,
    threads: usize,
    memory: u64,
    time: Duration,
    /// The threads of this process, for a host that cannot start another: for first code, and for code that replaces it.
    own: [OnceLock<Option<rayon::ThreadPool>>; 2],
    complained: AtomicBool,
}

impl Bounds {
    pub(super) fn new(config: &Config) -> Self {
        let sizes = &config.engine;
        Self {
            program: config.program.compiler.clone(),
            // All cores: compilers have a low priority, so serving threads go first.
            threads: if sizes.compile_threads == 0 { scheduler::cores() } else { sizes.compile_threads },
            memory: sizes.compile_memory as u64,
            time: sizes.compile_time,
            own: Default::default(),
            complained: AtomicBool::new(false),
        }
    }

    /// The maximum duration of a compilation of up to four runs.
    pub(super) fn patience(&self) -> Duration {
        self.time.saturating_mul(PATIENCE)
    }

    /// Returns machine code of this kind. Blocking.
    fn compile(
        &self,
        kind: CodeKind,
        running: &Compilation,
        component: &[u8],
        low: bool,
    ) -> Result<Vec<u8>, CompileError> {
        // A compilation that no request waits for leaves half of the machine to others.
        let threads = if low { (self.threads / 2).max(1) } else { self.threads };
        let job = CompileJob { kind, replaces: low, threads, memory: self.memory, time: self.time };
        if let Some(program) = &self.program {
            match running.compile(program, &job, component) {
                Err(CompileError::Unstarted(why)) => {
                    if !self.complained.swap(true, Relaxed) {
                        tracing::warn!(
                            "no process can be started to compile in ({}: {why}); compiling in this one, where \
                             engine.compile_memory and engine.compile_time are no bounds",
                            program.display()
                        );
                    }
                }
                result => return result,
            }
        }
        let [first, second] = &self.own;
        let own = if low { second } else { first };
        let own = own.get_or_init(|| pool(threads, niceness(low)).ok()).as_ref();
        let own = own.ok_or_else(|| CompileError::Crashed("cannot start a compiler thread".into()))?;
        let compiled =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| own.install(|| kind.compile(component))));
        compiled.unwrap_or_else(|_| Err("the compiler failed".into())).map_err(CompileError::Refused)
    }

    /// The error message for a failure.
    fn refusal(&self, failure: CompileError, file: &str) -> Refusal {
        match failure {
            CompileError::Refused(why) => uncompilable(file, &why),
            CompileError::Memory => {
                let reason = format!("it needs more than {} to compile", ByteSize(self.memory).display().iec());
                Refusal::new(file, reason, "raise engine.compile_memory")
            }
            CompileError::Time => self.late(file),
            CompileError::Killed => {
                let reason =
                    "its compiler was killed by another process, most likely because the machine is short of memory";
                Refusal::new(file, reason, "give the machine more memory; Lodge will try again").passing()
            }
            CompileError::Crashed(how) | CompileError::Unstarted(how) => {
                let reason = format!("the compiler crashed: {how}");
                Refusal::new(file, reason, "report this to Lodge's authors, with the component")
            }
        }
    }

    fn late(&self, file: &str) -> Refusal {
        let limit = humantime::format_duration(Duration::from_secs(self.time.as_secs_f64().ceil() as u64));
        Refusal::new(file, format!("it took more than {limit} of CPU time to compile"), "raise engine.compile_time")
    }
}

impl Compiler {
    /// Compiles a component when there is a permit for it.
    pub(super) async fn translate(self: &Arc<Self>, spec: &GuestSpec) -> Result<Arc<Compiled>, Refusal> {
        let _waiting = self.metrics.compiling();
        let lane = if spec.size > super::tiers::SHORT { &self.long } else { &self.short };
        let permit = lane.permit(spec.size).await;
        // Another service with the same component may have compiled it meanwhile.
        if let Some(code) = self.known(spec.digest) {
            return Ok(code);
        }
        Ok(self.remember(spec.digest, self.run(spec, permit, false).await?))
    }

    /// Compiles a component on a new thread, since a child process dies with the thread that started it. Dropping the
    /// future cancels the compilation.
    pub(super) async fn run(
        self: &Arc<Self>,
        spec: &GuestSpec,
        permit: LanePermit,
        again: bool,
    ) -> Result<Compiled, Refusal> {
        let file = file_name(&spec.path);
        let (done, built) = oneshot::channel();
        let running = Arc::new(Compilation::default());
        let cancel_guard = CancelOnDrop(Arc::clone(&running));
        let (this, source) = (Arc::clone(self), spec.clone());
        let thread = std::thread::Builder::new().name("compile".into()).spawn(move || {
            // A cancelled compilation in this process continues, and keeps its permit.
            let _permit = permit;
            // Fails if the compilation was cancelled.
            let _ = done.send(this.build(&source, &running, again));
        });
        thread.map_err(|error| {
            Refusal::new(&file, format!("cannot start a thread: {error}"), "Lodge will try again").passing()
        })?;
        let built = tokio::time::timeout(self.bounds.patience(), built).await;
        drop(cancel_guard);
        match built {
            Ok(Ok(built)) => built,
            Ok(Err(_)) => Err(self.bounds.refusal(CompileError::Crashed("its thread panicked".into()), &file)),
            // The compilation did not use its CPU time: the machine was busy.
            Err(_) if again => Err(self.bounds.late(&file).passing()),
            Err(_) => Err(self.bounds.late(&file)),
        }
    }

    /// Compiles a component and stores the machine code. `again` compiles with optimisations for the second time.
    fn build(&self, spec: &GuestSpec, running: &Compilation, again: bool) -> Result<Compiled, Refusal> {
        let file = file_name(&spec.path);
        let component = source::read(spec)?;
        let start = Instant::now();
        let speaks_03 = component.windows(WASI_03.len()).any(|window| window == WASI_03);
        let mut last = None;
        for kind in self.kinds(&component, speaks_03, again) {
            let linked = match self.linked(kind) {
                Ok(linked) => linked,
                Err(_) if kind.baseline => continue,
                Err(why) => return Err(Refusal::new(&file, why, "restart the host with smaller sizes").passing()),
            };
            match self.bounds.compile(kind, running, &component, again) {
                Ok(code) => {
                    self.metrics.compiled.record(start.elapsed());
                    return self.take_in(linked, kind, &code, spec);
                }
                // Another compiler or engine may succeed.
                Err(failure @ (CompileError::Refused(_) | CompileError::Crashed(_))) if !running.is_cancelled() => {
                    last = Some(failure);
                }
                Err(failure) => {
                    // Another attempt may succeed: the memory of a compiler depends on all others.
                    let may_pass = again && failure == CompileError::Memory;
                    let refusal = self.bounds.refusal(failure, &file);
                    return Err(if may_pass { refusal.passing() } else { refusal });
                }
            }
        }
        Err(self.bounds.refusal(last.unwrap_or(CompileError::Killed), &file))
    }

    /// Links machine code from one of Lodge's compilers, and stores it.
    fn take_in(&self, linked: Arc<Linked>, kind: CodeKind, code: &[u8], spec: &GuestSpec) -> Result<Compiled, Refusal> {
        let file = file_name(&spec.path);
        // The engine has further bounds than the compiler, such as the number of memories.
        let component = deserialize(&linked.engine, code).map_err(|error| uncompilable(&file, &one_line(&error)))?;
        let compiled = self.link(linked, kind, &component, &file)?;
        if let Some((cache, stamp)) = self.cache.as_ref().zip(self.stamp(kind)) {
            cache.store(stamp, spec.digest, code);
        }
        Ok(compiled)
    }

    /// Loads machine code from the disk, if it was compiled before. Blocking.
    pub(super) fn cached(&self, spec: &GuestSpec) -> Option<Compiled> {
        let cache = self.cache.as_ref()?;
        let found = self.stored().into_iter().find_map(|kind| {
            let stamp = self.stamp(kind).filter(|stamp| cache.holds(stamp, spec.digest))?;
            let linked = self.linked(kind).ok()?;
            let component = cache.load(stamp, &linked.engine, spec.digest)?;
            self.link(linked, kind, &component, &file_name(&spec.path)).ok()
        });
        let count = if found.is_some() { &self.metrics.cache_hits } else { &self.metrics.cache_misses };
        count.fetch_add(1, Relaxed);
        found
    }
}

/// The path of the running program, to start it as a compiler. On Linux this works after the file was replaced.
///
/// # Errors
/// When the system does not provide the path.
pub fn this_program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() }
}
