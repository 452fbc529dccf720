//! A certificate for development, for names of this machine only, signed by an authority that is made for one directory.
//!
//! Nothing is installed: users who want to trust the authority name its file. Its constraints (RFC 5280 4.2.1.10) allow no name of
//! any other machine, and only certificates of servers, so its key on disk is of no use to anybody elsewhere. An authority that has
//! others, or whose key others can read, may come from a cloned repository: it is replaced.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::MOST_BYTES;
use super::certificate::Certificate;
use lodge_base::files;
use lodge_base::tls::pem;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the authority is valid: somebody has to trust it again after that.
const AUTHORITY: Duration = DAY.saturating_mul(3_650);

/// How long the certificate is valid. Browsers refuse more than 398 days.
const LIFETIME: Duration = DAY.saturating_mul(90);

/// The rest of its lifetime from which something is replaced.
const NEAR: Duration = DAY.saturating_mul(30);

/// The time between two looks: a service may be new.
const LOOK: Duration = Duration::from_secs(5);

/// How much earlier than now a certificate begins to be valid, for clocks that are late.
const EARLIER: Duration = Duration::from_secs(60 * 60);

/// The names of this machine. Those of services are listed one by one, since clients accept no `*.localhost`: a wildcard needs two
/// labels after it.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The most names of services.
const MOST_NAMES: usize = 500;

/// The files of the certificate for development.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalCertificate {
    /// The certificate of the authority, for clients.
    pub authority: PathBuf,
    /// The certificate and its key, for the host.
    pub certificate: PathBuf,
}

impl LocalCertificate {
    /// Returns the files in `directory`, and makes what is missing, damaged, or expires within 30 days, and a certificate for more
    /// names if it lacks one of `services`, below `localhost`. Blocking.
    ///
    /// # Errors
    /// One line.
    pub fn prepare(directory: &Path, services: &[String], now: SystemTime) -> Result<Self, String> {
        let failed = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        files::private_directory(directory).map_err(|error| failed(directory, &error))?;
        let paths = Self { authority: directory.join("authority.pem"), certificate: directory.join("localhost.pem") };
        let key_path = directory.join("authority-key.pem");
        let services = services.get(..MOST_NAMES).unwrap_or(services);
        let known = stays(&paths.authority, &key_path, &[], now)
            .then(|| KeyPair::from_pem(&files::read_text(&key_path, MOST_BYTES).ok()?).ok())
            .flatten()
            .filter(|key| is_own(&paths.authority, key, now));
        let is_known = known.is_some();
        let key = match known {
            Some(key) => key,
            None => {
                let key = KeyPair::generate().map_err(|error| error.to_string())?;
                let made = authority(now).self_signed(&key).map_err(|error| error.to_string())?;
                let write = |path: &Path, text: String| {
                    files::replace_secret(path, text.as_bytes()).map_err(|error| failed(path, &error))
                };
                write(&key_path, key.serialize_pem())?;
                write(&paths.authority, made.pem())?;
                key
            }
        };
        if !is_known || !stays(&paths.certificate, &paths.certificate, services, now) {
            let own = KeyPair::generate().map_err(|error| error.to_string())?;
            let issuer = Issuer::new(authority(now), key);
            let made = certificate(services, now)?.signed_by(&own, &issuer).map_err(|error| error.to_string())?;
            let text = format!("{}{}", own.serialize_pem(), made.pem());
            let path = &paths.certificate;
            files::replace_secret(path, text.as_bytes()).map_err(|error| failed(path, &error))?;
        }
        Ok(paths)
    }

    /// Replaces what expires, or lacks one of the names that `services` returns, for ever. Failures are logged once.
    pub async fn follow(directory: PathBuf, services: impl Fn() -> Vec<String> + Clone + Send + 'static) {
        let mut problem = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let (directory, services) = (directory.clone(), services.clone());
            let made = tokio::task::spawn_blocking(move || Self::prepare(&directory, &services(), SystemTime::now()));
            let found = made.await.ok().and_then(Result::err);
            if let Some(why) = found.as_ref().filter(|found| problem.as_ref() != Some(*found)) {
                tracing::warn!("the certificate for development cannot be renewed: {why}");
            }
            problem = found;
        }
    }
}

