//! Compiles in a process of its own ([`worker`](super::worker)), and says in words how that ended.

use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::job::{self, Job};
use super::worker;
use lodge_base::lock::lock;

/// Bytes of a child's standard error that are looked at: the message of one panic.
const WORDS: u64 = 4 << 10;

/// Between the end of a child's output and its own.
const END: Duration = Duration::from_secs(2);

/// Why there is no machine code.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The compiler says what is wrong with the component.
    Refused(String),
    /// It needs more memory than it may have.
    Memory,
    /// It needs more CPU time than it may have.
    Time,
    /// Something outside of Lodge killed it: most likely the system, because memory is short.
    Killed,
    /// It crashed, and this is known of that.
    Crashed(String),
    /// No child can be started here, for this reason.
    Unstarted(String),
}

/// A compilation that can be given up from another thread.
#[derive(Default)]
pub(super) struct Running(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Idle,
    At(Child),
    /// With the killed child, until the thread that started it has reaped it.
    GivenUp(Option<Child>),
}

/// Gives a compilation up when it is dropped. Never blocks: it is dropped on threads that serve requests.
pub(super) struct Leash(pub(super) Arc<Running>);

impl Drop for Leash {
    fn drop(&mut self) {
        let mut state = lock(&self.0.0);
        let child = match std::mem::take(&mut *state) {
            State::At(mut child) => {
                // The kernel may need long to end a process that holds much memory. The compile thread reads the end of its
                // output and reaps it.
                let _ = child.kill();
                Some(child)
            }
            State::GivenUp(child) => child,
            State::Idle => None,
        };
        *state = State::GivenUp(child);
    }
}

impl Running {
    /// Whether it was given up.
    pub(super) fn is_given_up(&self) -> bool {
        matches!(*lock(&self.0), State::GivenUp(_))
    }

