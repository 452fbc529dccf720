//! TLS towards the replicas of an upstream: which authorities sign their certificates, which names they have, and the certificate of
//! this host.
//!
//! The files of `upstream.tls` are looked at every second, as those of the TLS listener. What has changed is used once two looks in a
//! row have read the same, and only if all of it is valid; else what was in use before stays. Each upstream has a configuration of
//! its own, and each change makes a new one: no connection of an authority that was removed is used for a new request. No session is
//! resumed.

mod verifier;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use self::verifier::NamedVerifier;
use lodge_base::files::{self, FileStamp};
use lodge_base::lasting::forever;
use lodge_base::lock::lock;
use lodge_base::telemetry::logs::CHANGE;
use lodge_base::tls::pem::{self, CertificateNames, ChainDescription};
use lodge_base::tls::without_resumption;
use lodge_manifest::upstream::tls::TlsSpec;

/// The time between two looks.
const POLL: Duration = Duration::from_secs(1);

/// The longest time for reading the files when an upstream is deployed: a file system can hang.
const READ: Duration = Duration::from_secs(5);

/// The settings of an upstream, followed for as long as this exists.
pub(super) struct ReplicaTls {
    current: watch::Receiver<Arc<TlsState>>,
    problem: Arc<Mutex<Option<String>>>,
    task: AbortHandle,
}

/// What new connections use.
pub(super) struct TlsState {
    pub(super) config: Arc<ClientConfig>,
    pub(super) own: Option<OwnCertificate>,
}

/// The certificate of this host for the replicas.
#[derive(Clone, Debug)]
pub struct OwnCertificate {
    /// The path of its file.
    pub file: PathBuf,
    /// What it is for.
    pub names: CertificateNames,
    /// When it expires, in seconds since 1970.
    pub not_after: i64,
}

/// The files, and what is the same for all of their contents.
struct TlsFiles {
    spec: TlsSpec,
    /// The authorities of the system, without a file of others.
    system: Option<Arc<RootCertStore>>,
}

/// The contents of the files: of the authorities, the certificate and its key.
type Contents = [Option<Vec<u8>>; 3];

/// The stamps of the files.
type Stamps = [Option<FileStamp>; 3];

/// What the last looks have found.
#[derive(Default)]
struct Looks {
    /// The stamps of what was used or refused.
    judged: Option<Stamps>,
    /// What the last look has read, if it was new.
    pending: Option<Contents>,
}

impl ReplicaTls {
    /// Reads the files in `directory`, and goes on following them. `system` returns the authorities of the system.
    ///
    /// # Errors
    /// One line, if a file cannot be read or is not valid.
    pub(super) async fn open(
        spec: &TlsSpec,
        directory: &Path,
        service: &Arc<str>,
        system: impl FnOnce() -> Result<Arc<RootCertStore>, String>,
    ) -> Result<Self, String> {
        let at = |file: &Option<PathBuf>| file.as_ref().map(|file| directory.join(file));
        let (ca, certificate, key) = (at(&spec.ca), at(&spec.certificate), at(&spec.key));
        let system = if ca.is_none() { Some(system()?) } else { None };
        let spec = TlsSpec { ca, certificate, key, names: spec.names.clone() };
        let files = Arc::new(TlsFiles { spec, system });
        let reading = Arc::clone(&files);
        let first = spawn_blocking(move || {
            let judged = reading.stamps();
            let state = reading.state(&reading.read()?)?;
            Ok((state, Looks { judged: Some(judged), pending: None }))
        });
        let (state, looks) = match timeout(READ, first).await {
            Ok(read) => read.map_err(|error| error.to_string()).and_then(|read| read)?,
            Err(_) => return Err("upstream.tls: its files cannot be read: their file system does not respond".into()),
        };
        let (sender, current) = watch::channel(Arc::new(state));
        let (problem, looks) = (Arc::<Mutex<Option<String>>>::default(), Arc::new(Mutex::new(looks)));
        let (shown, sender, service) = (Arc::clone(&problem), Arc::new(sender), Arc::clone(service));
        let followed = move || {
            follow(
                Arc::clone(&files),
                Arc::clone(&looks),
                Arc::clone(&sender),
                Arc::clone(&shown),
                Arc::clone(&service),
            )
        };
        let task = tokio::spawn(forever("TLS files of an upstream", followed)).abort_handle();
        Ok(Self { current, problem, task })
    }

    /// Returns what new connections use, as it changes.
    pub(super) fn current(&self) -> watch::Receiver<Arc<TlsState>> {
        self.current.clone()
    }

    /// Returns why the present files cannot be used, if that is so.
    pub(super) fn problem(&self) -> Option<String> {
        lock(&self.problem).clone()
    }
}