/// Whether a certificate and its key, which nobody else can read, can be used for some time, and for these names.
fn stays(certificate: &Path, key: &Path, names: &[String], now: SystemTime) -> bool {
    if !files::is_private(key) {
        return false;
    }
    let read = |path| files::read(path, MOST_BYTES).ok();
    let found = read(certificate).zip(read(key)).and_then(|(chain, key)| Certificate::new(&chain, &key).ok());
    let until = now.checked_add(NEAR).and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let has_all = |found: &Certificate| names.iter().all(|name| found.names.contains(name));
    found.is_some_and(|found| has_all(&found) && u64::try_from(found.not_after).is_ok_and(|at| at > until.as_secs()))
}

/// Whether an authority is what this module makes with its key: only it, with the same constraints and purposes.
fn is_own(authority: &Path, key: &KeyPair, now: SystemTime) -> bool {
    let alone =
        |text: &String| text.starts_with("-----BEGIN CERTIFICATE-----") && text.matches("-----BEGIN").count() == 1;
    let stored = files::read_text(authority, MOST_BYTES).ok().filter(alone);
    let stored = stored.and_then(|text| pem::chain(text.as_bytes()).ok()?.into_iter().next());
    let (Some(stored), Ok(made)) = (stored, self::authority(now).self_signed(key)) else { return false };
    properties(&stored).is_some_and(|stored| properties(made.der()) == Some(stored))
}

/// Returns the extensions of a certificate, and its subject.
fn properties(certificate: &[u8]) -> Option<Vec<(String, bool, Vec<u8>)>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let extensions = parsed.extensions().iter();
    let extensions = extensions.map(|found| (found.oid.to_id_string(), found.critical, found.value.to_vec()));
    let subject = (String::new(), false, parsed.subject().as_raw().to_vec());
    Some(extensions.chain([subject]).collect())
}

/// Returns the constraints of the authority (RFC 5280 4.2.1.10): DNS names, addresses, and those of e-mail and URIs of this machine. There
/// are none of directory names, which rustls refuses and Go does not know.
fn constraints() -> CustomExtension {
    const MACHINE: &[u8] = b"localhost";
    let loopback = [&[0; 15][..], &[1], &[255; 16]].concat();
    let permitted: [(u8, &[u8]); 5] =
        [(2, MACHINE), (7, &[127, 0, 0, 0, 255, 0, 0, 0]), (7, &loopback), (1, MACHINE), (6, MACHINE)];
    // Every part is shorter than 128 bytes, so its length is one byte.
    let tagged = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap_or(0)], content].concat();
    let subtrees = permitted.map(|(kind, base)| tagged(0x30, &tagged(0x80 | kind, base))).concat();
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], tagged(0x30, &tagged(0xa0, &subtrees)));
    extension.set_criticality(true);
    extension
}

/// Returns the authority, except for its key.
fn authority(now: SystemTime) -> CertificateParams {
    let mut params = valid(CertificateParams::default(), now, AUTHORITY);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Lodge: authority for development on this machine");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.custom_extensions = vec![constraints()];
    params
}

