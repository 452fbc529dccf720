//! A test authority for ACME: Debian's `pebble`, with a server of names that all lead to this machine.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;

use super::authority::Authority;
use super::{Leashed, PATIENCE, free_port};

/// An authority. It starts anew, without accounts and with other roots, whenever it is started.
pub(crate) struct Pebble {
    directory: tempfile::TempDir,
    ports: Ports,
    running: Option<[Leashed; 2]>,
}

/// Free ports of this machine.
struct Ports {
    directory: u16,
    management: u16,
    names: u16,
    challenges: u16,
    /// Where the authority looks for proofs over HTTP, and in handshakes.
    http: u16,
    tls: u16,
}

impl Pebble {
    /// Prepares one, which is not running; `None` where it is not installed, which CI does not accept.
    pub(crate) fn new() -> Option<Self> {
        let found = |name: &str| {
            let mut command = Command::new(name);
            command.arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
        };
        if !found("pebble") || !found("pebble-challtestsrv") {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "pebble is not installed");
            eprintln!("skipped: pebble is not installed");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        authority.issue(&["localhost"]).write(directory.path(), "server");
        std::fs::write(directory.path().join("ca.pem"), authority.pem()).unwrap();
        let [directory_port, management, names, challenges, http, tls] = std::array::from_fn(|_| free_port());
        let ports = Ports { directory: directory_port, management, names, challenges, http, tls };
        Some(Self { directory, ports, running: None })
    }

    /// Starts it. Its certificates are valid for `seconds`. It refuses a part of all nonces, looks for proofs at once, and has no
    /// certificate for `blocked.test`.
    pub(crate) fn start(&mut self, seconds: u64) {
        self.running = None;
        let at = |port: u16| format!("127.0.0.1:{port}");
        let (path, ports) = (self.directory.path(), &self.ports);
        let config = json!({ "pebble": {
            "listenAddress": at(ports.directory),
            "managementListenAddress": at(ports.management),
            "certificate": path.join("server.crt"),
            "privateKey": path.join("server.key"),
            "httpPort": ports.http,
            "tlsPort": ports.tls,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "domainBlocklist": ["blocked.test"],
            "certificateValidityPeriod": seconds,
        }});
        std::fs::write(path.join("config.json"), config.to_string()).unwrap();
        let mut names = Command::new("pebble-challtestsrv");
        names.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", "", "-defaultIPv4", "127.0.0.1"]);
        names.args(["-dns01", &at(ports.names), "-management", &at(ports.challenges)]);
        let mut pebble = Command::new("pebble");
        pebble.arg("-config").arg(path.join("config.json")).args(["-dnsserver", &at(ports.names)]);
        pebble.envs([("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_WFE_NONCEREJECT", "10"), ("PEBBLE_AUTHZREUSE", "0")]);
        let running = [names, pebble].map(|mut command| {
            Leashed(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        });
        self.running = Some(running);
        for port in [ports.challenges, ports.management, ports.directory] {
            let start = Instant::now();
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(start.elapsed() < PATIENCE, "pebble does not start");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// The URL of its directory.
    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}/dir", self.ports.directory)
    }

    /// The certificate by which a host verifies it.
    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Where it looks for proofs over HTTP, and in handshakes.
    pub(crate) fn looks_at(&self) -> [SocketAddr; 2] {
        [self.ports.http, self.ports.tls].map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// A client that trusts what it issues.
    pub(crate) fn client(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&self.root()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        // Every handshake is a full one, so that it shows the certificate.
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }

    fn root(&self) -> Vec<u8> {
        let url = format!("https://localhost:{}/roots/0", self.ports.management);
        let mut curl = Command::new("curl");
        curl.args(["-fsS", "-m", "20", "--cacert"]).arg(self.ca()).arg(url);
        let output = curl.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

/// The files of the certificates below a directory of ACME.
pub(crate) fn certificates(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for authority in std::fs::read_dir(directory).unwrap() {
        for file in std::fs::read_dir(authority.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "pem") {
                found.push(path);
            }
        }
    }
    found
}
