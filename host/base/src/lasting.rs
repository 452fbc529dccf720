//! Supervision of tasks that run as long as the host, and the handling of panics.
//!
//! A panic is a bug of the host. It ends the task in which it happens, mostly one request. The host needs some tasks
//! all the time (the scan of the directory, health checks, discovery), so those are restarted after a pause.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// The first pause before a task is restarted; it doubles each time.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MOST: Duration = Duration::from_secs(30);
/// After a run of this length, the next pause is the first one again.
const STEADY: Duration = Duration::from_secs(60);

/// The most characters of a panic message in the log.
const MESSAGE: usize = 500;
/// The most log lines of panics written at once. More panics are only counted.
const LINES: usize = 8;

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Panics since the start of the process.
pub fn panics() -> u64 {
    PANICS.load(Relaxed)
}

/// Runs the future that `begin` returns. When it returns or panics, begins again after a pause that grows up to 30 s.
pub async fn forever<F: Future<Output = ()>>(task: &'static str, mut begin: impl FnMut() -> F) {
    let mut last = None;
    loop {
        let began = Instant::now();
        let how = match caught(begin()).await {
            Ok(()) => "returned",
            Err(_) => "panicked",
        };
        let pause = pause_after(began.elapsed(), last);
        let shown = humantime::format_duration(pause);
        tracing::error!(task, "a task of the host {how}; restarting it in {shown}");
        tokio::time::sleep(pause).await;
        last = Some(pause);
    }
}

/// Returns the pause before a task is restarted that ran for `ran`, after the pause `last`.
fn pause_after(ran: Duration, last: Option<Duration>) -> Duration {
    let grown = last.filter(|_| ran < STEADY).map(|last| last.saturating_mul(2).min(PAUSE_MOST));
    grown.unwrap_or(PAUSE)
}

/// The payload of a panic.
pub type Panic = Box<dyn Any + Send>;

/// Runs a future and catches its panic.
///
/// # Errors
/// The payload of the panic.
pub async fn caught<F: Future>(future: F) -> Result<F::Output, Panic> {
    Caught(Box::pin(future)).await
}

struct Caught<F>(Pin<Box<F>>);

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, Panic>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Its shared state is behind locks that a panic does not poison, and it is never polled again.
        match panic::catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

/// Installs a panic hook that counts every panic of the process and logs it as one line.
pub fn log_panics() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Relaxed);
        // A panic of the main thread ends the process, perhaps before the log line is written.
        if std::thread::current().name() == Some("main") || !log_panic(panic) {
            before(panic);
        }
    }));
}

/// Logs a panic on another thread, because this one may hold a lock that the log needs. Returns false if no thread can
/// be created.
fn log_panic(panic: &PanicHookInfo<'_>) -> bool {
    static WRITING: AtomicUsize = AtomicUsize::new(0);
    if WRITING.fetch_add(1, Relaxed) >= LINES {
        WRITING.fetch_sub(1, Relaxed);
        return true;
    }
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let (message, thread) = (message(panic.payload()), std::thread::current());
    let thread = thread.name().unwrap_or("a thread").to_owned();
    let writing = std::thread::Builder::new().name("panic".into()).spawn(move || {
        tracing::error!(thread, "panic at {place}: {message}; this is a bug of Lodge, please report it");
        WRITING.fetch_sub(1, Relaxed);
    });
    if writing.is_err() {
        WRITING.fetch_sub(1, Relaxed);
    }
    writing.is_ok()
}

/// Returns the message of a panic as one line.
fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    text.chars().take(MESSAGE).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A task is restarted whether it panics or returns.
    #[tokio::test]
    async fn a_task_that_ends_is_started_again() {
        let (begun, start) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let (third, mut ran) = tokio::sync::mpsc::channel(1);
        let counted = Arc::clone(&begun);
        let task = tokio::spawn(forever("test", move || {
            let (begun, third) = (counted.fetch_add(1, Relaxed), third.clone());
            async move {
                match begun {
                    0 => panic!("on purpose"),
                    1 => {}
                    _ => {
                        third.send(()).await.unwrap();
                        std::future::pending().await
                    }
                }
            }
        }));
        ran.recv().await.unwrap();
        assert!(start.elapsed() >= PAUSE * 3, "two pauses, the second one twice as long");
        assert_eq!(begun.load(Relaxed), 3);
        task.abort();
    }

    #[test]
    fn pauses_grow_until_a_task_runs_for_a_while() {
        let (mut last, mut pauses) = (None, Vec::new());
        for _ in 0..12 {
            last = Some(pause_after(STEADY - Duration::from_millis(1), last));
            pauses.push(last.unwrap().as_millis());
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000, 30_000]);
        assert_eq!(pause_after(STEADY, last), PAUSE);
    }

    #[tokio::test]
    async fn a_panic_is_counted_and_ends_one_task() {
        log_panics();
        let before = panics();
        let panicked = tokio::spawn(async {
            let inner = caught(async { panic!("with\na line and \"quotes\"") }).await;
            message(&*inner.map(|never: ()| never).unwrap_err())
        });
        assert_eq!(panicked.await.unwrap(), "with\\na line and \\\"quotes\\\"");
        assert!(panics() > before);
    }
}
