//! HTTPS: TLS connections to the services.
//!
//! A handshake has a bound in time (`tls.handshake`) and in number (`tls.handshakes`), and takes its memory from
//! `listener.memory` before it begins. It runs in the task of its connection, so it never delays the next accept.
//! `identity` reads the certificates of clients.

mod handshakes;
mod identity;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{
    Acceptor, NoClientAuth, NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use self::handshakes::Handshakes;
pub use self::identity::client_certificate;
use super::intake::{Buffers, TlsBuffers};
use crate::certificates::Certificates;
use crate::certificates::acme::proofs::{self, Proofs};
use lodge_base::config::tls::{ClientCertificates, TlsListener, TlsVersion};
use lodge_base::drain::StopSignal;
use lodge_base::problems::HostProblems;
use lodge_base::telemetry::metrics::Metrics;
use lodge_base::tls::pem;

/// The time between two checks whether a certificate has changed. Events of the file system would not do: a file that a
/// Secret mounts by `subPath`, and a symlink that is replaced, cause none for their path.
const POLL: Duration = Duration::from_secs(1);

/// How long a handshake may go on after the host begins to stop: a slow round trip.
const LINGER: Duration = Duration::from_millis(500);

/// The most encrypted bytes of a connection that wait for its socket.
const UNSENT: usize = 16 << 10;

/// The response to a client that speaks HTTP without TLS: most likely a person who forgot the `s` of `https`. A method is
/// written in capitals, and no TLS record begins with one.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 57\r\n\
    connection: close\r\n\r\nThis port is for HTTPS. Use a URL that begins with https.";

/// What a TLS listener needs.
pub struct TlsServer {
    certificates: Arc<Certificates>,
    settings: TlsListener,
    config: ArcSwap<ServerConfig>,
    /// For handshakes of an authority that looks for a proof, if names are proven in handshakes.
    proving: Option<Arc<ServerConfig>>,
    /// The file of authorities as it was read last.
    authorities: ArcSwap<Vec<u8>>,
    handshakes: Handshakes,
    metrics: Arc<Metrics>,
}

/// A connection whose handshake is complete, with the memory that TLS needs for it.
pub struct Secured {
    /// The connection.
    pub stream: TlsStream<TcpStream>,
    /// Returned when the connection ends.
    pub memory: TlsBuffers,
}

impl TlsServer {
    /// Takes the certificates into use. With `proofs`, authorities find these in handshakes of their own protocol.
    ///
    /// # Errors
    /// One line, if the authorities of clients cannot be read.
    pub fn new(
        settings: &TlsListener,
        certificates: Arc<Certificates>,
        proofs: Option<&Arc<Proofs>>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, String> {
        let authorities = read_authorities(settings)?;
        let config = server_config(settings, &certificates, &authorities)?;
        Ok(Self {
            certificates,
            config: ArcSwap::from_pointee(config),
            proving: proofs.map(proving_config).transpose()?.map(Arc::new),
            authorities: ArcSwap::from_pointee(authorities),
            handshakes: Handshakes::new(settings.handshakes),
            settings: settings.clone(),
            metrics: Arc::clone(metrics),
        })
    }

    /// Returns the certificates in use.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Reads certificates and authorities again whenever they change. Never returns. What cannot be used is logged once, and the
    /// last good one stays.
    pub async fn follow(self: Arc<Self>, problems: HostProblems) {
        let mut problem = None;
        loop {
            tokio::time::sleep(POLL).await;
            let this = Arc::clone(&self);
            let look = tokio::task::spawn_blocking(move || {
                (this.certificates.look(SystemTime::now()), this.look_for_authorities())
            });
            let (certificates, found) = look.await.unwrap_or_else(|error| (Vec::new(), Err(error.to_string())));
            let found = found.err();
            let kept = "the last good one, if there is any, is used until a restart";
            problems.set("tls.certificates", certificates.iter().map(|why| format!("{why}; {kept}")).collect());
            let kept = "the last authorities are used, and the host will not start with it";
            problems.set("tls.client_ca", found.iter().map(|why| format!("{why}; {kept}")).collect());
            if let Some(found) = found.as_ref().filter(|found| problem.as_ref() != Some(*found)) {
                tracing::warn!("{found}; the last authorities stay in force");
            }
            problem = found;
        }
    }

    /// Takes new authorities of clients into use. Connections that exist keep the ones of their handshake.
    fn look_for_authorities(&self) -> Result<(), String> {
        let authorities = read_authorities(&self.settings)?;
        if authorities == **self.authorities.load() {
            return Ok(());
        }
        self.config.store(Arc::new(server_config(&self.settings, &self.certificates, &authorities)?));
        self.authorities.store(Arc::new(authorities));
        tracing::info!("tls.client_ca has changed, and the new authorities are in force");
        Ok(())
    }

    /// Returns the connection after its handshake; `None` if that fails, takes too long, or is ended for a newer one.
    pub async fn handshake(
        &self,
        stream: TcpStream,
        client: IpAddr,
        buffers: &Arc<Buffers>,
        stop: &StopSignal,
    ) -> Option<Secured> {
        let stopped = async {
            stop.clone().stopping().await;
            tokio::time::sleep(LINGER).await;
        };
        let (_place, ended) = self.handshakes.begin(client);
        let result = tokio::select! {
            biased;
            secured = self.accept(stream, buffers) => secured,
            () = ended => Err(("evicted", None)),
            () = tokio::time::sleep(self.settings.handshake) => Err(("timeout", None)),
            () = stopped => Err(("stopping", None)),
        };
        match result {
            Ok(secured) => {
                self.metrics.handshakes.count("ok");
                Some(secured)
            }
            Err((reason, error)) => {
                self.metrics.handshakes.count(reason);
                let detail = error.as_ref().map_or(reason.to_owned(), io::Error::to_string);
                tracing::debug!("no TLS connection: {detail}");
                None
            }
        }
    }

    async fn accept(
        &self,
        mut stream: TcpStream,
        buffers: &Arc<Buffers>,
    ) -> Result<Secured, (&'static str, Option<io::Error>)> {
        let failed = |error| ("failed", Some(error));
        let mut first = [0];
        // The end of the connection shows in the handshake.
        if stream.peek(&mut first).await.map_err(failed)? == 1 && first.iter().all(u8::is_ascii_uppercase) {
            // Whether the client reads it does not matter.
            let _ = stream.write_all(PLAIN).await;
            return Err(("plain", None));
        }
        let memory = buffers.for_tls().await;
        let Some(proving) = &self.proving else {
            let acceptor = TlsAcceptor::from(self.config.load_full());
            let accepted = acceptor.accept_with(stream, |connection| connection.set_buffer_limit(Some(UNSENT)));
            return Ok(Secured { stream: accepted.await.map_err(failed)?, memory });
        };
        let started = LazyConfigAcceptor::new(Acceptor::default(), stream).await.map_err(failed)?;
        if proofs::wants_proof(&started.client_hello()) {
            let mut stream = started.into_stream(Arc::clone(proving)).await.map_err(failed)?;
            // The certificate was all that the authority wants; this connection never carries HTTP.
            let _ = stream.shutdown().await;
            return Err(("proof", None));
        }
        let config = self.config.load_full();
        let accepted = started.into_stream_with(config, |connection| connection.set_buffer_limit(Some(UNSENT)));
        Ok(Secured { stream: accepted.await.map_err(failed)?, memory })
    }
}

fn read_authorities(settings: &TlsListener) -> Result<Vec<u8>, String> {
    match &settings.client_ca {
        Some(path) => pem::read(path).map_err(|why| format!("tls.client_ca: {why}")),
        None => Ok(Vec::new()),
    }
}

/// Returns the configuration of all handshakes.
fn server_config(
    settings: &TlsListener,
    certificates: &Arc<Certificates>,
    authorities: &[u8],
) -> Result<ServerConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[_] = match settings.minimum {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let unusable = |error: rustls::Error| format!("tls: {error}");
    let verifier = client_verifier(settings, authorities, &provider)?;
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).map_err(unusable)?;
    let mut config = config.with_client_cert_verifier(verifier).with_cert_resolver(Arc::clone(certificates) as Arc<_>);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if settings.client_ca.is_some() {
        // A resumed session has the certificate of its first handshake, which rustls does not verify again: a client could resume for
        // ever after that has expired, or after its authority was removed.
        never_resume(&mut config);
    } else {
        // Sessions are resumed without memory on this side.
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(unusable)?;
    }
    Ok(config)
}

/// Returns the configuration of handshakes in which an authority looks for a proof: without certificates of clients, without
/// resumption, and with no other protocol.
fn proving_config(proofs: &Arc<Proofs>) -> Result<ServerConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| format!("tls: {error}"))?.with_no_client_auth();
    let mut config = config.with_cert_resolver(Arc::clone(proofs) as Arc<_>);
    config.alpn_protocols = vec![proofs::PROTOCOL.to_vec()];
    never_resume(&mut config);
    Ok(config)
}

/// Makes every handshake a full one.
fn never_resume(config: &mut ServerConfig) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
}

fn client_verifier(
    settings: &TlsListener,
    authorities: &[u8],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let Some(path) = &settings.client_ca else { return Ok(Arc::new(NoClientAuth)) };
    let unusable = |why: &dyn std::fmt::Display| format!("tls.client_ca: {}: {why}", path.display());
    let roots = pem::authorities(authorities).map_err(|why| unusable(&why))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(provider));
    let verifier = match settings.client {
        ClientCertificates::Required => verifier,
        ClientCertificates::Optional => verifier.allow_unauthenticated(),
    };
    verifier.build().map_err(|error| unusable(&error)).map(|verifier| verifier as Arc<_>)
}

impl std::fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsServer").field("settings", &self.settings).finish_non_exhaustive()
    }
}
