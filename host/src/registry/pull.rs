//! Pulls a component: its manifest, and its bytes, which are verified while they arrive.

use std::path::Path;
use std::time::{Duration, Instant};

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

/// The fewest bytes in [`STALL`]: a registry that sends less does not keep the place of others.
const LEAST: u64 = 64 << 10;

/// Bytes that are written at a time.
const CHUNK: usize = 256 << 10;

/// A component in a registry, as its manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundComponent {
    /// Digest of the document that the reference names: the manifest, or an index.
    pub named: Digest,
    /// Digest of the manifest of the component.
    pub manifest: Digest,
    /// Digest of the component.
    pub component: Digest,
    /// Bytes of the component.
    pub size: u64,
    /// The file with the signature of the component.
    pub signature: Option<String>,
    /// The index, if the reference names one.
    pub(super) index: Option<Bytes>,
    /// The manifest.
    pub(super) document: Bytes,
    /// The config that the manifest names, for a copy.
    pub(super) config: Option<Descriptor>,
}

impl FoundComponent {
    /// Reads what the documents of a registry lead to.
    ///
    /// # Errors
    /// If they lead to no component, or the index does not lead to this manifest.
    pub(super) fn of(index: Option<Bytes>, document: Bytes) -> Result<Self, RegistryError> {
        let manifest = Digest::of(&document);
        if let Some(index) = &index {
            match artifact::read(index)? {
                Leads::Manifest(of) if of.digest()? == manifest => {}
                _ => return Err(RegistryError::new("the index in the registry leads to another manifest")),
            }
        }
        let Leads::Component(layer, config) = artifact::read(&document)? else {
            return Err(RegistryError::new("the index in the registry leads to another index"));
        };
        Ok(Self {
            named: index.as_ref().map_or(manifest, |index| Digest::of(index)),
            manifest,
            component: layer.digest()?,
            size: layer.size,
            signature: layer.signature().map(str::to_owned),
            index,
            document,
            config,
        })
    }

    /// Whether the reference names an index of several platforms.
    pub fn is_of_index(&self) -> bool {
        self.index.is_some()
    }
}

impl Session<'_> {
    /// Finds the component that a reference of this session's repository leads to.
    ///
    /// # Errors
    /// If the registry has none, or one of more than `most` bytes.
    pub async fn resolve(&mut self, reference: &Reference, most: u64) -> Result<FoundComponent, RegistryError> {
        let what = reference.to_string();
        let first = self.document(&what, &reference.version(), reference.digest).await?;
        let found = match artifact::read(&first)? {
            Leads::Manifest(of) => {
                let wanted = of.digest()?;
                let manifest = self.document(&what, &format!("sha256:{wanted}"), Some(wanted)).await?;
                FoundComponent::of(Some(first), manifest)?
            }
            Leads::Component(..) => FoundComponent::of(None, first)?,
        };
        if found.size > most {
            let [size, most] = [found.size, most].map(|bytes| bytesize::ByteSize(bytes).display().iec().to_string());
            return Err(RegistryError::new(format!("{what} has {size}, over engine.max_file, which is {most}")));
        }
        Ok(found)
    }

    /// Returns a manifest or an index, whose digest is `wanted` if that is there.
    async fn document(&mut self, what: &str, version: &str, wanted: Option<Digest>) -> Result<Bytes, RegistryError> {
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
            None => Ok(document),
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
    let mut rate = TransferRate::new(Instant::now());
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
        if !rate.suffices(data.len(), Instant::now()) {
            partial.append(waiting.freeze()).await?;
            let (least, time) = (bytesize::ByteSize(LEAST).display().iec(), humantime::format_duration(STALL));
            return Err(RegistryError::new(format!("less than {least} of the component arrives in {time}")));
        }
        if waiting.len() >= CHUNK {
            partial = partial.append(waiting.split().freeze()).await?;
        }
    };
    let partial = partial.append(waiting.freeze()).await?;
    let short = partial.length() < size;
    Ok((partial, broken.or_else(|| short.then(|| "the response ended".into()))))
}

/// The rate of a transfer, in periods of [`STALL`].
struct TransferRate {
    since: Instant,
    bytes: u64,
}

impl TransferRate {
    fn new(since: Instant) -> Self {
        Self { since, bytes: 0 }
    }

    /// Adds bytes. Returns false at the end of a period with fewer than [`LEAST`].
    fn suffices(&mut self, bytes: usize, now: Instant) -> bool {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if now.saturating_duration_since(self.since) < STALL {
            return true;
        }
        let enough = self.bytes >= LEAST;
        *self = Self::new(now);
        enough
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_transfers_end() {
        let start = Instant::now();
        let mut rate = TransferRate::new(start);
        assert!(rate.suffices(1, start + STALL / 2));
        assert!(rate.suffices(LEAST as usize, start + STALL));
        assert!(rate.suffices(LEAST as usize - 2, start + STALL * 3 / 2));
        assert!(!rate.suffices(1, start + STALL * 2));
        assert!(rate.suffices(1, start + STALL * 2));
    }
}
