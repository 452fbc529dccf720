//! Compilation in a child process ([`worker`](super::worker)), and the error messages for its failures.

use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::job::{self, CompileJob};
use super::worker;
use lodge_base::lock::lock;

/// The maximum number of bytes read from a child's standard error: enough for one panic message.
const WORDS: u64 = 4 << 10;

/// How long a child may take to end after it has closed its output.
const END: Duration = Duration::from_secs(2);

/// Why there is no machine code.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CompileError {
    /// The compiler's error message.
    Refused(String),
    /// It exceeded its memory.
    Memory,
    /// It exceeded its CPU time.
    Time,
    /// It was killed by another process, most likely the kernel, because memory is short.
    Killed,
    /// It crashed, with these details.
    Crashed(String),
    /// The child process could not be started, for this reason.
    Unstarted(String),
}

/// A compilation that another thread can cancel.
#[derive(Default)]
pub(super) struct Compilation(Mutex<ChildState>);

#[derive(Default)]
enum ChildState {
    #[default]
    Idle,
    At(Child),
    /// A child was killed, and the thread that started it has not reaped it yet.
    GivenUp(Option<Child>),
}

/// Cancels a compilation when it is dropped. Never blocks, since serving threads drop it.
pub(super) struct CancelOnDrop(pub(super) Arc<Compilation>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let mut state = lock(&self.0.0);
        let child = match std::mem::take(&mut *state) {
            ChildState::At(mut child) => {
                // The kernel may take long to end a process with much memory. The compile thread reads the end of its
                // output and reaps it.
                let _ = child.kill();
                Some(child)
            }
            ChildState::GivenUp(child) => child,
            ChildState::Idle => None,
        };
        *state = ChildState::GivenUp(child);
    }
}

impl Compilation {
    /// Whether it was cancelled.
    pub(super) fn is_cancelled(&self) -> bool {
        matches!(*lock(&self.0), ChildState::GivenUp(_))
    }

    /// Compiles a component with `program`. Blocking. Call it on a thread that lives until the child has ended: the
    /// kernel kills a child when the thread that started it ends.
    ///
    /// # Errors
    /// Returns how the child ended, unless it returned machine code.
    pub(super) fn compile(&self, program: &Path, job: &CompileJob, component: &[u8]) -> Result<Vec<u8>, CompileError> {
        let mut command = Command::new(program);
        // An empty environment, since the host's may contain secrets, and no directory of its own.
        command.arg(worker::ARGUMENT).env_clear().current_dir("/");
        // The address space that the allocator reserves at a time, in KiB. Its default of 1 GiB would be most of the
        // child's limit.
        command.env("MIMALLOC_ARENA_RESERVE", "16384");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| CompileError::Unstarted(error.to_string()))?;
        let (Some(stdin), Some(mut stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(CompileError::Unstarted("the child has no pipes".into()));
        };
        let cancelled = {
            let mut state = lock(&self.0);
            if matches!(*state, ChildState::Idle) {
                *state = ChildState::At(child);
                None
            } else {
                Some(child)
            }
        };
        if let Some(mut child) = cancelled {
            let _ = child.kill();
            let _ = child.wait();
            return Err(CompileError::Killed);
        }
        let said = std::thread::spawn(move || {
            let (mut text, mut stderr) = (Vec::new(), stderr);
            let _ = stderr.by_ref().take(WORDS).read_to_end(&mut text);
            let _ = io::copy(&mut stderr, &mut io::sink());
            String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" ")
        });
        let result = converse(stdin, &mut stdout, job, component);
        drop(stdout);
        let ends = result.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::InvalidData);
        let status = self.end(ends);
        let said = said.join().unwrap_or_default();
        match (result, status) {
            (Ok(result), Some(_)) => result.map_err(refused),
            (Err(_), Some(status)) => Err(ended(status, said)),
            (_, None) => Err(CompileError::Killed),
        }
    }

    /// Waits for the child to end unless the compilation was cancelled, and reaps it. Blocking. With `ends` the child
    /// has closed its pipes, and gets a moment to end by itself.
    fn end(&self, ends: bool) -> Option<ExitStatus> {
        let mut state = lock(&self.0);
        let mut child = match std::mem::take(&mut *state) {
            ChildState::At(child) => child,
            ChildState::GivenUp(killed) => {
                *state = ChildState::GivenUp(None);
                drop(state);
                if let Some(mut child) = killed {
                    let _ = child.wait();
                }
                return None;
            }
            ChildState::Idle => return None,
        };
        drop(state);
        let start = Instant::now();
        while ends && start.elapsed() < END {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(status);
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        let _ = child.kill();
        child.wait().ok()
    }
}

