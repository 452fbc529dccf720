//! Promise: the commands that need no running host print what the docs show, report all invalid values at once, and end
//! with the right exit code.

use std::path::Path;
use std::process::Stdio;

use crate::harness::{Process, get, lodge, output, wasm};

fn directory(names: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in names {
        std::fs::copy(wasm(name), directory.path().join(format!("{name}.wasm"))).unwrap();
    }
    directory
}

#[test]
fn every_bad_value_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("other.toml");
    std::fs::write(&file, "listenn = '1'\nroutes = ['/x']\n[limits]\nwall = 'soon'\n").unwrap();
    let file = file.display().to_string();
    let mut command = lodge(&["serve", "--config", &file, "--engine-tick", "1h"]);
    let (code, stdout, stderr) = output(command.env("LODGE_LIMITS_QUEUE", "many"));
    assert_eq!((code, stdout.as_str()), (Some(64), ""));
    for line in [
        "other.toml line 1: listenn: unknown key; did you mean `listen`?",
        "other.toml line 2: routes: unknown key; `routes` is a key of a manifest, such as guests/users.toml",
        "other.toml line 4: limits.wall: `soon` is not a time span; write it like 500ms, 30s or 5m",
        "LODGE_LIMITS_QUEUE: `many` is not a whole number",
        "--engine-tick: must be between 1ms and 100ms",
    ] {
        assert!(stderr.contains(line), "{line} is not in {stderr}");
    }
    assert_eq!(output(&mut lodge(&["serve", "--no-such-flag"])).0, Some(64));
    assert!(output(&mut lodge(&["serve", "--config", "/nowhere.toml"])).2.contains("/nowhere.toml"));
}

#[test]
fn settings_are_printed_with_their_origin() {
    let mut command = lodge(&["serve", "--print-config", "--limits-wall", "1m"]);
    let command = command.env("LODGE_LISTEN", "127.0.0.1:1").env("LODGE_LISTN", "x").env("LODGE_ZZZ", "x");
    let (code, stdout, stderr) = output(command);
    assert!(
        stderr.contains("LODGE_LISTN is not a setting of Lodge, and is ignored; did you mean LODGE_LISTEN?\n"),
        "{stderr}"
    );
    assert!(stderr.contains("LODGE_ZZZ is not a setting of Lodge, and is ignored\n"), "{stderr}");
    let origin = |key: &str| {
        let line = stdout.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap();
        line.rsplit("# ").next().unwrap().to_owned()
    };
    assert_eq!(code, Some(0));
    assert_eq!([origin("listen"), origin("limits.wall"), origin("admin")], ["environment", "flag", "default"]);
    assert_eq!(stdout.lines().count(), lodge_base::config::described().count());
}

#[test]
fn a_host_that_cannot_start_says_why() {
    let nowhere = output(&mut lodge(&["serve", "/nowhere", "--listen", "127.0.0.1:0", "--admin", "off"]));
    assert_eq!(nowhere.0, Some(1));
    assert!(nowhere.2.contains("there is no directory `/nowhere`"), "{}", nowhere.2);
    let file = output(&mut lodge(&["serve", "/etc/passwd", "--listen", "127.0.0.1:0", "--admin", "off"]));
    assert!(file.2.contains("`/etc/passwd` is a file; serve the directory"), "{}", file.2);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display().to_string();
    let refused = output(&mut lodge(&["serve", &path, "--listen", &address, "--admin", "off"]));
    assert_eq!(refused.0, Some(1));
    assert!(refused.2.contains(&address) && refused.2.contains("another port"), "{}", refused.2);
}

