//! `upstream.tls`: how the replicas and this host know each other.

use std::path::PathBuf;

use super::Spec;
use super::source::Source;
use crate::auth::certificate::CertificatePattern;

/// How the replicas and this host know each other. Files are relative to the directory of the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSpec {
    /// The file of authorities that sign the certificates of replicas; `None` for those of the system.
    pub ca: Option<PathBuf>,
    /// The file with the certificate of this host for the replicas.
    pub certificate: Option<PathBuf>,
    /// The file with its key.
    pub key: Option<PathBuf>,
    /// The names of which the certificate of a replica must have one; without any, the name of the replica.
    pub names: Vec<CertificatePattern>,
}

impl TlsSpec {
    /// Whether nothing is set, so that this host is nobody in particular, and replicas are those of the system's authorities.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the names, as a manifest writes them: one, or a list.
    pub(super) fn names_text(&self) -> Option<String> {
        match &*self.names {
            [] => None,
            [name] => Some(name.text()),
            names => Some(format!("{:?}", names.iter().map(CertificatePattern::text).collect::<Vec<_>>())),
        }
    }

    /// Returns the conflicts between values of `spec`, each with its key.
    pub(super) fn disagreements(spec: &Spec) -> Vec<(&'static str, &'static str)> {
        let Self { ca, certificate, key, names } = &spec.tls;
        let mut problems = Vec::new();
        if certificate.is_some() && key.is_none() {
            problems.push(("tls.certificate", "needs its key; set `tls.key`, to the same file if that has both"));
        }
        if key.is_some() && certificate.is_none() {
            problems.push(("tls.key", "needs its certificate; set `tls.certificate`"));
        }
        let set = [
            ("tls.ca", ca.is_some()),
            ("tls.certificate", certificate.is_some()),
            ("tls.key", key.is_some()),
            ("tls.names", !names.is_empty()),
        ];
        let is_plain = !spec.replicas.iter().all(Source::is_tls);
        if let Some((name, _)) = set.into_iter().find(|(_, is_set)| *is_set).filter(|_| is_plain) {
            let why = "holds for https only, and without TLS no replica is verified; write every replica as https://, dns+https://, \
                       srv+https://, k8s+https:// or cluster+https://";
            problems.push((name, why));
        }
        problems
    }
}
