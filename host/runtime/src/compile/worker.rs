//! The child process that compiles one component and ends: `lodge compile-worker`, which only Lodge starts.
//!
//! A compiler is a large program that parses untrusted input. Here it is limited to the resources of its `CompileJob`, and a
//! crash of it does not affect requests.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, Signal};

use super::job::{self, CompileJob};

/// The argument that makes `lodge` a compiler.
pub const ARGUMENT: &str = "compile-worker";

/// The maximum bytes of a component, whatever the parent says: the maximum of `engine.max_file`.
const MOST: u64 = 1 << 30;

/// Compiles the component on standard input, and writes machine code to standard output.
pub fn run() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The parent reports it.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn work() -> io::Result<()> {
    let mut input = io::stdin().lock();
    let (job, parent) = CompileJob::read(&mut input)?;
    confine(&job, parent)?;
    let component = job::blob(&mut input, MOST)?;
    let threads = rayon::ThreadPoolBuilder::new().num_threads(job.threads).build().map_err(io::Error::other)?;
    // A panic becomes an error message. Its text is on standard error, so the parent need not guess.
    let compiled = catch_unwind(AssertUnwindSafe(|| threads.install(|| job.kind.compile(&component))));
    let result = compiled.unwrap_or_else(|panic| Err(format!("the compiler failed: {}", words(&*panic))));
    job::write_result(&result, &mut io::stdout().lock())
}

/// Drops all privileges and resources that a compiler does not need, before it has read a byte of the component.
fn confine(job: &CompileJob, parent: u32) -> io::Result<()> {
    let limit = |resource, most| {
        let current = rustix::process::getrlimit(resource);
        // A hard limit can only be lowered.
        let most = current.maximum.map_or(most, |maximum| maximum.min(most));
        rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
    };
    // When memory is short, the kernel should kill the compiler first, and never the host for its sake.
    #[cfg(target_os = "linux")]
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    limit(Resource::As, job.memory)?;
    limit(Resource::Core, 0)?;
    // It can only write to pipes, not to files.
    limit(Resource::Fsize, 0)?;
    let allowed = rustix::process::getrlimit(Resource::Cpu).maximum.unwrap_or(u64::MAX);
    let seconds = job.time.as_secs().min(allowed);
    let hard = seconds.saturating_add(1).min(allowed);
    // SIGXCPU comes first and tells the cause; SIGKILL ends a process that continues.
    rustix::process::setrlimit(Resource::Cpu, Rlimit { current: Some(seconds), maximum: Some(hard) })?;
    let _ = rustix::process::setpriority_process(None, job.niceness());
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have ended before the signal was set up.
    let alive = rustix::process::getppid().is_some_and(|ppid| ppid.as_raw_nonzero().get().unsigned_abs() == parent);
    if alive { Ok(()) } else { Err(io::Error::other("the host is gone")) }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it panicked").split_whitespace().collect::<Vec<_>>().join(" ")
}