/// The first lines name the actual addresses and the refused files.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_and_the_last_lines() {
    let directory = directory(&["hello", "panic"]);
    std::fs::write(directory.path().join("bad.wasm"), "bad").unwrap();
    for format in ["text", "json"] {
        let process = Process::serve(directory.path(), &["--log-format", format]).await;
        assert_ne!(process.address.port(), 0);
        assert_eq!(get(process.address, "/hello").await.status, 200);
        let id = get(process.address, "/panic").await.header("x-request-id");
        // The guest's output, and the failure as logged by the host, with the id that the client received.
        let said = |words: &str| process.log().lines().any(|line| line.contains(&id) && line.contains(words));
        crate::harness::until("the guest is heard", || said("the secret of the panic guest")).await;
        let of_host = |line: &str| line.contains(&id) && line.contains("trapped");
        let told = |line: &str| line.contains("panicked at ") && line.contains(": the secret of the panic guest (in ");
        let failed = || process.log().lines().any(|line| of_host(line) && told(line));
        crate::harness::until("the failure is logged, with the text of the panic", failed).await;
        let log = process.log();
        assert!(log.contains("refused bad.wasm: it is not WebAssembly"), "{log}");
        if format == "json" {
            for line in log.lines() {
                let event: serde_json::Value = serde_json::from_str(line).unwrap();
                assert!(event["level"].is_string() && event["message"].is_string(), "{line}");
            }
        }
    }
}

/// The output of guests is bounded, and distinguishable from the host's own.
#[tokio::test(flavor = "multi_thread")]
async fn output_of_guests_is_bounded() {
    let directory = directory(&["noisy"]);
    let process = Process::serve(directory.path(), &["--limits-output", "16KiB"]).await;
    let response = get(process.address, "/noisy").await;
    assert_eq!(response.text(), "quiet now");
    crate::harness::until("the flood is reported", || process.log().contains("over limits.output")).await;
    let log = process.log();
    let noise = log.lines().filter(|line| line.contains("noise noise")).collect::<Vec<_>>();
    assert!((10..=17).contains(&noise.len()), "{} lines", noise.len());
    assert!(noise.iter().all(|line| line.contains("noisy") && line.contains(&response.header("x-request-id"))));
    assert!(log.len() < 40 << 10, "{} bytes of log", log.len());
}

#[test]
fn check_reports_every_file() {
    let directory = directory(&["hello", "users"]);
    let path = directory.path().display().to_string();
    let (code, stdout, _) = output(&mut lodge(&["check", &path]));
    assert_eq!(code, Some(0), "{stdout}");
    for text in ["hello.wasm", "wasi:http/handler@0.3.", "users.wasm", "wasi:http/incoming-handler@0.2.12", "/users"] {
        assert!(stdout.contains(text), "{text} is not in {stdout}");
    }
    std::fs::write(directory.path().join("bad.wasm"), "bad").unwrap();
    let (code, stdout, _) = output(&mut lodge(&["check", &path, "--json"]));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, report.as_array().unwrap().len()), (Some(1), 3));
    assert_eq!(report[0]["file"], "bad.wasm");
    assert_eq!(report[0]["refused"]["reason"], "it is not WebAssembly");
    assert_eq!(report[2]["service"]["routes"][0], "/users");
    // A single file.
    let (code, stdout, _) = output(&mut lodge(&["check", &format!("{path}/users.wasm")]));
    assert_eq!(code, Some(0));
    assert!(stdout.contains("users.wasm") && !stdout.contains("hello.wasm"), "{stdout}");
}

