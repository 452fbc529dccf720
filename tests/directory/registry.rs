//! Promise: a manifest can name a component in a registry; a moved tag is followed, and a registry that is away takes nothing out of
//! service.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{PATIENCE, Process, free_port, get, lodge, output};
use crate::versions::traffic_split::version;

/// A registry of this test, which is Debian's.
struct Registry {
    child: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// Starts one, or returns `None` where it is not installed, which CI does not accept.
    fn start() -> Option<Self> {
        let port = free_port();
        let directory = tempfile::tempdir().unwrap();
        let Some(child) = serve(port, directory.path()) else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "docker-registry is not installed");
            eprintln!("skipped: docker-registry is not installed");
            return None;
        };
        Some(Self { child, port, directory })
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.child = serve(self.port, self.directory.path()).unwrap();
    }

    fn reference(&self, version: &str) -> String {
        format!("oci://127.0.0.1:{}/team/users{version}", self.port)
    }

    /// Pushes a component, and returns the reference that the command prints.
    fn push(&self, component: &[u8], tag: &str) -> String {
        let file = self.directory.path().join("component.wasm");
        fs::write(&file, component).unwrap();
        let (code, stdout, stderr) =
            output(&mut lodge(&["push", &file.display().to_string(), &self.reference(&format!(":{tag}"))]));
        assert_eq!(code, Some(0), "{stderr}");
        stdout.trim().to_owned()
    }
}

fn serve(port: u16, directory: &Path) -> Option<Child> {
    let config = directory.join("config.yml");
    let storage = directory.join("storage").display().to_string();
    let text = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {storage}\n\
         http:\n  addr: 127.0.0.1:{port}\n"
    );
    fs::write(&config, text).unwrap();
    let mut server = Command::new("docker-registry");
    server.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = server.spawn().ok()?;
    let start = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(start.elapsed() < PATIENCE, "the registry does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(child)
}

/// Whether a response is that of this version.
fn is(text: &str, number: u32) -> bool {
    text.contains(&format!("version-{number:08}"))
}

