//! How S3 is reached.

use std::net::IpAddr;
use std::sync::Arc;

use lodge_remote::{ServerUrl, Tls, TlsError, UrlError, UrlScheme};
use rustls::ClientConfig;

use crate::credentials::KeySource;
use crate::keys::MAX_PREFIX;

const SCHEMES: [UrlScheme; 1] = [UrlScheme { name: "s3", tls: true }];
const ENDPOINTS: [UrlScheme; 2] = [UrlScheme { name: "https", tls: true }, UrlScheme { name: "http", tls: false }];
/// The ports of `https://` and `http://`.
const PORTS: (u16, u16) = (443, 80);
/// Parts of objects in memory, of all services.
const PARTS: (usize, usize) = (4, 32);

/// Where the objects are, and how the server is reached.
#[derive(Clone, Debug)]
pub struct S3Settings {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) bucket: String,
    /// Empty, or it ends with `/`.
    pub(crate) prefix: String,
    pub(crate) region: String,
    pub(crate) key: KeySource,
    pub(crate) parts: usize,
}

/// Why settings are not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum S3SettingsError {
    /// The URL.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// A user or a password in the URL.
    #[error(
        "the URL must not contain credentials: write them to a file, and name it in `state.blobs_credentials`, or set \
         AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )]
    Credentials,
    /// A bucket that no server has.
    #[error(
        "the bucket must be 3 to 63 lower-case letters, digits, `-` and `.`, without a port: write s3://BUCKET/PREFIX"
    )]
    Bucket,
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl S3Settings {
    /// Reads `s3://BUCKET[/PREFIX]?region=REGION[&endpoint=URL][&insecure=true]`. The region is `us-east-1` and the endpoint that of
    /// AWS without one. `parts` bounds the memory of uploads, in parts of 5 MiB.
    ///
    /// # Errors
    /// What is wrong, and what would be valid.
    pub fn new(url: &str, tls: &Tls, key: KeySource, parts: usize) -> Result<S3Settings, S3SettingsError> {
        let url = ServerUrl::parse(url, &SCHEMES, PORTS.0).map_err(|error| match error {
            UrlError::NoHost { .. } | UrlError::Host | UrlError::Port => S3SettingsError::Bucket,
            other => other.into(),
        })?;
        if url.user.is_some() || url.password.is_some() {
            return Err(S3SettingsError::Credentials);
        }
        let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        let bucket = url.host;
        if url.port != PORTS.0 || !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(valid) {
            return Err(S3SettingsError::Bucket);
        }
        let (mut region, mut endpoint, mut insecure) = ("us-east-1".to_owned(), None, false);
        for (name, value) in url.parameters {
            let wrong = |problem| UrlError::Parameter { name: name.clone(), problem };
            let is_word =
                || !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            match (name.as_str(), value.as_str()) {
                ("region", _) if is_word() && value.len() <= 64 => region = value,
                ("region", _) => return Err(wrong("is not the name of a region: write region=eu-central-1").into()),
                ("endpoint", _) => endpoint = Some(value),
                ("insecure", "true") => insecure = true,
                ("insecure", "false") => {}
                ("insecure", _) => return Err(wrong("must be true or false").into()),
                _ => return Err(wrong("is not known: use region, endpoint and insecure").into()),
            }
        }
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        let (host, port, secure) = read_endpoint(&endpoint, insecure)?;
        let tls = secure.then(|| tls.config()).transpose()?;
        let prefix = read_prefix(&url.path)?;
        Ok(S3Settings { host, port, tls, bucket, prefix, region, key, parts: parts.clamp(PARTS.0, PARTS.1) })
    }
}

fn read_endpoint(text: &str, insecure: bool) -> Result<(String, u16, bool), UrlError> {
    let wrong = |problem| UrlError::Parameter { name: "endpoint".into(), problem };
    let default =
        if text.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("http://")) { PORTS.1 } else { PORTS.0 };
    let url = ServerUrl::parse(text, &ENDPOINTS, default)
        .map_err(|_| wrong("is not a URL of a server: write endpoint=https://HOST:PORT"))?;
    if url.user.is_some() || url.password.is_some() || !url.path.is_empty() || !url.parameters.is_empty() {
        return Err(wrong("must be a scheme, a host and a port only: write endpoint=https://HOST:PORT"));
    }
    let is_loopback = url.host == "localhost" || url.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if !url.tls && !is_loopback && !insecure {
        return Err(wrong(
            "is http://, by which everybody on the way reads the objects: write https://, or add insecure=true",
        ));
    }
    Ok((url.host, url.port, url.tls))
}

fn read_prefix(path: &str) -> Result<String, UrlError> {
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return Ok(String::new());
    }
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(valid);
    if path.len() >= MAX_PREFIX || !path.split('/').all(is_part) {
        let problem = "is not a prefix of keys: use parts of letters, digits, `-`, `_` and `.`, 199 bytes together";
        return Err(UrlError::Path { problem });
    }
    Ok(format!("{path}/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::AccessKey;

    fn settings(url: &str) -> Result<S3Settings, S3SettingsError> {
        let key = KeySource::Fixed(AccessKey::new("id", "canary", None));
        S3Settings::new(url, &Tls::default(), key, 8)
    }

    #[test]
    fn urls_are_read() {
        let local = settings("s3://bucket/a/b/?region=eu-west-1&endpoint=http://127.0.0.1:8333").unwrap();
        assert_eq!((local.host.as_str(), local.port, local.tls.is_some()), ("127.0.0.1", 8333, false));
        assert_eq!(
            (local.bucket.as_str(), local.prefix.as_str(), local.region.as_str()),
            ("bucket", "a/b/", "eu-west-1")
        );
        assert!(!format!("{local:?}").contains("canary"));
        let plain = settings("s3://bucket?endpoint=http://minio&insecure=true").unwrap();
        assert_eq!((plain.port, plain.prefix.as_str(), plain.region.as_str()), (80, "", "us-east-1"));
        for (url, text) in [
            ("http://bucket", "s3://"),
            ("s3://", "bucket must be"),
            ("s3://id:canary@bucket", "must not contain credentials"),
            ("s3://id@bucket", "must not contain credentials"),
            ("s3://b", "bucket must be"),
            ("s3://Bucket", "bucket must be"),
            ("s3://bucket:80", "bucket must be"),
            ("s3://bucket/../x", "prefix of keys"),
            ("s3://bucket/a//b", "prefix of keys"),
            ("s3://bucket/%20", "prefix of keys"),
            ("s3://bucket?region=", "region=eu-central-1"),
            ("s3://bucket?region=a/b", "region=eu-central-1"),
            ("s3://bucket?endpoint=minio:9000", "endpoint=https://HOST:PORT"),
            ("s3://bucket?endpoint=https://minio/path", "scheme, a host and a port only"),
            ("s3://bucket?endpoint=http://minio:9000", "insecure=true"),
            ("s3://bucket?endpoint=http://127.0.0.1.example.org", "insecure=true"),
            ("s3://bucket?insecure=yes", "true or false"),
            ("s3://bucket?key=canary", "\"key\" of the URL is not known"),
        ] {
            let error = settings(url).unwrap_err().to_string();
            assert!(error.contains(text) && !error.contains("canary"), "{url}: {error}");
        }
    }
}
