use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Condvar;
use std::sync::Mutex;

use super::*;
use lodge_runtime::capabilities::config::ConfigValue;

fn reading(name: &str) -> ConfigReading {
    let value = ConfigValue { text: name.to_owned(), secret: false };
    ConfigReading { config: [("name".to_owned(), value)].into(), env: Arc::default() }
}

fn seen(name: &str) -> SeenConfig {
    SeenConfig { reading: reading(name), files: BTreeMap::new() }
}

fn name(configuration: &Configuration) -> String {
    configuration.reading().config["name"].text.clone()
}

#[test]
fn the_last_good_values_stay() {
    let configuration = Arc::new(Configuration::new(reading("one")));
    let files = FilesInUse::default();
    let mut followed = Followed { configuration: Arc::downgrade(&configuration), service: "users".into(), files };
    followed.take(Err("it is gone".into()));
    assert_eq!(
        (name(&configuration), configuration.problem().is_some_and(|why| why.starts_with("it is gone; "))),
        ("one".into(), true)
    );
    followed.take(Ok(seen("two")));
    assert_eq!((name(&configuration), configuration.problem()), ("two".into(), None));
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
        is_offline: false,
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
        configurations.follow("hangs", Arc::downgrade(configuration), FilesInUse::default(), move || {
            begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            gate.pass();
            Ok(seen("two"))
        });
    }
    let all_hang = || begun.load(std::sync::atomic::Ordering::Relaxed) >= hanging.len();
    until(all_hang).await;
    let (other, value) = (Arc::new(Configuration::new(reading("one"))), Arc::new(Mutex::new("one")));
    let read = Arc::clone(&value);
    let read = move || Ok(seen(&read.lock().unwrap()));
    configurations.follow("other", Arc::downgrade(&other), FilesInUse::default(), read);
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

/// Neither half of a secret nor the default of one that is replaced is used, whether its file is written while the service starts or
/// later. What comes as Kubernetes mounts it is used at once.
#[tokio::test(start_paused = true)]
async fn half_a_secret_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let write = |name: &str, text: &str| std::fs::write(at(name), text).unwrap();
    let config = lodge_base::config::resolve(&[]).unwrap().config;
    let text = "config_directories = ['mounted']\n[config]\npassword = { file = 'password', default = 'none' }\n\
                [env]\nPASSWORD = { config = 'password' }";
    let manifest = lodge_manifest::Manifest::read("users", text, &config.limits, 1 << 30).unwrap();
    let spec = GuestSpec {
        name: "users".into(),
        path: at("users.wasm"),
        content: None,
        digest: Digest::of(b""),
        size: 1,
        middleware: Vec::new(),
        manifest,
    };
    // As Kubernetes mounts a Secret: a link to a directory, which is replaced.
    let mount = |version: &str| {
        std::fs::create_dir(at(version)).unwrap();
        write(&format!("{version}/token"), version);
        // The clock of the file system has to move before the link is made.
        let stamp =
            |path: &Path| lodge_base::files::stamp(path).map(|(_, _, seconds, nanoseconds, _)| (seconds, nanoseconds));
        let written = stamp(&at(&format!("{version}/token")));
        while stamp(&at("clock")).is_none_or(|now| Some(now) <= written) {
            write("clock", "");
        }
        std::os::unix::fs::symlink(at(version), at("new")).unwrap();
        std::fs::rename(at("new"), at("mounted/..data")).unwrap();
    };
    std::fs::create_dir(at("mounted")).unwrap();
    mount("first");
    std::os::unix::fs::symlink("..data/token", at("mounted/token")).unwrap();
    write("password", "hunt");
    let configurations = Configurations::new(&config);
    let (opened, written) = tokio::join!(configurations.open(&spec), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        write("password", "hunter2");
        Instant::now()
    });
    let configuration = opened.unwrap().unwrap();
    assert!(written.elapsed() >= lodge_base::files::complete::CUT_TIME, "{:?}", written.elapsed());
    let value = |name: &str| configuration.reading().config[name].text.clone();
    assert_eq!((value("password"), value("token")), ("hunter2".into(), "first".into()));
    let wait = async |seconds| tokio::time::sleep(Duration::from_secs(seconds)).await;
    for (text, before) in [(Some("corr"), "hunter2"), (None, "corr"), (Some(""), "none")] {
        match text {
            Some(text) => write("password", text),
            None => std::fs::remove_file(at("password")).unwrap(),
        }
        wait(5).await;
        let problem = configuration.problem();
        assert_eq!(value("password"), before, "{text:?}");
        assert!(problem.is_some_and(|why| why.contains("password: it may be incomplete")), "{text:?}");
        wait(4).await;
        assert_eq!((&*value("password"), configuration.problem()), (text.unwrap_or("none"), None));
    }
    lodge_base::files::replace(&at("password"), b"whole").unwrap();
    mount("second");
    wait(3).await;
    assert_eq!((value("password"), value("token")), ("whole".into(), "second".into()));
    assert_eq!(configuration.reading().env["PASSWORD"].text, "whole");
    // A check that serves nothing takes what is there.
    write("password", "half");
    let mut configurations = Configurations::new(&config);
    configurations.set_offline();
    let (begun, checked) = (Instant::now(), configurations.open(&spec).await.unwrap().unwrap());
    assert_eq!(checked.reading().config["password"].text, "half");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}
