//! Backends for objects on servers. Each is a feature of this crate.

use std::sync::Arc;

use lodge_base::config::Config;
use lodge_state::blobs::BlobBackend;

/// The part of the memory of the host that parts of objects may take while they are written, and their size.
#[cfg(feature = "s3")]
const MEMORY: (usize, usize) = (16, 5 << 20);

/// The most bytes of a file with certificates.
#[cfg(feature = "s3")]
const MAX_FILE: u64 = 1 << 20;

/// Makes the backend of a URL. The server need not be there yet.
///
/// # Errors
/// If the URL or a file is not valid, or this program has no backend for the URL. Names the key.
#[cfg(feature = "s3")]
pub(super) fn open(url: &str, config: &Config) -> Result<Arc<dyn BlobBackend>, String> {
    let authorities = match &config.state.blobs_ca {
        None => None,
        Some(path) => {
            let read = lodge_base::files::read(path, MAX_FILE);
            Some(read.map_err(|error| format!("state.blobs_ca: {} cannot be read: {error}", path.display()))?)
        }
    };
    let tls = lodge_remote::Tls { authorities, identity: None };
    let parts = config.memory.map_or(usize::MAX, |memory| memory / MEMORY.0 / MEMORY.1);
    let settings = lodge_s3::S3Settings::new(url, &tls, key(config)?, parts);
    let settings = settings.map_err(|problem| format!("state.blobs: {problem}"))?;
    Ok(Arc::new(lodge_s3::S3::new(&settings)))
}

#[cfg(not(feature = "s3"))]
pub(super) fn open(_: &str, _: &Config) -> Result<Arc<dyn BlobBackend>, String> {
    Err("state.blobs: this program has no backend for S3; build it with `--features s3`, or remove the key".into())
}

/// The access key: that of the file, or of the environment.
#[cfg(feature = "s3")]
fn key(config: &Config) -> Result<lodge_s3::KeySource, String> {
    use lodge_s3::{AccessKey, KeySource};
    if let Some(path) = &config.state.blobs_credentials {
        AccessKey::read(path).map_err(|problem| format!("state.blobs_credentials: {}: {problem}", path.display()))?;
        return Ok(KeySource::File(path.clone()));
    }
    let set = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    match (set("AWS_ACCESS_KEY_ID"), set("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => {
            Ok(KeySource::Fixed(AccessKey::new(&id, &secret, set("AWS_SESSION_TOKEN").as_deref())))
        }
        _ => Err("state.blobs: there is no access key; name a file with one in `state.blobs_credentials`, or set \
                  AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            .into()),
    }
}
