use std::sync::Condvar;
use std::sync::Mutex;

use super::*;
use lodge_runtime::capabilities::config::ConfigValue;

fn reading(name: &str) -> ConfigReading {
    let value = ConfigValue { text: name.to_owned(), secret: false };
    ConfigReading { config: [("name".to_owned(), value)].into(), env: Arc::default() }
}

fn name(configuration: &Configuration) -> String {
    configuration.reading().config["name"].text.clone()
}

#[test]
fn the_last_good_values_stay() {
    let configuration = Arc::new(Configuration::new(reading("one")));
    let mut followed =
        Followed { configuration: Arc::downgrade(&configuration), service: "users".into(), problem: None };
    followed.take(Err("it is gone".into()));
    assert_eq!((name(&configuration), followed.problem.as_deref()), ("one".into(), Some("it is gone")));
    followed.take(Ok(reading("two")));
    assert_eq!((name(&configuration), followed.problem), ("two".into(), None));
}

/// A gate that readers wait at, as at a file system that hangs.
#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn pass(&self) {
        let mut open = self.0.lock().unwrap();
        while !*open {
            open = self.1.wait(open).unwrap();
        }
    }

    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

async fn until(mut condition: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it does not happen");
}

fn quick() -> Configurations {
    Configurations {
        readers: Arc::new(Readers::new(Duration::from_millis(50))),
        poll: Duration::from_millis(5),
        host: None,
    }
}

/// Services on a file system that hangs keep their values; all others get new ones, and so do these when it responds again.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_hangs_stops_only_its_own() {
    let (configurations, gate) = (quick(), Arc::new(Gate::default()));
    let hanging: Vec<_> = (0..40).map(|_| Arc::new(Configuration::new(reading("one")))).collect();
    let begun = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    for configuration in &hanging {
        let (gate, begun) = (Arc::clone(&gate), Arc::clone(&begun));
        configurations.follow("hangs", Arc::downgrade(configuration), move || {
            begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            gate.pass();
            Ok(reading("two"))
        });
    }
    let all_hang = || begun.load(std::sync::atomic::Ordering::Relaxed) >= hanging.len();
    until(all_hang).await;
    let (other, value) = (Arc::new(Configuration::new(reading("one"))), Arc::new(Mutex::new("one")));
    let read = Arc::clone(&value);
    configurations.follow("other", Arc::downgrade(&other), move || Ok(reading(&read.lock().unwrap())));
    *value.lock().unwrap() = "two";
    until(|| name(&other) == "two").await;
    assert!(hanging.iter().all(|configuration| name(configuration) == "one"));
    assert_eq!(begun.load(std::sync::atomic::Ordering::Relaxed), hanging.len(), "one thread for each that hangs");
    gate.open();
    until(|| hanging.iter().all(|configuration| name(configuration) == "two")).await;
}

/// However many hang, there is a bound of threads; what has no thread gets an error in time.
#[tokio::test(flavor = "multi_thread")]
async fn threads_that_hang_are_bounded() {
    let (readers, gate) = (Arc::new(Readers::new(Duration::from_millis(20))), Arc::new(Gate::default()));
    let (begun, mut full) = (Arc::new(std::sync::atomic::AtomicUsize::new(0)), 0);
    for _ in 0..100 {
        let (gate, begun) = (Arc::clone(&gate), Arc::clone(&begun));
        let read = readers.run(move || {
            begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            gate.pass();
        });
        full += usize::from(matches!(read.await, Err(Unread::Full)));
    }
    assert_eq!((begun.load(std::sync::atomic::Ordering::Relaxed), full), (72, 28));
    gate.open();
    let free = Readers::run(&readers, || 7);
    until(|| begun.load(std::sync::atomic::Ordering::Relaxed) == 72).await;
    // Those that hung return their permits.
    let mut result = free.await.ok();
    while result.is_none() {
        result = readers.run(|| 7).await.ok();
    }
    assert_eq!(result, Some(7));
}

/// A value that is being written, or a directory that is being replaced, is used when it is complete.
#[tokio::test]
async fn a_value_is_used_when_two_readings_agree() {
    let readers = Readers::new(Duration::from_secs(10));
    let results = |all: &[&'static str]| {
        let results: Arc<Mutex<std::collections::VecDeque<_>>> = Arc::new(Mutex::new(all.iter().copied().collect()));
        move || results.lock().unwrap().pop_front().ok_or("no more".to_owned())
    };
    assert_eq!(readers.confirm("new", results(&["new", "newer"])).await, Ok("new"));
    assert_eq!(readers.confirm("", results(&["new", "new"])).await, Ok("new"));
    assert_eq!(readers.confirm("torn", results(&[])).await, Err("no more".into()));
    let changing = readers.confirm("0", results(&["1", "2", "3", "4", "5", "5"])).await;
    assert!(changing.is_err_and(|problem| problem.contains("change again and again")));
}
