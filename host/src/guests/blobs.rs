//! Objects of services: the directory or the server that has them, and which services may use them.

mod server;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lodge_base::config::Config;
use lodge_manifest::blobstore::BlobGrant;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::split;
use lodge_runtime::capabilities::blobstore::GrantedBlobs;
use lodge_state::Namespace;
use lodge_state::blobs::{BlobBackend, BlobDirectory, BlobOptions, BlobQuota};
use lodge_traffic::service::Service;

use super::state_directory::{StateDirectory, durability};

/// The objects of all services of a host.
pub struct Blobs {
    /// Or why there is none.
    backend: Result<Arc<dyn BlobBackend>, String>,
    timeout: Duration,
    _directory: StateDirectory,
}

impl Blobs {
    /// Creates the objects of a host: in the bucket of its settings, or the directory of its state. Nothing is opened before a
    /// service needs it.
    pub fn new(config: &Config) -> Self {
        let directory = StateDirectory::new(config, "blobs");
        let options = BlobOptions { directory: directory.path.clone(), durability: durability(config) };
        let backend = match &config.state.blobs {
            Some(url) => server::open(url, config),
            None => Ok(Arc::new(BlobDirectory::new(options)) as Arc<dyn BlobBackend>),
        };
        Self { backend, timeout: config.state.timeout, _directory: directory }
    }

    /// Opens the objects of `service`, as the manifest beside `component` grants them.
    ///
    /// # Errors
    /// If the directory or the server cannot be used. It is tried again.
    pub async fn open(
        &self,
        service: &Arc<Service>,
        grant: &BlobGrant,
        component: &Path,
    ) -> Result<Arc<GrantedBlobs>, Refusal> {
        let file = file_name(component);
        // Versions share the objects of their service.
        let namespace = Namespace::new(split(&service.name).0)
            .map_err(|error| Refusal::new(&file, error.to_string(), "rename the service"))?;
        let quota = BlobQuota { objects: grant.objects, bytes: grant.bytes };
        let opened = async {
            let backend = self.backend.as_ref().map_err(String::clone)?;
            backend.open(&namespace, quota).await.map_err(|error| error.to_string())
        };
        let space = opened.await.map_err(|error| {
            let remedy = "the service starts as soon as its objects can be used";
            Refusal::new(&file, error, remedy).passing()
        })?;
        Ok(Arc::new(GrantedBlobs { space, service: Arc::clone(service), timeout: self.timeout }))
    }
}

/// Returns why the server of `state.blobs` can never be used as it is configured, and names the key.
pub fn misconfigured(config: &Config) -> Option<String> {
    config.state.blobs.as_ref().and_then(|url| server::open(url, config).err())
}
