use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::watched::READ_TIME;
use super::*;

/// A text that is read once one of `GATE` is free, as one that takes long is.
#[derive(Debug)]
struct Slow(String);

/// The texts that may be read.
static GATE: std::sync::Mutex<usize> = std::sync::Mutex::new(1);
static OPENED: std::sync::Condvar = std::sync::Condvar::new();
static BEGUN: AtomicUsize = AtomicUsize::new(0);

impl FileContent for Slow {
    const WHAT: &'static str = "slow text";
    const MOST_BYTES: u64 = 100;

    fn read(text: &str) -> Result<Self, String> {
        BEGUN.fetch_add(1, Relaxed);
        let mut free = OPENED.wait_while(GATE.lock().unwrap(), |free| *free == 0).unwrap();
        *free -= 1;
        Ok(Self(text.to_owned()))
    }

    fn describe(&self) -> String {
        "it is".into()
    }
}

/// Ends the wait of a thread for `GATE` when a test ends.
struct Opens;

impl Drop for Opens {
    fn drop(&mut self) {
        *GATE.lock().unwrap() += 1;
        OPENED.notify_all();
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..6_000 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not in a minute");
}

/// What takes long to read is not given up, and says nothing of the file system.
#[tokio::test]
async fn a_slow_text_comes_into_force() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("text");
    fs::write(&path, "first").unwrap();
    let (files, threads) = (LiveFiles::<Slow>::default(), Arc::new(Semaphore::new(1)));
    let live = files.follow(&path, &threads, |_, _, _| {}).await.unwrap();
    let opens = Opens;
    fs::write(&path, "second").unwrap();
    until("the second text is being read", || BEGUN.load(Relaxed) == 2).await;
    sleep(READ_TIME + POLL).await;
    assert_eq!((live.load().0.as_str(), live.problem("x")), ("first", None));
    // Its thread is the only one, which another file does not get.
    let other = files.follow(&directory.path().join("other"), &threads, |_, _, _| {}).await;
    assert!(other.unwrap_err().contains("too many other files are being read"));
    drop(opens);
    until("the second text is in force", || live.load().0 == "second").await;
    assert_eq!((live.problem("x"), BEGUN.load(Relaxed)), (None, 2));
}

/// A text that no thread was free for is read once one is, without another change of the file.
#[tokio::test]
async fn a_text_without_a_thread_is_read_later() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("text");
    fs::write(&path, "first").unwrap();
    let (files, threads) = (LiveFiles::<String>::default(), Arc::new(Semaphore::new(1)));
    let live = files.follow(&path, &threads, |_, _, _| {}).await.unwrap();
    let taken = Arc::clone(&threads).acquire_owned().await.unwrap();
    fs::write(&path, "second").unwrap();
    until("the file is not read", || live.problem("x").is_some()).await;
    assert!(live.problem("x").unwrap().contains("too many other files"), "{:?}", live.problem("x"));
    drop(taken);
    until("the second text is in force", || **live.load() == *"second").await;
}

impl FileContent for String {
    const WHAT: &'static str = "text";
    const MOST_BYTES: u64 = 100;

    fn read(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn describe(&self) -> String {
        "it is".into()
    }
}

/// A text of which a beginning is one, too.
#[derive(Debug)]
struct Lines(String);

impl FileContent for Lines {
    const WHAT: &'static str = "lines";
    const MOST_BYTES: u64 = 100;
    const MAY_BE_CUT: bool = true;

    fn read(text: &str) -> Result<Self, String> {
        if text.contains('!') { Err("it has an exclamation mark".into()) } else { Ok(Self(text.to_owned())) }
    }

    fn describe(&self) -> String {
        "they are".into()
    }
}

/// What is written in place has to stay, whether it is the beginning of what is in force or of a new text. A rename does not wait.
#[tokio::test(start_paused = true)]
async fn a_file_that_was_renamed_is_complete() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lines");
    let (mut files, threads) = (LiveFiles::<Lines>::default(), Arc::new(Semaphore::new(1)));
    // The first text is being written, and two services wait for it.
    fs::write(&path, "a").unwrap();
    let follow = || files.follow(&path, &threads, |_, _, _| {});
    let (live, other, begun) = tokio::join!(follow(), follow(), async {
        sleep(Duration::from_secs(3)).await;
        fs::write(&path, "a\nb\n").unwrap();
        tokio::time::Instant::now()
    });
    assert!(begun.elapsed() >= Duration::from_secs(5), "{:?}", begun.elapsed());
    let live = live.unwrap();
    assert!(Arc::ptr_eq(&live, &other.unwrap()), "they share it");
    let is = |expected: &str| live.load().0 == expected;
    // Seconds are those of the paused clock, which waits for threads.
    let wait = async |seconds| sleep(Duration::from_secs(seconds)).await;
    for (text, before) in [("a\n", "a\nb\n"), ("c\n", "a\n"), ("", "c\n")] {
        fs::write(&path, text).unwrap();
        wait(5).await;
        let problem = live.problem("x").unwrap();
        assert!(
            is(before) && problem.starts_with("it may be incomplete") && problem.ends_with("good one is used"),
            "{text}: {problem}"
        );
        wait(4).await;
        assert!(is(text) && live.problem("x").is_none(), "{text}: {live:?}");
    }
    // A mistake is told at once.
    fs::write(&path, "d!\n").unwrap();
    wait(3).await;
    assert_eq!((is(""), live.problem("x").as_deref()), (true, Some("it has an exclamation mark; x")));
    lodge_base::files::replace(&path, b"e\n").unwrap();
    wait(3).await;
    assert!(is("e\n") && live.problem("x").is_none(), "{live:?}");
    // Another file was not renamed, and one that was is written to.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "f\n").unwrap();
    wait(5).await;
    assert!(is("e\n"), "{live:?}");
    wait(4).await;
    assert!(is("f\n"), "{live:?}");
    lodge_base::files::replace(&path, b"g\nh\n").unwrap();
    wait(3).await;
    assert!(is("g\nh\n"), "{live:?}");
    fs::write(&path, "g\n").unwrap();
    wait(5).await;
    assert!(is("g\nh\n"), "{live:?}");
    // A mistake in the first text is told at once, and a check that serves nothing does not wait.
    let other = directory.path().join("other");
    fs::write(&other, "d!").unwrap();
    let begun = tokio::time::Instant::now();
    assert_eq!(files.follow(&other, &threads, |_, _, _| {}).await.unwrap_err(), "it has an exclamation mark");
    files.set_offline();
    fs::write(&other, "d").unwrap();
    files.follow(&other, &threads, |_, _, _| {}).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}
