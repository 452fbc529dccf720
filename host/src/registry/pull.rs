//! Pulls a component: its manifest, and its bytes, which are verified while they arrive.

use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::artifact::{self, Descriptor, Leads};
use super::client::{Ask, Session};
use super::exchange::{STALL, body, failure};
use super::{PartialFile, RegistryError};
use lodge_manifest::digest::Digest;
use lodge_manifest::reference::Reference;

/// The most bytes of a manifest (OCI Distribution Specification).
const MOST_MANIFEST: usize = 4 << 20;

/// The most attempts at one component, each of which must bring some bytes.
const ATTEMPTS: usize = 8;

/// The pause before a component is requested again after its transfer broke off.
const AGAIN: Duration = Duration::from_millis(200);

/// Bytes that are written at a time.
const CHUNK: usize = 256 << 10;

/// A component in a registry, as its manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundComponent {
    /// Digest of the manifest in the registry.
    pub manifest: Digest,
    /// Digest of the component.
    pub component: Digest,
    /// Bytes of the component.
    pub size: u64,
    /// The file with the signature of the component.
    pub signature: Option<String>,
    /// The manifest, for a copy.
    pub(super) document: Bytes,
    /// The config that the manifest names, for a copy.
    pub(super) config: Option<Descriptor>,
}

impl Session<'_> {
    /// Finds the component that a reference of this session's repository leads to.
    ///
    /// # Errors
    /// If the registry has none, or one of more than `most` bytes.
    pub async fn resolve(&mut self, reference: &Reference, most: u64) -> Result<FoundComponent, RegistryError> {
        let what = reference.to_string();
        let (mut digest, mut document) = self.document(&what, &reference.version(), reference.digest).await?;
        let mut leads = artifact::read(&document)?;
        if let Leads::Manifest(of) = leads {
            let wanted = of.digest()?;
            (digest, document) = self.document(&what, &format!("sha256:{wanted}"), Some(wanted)).await?;
            leads = artifact::read(&document)?;
        }
        let Leads::Component(layer, config) = leads else {
            return Err(RegistryError::new(format!("{what} is an index of indexes")));
        };
        if layer.size > most {
            let [size, most] = [layer.size, most].map(|bytes| bytesize::ByteSize(bytes).display().iec().to_string());
            return Err(RegistryError::new(format!("{what} has {size}, over engine.max_file, which is {most}")));
        }
        Ok(FoundComponent {
            manifest: digest,
            component: layer.digest()?,
            size: layer.size,
            signature: layer.signature().map(str::to_owned),
            document,
            config,
        })
    }

    /// Returns a manifest or an index with its digest, which is `wanted` if that is there.
    async fn document(
        &mut self,
        what: &str,
        version: &str,
        wanted: Option<Digest>,
    ) -> Result<(Digest, Bytes), RegistryError> {
        let ask = artifact::ACCEPTED.iter().fold(Ask::new(Method::GET), |ask, kind| ask.header(header::ACCEPT, kind));
        let response = self.send(self.url(&format!("manifests/{version}"))?, &ask).await?;
        if response.status() != StatusCode::OK {
            return Err(failure(what, response).await);
        }
        let document = body(response, MOST_MANIFEST).await?;
        let digest = Digest::of(&document);
        match wanted.filter(|wanted| *wanted != digest) {
            Some(wanted) => {
                let why = format!("the registry sent the manifest sha256:{digest} in place of sha256:{wanted}");
                Err(RegistryError::new(why))
            }
            None => Ok((digest, document)),
        }
    }

    /// Pulls a component into `partial`, and gives it the name `to`. Continues what an earlier attempt has left. After
    /// an error, `partial` keeps what has arrived.
    ///
    /// # Errors
    /// If the registry does not send the component of this digest and size.
    pub async fn fetch(
        &mut self,
        found: &FoundComponent,
        mut partial: PartialFile,
        to: &Path,
    ) -> Result<(), RegistryError> {
        let url = self.url(&format!("blobs/sha256:{}", found.component))?;
        for attempt in 1.. {
            if partial.length() > found.size {
                partial = cleared(partial).await?;
            }
            let from = partial.length();
            if from == found.size {
                break;
            }
            let mut ask = Ask::new(Method::GET);
            if from > 0 {
                ask = ask.header(header::RANGE, &format!("bytes={from}-"));
            }
            let response = self.send(url.clone(), &ask).await?;
            match response.status() {
                StatusCode::PARTIAL_CONTENT if from > 0 && starts_at(&response, from) => {}
                StatusCode::OK if from == 0 => {}
                StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => {
                    // The registry does not continue, so all of the component is requested.
                    partial = cleared(partial).await?;
                    if response.status() != StatusCode::OK {
                        continue;
                    }
                }
                _ => return Err(failure(&format!("component sha256:{}", found.component), response).await),
            }
            let (rest, broken) = receive(response, partial, found.size).await?;
            partial = rest;
            let Some(why) = broken else { continue };
            if attempt >= ATTEMPTS || partial.length() <= from {
                let (have, of) = (partial.length(), found.size);
                return Err(RegistryError::new(format!("the component broke off after {have} of {of} bytes: {why}")));
            }
            tokio::time::sleep(AGAIN).await;
        }
        let (digest, to) = (found.component, to.to_owned());
        let finished = spawn_blocking(move || partial.finish(digest, &to)).await;
        finished.unwrap_or_else(|error| Err(RegistryError::new(error.to_string())))
    }
}

/// Appends a response to the file. Returns why it ended before `size` bytes, if it did.
async fn receive(
    response: Response<Incoming>,
    mut partial: PartialFile,
    size: u64,
) -> Result<(PartialFile, Option<String>), RegistryError> {
    let (mut body, mut waiting) = (response.into_body(), BytesMut::new());
    let broken = loop {
        let frame = match timeout(STALL, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => break Some(error.to_string()),
            Ok(None) => break None,
            Err(_) => break Some(format!("nothing arrives for {}", humantime::format_duration(STALL))),
        };
        let Ok(data) = frame.into_data() else { continue };
        let have = partial.length().saturating_add((waiting.len() + data.len()) as u64);
        if have > size {
            // It is not the component of the manifest.
            drop(cleared(partial).await?);
            return Err(RegistryError::new(format!("the component has more than the {size} bytes of its manifest")));
        }
        waiting.extend_from_slice(&data);
        if waiting.len() >= CHUNK {
            partial = partial.append(waiting.split().freeze()).await?;
        }
    };
    let partial = partial.append(waiting.freeze()).await?;
    let short = partial.length() < size;
    Ok((partial, broken.or_else(|| short.then(|| "the response ended".into()))))
}

async fn cleared(mut partial: PartialFile) -> Result<PartialFile, RegistryError> {
    let cleared = spawn_blocking(move || partial.clear().map(|()| partial)).await;
    let cleared = cleared.map_err(|error| RegistryError::new(error.to_string()))?;
    cleared.map_err(|error| RegistryError::new(error.to_string()))
}

/// Whether a partial response begins with this byte.
fn starts_at(response: &Response<Incoming>, from: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
    first == Some(from)
}
