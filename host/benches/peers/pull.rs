//! Components from a registry: the pull of a large one beside that of skopeo, and a start with many. The registry is Debian's
//! `docker-registry`, on this machine.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::load::Target;
use super::servers::{self, free};
use super::{Bench, density, median, progress};

/// Bytes that make the large component large.
const PADDING: usize = 20 << 20;

/// The measurements.
#[derive(Debug)]
pub(crate) struct Pulled {
    /// Bytes of the large component.
    pub(crate) bytes: usize,
    pub(crate) lodge: Duration,
    /// `None` where skopeo is not installed.
    pub(crate) skopeo: Option<Duration>,
    pub(crate) services: usize,
    /// Until the host is ready: with nothing, and with what it has pulled and compiled before.
    pub(crate) cold: Duration,
    pub(crate) warm: Duration,
}

/// A registry, ended when dropped.
struct Registry {
    child: Child,
    at: std::net::SocketAddr,
}

impl Registry {
    /// Starts it; `None` where it is not installed.
    fn start(bench: &Bench) -> Option<Self> {
        let (program, at) = (servers::daemon("docker-registry")?, free());
        let root = bench.directory("registry", &[]);
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {at}}}\n",
            root.display()
        );
        let file = bench.scratch.path().join("registry.yml");
        std::fs::write(&file, config).expect("a writable scratch directory");
        let mut command = Command::new(program);
        command.arg("serve").arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Self { child: command.spawn().expect("it starts"), at };
        while !matches!(Target::new(at, "/v2/").once(), Ok(200)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn measure(bench: &Bench, services: usize) -> Option<Pulled> {
    let Some(registry) = Registry::start(bench) else {
        eprintln!("docker-registry is not installed: nothing is pulled");
        return None;
    };
    let hello = std::fs::read(bench.wasm("hello")).unwrap();
    let large = bench.directory("large", &[("large.wasm", &padded(&hello))]).join("large.wasm");
    push(&large, &format!("{}/team/large:1", registry.at));
    let reference = format!("{}/team/large:1", registry.at);
    let rounds: Vec<_> = (1..=bench.rounds.max(5))
        .map(|round| {
            progress(format_args!("round {round}: a component of 20 MiB"));
            (pull(bench, &reference), copy(bench, &reference))
        })
        .collect();
    let lodge = median(rounds.iter().map(|(lodge, _)| *lodge));
    let copied: Option<Vec<_>> = rounds.iter().map(|(_, skopeo)| *skopeo).collect();

    progress(format_args!("pushing {services} components"));
    let version = std::fs::read(bench.wasm("version")).unwrap();
    let (manifests, one) = (bench.directory("pulled", &[]), bench.directory("one-pulled", &[]).join("one.wasm"));
    for n in 0..services {
        std::fs::write(&one, density::variant(&version, n)).unwrap();
        let reference = format!("{}/team/s{n}:1", registry.at);
        push(&one, &reference);
        std::fs::write(manifests.join(format!("s{n}.toml")), format!("component = \"oci://{reference}\"\n")).unwrap();
    }
    progress("a start with nothing");
    let cold = ready(bench, &manifests, services);
    progress("starts with what is there");
    let warm = median((0..bench.rounds).map(|_| ready(bench, &manifests, services)));
    let bytes = std::fs::metadata(&large).unwrap().len() as usize;
    Some(Pulled { bytes, lodge, skopeo: copied.map(median), services, cold, warm })
}

/// The component with a custom section of bytes that do not compress.
fn padded(component: &[u8]) -> Vec<u8> {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut section = vec![3, b'p', b'a', b'd'];
    while section.len() < PADDING {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        section.extend_from_slice(&seed.to_le_bytes());
    }
    let mut all = component.to_vec();
    all.push(0);
    // The length, in LEB128.
    let mut length = section.len();
    while length >= 0x80 {
        all.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    all.push(length as u8);
    all.extend(section);
    all
}

fn push(file: &Path, reference: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lodge"));
    command.arg("push").arg(file).arg(reference).stdout(Stdio::null());
    assert!(command.status().expect("lodge runs").success(), "{command:?}");
}

fn timed(command: &mut Command) -> Duration {
    let begin = Instant::now();
    let status = command.stdout(Stdio::null()).status().expect("it runs");
    assert!(status.success(), "{command:?}");
    begin.elapsed()
}

fn target(bench: &Bench, name: &str) -> PathBuf {
    let target = bench.scratch.path().join(name);
    let _ = std::fs::remove_dir_all(&target);
    let _ = std::fs::remove_file(&target);
    target
}

fn pull(bench: &Bench, reference: &str) -> Duration {
    let target = target(bench, "pulled.wasm");
    timed(Command::new(env!("CARGO_BIN_EXE_lodge")).arg("pull").arg(reference).arg("-o").arg(target))
}

fn copy(bench: &Bench, reference: &str) -> Option<Duration> {
    let (program, target) = (servers::on_path("skopeo")?, target(bench, "copied"));
    let mut command = Command::new(program);
    command.args(["copy", "--src-tls-verify=false", &format!("docker://{reference}")]);
    Some(timed(command.arg(format!("dir:{}", target.display()))))
}

/// The time from a start until the host is ready and all services respond.
fn ready(bench: &Bench, manifests: &Path, services: usize) -> Duration {
    let (at, admin) = (free(), free());
    let mut command = Command::new(env!("CARGO_BIN_EXE_lodge"));
    command.arg("serve").arg(manifests).args(["--log-level", "error", "--cache-size", "16GiB"]);
    command.arg("--cache-directory").arg(bench.scratch.path().join("pull-cache"));
    command.args(["--listen", &at.to_string(), "--admin", &admin.to_string()]).stderr(Stdio::null());
    let begin = Instant::now();
    let mut child = command.stdin(Stdio::null()).spawn().expect("lodge starts");
    while !matches!(Target::new(admin, "/readyz").once(), Ok(200)) {
        assert!(
            begin.elapsed() < Duration::from_secs(600) && child.try_wait().expect("a child").is_none(),
            "not ready"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    let time = begin.elapsed();
    let missing = (0..services).filter(|n| Target::new(at, format!("/s{n}")).once().ok() != Some(200)).count();
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(missing, 0, "services that are not there when the host is ready");
    time
}