    /// Has `program` compile a component. Blocking, and to be called on a thread that lives until the child has ended:
    /// the kernel kills a child when the thread that started it is gone.
    ///
    /// # Errors
    /// How it ended, when that is not with machine code.
    pub(super) fn compile(&self, program: &Path, job: &Job, component: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut command = Command::new(program);
        // Nothing of the host's environment, which may hold secrets, and no directory of its own.
        command.arg(worker::ARGUMENT).env_clear().current_dir("/");
        // KiB of address space that the allocator takes at a time: 1 GiB if nothing is said, which would be most of its bound.
        command.env("MIMALLOC_ARENA_RESERVE", "16384");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| Failure::Unstarted(error.to_string()))?;
        let (Some(stdin), Some(mut stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Failure::Unstarted("it has no pipes".into()));
        };
        let given_up = {
            let mut state = lock(&self.0);
            if matches!(*state, State::Idle) {
                *state = State::At(child);
                None
            } else {
                Some(child)
            }
        };
        if let Some(mut child) = given_up {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Failure::Killed);
        }
        let said = std::thread::spawn(move || {
            let (mut text, mut stderr) = (Vec::new(), stderr);
            let _ = stderr.by_ref().take(WORDS).read_to_end(&mut text);
            let _ = io::copy(&mut stderr, &mut io::sink());
            String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" ")
        });
        let answer = converse(stdin, &mut stdout, job, component);
        drop(stdout);
        let ends = answer.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::InvalidData);
        let status = self.end(ends);
        let said = said.join().unwrap_or_default();
        match (answer, status) {
            (Ok(answer), Some(_)) => answer.map_err(refused),
            (Err(_), Some(status)) => Err(ended(status, said)),
            (_, None) => Err(Failure::Killed),
        }
    }

    /// The child's end, unless it was given up; reaped in either case. Blocking. One that `ends` by itself, since its pipes are closed, has a moment to say how.
    fn end(&self, ends: bool) -> Option<ExitStatus> {
        let mut state = lock(&self.0);
        let mut child = match std::mem::take(&mut *state) {
            State::At(child) => child,
            State::GivenUp(killed) => {
                *state = State::GivenUp(None);
                drop(state);
                if let Some(mut child) = killed {
                    let _ = child.wait();
                }
                return None;
            }
            State::Idle => return None,
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
    job: &Job,
    component: &[u8],
) -> io::Result<Result<Vec<u8>, String>> {
    job.write(std::process::id(), component, &mut stdin)?;
    drop(stdin);
    // It cannot have more than its memory.
    job::read_answer(stdout, job.memory)
}

/// A refusal in the compiler's words, but for those that mean that memory was short.
fn refused(why: String) -> Failure {
    if why.contains("Cannot allocate memory") { Failure::Memory } else { Failure::Refused(why) }
}

/// What the end of a child that did not answer means.
fn ended(status: ExitStatus, said: String) -> Failure {
    let signal = status.signal().unwrap_or_default();
    if signal == Signal::XCPU.as_raw() {
        return Failure::Time;
    }
    // Rust's own words, before it aborts.
    if said.contains("memory allocation of") || said.contains("Cannot allocate memory") {
        return Failure::Memory;
    }
    if signal == Signal::KILL.as_raw() {
        return Failure::Killed;
    }
    Failure::Crashed(if said.is_empty() { status.to_string() } else { format!("{status}: {said}") })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::compile::Kind;

    #[test]
    fn ends_in_words() {
        let by = |signal: Signal| ExitStatus::from_raw(signal.as_raw());
        assert_eq!(ended(by(Signal::XCPU), String::new()), Failure::Time);
        assert_eq!(ended(by(Signal::ABORT), "memory allocation of 8 bytes failed".into()), Failure::Memory);
        assert_eq!(ended(by(Signal::KILL), String::new()), Failure::Killed);
        let Failure::Crashed(words) = ended(by(Signal::SEGV), String::new()) else { panic!("a crash") };
        assert!(words.contains("11"), "{words}");
    }

    /// Programs that are no compilers, and one that is not there: nothing hangs, and each end has its words.
    #[test]
    fn strange_compilers() {
        let kind = Kind { concurrent: false, baseline: false };
        let job = Job { kind, threads: 1, memory: 1 << 30, time: Duration::from_secs(9) };
        let compile = |program: &str| Running::default().compile(Path::new(program), &job, &[0; 1_000]);
        assert!(matches!(compile("/nowhere/lodge"), Err(Failure::Unstarted(_))));
        let Err(Failure::Crashed(words)) = compile("/bin/false") else { panic!("it does not compile") };
        assert!(words.contains("exit status: 1"), "{words}");
        // Says something that is no answer, and would go on for ever.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rubbish");
        std::fs::write(&path, "#!/bin/sh\nexec yes rubbish").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        assert!(matches!(compile(path.to_str().unwrap()), Err(Failure::Killed | Failure::Crashed(_))));
        // Given up before it begins: it is not begun.
        let running = Arc::new(Running::default());
        drop(Leash(Arc::clone(&running)));
        assert_eq!(running.compile(Path::new("/bin/cat"), &job, b""), Err(Failure::Killed));
        assert!(running.is_given_up());
    }

    /// Giving a compilation up kills the child and leaves the wait for its end to the thread that compiles.
    #[test]
    fn giving_up_does_not_wait() {
        let child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        // A process that ended is in this list until somebody has waited for it.
        let listed = PathBuf::from(format!("/proc/{}", child.id()));
        let running = Arc::new(Running(Mutex::new(State::At(child))));
        drop(Leash(Arc::clone(&running)));
        assert!(running.is_given_up());
        assert!(listed.exists(), "the thread that gives up has waited");
        assert_eq!(running.end(false), None);
        assert!(!listed.exists(), "the thread that compiles has not waited");
        assert!(running.is_given_up());
    }

    /// A child that reads and never answers ends when nobody waits for it any more.
    #[test]
    fn given_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("slow");
        std::fs::write(&path, "#!/bin/sh\nexec sleep 1000").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let kind = Kind { concurrent: false, baseline: false };
        let job = Job { kind, threads: 1, memory: 1 << 30, time: Duration::from_secs(9) };
        let running = Arc::new(Running::default());
        let thread = std::thread::spawn({
            let running = Arc::clone(&running);
            move || running.compile(&path, &job, b"component")
        });
        while !matches!(*lock(&running.0), State::At(_)) {
            std::thread::yield_now();
        }
        drop(Leash(running));
        assert_eq!(thread.join().unwrap(), Err(Failure::Killed));
    }
}
