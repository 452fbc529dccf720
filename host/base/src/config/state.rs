//! `[state]`: where the state of services is kept.

use std::path::PathBuf;
use std::time::Duration;

use super::key::{Key, count, duration, word};

const LEAST_TIMEOUT: Duration = Duration::from_millis(10);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Where and how the state of services is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The URL of a server, which replaces the file.
    pub url: Option<String>,
    /// The file with the certificates of authorities that the server is verified by; those of the system without one.
    pub ca: Option<PathBuf>,
    /// The file with the certificate that the host shows to the server, and its chain.
    pub certificate: Option<PathBuf>,
    /// The file with the key of the certificate.
    pub key: Option<PathBuf>,
    /// The file with the credentials of a NATS user.
    pub credentials: Option<PathBuf>,
    /// The servers of a NATS cluster that have each stream.
    pub replicas: usize,
    /// The place without a server.
    pub path: StatePath,
    /// The URL of a bucket with the objects of services, which replaces their directory.
    pub blobs: Option<String>,
    /// The file with the key of that bucket's server.
    pub blobs_credentials: Option<PathBuf>,
    /// The file with the certificates of authorities that it is verified by; those of the system without one.
    pub blobs_ca: Option<PathBuf>,
    /// What a confirmed write survives.
    pub durability: Durability,
    /// The longest time that one operation may take.
    pub timeout: Duration,
}

/// The place of the state of services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StatePath {
    /// `.lodge/state.db` in the directory of guests.
    #[default]
    Beside,
    /// This file.
    At(PathBuf),
    /// The memory of the process, with which it ends.
    Memory,
}

/// What a confirmed write survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The end of the process, however it ends.
    #[default]
    Process,
    /// A power cut as well: every group of writes waits for the disk.
    Power,
}

/// Parses the name of a file; empty is none.
fn file(text: &str) -> Result<Option<PathBuf>, String> {
    Ok((!text.is_empty()).then(|| text.into()))
}

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<State>] = &[
    Key {
        name: "url",
        default: "",
        help: "a server that keeps the state instead of a file, so that several hosts share it: `redis://`, `rediss://`, `nats://`, `tls://` (NATS) or `postgres://`",
        set: |c, text| {
            c.url = (!text.is_empty()).then(|| text.into());
            Ok(())
        },
    },
    Key {
        name: "ca",
        default: "",
        help: "a PEM file with the authorities that the certificate of the server is verified by; empty for those of the system",
        set: |c, text| file(text).map(|file| c.ca = file),
    },
    Key {
        name: "certificate",
        default: "",
        help: "a PEM file with the certificate that the host shows to the server, and its chain",
        set: |c, text| file(text).map(|file| c.certificate = file),
    },
    Key {
        name: "key",
        default: "",
        help: "a PEM file with the key of `state.certificate`",
        set: |c, text| file(text).map(|file| c.key = file),
    },
    Key {
        name: "credentials",
        default: "",
        help: "a `.creds` file with the JWT and the seed of a NATS user",
        set: |c, text| file(text).map(|file| c.credentials = file),
    },
    Key {
        name: "replicas",
        default: "1",
        help: "how many servers of a NATS cluster keep each entry: 1, 3 or 5",
        set: |c, text| {
            count(text, 1..=5).map(|value| c.replicas = value).and_then(|()| match c.replicas {
                1 | 3 | 5 => Ok(()),
                other => Err(format!("must be 1, 3 or 5, and not {other}")),
            })
        },
    },
    Key {
        name: "path",
        default: "beside",
        help: "the file with the state of all services; `beside` is `.lodge/state.db` in the directory of guests, `memory` keeps nothing",
        set: |c, text| {
            c.path = match text {
                "beside" => StatePath::Beside,
                "memory" => StatePath::Memory,
                "" => return Err("must name a file, or be `beside` or `memory`".into()),
                path => StatePath::At(path.into()),
            };
            Ok(())
        },
    },
    Key {
        name: "blobs",
        default: "",
        help: "a bucket of S3 that keeps the objects of services instead of a directory, so that several hosts share them: `s3://BUCKET/PREFIX?region=…&endpoint=…`",
        set: |c, text| {
            c.blobs = (!text.is_empty()).then(|| text.into());
            Ok(())
        },
    },
    Key {
        name: "blobs_credentials",
        default: "",
        help: "a file with the access key for `state.blobs`, in the form of `~/.aws/credentials`; without it, `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` have it",
        set: |c, text| file(text).map(|file| c.blobs_credentials = file),
    },
    Key {
        name: "blobs_ca",
        default: "",
        help: "a PEM file with the authorities that the certificate of the server of `state.blobs` is verified by; empty for those of the system",
        set: |c, text| file(text).map(|file| c.blobs_ca = file),
    },
    Key {
        name: "durability",
        default: "process",
        help: "what a confirmed write survives: the end of the `process`, or a `power` cut as well, which waits for the disk",
        set: |c, text| {
            word(text, &[("process", Durability::Process), ("power", Durability::Power)])
                .map(|value| c.durability = value)
        },
    },
    Key {
        name: "timeout",
        default: "2s",
        help: "the longest time of one operation of a guest on its state",
        set: |c, text| duration(text, LEAST_TIMEOUT..=LONGEST_TIMEOUT).map(|value| c.timeout = value),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_replicas() {
        let set = |name: &str, text: &str| {
            let mut state = State::default();
            let key = KEYS.iter().find(|key| key.name == name).unwrap();
            (key.set)(&mut state, text).map(|()| state)
        };
        assert_eq!(set("ca", "/a/ca.pem").unwrap().ca, Some("/a/ca.pem".into()));
        assert_eq!(set("credentials", "").unwrap().credentials, None);
        assert_eq!(set("replicas", "3").unwrap().replicas, 3);
        assert_eq!(set("replicas", "2").unwrap_err(), "must be 1, 3 or 5, and not 2");
        assert!(set("replicas", "7").is_err());
    }
}