/// Waits until this version responds.
async fn serves(process: &Process, number: u32) {
    let start = Instant::now();
    loop {
        let response = get(process.address, "/users").await;
        if response.status == 200 && is(&response.text(), number) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{} {}", response.status, response.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until `lodge ps` says this, or no longer says it.
async fn says(process: &Process, text: &str, expected: bool) {
    let start = Instant::now();
    loop {
        let (_, stdout, _) = output(&mut lodge(&["ps", "--admin", &process.admin.to_string()]));
        if stdout.contains(text) == expected {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{text} ({expected}): {stdout}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_served_and_followed() {
    let Some(mut registry) = Registry::start() else { return };
    let (directory, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cache = cache.path().display().to_string();
    let pinned = registry.push(&version(1), "latest");
    assert!(pinned.starts_with(&registry.reference(":latest@sha256:")), "{pinned}");
    assert_eq!(registry.push(&version(1), "latest"), pinned, "the same component has the same digest");
    fs::write(directory.path().join("users.toml"), format!("component = \"{}\"", registry.reference(":latest")))
        .unwrap();
    let serve = async || Process::serve_pulling(directory.path(), &cache).await;
    let process = serve().await;
    // Ready is: pulled.
    assert!(is(&get(process.address, "/users").await.text(), 1));
    registry.push(&version(2), "latest");
    serves(&process, 2).await;

    // Without the registry, and after a restart without it.
    registry.kill();
    says(&process, "cannot be pulled: 127.0.0.1", true).await;
    serves(&process, 2).await;
    drop(process);
    let process = serve().await;
    assert!(is(&get(process.address, "/users").await.text(), 2));
    says(&process, "cannot be pulled: 127.0.0.1", true).await;
    registry.restart();
    says(&process, "cannot be pulled", false).await;

    // A digest, and a tag that does not exist: the manifest changes what is served only when there is something.
    fs::write(directory.path().join("users.toml"), format!("component = \"{}\"", registry.reference(":none"))).unwrap();
    says(&process, "the registry has no oci://", true).await;
    serves(&process, 2).await;
    fs::write(directory.path().join("users.toml"), format!("component = \"{pinned}\"")).unwrap();
    serves(&process, 1).await;
    says(&process, "the registry has no", false).await;
    let (code, stdout, stderr) = output(&mut lodge(&["inspect", "users", "--admin", &process.admin.to_string()]));
    assert!(code == Some(0) && stdout.contains(&pinned), "{stdout}{stderr}");
    let (code, _, stderr) = output(
        lodge(&["deploy", "users", "/dev/null", "--admin", &process.admin.to_string()])
            .args(["--guests", &directory.path().display().to_string()]),
    );
    assert!(code == Some(1) && stderr.contains("push the component there, or change that line"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn components_are_pulled_pushed_and_copied() {
    let Some(registry) = Registry::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let pinned = registry.push(&version(1), "1");
    let at = |name: &str| directory.path().join(name).display().to_string();
    let run = |args: &[&str]| output(lodge(args).current_dir(directory.path()));
    // Into the file of its name, which is not replaced, or into another, which is.
    let (code, stdout, stderr) = run(&["pull", &registry.reference(":1")]);
    assert!(
        code == Some(0) && stdout.starts_with("users.wasm: ") && stdout.trim().ends_with(&pinned),
        "{stdout}{stderr}"
    );
    assert_eq!(fs::read(at("users.wasm")).unwrap(), version(1));
    let (code, _, stderr) = run(&["pull", &registry.reference(":1")]);
    assert!(code == Some(1) && stderr.contains("users.wasm exists; name the file with -o"), "{stderr}");
    registry.push(&version(2), "2");
    assert_eq!(run(&["pull", &registry.reference(":2"), "-o", &at("users.wasm")]).0, Some(0));
    assert_eq!(fs::read(at("users.wasm")).unwrap(), version(2));
    // The digest stays with a copy, and what the reference is written like is not important.
    let copy = pinned.replace("/team/users:1", "/other/copy:x");
    let to = copy.trim_start_matches("oci://").split('@').next().unwrap();
    let (code, stdout, stderr) = run(&["copy", &pinned, to]);
    assert_eq!((code, stdout.trim()), (Some(0), copy.as_str()), "{stderr}");
    assert_eq!(run(&["pull", &copy, "-o", &at("copy.wasm")]).0, Some(0));
    assert_eq!(fs::read(at("copy.wasm")).unwrap(), version(1));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing is left");

    fs::write(at("text.wasm"), "text").unwrap();
    for (args, code, why) in [
        (["push", &at("text.wasm"), &registry.reference(":1")], 1, "it is not WebAssembly"),
        (["push", &at("copy.wasm"), &pinned], 64, "must have a tag and no digest"),
        (["push", &at("copy.wasm"), "users:1"], 64, "it names no repository"),
        (["pull", &registry.reference(":3"), "-o=x.wasm"], 1, "the registry has no oci://"),
    ] {
        let (found, _, stderr) = run(&args);
        assert!(found == Some(code) && stderr.contains(why), "{args:?}: {stderr}");
    }
}

/// The signature of a component is pushed and pulled with it, and `trust.keys` requires it.
#[test]
fn signatures_come_along() {
    let Some(registry) = Registry::start() else { return };
    let (directory, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let elsewhere = tempfile::tempdir().unwrap();
    let at = |name: &str| elsewhere.path().join(name).display().to_string();
    let run = |args: &[&str]| {
        let (code, stdout, stderr) = output(&mut lodge(args));
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
        stdout.trim().to_owned()
    };
    let check = |reference: &str| {
        fs::write(directory.path().join("users.toml"), format!("component = \"{reference}\"")).unwrap();
        let mut command = lodge(&["check", &directory.path().display().to_string(), "--trust-keys", &at("k.pub")]);
        let (code, stdout, _) = output(command.env("LODGE_CACHE_DIRECTORY", cache.path()));
        (code, stdout)
    };
    run(&["sign", "--new-key", &at("k.key")]);
    let (code, stdout) = check(&registry.push(&version(1), "1"));
    assert!(code == Some(1) && stdout.contains("it has no signature (users.wasm.sig)"), "{stdout}");
    fs::write(at("users.wasm"), version(2)).unwrap();
    run(&["sign", &at("users.wasm"), "--key", &at("k.key")]);
    let (code, stdout) = check(&run(&["push", &at("users.wasm"), &registry.reference(":2")]));
    assert_eq!(code, Some(0), "{stdout}");
    run(&["pull", &registry.reference(":2"), "-o", &at("pulled.wasm")]);
    let trimmed = |name: &str| fs::read_to_string(at(name)).unwrap().trim().to_owned();
    assert_eq!(trimmed("pulled.wasm.sig"), trimmed("users.wasm.sig"));
}

/// `lodge check` pulls what it checks.
#[test]
fn check_pulls() {
    let Some(registry) = Registry::start() else { return };
    let (directory, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let write = |text: String| fs::write(directory.path().join("users.toml"), text).unwrap();
    let check = || {
        output(lodge(&["check", &directory.path().display().to_string()]).env("LODGE_CACHE_DIRECTORY", cache.path()))
    };
    write(format!("component = \"{}\"\nroutes = [\"/u\"]", registry.push(&version(1), "1")));
    let (code, stdout, stderr) = check();
    assert!(code == Some(0) && stdout.contains("users.toml  ") && stdout.contains("/u"), "{stdout}{stderr}");
    write(format!("component = \"{}\"", registry.reference(":2")));
    let (code, stdout, _) = check();
    assert!(code == Some(1) && stdout.contains("users.toml  REFUSED: component oci://"), "{stdout}");
}

/// A host that waits for a registry stops at once, and serves the others meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_delays_no_stop() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (directory, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let process = Process::serve_pulling(directory.path(), &cache.path().display().to_string()).await;
    let address = silent.local_addr().unwrap();
    fs::write(directory.path().join("users.toml"), format!("component = \"oci://{address}/users:1\"")).unwrap();
    let pulling = tokio::task::spawn_blocking(move || {
        let (mut stream, _) = silent.accept().unwrap();
        let mut head = [0; 26];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"GET /v2/users/manifests/1 ");
        stream
    });
    let stream = pulling.await.unwrap();
    assert_eq!(get(process.address, "/users").await.status, 503, "it is being pulled");
    fs::write(directory.path().join("other.wasm"), version(1)).unwrap();
    let start = Instant::now();
    while get(process.address, "/other").await.status != 200 {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    process.signal(Signal::TERM);
    let mut process = process;
    assert!(process.ended().await.success(), "{}", process.log());
    drop(stream);
}
