//! Pushes a component, or copies one with the manifest that it has.

use bytes::Bytes;
use http::{Method, StatusCode, Uri, header};

use super::RegistryError;
use super::artifact::{self, WasmArtifact};
use super::client::{Ask, Session};
use super::exchange::{body, failure};
use super::pull::FoundComponent;
use lodge_manifest::digest::Digest;

/// The most bytes of a config.
const MOST_CONFIG: usize = 4 << 20;

impl Session<'_> {
    /// Pushes a component and its signature with these imports and exports under a tag, unless the registry has it. Returns the digest of its
    /// manifest. `created` is a time in RFC 3339.
    ///
    /// # Errors
    /// If the registry does not take it.
    pub async fn push(
        &mut self,
        (component, signature): (Bytes, Option<&str>),
        interfaces: (&[String], &[String]),
        created: &str,
        tag: &str,
    ) -> Result<Digest, RegistryError> {
        let WasmArtifact { config, manifest } = WasmArtifact::of(&component, signature, interfaces, created);
        self.upload(component).await?;
        self.upload(config).await?;
        self.tag(manifest, artifact::MANIFEST, tag).await
    }

    /// Pushes a component of another repository with the manifest that it has there, so that its digest stays the same.
    ///
    /// # Errors
    /// If one of the registries fails.
    pub async fn copy(
        &mut self,
        from: &mut Session<'_>,
        found: &FoundComponent,
        component: Bytes,
        tag: &str,
    ) -> Result<Digest, RegistryError> {
        if let Some(config) = &found.config {
            let digest = config.digest()?;
            let response = from.send(from.url(&format!("blobs/sha256:{digest}"))?, &Ask::new(Method::GET)).await?;
            if response.status() != StatusCode::OK {
                return Err(failure(&format!("config sha256:{digest}"), response).await);
            }
            let config = body(response, MOST_CONFIG).await?;
            if Digest::of(&config) != digest {
                return Err(RegistryError::new(format!("the registry sent another config than sha256:{digest}")));
            }
            self.upload(config).await?;
        }
        self.upload(component).await?;
        self.tag(found.document.clone(), &artifact::kind(&found.document), tag).await
    }

    /// Uploads bytes, unless the registry has them.
    async fn upload(&mut self, bytes: Bytes) -> Result<(), RegistryError> {
        let digest = Digest::of(&bytes);
        let what = format!("sha256:{digest}");
        let known = self.send(self.url(&format!("blobs/{what}"))?, &Ask::new(Method::HEAD)).await?;
        if known.status() == StatusCode::OK {
            return Ok(());
        }
        let start = self.url("blobs/uploads/")?;
        let begun = self.send(start.clone(), &Ask::new(Method::POST)).await?;
        if begun.status() != StatusCode::ACCEPTED {
            return Err(failure(&format!("place for {what}"), begun).await);
        }
        let place = self.location(&start, begun.headers())?.to_string();
        let place = format!("{place}{}digest={what}", if place.contains('?') { '&' } else { '?' });
        let place: Uri =
            place.parse().map_err(|_| RegistryError::new("the registry refers to a place that is no URL"))?;
        let ask = Ask::new(Method::PUT).header(header::CONTENT_TYPE, "application/octet-stream").body(bytes);
        let stored = self.send(place, &ask).await?;
        match stored.status() {
            StatusCode::CREATED => Ok(()),
            _ => Err(failure(&format!("upload of {what}"), stored).await),
        }
    }

    /// Gives a manifest a tag.
    async fn tag(&mut self, manifest: Bytes, kind: &str, tag: &str) -> Result<Digest, RegistryError> {
        let digest = Digest::of(&manifest);
        let ask = Ask::new(Method::PUT).header(header::CONTENT_TYPE, kind).body(manifest);
        let stored = self.send(self.url(&format!("manifests/{tag}"))?, &ask).await?;
        match stored.status() {
            StatusCode::CREATED => Ok(digest),
            _ => Err(failure(&format!("manifest for the tag {tag}"), stored).await),
        }
    }
}
