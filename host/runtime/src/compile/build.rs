//! From a component's bytes to machine code: by which compiler, within which bounds, and what is said when it fails.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use tokio::sync::oneshot;

use super::child::{Failure, Leash, Running};
use super::engine::{Linked, pool};
use super::explain::{one_line, uncompilable};
use super::job::{Job, Kind};
use super::lane::Place;
use super::source;
use super::{Compiled, Compiler};
use crate::code_cache::deserialize;
use lodge_base::config::Config;
use lodge_base::cpu::scheduler;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::GuestSpec;

/// In the name of every interface of WASI 0.3.
const WASI_03: &[u8] = b"@0.3.";

/// Wall time of a compilation by its CPU time. It runs at the lowest priority, so on a busy machine it waits for long; one
/// that neither ends nor uses its CPU time hangs.
const PATIENCE: u32 = 20;

/// What one run of a compiler may take.
pub(super) struct Bounds {
    /// The program that compiles; the host's own process if there is none.
    program: Option<PathBuf>,
    threads: usize,
    memory: u64,
    time: Duration,
    /// Threads of this process, for a host that can start no other.
    own: OnceLock<Option<rayon::ThreadPool>>,
    complained: AtomicBool,
}

impl Bounds {
    pub(super) fn new(config: &Config) -> Self {
        let sizes = &config.engine;
        Self {
            program: config.program.compiler.clone(),
            // All of them: at the lowest priority a compiler gives way to whoever serves.
            threads: if sizes.compile_threads == 0 { scheduler::cores() } else { sizes.compile_threads },
            memory: sizes.compile_memory as u64,
            time: sizes.compile_time,
            own: OnceLock::new(),
            complained: AtomicBool::new(false),
        }
    }

    /// The longest that a compilation of up to four runs may take.
    pub(super) fn patience(&self) -> Duration {
        self.time.saturating_mul(PATIENCE)
    }

    /// Machine code of this kind. Blocking.
    fn compile(&self, kind: Kind, running: &Running, component: &[u8], low: bool) -> Result<Vec<u8>, Failure> {
        // What nobody waits for leaves half of the machine to those who do.
        let threads = if low { (self.threads / 2).max(1) } else { self.threads };
        let job = Job { kind, threads, memory: self.memory, time: self.time };
        if let Some(program) = &self.program {
            match running.compile(program, &job, component) {
                Err(Failure::Unstarted(why)) => {
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
        let own = self.own.get_or_init(|| pool(self.threads).ok()).as_ref();
        let own = own.ok_or_else(|| Failure::Crashed("no thread can be started to compile on".into()))?;
        let compiled =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| own.install(|| kind.compile(component))));
        compiled.unwrap_or_else(|_| Err("the compiler failed".into())).map_err(Failure::Refused)
    }

    /// A failure in words: what happened to which file, and what to do.
    fn refusal(&self, failure: Failure, file: &str) -> Refusal {
        match failure {
            Failure::Refused(why) => uncompilable(file, &why),
            Failure::Memory => {
                let reason = format!("it needs more than {} to compile", ByteSize(self.memory).display().iec());
                Refusal::new(file, reason, "raise engine.compile_memory")
            }
            Failure::Time => self.late(file),
            Failure::Killed => {
                let reason = "its compiler was killed from outside, most likely because memory is short";
                Refusal::new(file, reason, "give the machine more memory; it will be tried again").passing()
            }
            Failure::Crashed(how) | Failure::Unstarted(how) => {
                let reason = format!("the compiler failed on it: {how}");
                Refusal::new(file, reason, "report it to Lodge's authors, with the component")
            }
        }
    }

    fn late(&self, file: &str) -> Refusal {
        let limit = humantime::format_duration(Duration::from_secs(self.time.as_secs_f64().ceil() as u64));
        Refusal::new(file, format!("it took more than {limit} of CPU time to compile"), "raise engine.compile_time")
    }
}

impl Compiler {
    /// Compiles a component when it is its turn.
    pub(super) async fn translate(self: &Arc<Self>, spec: &GuestSpec) -> Result<Arc<Compiled>, Refusal> {
        let _waiting = self.metrics.compiling();
        let lane = if spec.size > super::tiers::SHORT { &self.long } else { &self.short };
        let place = lane.place(spec.size).await;
        // Another service of the same component may have been before this one.
        if let Some(code) = self.known(spec.digest) {
            return Ok(code);
        }
        Ok(self.remember(spec.digest, self.run(spec, place, false).await?))
    }

    /// Compiles a component on a thread of its own, which a child process must not outlive. Gives it up with this future.
    pub(super) async fn run(
        self: &Arc<Self>,
        spec: &GuestSpec,
        place: Place,
        again: bool,
    ) -> Result<Compiled, Refusal> {
        let file = file_name(&spec.path);
        let (done, built) = oneshot::channel();
        let running = Arc::new(Running::default());
        let leash = Leash(Arc::clone(&running));
        let (this, source) = (Arc::clone(self), spec.clone());
        let thread = std::thread::Builder::new().name("compile".into()).spawn(move || {
            // Given up in this process it runs on, and keeps its place.
            let _place = place;
            // Nobody listens when it was given up.
            let _ = done.send(this.build(&source, &running, again));
        });
        thread.map_err(|error| {
            Refusal::new(&file, format!("no thread can be started: {error}"), "it will be tried again").passing()
        })?;
        let built = tokio::time::timeout(self.bounds.patience(), built).await;
        drop(leash);
        match built {
            Ok(Ok(built)) => built,
            Ok(Err(_)) => Err(self.bounds.refusal(Failure::Crashed("its thread panicked".into()), &file)),
            // Not its CPU time: the machine was busy.
            Err(_) if again => Err(self.bounds.late(&file).passing()),
            Err(_) => Err(self.bounds.late(&file)),
        }
    }

    /// Compiles a component and keeps the machine code. With `again` for a second time, and better.
    fn build(&self, spec: &GuestSpec, running: &Running, again: bool) -> Result<Compiled, Refusal> {
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
                // Another compiler, or another engine, may be able to.
                Err(failure @ (Failure::Refused(_) | Failure::Crashed(_))) if !running.is_given_up() => {
                    last = Some(failure);
                }
                Err(failure) => {
                    // A service that runs already is worth another attempt: what its compiler gets depends on all others.
                    let may_pass = again && failure == Failure::Memory;
                    let refusal = self.bounds.refusal(failure, &file);
                    return Err(if may_pass { refusal.passing() } else { refusal });
                }
            }
        }
        Err(self.bounds.refusal(last.unwrap_or(Failure::Killed), &file))
    }

    /// Links machine code that a compiler of ours has made, and stores it.
    fn take_in(&self, linked: Arc<Linked>, kind: Kind, code: &[u8], spec: &GuestSpec) -> Result<Compiled, Refusal> {
        let file = file_name(&spec.path);
        // The engine has bounds of its own for what it runs, such as the number of memories.
        let component = deserialize(&linked.engine, code).map_err(|error| uncompilable(&file, &one_line(&error)))?;
        let compiled = self.link(linked, kind, &component, &file)?;
        if let Some((cache, stamp)) = self.cache.as_ref().zip(self.stamp(kind)) {
            cache.store(stamp, spec.digest, code);
        }
        Ok(compiled)
    }

    /// From the disk, if it was compiled before. Blocking.
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

/// The program that is running, to be started again as a compiler: on Linux also when its file was replaced.
///
/// # Errors
/// When the system does not say where it is.
pub fn this_program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() }
}
