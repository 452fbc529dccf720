//! What the API server sends: the versions of the API, pages of a list, and the events of a watch. Pure.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::failure::{WatchFailure, legible};
use super::slices::{SliceMap, WrittenMetadata, WrittenSlice, insert};

/// The versions of `discovery.k8s.io` that are read, best first.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// The longest version of an object, in bytes. It is opaque, and a number in practice.
const REVISION: usize = 256;

/// The slices of a Service, and the version up to which they are known.
#[derive(Debug, Default)]
pub(super) struct KnownSlices {
    pub(super) slices: SliceMap,
    /// Where a watch begins.
    pub(super) revision: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WrittenGroup {
    versions: Vec<WrittenVersion>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WrittenVersion {
    version: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WrittenPage {
    metadata: WrittenMetadata,
    items: Option<Vec<WrittenSlice>>,
}

/// An event without its object.
#[derive(Default, Deserialize)]
#[serde(default)]
struct WrittenEvent {
    #[serde(rename = "type")]
    kind: String,
}

/// The object of an event.
#[derive(Default, Deserialize)]
#[serde(default)]
struct WithObject<T> {
    object: T,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WrittenStatus {
    code: u16,
    message: String,
}

/// Returns the best version of the API that the server has.
pub(super) fn version(body: &[u8]) -> Result<&'static str, WatchFailure> {
    let group: WrittenGroup = parse(body, "the versions of discovery.k8s.io")?;
    let has = |wanted: &&str| group.versions.iter().any(|written| written.version == **wanted);
    let none = || WatchFailure::new("the API server has neither discovery.k8s.io/v1 nor v1beta1".into());
    VERSIONS.into_iter().find(|wanted| has(wanted)).ok_or_else(none)
}

/// Returns the message of an error, and an empty one if it has none.
pub(super) fn message(body: &[u8]) -> String {
    legible(&serde_json::from_slice::<WrittenStatus>(body).unwrap_or_default().message)
}

impl KnownSlices {
    /// Adds a page of a list. Returns where the next one begins, and `None` after the last.
    pub(super) fn add_page(&mut self, body: &[u8], zone: Option<&str>) -> Result<Option<String>, WatchFailure> {
        let page: WrittenPage = parse(body, "a list")?;
        for written in page.items.unwrap_or_default() {
            let name = written.metadata.name.clone();
            insert(&mut self.slices, name, written.read(zone)).map_err(WatchFailure::new)?;
        }
        self.revision = revision(page.metadata.resource_version)?;
        Ok(page.metadata.next.filter(|next| !next.is_empty()))
    }

    /// Applies an event. Returns whether slices have changed.
    pub(super) fn apply(&mut self, line: &[u8], zone: Option<&str>) -> Result<bool, WatchFailure> {
        let event: WrittenEvent = parse(line, "an event")?;
        match event.kind.as_str() {
            "ERROR" => {
                let WithObject { object: WrittenStatus { code, message } } = parse(line, "an error")?;
                let why = format!("the API server ended the watch: {}", legible(&message));
                Err(if code == 410 { WatchFailure::gone(why) } else { WatchFailure::new(why) })
            }
            kind @ ("ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK") => {
                let WithObject { object }: WithObject<WrittenSlice> = parse(line, "an event")?;
                self.revision = revision(object.metadata.resource_version.clone())?;
                let name = object.metadata.name.clone();
                match kind {
                    "BOOKMARK" => Ok(false),
                    "DELETED" => Ok(self.slices.remove(&name).is_some()),
                    _ => insert(&mut self.slices, name, object.read(zone)).map(|()| true).map_err(WatchFailure::new),
                }
            }
            // A kind that a later version may add.
            _ => Ok(false),
        }
    }
}

fn revision(text: String) -> Result<String, WatchFailure> {
    if text.is_empty() || text.len() > REVISION {
        return Err(WatchFailure::new("the API server sent an object without a resourceVersion".into()));
    }
    Ok(text)
}

fn parse<T: DeserializeOwned>(body: &[u8], what: &str) -> Result<T, WatchFailure> {
    let invalid = |error: serde_json::Error| {
        // The message may quote any part of the body.
        let error = legible(&error.to_string());
        WatchFailure::new(format!("the API server sent {what} that is not valid: {error}"))
    };
    serde_json::from_slice(body).map_err(invalid)
}