impl Drop for ReplicaTls {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes what changes into use. Never returns. What cannot be used is logged once.
async fn follow(
    files: Arc<TlsFiles>,
    looks: Arc<Mutex<Looks>>,
    sender: Arc<watch::Sender<Arc<TlsState>>>,
    shown: Arc<Mutex<Option<String>>>,
    service: Arc<str>,
) {
    loop {
        sleep(POLL).await;
        let (files, looks) = (Arc::clone(&files), Arc::clone(&looks));
        let look = spawn_blocking(move || files.look(&mut lock(&looks)));
        let problem = match look.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(None) => continue,
            Ok(Some(state)) => {
                tracing::info!(target: CHANGE, service = &*service, "the files of upstream.tls have changed, and are in use");
                sender.send_replace(Arc::new(state));
                None
            }
            Err(problem) => Some(problem),
        };
        let mut shown = lock(&shown);
        if let Some(problem) = problem.as_ref().filter(|problem| shown.as_ref() != Some(*problem)) {
            tracing::warn!(target: CHANGE, service = &*service, "{problem}; what was in use before stays");
        }
        *shown = problem;
    }
}

impl TlsFiles {
    /// The files with the keys of the manifest that name them.
    fn paths(&self) -> [(&'static str, Option<&PathBuf>); 3] {
        let TlsSpec { ca, certificate, key, .. } = &self.spec;
        [
            ("upstream.tls.ca", ca.as_ref()),
            ("upstream.tls.certificate", certificate.as_ref()),
            ("upstream.tls.key", key.as_ref()),
        ]
    }

    fn stamps(&self) -> Stamps {
        self.paths().map(|(_, path)| path.and_then(|path| files::stamp(path)))
    }

    fn read(&self) -> Result<Contents, String> {
        let mut contents = Contents::default();
        for (content, (key, path)) in contents.iter_mut().zip(self.paths()) {
            *content = path.map(|path| pem::read(path).map_err(|why| format!("{key}: {why}"))).transpose()?;
        }
        Ok(contents)
    }

    /// Returns what is new and usable. A program writes files one after another, and not at once.
    fn look(&self, looks: &mut Looks) -> Result<Option<TlsState>, String> {
        let stamps = self.stamps();
        let is_missing = self.paths().iter().zip(&stamps).any(|((_, path), stamp)| path.is_some() && stamp.is_none());
        if looks.judged == Some(stamps) && !is_missing {
            return Ok(None);
        }
        // The same files may come back in a directory that was moved.
        let contents = self.read().inspect_err(|_| looks.judged = None)?;
        if looks.pending.as_ref() != Some(&contents) {
            looks.pending = Some(contents);
            return Ok(None);
        }
        (looks.judged, looks.pending) = (Some(stamps), None);
        self.state(&contents).map(Some)
    }

    /// Checks the contents of the files.
    fn state(&self, [ca, certificate, key]: &Contents) -> Result<TlsState, String> {
        let [at_ca, at_certificate, _] = self.paths();
        let wrong = |(key, path): (&str, Option<&PathBuf>), why: String| {
            format!("{key}: {}: {why}", path.map(|path| path.display().to_string()).unwrap_or_default())
        };
        let roots = match (ca, &self.system) {
            (Some(ca), _) => Arc::new(pem::authorities(ca).map_err(|why| wrong(at_ca, why))?),
            (None, Some(system)) => Arc::clone(system),
            (None, None) => return Err("upstream.tls.ca: there are no authorities".into()),
        };
        let (mut own, mut certified) = (None, None);
        if let (Some(certificate), Some(key), Some(file)) = (certificate, key, &self.spec.certificate) {
            let read = pem::chain(certificate).and_then(|chain| {
                let ChainDescription { names, not_after, .. } = pem::describe(&chain)?;
                Ok((pem::certified(chain, key)?, OwnCertificate { file: file.clone(), names, not_after }))
            });
            let with = self.spec.key.as_ref().map(|key| key.display().to_string()).unwrap_or_default();
            let (pair, described) = read.map_err(|why| wrong(at_certificate, format!("with {with}: {why}")))?;
            (own, certified) = (Some(described), Some(pair));
        }
        Ok(TlsState { config: Arc::new(self.config(roots, certified)?), own })
    }

    fn config(&self, roots: Arc<RootCertStore>, own: Option<CertifiedKey>) -> Result<ClientConfig, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("cannot set up TLS: {error}"))?;
        let builder = match &*self.spec.names {
            [] => builder.with_root_certificates(roots),
            names => {
                let verifier = NamedVerifier::new(roots, names, &provider);
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        Ok(without_resumption(match own {
            Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
            None => builder.with_no_client_auth(),
        }))
    }
}

#[cfg(test)]
mod tests;