fn certificate(services: &[String], now: SystemTime) -> Result<CertificateParams, String> {
    let names: Vec<_> = NAMES.into_iter().map(str::to_owned).chain(services.iter().cloned()).collect();
    let params = CertificateParams::new(names).map_err(|error| error.to_string())?;
    let mut params = valid(params, now, LIFETIME);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "localhost");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn valid(mut params: CertificateParams, now: SystemTime, lifetime: Duration) -> CertificateParams {
    let begin = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(EARLIER);
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + begin;
    params.not_after = params.not_before + lifetime;
    params
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

    use super::*;

    /// Whether a client that trusts the authority accepts the certificate for this name.
    fn accepts(local: &LocalCertificate, leaf: &[u8], name: &str, now: SystemTime) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&local.authority).unwrap()).unwrap();
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), ring).build().unwrap();
        let leaf = CertificateDer::from_pem_slice(leaf).unwrap();
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap());
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(&leaf, &[], &name, &[], now).is_ok()
    }

    /// The certificate is for names of this machine, stays while it is good, and is replaced before it expires; the authority
    /// stays, so that browsers that trust it go on to do so.
    #[test]
    fn certificates_for_development() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join(".lodge/https");
        let now = SystemTime::now();
        let services = ["hello.localhost".to_owned()];
        let prepare = |now| LocalCertificate::prepare(&directory, &services, now).unwrap();
        let local = prepare(now);
        let read = |path: &Path| std::fs::read(path).unwrap();
        let (authority, first) = (read(&local.authority), read(&local.certificate));
        for name in ["localhost", "hello.localhost", "127.0.0.1", "::1"] {
            assert!(accepts(&local, &first, name, now), "{name}");
        }
        assert!(!accepts(&local, &first, "example.org", now) && !accepts(&local, &first, "users.localhost", now));
        for file in ["localhost.pem", "authority-key.pem"] {
            let mode = std::fs::metadata(directory.join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!((prepare(now + DAY * 59), read(&local.certificate)), (local.clone(), first.clone()));
        let later = now + DAY * 61;
        prepare(later);
        let second = read(&local.certificate);
        assert_ne!(second, first);
        assert_eq!(read(&local.authority), authority, "it is trusted already");
        assert!(accepts(&local, &second, "localhost", later));
        // A service is new.
        LocalCertificate::prepare(&directory, &["users.localhost".into()], later).unwrap();
        assert!(accepts(&local, &read(&local.certificate), "users.localhost", later));
        // A damaged file is replaced; without its key, the authority is another one.
        std::fs::write(&local.certificate, "rubbish").unwrap();
        prepare(later);
        assert!(accepts(&local, &read(&local.certificate), "localhost", later));
        std::fs::write(directory.join("authority-key.pem"), "").unwrap();
        prepare(later);
        assert_ne!(read(&local.authority), authority);
        assert!(accepts(&local, &read(&local.certificate), "localhost", later));
    }

    /// An authority that may be that of somebody else is replaced: one with other constraints, with a second certificate in its file,
    /// or whose key others can read.
    #[test]
    fn foreign_authorities_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let at = |name: &str| directory.path().join(name);
        let prepare = || LocalCertificate::prepare(directory.path(), &[], now).unwrap();
        let local = prepare();
        let read = || std::fs::read_to_string(&local.authority).unwrap();
        let own = read();
        prepare();
        assert_eq!(read(), own);
        let plant = |change: &dyn Fn(&mut CertificateParams)| {
            let key = KeyPair::generate().unwrap();
            let mut params = super::authority(now);
            change(&mut params);
            files::replace_secret(&at("authority-key.pem"), key.serialize_pem().as_bytes()).unwrap();
            let made = params.self_signed(&key).unwrap().pem();
            files::replace_secret(&local.authority, made.as_bytes()).unwrap();
            made
        };
        let same = plant(&|_| ());
        prepare();
        assert_eq!(read(), same, "one that is as those of this host stays");
        let changes: [&dyn Fn(&mut CertificateParams); 4] = [
            &|params| params.custom_extensions.clear(),
            &|params| params.extended_key_usages.clear(),
            &|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            &|params| params.distinguished_name.push(DnType::CommonName, "Example Root"),
        ];
        for change in changes {
            let planted = plant(change);
            prepare();
            assert_ne!(read(), planted);
        }
        let two = format!("{}{own}", plant(&|_| ()));
        files::replace_secret(&local.authority, two.as_bytes()).unwrap();
        prepare();
        assert_ne!(read(), two);
        let before = read();
        std::fs::set_permissions(at("authority-key.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
        prepare();
        assert_ne!(read(), before);
        assert!(files::is_private(&at("authority-key.pem")));
        assert!(accepts(&local, &std::fs::read(&local.certificate).unwrap(), "localhost", now));
    }

    /// With the key of the authority, nobody can pass as another machine.
    #[test]
    fn the_authority_is_for_this_machine_only() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let local = LocalCertificate::prepare(directory.path(), &[], now).unwrap();
        let key = std::fs::read_to_string(directory.path().join("authority-key.pem")).unwrap();
        let issuer = Issuer::new(super::authority(now), KeyPair::from_pem(&key).unwrap());
        for (name, accepted) in [("localhost", true), ("example.org", false), ("192.0.2.7", false)] {
            let params = valid(CertificateParams::new([name.to_owned()]).unwrap(), now, LIFETIME);
            let made = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
            assert_eq!(accepts(&local, made.pem().as_bytes(), name, now), accepted, "{name}");
        }
    }
}