fn converse(
    mut stdin: ChildStdin,
    stdout: &mut ChildStdout,
    job: &CompileJob,
    component: &[u8],
) -> io::Result<Result<Vec<u8>, String>> {
    job.write(std::process::id(), component, &mut stdin)?;
    drop(stdin);
    // It cannot use more than its memory limit.
    job::read_result(stdout, job.memory)
}

/// Converts the compiler's error message, which may mean that memory was short.
fn refused(why: String) -> CompileError {
    if why.contains("Cannot allocate memory") { CompileError::Memory } else { CompileError::Refused(why) }
}

/// The failure of a child that returned nothing.
fn ended(status: ExitStatus, said: String) -> CompileError {
    let signal = status.signal().unwrap_or_default();
    if signal == Signal::XCPU.as_raw() {
        return CompileError::Time;
    }
    // The message of Rust's runtime before it aborts.
    if said.contains("memory allocation of") || said.contains("Cannot allocate memory") {
        return CompileError::Memory;
    }
    if signal == Signal::KILL.as_raw() {
        return CompileError::Killed;
    }
    CompileError::Crashed(if said.is_empty() { status.to_string() } else { format!("{status}: {said}") })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::compile::CodeKind;

    #[test]
    fn each_end_has_its_failure() {
        let by = |signal: Signal| ExitStatus::from_raw(signal.as_raw());
        assert_eq!(ended(by(Signal::XCPU), String::new()), CompileError::Time);
        assert_eq!(ended(by(Signal::ABORT), "memory allocation of 8 bytes failed".into()), CompileError::Memory);
        assert_eq!(ended(by(Signal::KILL), String::new()), CompileError::Killed);
        let CompileError::Crashed(words) = ended(by(Signal::SEGV), String::new()) else { panic!("a crash") };
        assert!(words.contains("11"), "{words}");
    }

    /// Programs that are not compilers, and one that does not exist: nothing hangs, and each end has its failure.
    #[test]
    fn other_programs_fail() {
        let kind = CodeKind { concurrent: false, baseline: false };
        let job = CompileJob { kind, replaces: false, threads: 1, memory: 1 << 30, time: Duration::from_secs(9) };
        let compile = |program: &str| Compilation::default().compile(Path::new(program), &job, &[0; 1_000]);
        assert!(matches!(compile("/nowhere/lodge"), Err(CompileError::Unstarted(_))));
        let Err(CompileError::Crashed(words)) = compile("/bin/false") else { panic!("it does not compile") };
        assert!(words.contains("exit status: 1"), "{words}");
        // Writes invalid output, and does not end.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rubbish");
        std::fs::write(&path, "#!/bin/sh\nexec yes rubbish").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        assert!(matches!(compile(path.to_str().unwrap()), Err(CompileError::Killed | CompileError::Crashed(_))));
        // A compilation that was cancelled before it began does not begin.
        let running = Arc::new(Compilation::default());
        drop(CancelOnDrop(Arc::clone(&running)));
        assert_eq!(running.compile(Path::new("/bin/cat"), &job, b""), Err(CompileError::Killed));
        assert!(running.is_cancelled());
    }

    /// Cancelling kills the child, and leaves waiting for its end to the compile thread.
    #[test]
    fn cancelling_does_not_block() {
        let child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        // A process stays in this list until it is reaped.
        let listed = PathBuf::from(format!("/proc/{}", child.id()));
        let running = Arc::new(Compilation(Mutex::new(ChildState::At(child))));
        drop(CancelOnDrop(Arc::clone(&running)));
        assert!(running.is_cancelled());
        assert!(listed.exists(), "the cancelling thread has reaped the child");
        assert_eq!(running.end(false), None);
        assert!(!listed.exists(), "the compile thread has not reaped the child");
        assert!(running.is_cancelled());
    }

    /// A child that returns nothing is killed when the compilation is cancelled.
    #[test]
    fn cancelling_kills_the_child() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("slow");
        std::fs::write(&path, "#!/bin/sh\nexec sleep 1000").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let kind = CodeKind { concurrent: false, baseline: false };
        let job = CompileJob { kind, replaces: false, threads: 1, memory: 1 << 30, time: Duration::from_secs(9) };
        let running = Arc::new(Compilation::default());
        let thread = std::thread::spawn({
            let running = Arc::clone(&running);
            move || running.compile(&path, &job, b"component")
        });
        while !matches!(*lock(&running.0), ChildState::At(_)) {
            std::thread::yield_now();
        }
        drop(CancelOnDrop(running));
        assert_eq!(thread.join().unwrap(), Err(CompileError::Killed));
    }
}