#[test]
fn versions_are_printed() {
    let (code, stdout, _) = output(&mut lodge(&["--version"]));
    let lock = std::fs::read_to_string(crate::harness::root().join("Cargo.lock")).unwrap();
    let engine = lock.split("name = \"wasmtime\"\nversion = \"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(code, Some(0));
    assert!(stdout.contains(env!("CARGO_PKG_VERSION")) && stdout.contains(&format!("wasmtime {engine}")), "{stdout}");
}

/// Makes a crate, named after its directory, of the source of a guest.
fn project(directory: &Path, guest: &str) {
    let root = crate::harness::root();
    std::fs::create_dir_all(directory.join("src")).unwrap();
    let source = std::fs::read_to_string(root.join(guest).join("src/lib.rs")).unwrap();
    let wit = format!("\"{}/", root.join("wit").display());
    let source = source.replace("\"../../wit/", &wit).replace("\"../../../wit/", &wit);
    std::fs::write(directory.join("src/lib.rs"), source).unwrap();
    let manifest = format!(
        "[package]\nname = \"{}\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n\
         [dependencies]\nform_urlencoded = \"1\"\nhttp = \"1\"\nwit-bindgen = \"0.63\"\n\
         wasip3 = {{ version = \"0.10\", features = [\"http-compat\"] }}\n[workspace]\n",
        directory.file_name().unwrap().display()
    );
    std::fs::write(directory.join("Cargo.toml"), manifest).unwrap();
    for file in ["Cargo.lock", "rust-toolchain.toml"] {
        std::fs::copy(root.join(file), directory.join(file)).unwrap();
    }
}

/// `lodge dev` builds a crate in any directory, puts its component into the directory of guests, and serves it.
#[tokio::test(flavor = "multi_thread")]
async fn dev_builds_and_serves() {
    let directory = tempfile::tempdir().unwrap();
    let crate_directory = directory.path().join("my_service");
    project(&crate_directory, "guests/hello");
    // A component in front of it, which is no service.
    project(&directory.path().join("middleware/gate"), "tests/guests/gate3");
    // Until its sources are built, its manifest has no component.
    std::fs::write(
        directory.path().join("my_service.toml"),
        "routes = ['/my_service']\nmiddleware = 'middleware/gate.wasm'",
    )
    .unwrap();
    // Another project, whose command writes the component in two steps, so that it is incomplete when it is first seen.
    let slow = directory.path().join("slow");
    std::fs::create_dir(&slow).unwrap();
    std::fs::copy(crate::harness::wasm("users"), slow.join("made.bin")).unwrap();
    let command = "head -c 9 made.bin > ../slow.wasm; tail -c +10 made.bin >> ../slow.wasm";
    let manifest = format!("build = {{ directory = 'slow', command = '{command}' }}");
    std::fs::write(directory.path().join("slow.toml"), manifest).unwrap();
    let path = directory.path().display().to_string();
    let args = ["dev", "--https=127.0.0.1:0", &path, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    // Both crates need the same others, which are built once.
    let target = directory.path().join("my_service/target");
    let process = Dev::start(lodge(&args).env("CARGO", env!("CARGO")).env("CARGO_TARGET_DIR", target));
    let (address, admin) = (process.address("serving ").await, process.address("operators: ").await);
    let response = async || {
        let response = get(address, "/my_service?name=dev").await;
        assert_eq!(response.header("x-gate"), "passed");
        response.text()
    };
    process.ready(admin).await;
    assert_eq!(response().await, "Hello, dev!");
    process.says("my_service at /my_service").await;
    // Over HTTPS, by the name of the service as well.
    let https = process.https().await;
    let authority = directory.path().join(".lodge/https/authority.pem");
    process.says(&format!("curl --cacert {}", authority.display())).await;
    for host in ["localhost", "my-service.localhost", "127.0.0.1"] {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-sS", "-m", "20", "--cacert"])
            .arg(&authority)
            .args(["--resolve", &format!("{host}:{https}:127.0.0.1")]);
        let (code, out, error) = output(curl.arg(format!("https://{host}:{https}/my_service?name=dev")));
        assert_eq!((code, out.as_str()), (Some(0), "Hello, dev!"), "{host}: {error}");
    }
    process.says("slow at /slow").await;
    assert!(!process.log.lock().unwrap().contains("it has no component"), "{}", process.log.lock().unwrap());
    assert!(directory.path().join("my_service.wasm").is_file());
    // A crate that does not compile: cargo's errors come first, then Lodge's line, and the last good version stays.
    let source = crate_directory.join("src/lib.rs");
    let text = std::fs::read_to_string(&source).unwrap();
    std::fs::write(&source, "fn broken(").unwrap();
    process.says("my_service does not build (errors above)").await;
    process.says("error: this file contains an unclosed delimiter").await;
    assert!(process.before("unclosed delimiter", "(errors above)"), "the errors are below");
    process.says("refused my_service.wasm: it does not build: error: this file contains an unclosed delimiter").await;
    assert_eq!(response().await, "Hello, dev!");
    // Fixed and changed.
    std::fs::write(&source, text.replace("\"Hello\"", "\"Goodbye\"")).unwrap();
    process.says("my_service replaced").await;
    assert_eq!(response().await, "Goodbye, dev!");
    // In another language, built by the command in its manifest.
    let other = directory.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::copy(crate::harness::wasm("users"), other.join("made.bin")).unwrap();
    let fails = "build = { directory = 'other', command = 'echo the cause; exit 3' }";
    std::fs::write(directory.path().join("other.toml"), fails).unwrap();
    process.says("refused other.wasm: it does not build: the cause").await;
    let refused = get(address, "/other").await;
    assert_eq!((refused.status, refused.problem().as_str()), (503, "refused"));
    assert!(refused.text().contains("the cause"), "{}", refused.text());
    let manifest = "build = { directory = 'other', command = 'cp made.bin ../other.wasm' }\nroutes = ['/users']";
    std::fs::write(directory.path().join("other.toml"), manifest).unwrap();
    process.says("other at /users").await;
    assert_eq!(get(address, "/users/1").await.status, 200);
    std::fs::copy(crate::harness::wasm("hello"), other.join("made.bin")).unwrap();
    process.says("other replaced").await;
    assert_eq!(get(address, "/users").await.text(), "Hello, World!");
}

/// A running `lodge dev`, and its output so far.
struct Dev {
    child: std::process::Child,
    log: std::sync::Arc<std::sync::Mutex<String>>,
}

impl Dev {
    fn start(command: &mut std::process::Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = std::sync::Arc::<std::sync::Mutex<String>>::default();
        let (stderr, into) = (child.stderr.take().unwrap(), std::sync::Arc::clone(&log));
        std::thread::spawn(move || {
            for line in std::io::BufRead::lines(std::io::BufReader::new(stderr)).map_while(Result::ok) {
                into.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        Self { child, log }
    }

    async fn says(&self, words: &str) {
        // Longer than other waits: cargo may have to compile what the guest depends on.
        let start = std::time::Instant::now();
        while !self.log.lock().unwrap().contains(words) {
            assert!(start.elapsed().as_secs() < 300, "`{words}` is not in:\n{}", self.log.lock().unwrap());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Whether the first text was printed before the second.
    fn before(&self, one: &str, other: &str) -> bool {
        let log = self.log.lock().unwrap();
        log.find(one).unwrap() < log.find(other).unwrap()
    }

    /// Waits until `/readyz` returns 200.
    async fn ready(&self, admin: std::net::SocketAddr) {
        let start = std::time::Instant::now();
        while get(admin, "/readyz").await.status != 200 {
            assert!(start.elapsed().as_secs() < 300, "it is not ready:\n{}", self.log.lock().unwrap());
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    /// The address in the first line with this text.
    /// The port of HTTPS.
    async fn https(&self) -> u16 {
        self.says(" on https://").await;
        let log = self.log.lock().unwrap();
        let line = log.lines().find(|line| line.contains(" on https://")).unwrap();
        line.rsplit(':').next().unwrap().trim().parse().unwrap()
    }

    async fn address(&self, words: &str) -> std::net::SocketAddr {
        self.says(words).await;
        let log = self.log.lock().unwrap();
        let line = log.lines().find(|line| line.contains(words)).unwrap();
        line.split("http://").nth(1).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The commands for health checks of containers and for editors.
#[tokio::test(flavor = "multi_thread")]
async fn health_and_schema() {
    let directory = directory(&["hello"]);
    let mut process = Process::serve(directory.path(), &["--stop-delay", "60s"]).await;
    let health = |admin: &str| {
        let (code, _, stderr) = output(&mut lodge(&["health", "--admin", admin]));
        (code, stderr)
    };
    let admin = process.admin.to_string();
    assert_eq!(health(&admin), (Some(0), String::new()));
    let (code, stdout, _) = output(&mut lodge(&["health", "-v", "--admin", &admin]));
    assert!(
        code == Some(0) && stdout.starts_with("ready: Lodge ") && stdout.contains("sandboxes are reset by "),
        "{stdout}"
    );
    // With several addresses to listen on, one of them is checked.
    assert_eq!(health(&admin.replace("127.0.0.1", "0.0.0.0")).0, Some(0));
    process.signal(rustix::process::Signal::TERM);
    crate::harness::until("it says that it stops", || process.log().contains("stopping")).await;
    let (code, stderr) = health(&admin);
    assert!(code == Some(1) && stderr.contains("not ready: 503 stopping"), "{stderr}");
    process.signal(rustix::process::Signal::TERM);
    process.ended().await;
    let (code, stderr) = health(&admin);
    assert!(code == Some(1) && stderr.contains("refused"), "{stderr}");
    // A host without an admin listener cannot be checked, so the check must not pass.
    let (code, stderr) = health("off");
    assert!(code == Some(1) && stderr.contains("admin is `off`"), "{stderr}");
    let (code, schema, _) = output(&mut lodge(&["schema"]));
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    assert_eq!((code, &schema["properties"]["limits"]["properties"]["wall"]["default"]), (Some(0), &"30s".into()));
}

/// A directory that was compiled ahead of time is served without compiling; a disabled cache cannot be filled.
#[tokio::test(flavor = "multi_thread")]
async fn guests_can_be_compiled_ahead() {
    let (directory, root) = (directory(&["hello", "users"]), tempfile::tempdir().unwrap());
    let (guests, cache) = (directory.path().display().to_string(), root.path().join("cache").display().to_string());
    let (code, _, stderr) = output(&mut lodge(&["compile", &guests, "--cache-directory", &cache]));
    assert_eq!(code, Some(0), "{stderr}");
    let entries = || std::fs::read_dir(&cache).unwrap().count();
    assert_eq!(entries(), 3, "two components and the key");
    let process = Process::serve_with_cache(directory.path(), &cache).await;
    assert_eq!(get(process.address, "/users/1").await.status, 200);
    assert_eq!(entries(), 3);
    // An image has the machine code without a key, and its user cannot write it.
    let sealed = root.path().join("code").display().to_string();
    let (code, _, stderr) = output(&mut lodge(&["compile", &guests, "--cache-directory", &cache, "--seal", &sealed]));
    assert!(code == Some(0) && stderr.contains("copied 2 entries to"), "{stderr}");
    let process = Process::serve_sealed(directory.path(), &sealed).await;
    assert_eq!(get(process.address, "/users/1").await.status, 200);
    let metrics = crate::harness::scrape(process.admin).await;
    let count = |what: &str| metrics.get(&format!("lodge_compile_cache_{what}_total")).copied();
    assert_eq!((count("hits"), count("misses")), (Some(2.0), Some(0.0)), "{metrics:?}");
    let off = output(&mut lodge(&["compile", &guests, "--cache-directory", "off"]));
    assert!(off.0 == Some(1) && off.2.contains("cannot fill the compile cache"), "{}", off.2);
    let inside = output(&mut lodge(&["compile", &guests, "--cache-directory", &format!("{guests}/cache")]));
    assert!(inside.0 == Some(64) && inside.2.contains("inside the guests directory"), "{}", inside.2);
    // Under any name, and before either directory exists.
    let link = root.path().join("link");
    std::os::unix::fs::symlink(directory.path(), &link).unwrap();
    let link = link.display().to_string();
    for (guests, at) in [(&*guests, format!("{link}/c")), (&link, format!("{guests}/./c")), ("none", "./none/c".into())]
    {
        let inside = output(&mut lodge(&["serve", guests, "--cache-directory", &at]));
        assert!(
            inside.0 == Some(64) && inside.2.contains("inside the guests directory"),
            "{guests} {at}: {}",
            inside.2
        );
    }
    std::fs::write(directory.path().join("bad.wasm"), "bad").unwrap();
    let bad = output(&mut lodge(&["compile", &guests, "--cache-directory", &cache]));
    assert!(bad.0 == Some(1) && bad.1.contains("bad.wasm  REFUSED"), "{}", bad.1);
}
