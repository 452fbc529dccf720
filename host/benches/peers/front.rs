//! What a public front costs, beside nginx: files, compression, and TLS handshakes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rcgen::KeyPair;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::load::{Target, on_thread};
use super::servers::{self, Server, daemon, free};
use super::{Bench, median, progress};

/// Connections that do handshakes at once.
const HANDSHAKES: usize = 16;
/// Bytes of the file that is compressed, about.
const TEXT: usize = 16 << 10;

/// Something that both servers do.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// CPU time of Lodge and of nginx for one of it.
    pub(crate) lodge: Duration,
    pub(crate) nginx: Duration,
    /// Lodge's as a part of nginx's.
    pub(crate) ratio: f64,
    /// Bytes of a response, of Lodge and of nginx.
    pub(crate) bytes: [usize; 2],
}

/// One of the rows to measure.
enum Work {
    /// Requests on connections that stay open, with these header fields.
    Get(&'static str, &'static str),
    /// A handshake and a request on each connection; sessions are resumed if this says so.
    Handshake(bool),
}

const ROWS: [(&str, Work); 5] = [
    ("a file of 4 KB", Work::Get("/files/small.bin", "")),
    ("a file of 16 KB, compressed by gzip", Work::Get("/text/large.json", "gzip")),
    ("the same without", Work::Get("/text/large.json", "")),
    ("a full TLS 1.3 handshake (P-256) and a request", Work::Handshake(false)),
    ("a resumed one", Work::Handshake(true)),
];

/// A server with its two addresses.
struct Peer {
    server: Server,
    tls: SocketAddr,
}

pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    let Some(nginx) = daemon("nginx") else {
        progress("left out: nginx is not installed");
        return Vec::new();
    };
    let (server_core, load_core) = servers::cores();
    let certificate = write(bench);
    let peers = [lodge(bench, server_core), beside(bench, &nginx, server_core)];
    let bytes = |work: &Work| {
        peers.each_ref().map(|peer| match work {
            Work::Get(path, coding) => peer.server.at(path).accepting(coding).size().expect("a response"),
            Work::Handshake(_) => 0,
        })
    };
    let rounds: Vec<Vec<[f64; 2]>> = (1..=bench.rounds)
        .map(|round| {
            let sample = |(name, work): &(&str, Work)| {
                progress(format_args!("round {round} of {}: {name}", bench.rounds));
                peers.each_ref().map(|peer| match work {
                    Work::Get(path, coding) => {
                        let target = peer.server.at(path).accepting(coding);
                        let (spent, responses) =
                            peer.server.spent(&target, load_core, bench.time).expect("every response");
                        spent.as_secs_f64() / responses as f64
                    }
                    Work::Handshake(resumed) => {
                        let config = client(&certificate, *resumed);
                        handshakes(peer.tls, &config, load_core, bench.time / 4);
                        let before = peer.server.cpu();
                        let done = handshakes(peer.tls, &config, load_core, bench.time);
                        (peer.server.cpu() - before).as_secs_f64() / done as f64
                    }
                })
            };
            ROWS.iter().map(sample).collect()
        })
        .collect();
    let row = |(n, (name, work)): (usize, &(&'static str, Work))| Row {
        name,
        lodge: Duration::from_secs_f64(median(rounds.iter().map(|round| round[n][0]))),
        nginx: Duration::from_secs_f64(median(rounds.iter().map(|round| round[n][1]))),
        ratio: median(rounds.iter().map(|round| round[n][0] / round[n][1])),
        bytes: bytes(work),
    };
    ROWS.iter().enumerate().map(row).collect()
}

/// Writes what both serve, and the certificate of both, which it returns.
fn write(bench: &Bench) -> rustls::pki_types::CertificateDer<'static> {
    let row =
        |n: usize| format!("{{\"id\":{n},\"name\":\"customer {}\",\"city\":\"town {}\"}},\n", n * 7919 % 1000, n % 37);
    let text: String = (0..)
        .map(row)
        .scan(0, |size, row| {
            *size += row.len();
            (*size < TEXT).then_some(row)
        })
        .collect();
    bench.directory("front/files", &[("small.bin", &[7; 4096])]);
    bench.directory("front/text", &[("large.json", text.as_bytes())]);
    let key = KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    let files = [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem())];
    bench.directory("front/certificates", &files.each_ref().map(|(name, text)| (*name, text.as_bytes())));
    certificate.der().clone()
}

fn lodge(bench: &Bench, core: Option<usize>) -> Peer {
    progress("starting Lodge as a front");
    let directory = bench.directory(
        "front/guests",
        &[("files.toml", b"[files]\nroot = '../files'"), ("text.toml", b"compress = true\n[files]\nroot = '../text'")],
    );
    let (at, tls) = (free(), free());
    let mut command = servers::lodge(&directory, &bench.cache(), at);
    command.args(["--tls-listen", &tls.to_string(), "--tls-certificates"]);
    command.arg(bench.scratch.path().join("front/certificates"));
    Peer { server: Server::start(command, &Target::new(at, "/files/small.bin"), core).expect("Lodge"), tls }
}

fn beside(bench: &Bench, program: &Path, core: Option<usize>) -> Peer {
    progress("starting nginx as a front");
    let (at, tls) = (free(), free());
    let command = servers::nginx_front(program, bench.scratch.path(), at, tls);
    Peer { server: Server::start(command, &Target::new(at, "/files/small.bin"), core).expect("nginx"), tls }
}

/// A client that trusts this certificate, and resumes sessions or has none to resume.
fn client(certificate: &rustls::pki_types::CertificateDer<'static>, resumed: bool) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let mut config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.resumption = if resumed { Resumption::in_memory_sessions(64) } else { Resumption::disabled() };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Connects again and again, with one request on each connection. Returns the number of connections.
fn handshakes(address: SocketAddr, config: &Arc<ClientConfig>, core: Option<usize>, time: Duration) -> u64 {
    let done = Arc::new(AtomicU64::new(0));
    on_thread(core, || async {
        let stop = Instant::now() + time;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..HANDSHAKES {
            let (config, done) = (Arc::clone(config), Arc::clone(&done));
            tasks.spawn(async move {
                while Instant::now() < stop {
                    handshake(address, &config).await.expect("a handshake and a response");
                    done.fetch_add(1, Relaxed);
                }
            });
        }
        tasks.join_all().await;
    });
    done.load(Relaxed)
}

/// Connects, and sends one request.
async fn handshake(address: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<()> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
    stream.write_all(b"GET /files/small.bin HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut response = Vec::with_capacity(8192);
    match stream.read_to_end(&mut response).await {
        // nginx closes without an alert.
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(error),
        _ => {
            assert!(response.starts_with(b"HTTP/1.1 200") && response.len() > 4096, "a whole response");
            Ok(())
        }
    }
}
