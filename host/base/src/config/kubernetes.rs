//! `[kubernetes]`: the API server that names the replicas of `k8s://` sources.

use std::path::PathBuf;

use http::Uri;
use http::uri::Scheme;

use super::key::Key;
use crate::canonical;

/// The API server of Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubernetes {
    /// The URL of the API server; `None` for that of the cluster in which this host runs. `http` is only for loopback.
    pub url: Option<Uri>,
    /// The directory with the files `token`, `ca.crt` and `namespace` of a service account.
    pub account: PathBuf,
    /// The zone in which this host runs, if it is known.
    pub zone: Option<String>,
}

/// The longest value of a label.
const LABEL: usize = 63;

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<Kubernetes>] = &[
    Key {
        name: "url",
        default: "auto",
        help: "the API server for `k8s://` replicas: `auto` is that of the cluster in which the host runs; `http://` only for loopback, as of `kubectl proxy`, which gets no token",
        set: |c, text| url(text).map(|url| c.url = url),
    },
    Key {
        name: "account",
        default: "/var/run/secrets/kubernetes.io/serviceaccount",
        help: "directory with the `token`, the `ca.crt` and the `namespace` of a service account, read again for each connection",
        set: |c, text| {
            c.account = if text.is_empty() { return Err("must name a directory".into()) } else { text.into() };
            Ok(())
        },
    },
    Key {
        name: "zone",
        default: "",
        help: "the zone of the host (`topology.kubernetes.io/zone`): endpoints with a hint for it are preferred",
        set: |c, text| zone(text).map(|zone| c.zone = zone),
    },
];

fn url(text: &str) -> Result<Option<Uri>, String> {
    if text == "auto" {
        return Ok(None);
    }
    let form = || format!("`{text}` is neither `auto` nor a URL; write it like https://kubernetes.example:6443");
    let url: Uri = text.parse().map_err(|_| form())?;
    let authority = url.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let is_host = url.scheme().is_some_and(|scheme| canonical::authority(authority.as_bytes(), scheme).is_some());
    if !is_host || authority.contains('@') || url.query().is_some() {
        return Err(form());
    }
    let host = url.host().unwrap_or_default();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_loopback = address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => Ok(Some(url)),
        Some(scheme) if *scheme == Scheme::HTTP && is_loopback => Ok(Some(url)),
        Some(scheme) if *scheme == Scheme::HTTP => {
            Err(format!("`{text}`: http is only for an address of this machine, such as http://127.0.0.1:8001"))
        }
        _ => Err(form()),
    }
}

fn zone(text: &str) -> Result<Option<String>, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match text {
        // The variable of a pod without the label is empty.
        "" => Ok(None),
        zone if zone.len() <= LABEL && zone.bytes().all(plain) => Ok(Some(zone.into())),
        _ => Err(format!("`{text}` is not the name of a zone, such as eu-west-1a")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_over_tls_only() {
        assert_eq!(url("auto"), Ok(None));
        for good in ["https://10.96.0.1", "https://[fd00::1]:6443/", "https://r.example/k8s/clusters/c-1"] {
            assert_eq!(url(good), Ok(Some(good.parse().unwrap())), "{good}");
        }
        for local in ["http://127.0.0.1:8001", "http://[::1]:8001", "http://127.9.0.1"] {
            assert_eq!(url(local), Ok(Some(local.parse().unwrap())), "{local}");
        }
        // A name may lead elsewhere, so only addresses are on this machine.
        for far in ["http://localhost:8001", "http://10.0.0.1", "http://127.0.0.1.example", "http://[fd00::1]"] {
            assert!(url(far).is_err_and(|why| why.contains("only for an address of this machine")), "{far}");
        }
        for wrong in
            ["", "off", "10.0.0.1:443", "https://", "https://me@a", "https://a:99999", "https://a/?b", "ftp://a", "/a"]
        {
            assert!(url(wrong).is_err_and(|why| why.contains("is neither `auto` nor a URL; write it like")), "{wrong}");
        }
    }

    #[test]
    fn zones_are_values_of_labels() {
        assert_eq!((zone(""), zone("eu-west_1.a")), (Ok(None), Ok(Some("eu-west_1.a".into()))));
        assert!(zone("a b").is_err() && zone(&"z".repeat(64)).is_err());
    }
}
