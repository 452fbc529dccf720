//! What the API server sends: the versions of the API, pages of a list, and the events of a watch. Pure.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::failure::{WatchFailure, legible};
use super::slices::{SliceMap, WrittenMetadata, WrittenSlice};
use lodge_base::bounded::Bounded;
use lodge_base::budget::Budget;

/// The versions of `discovery.k8s.io` that are read, best first.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// The group of the API.
const GROUP: &str = "discovery.k8s.io";
/// The most versions of it.
const GROUP_VERSIONS: usize = 100;
/// The longest version of an object, in bytes. It is opaque, and a number in practice.
const REVISION: usize = 256;

/// The slices of a Service, and the version up to which they are known.
#[derive(Debug)]
pub(super) struct KnownSlices {
    /// The version of the API.
    pub(super) version: &'static str,
    pub(super) slices: SliceMap,
    /// Where a watch begins.
    pub(super) revision: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WrittenGroup {
    versions: Bounded<WrittenVersion, GROUP_VERSIONS>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WrittenVersion {
    version: String,
}

/// A page of a list, whose slices are in a [`SliceMap`] already.
#[derive(Default)]
struct WrittenPage {
    kind: String,
    api_version: String,
    metadata: WrittenMetadata,
}

/// An event. Its object is a slice or a Status, which have no fields in common but their kind: so it is parsed once, whatever it is.
#[derive(Default, Deserialize)]
#[serde(default)]
struct WrittenEvent {
    #[serde(rename = "type")]
    kind: String,
    object: WrittenSlice,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WrittenStatus {
    message: String,
}

/// Returns the best version of the API that the server has.
pub(super) fn version(body: &[u8]) -> Result<&'static str, WatchFailure> {
    let group: WrittenGroup = parse(body, "the versions of discovery.k8s.io")?;
    let has = |wanted: &&str| group.versions.0.iter().any(|written| written.version == **wanted);
    let none = || WatchFailure::new("the API server has neither discovery.k8s.io/v1 nor v1beta1".into());
    VERSIONS.into_iter().find(|wanted| has(wanted)).ok_or_else(none)
}

/// Returns the message of an error, and an empty one if it has none.
pub(super) fn message(body: &[u8]) -> String {
    legible(&serde_json::from_slice::<WrittenStatus>(body).unwrap_or_default().message)
}

impl KnownSlices {
    /// Creates the slices of a Service in this version of the API, before the first page, within this room for those of all.
    pub(super) fn new(version: &'static str, room: &Arc<Budget>) -> Self {
        Self { version, slices: SliceMap::new(Arc::clone(room)), revision: String::new() }
    }

    /// Adds a page of a list. Returns where the next one begins, and `None` after the last. After an error, the slices are of no use.
    pub(super) fn add_page(&mut self, body: &[u8], zone: Option<&str>) -> Result<Option<String>, WatchFailure> {
        let mut json = serde_json::Deserializer::from_slice(body);
        let page = SlicePage { slices: &mut self.slices, zone }.deserialize(&mut json);
        let page = page.and_then(|page| json.end().map(|()| page)).map_err(|error| invalid("a list", &error))?;
        self.is_of("a list", (&page.kind, &page.api_version), "EndpointSliceList")?;
        self.revision = revision(page.metadata.resource_version)?;
        Ok(page.metadata.next.filter(|next| !next.is_empty()))
    }

    /// Applies an event. Returns whether slices have changed.
    pub(super) fn apply(&mut self, line: &[u8], zone: Option<&str>) -> Result<bool, WatchFailure> {
        let WrittenEvent { kind, object } = parse(line, "an event")?;
        match kind.as_str() {
            "ERROR" => {
                let why = format!("the API server ended the watch: {}", legible(&object.message));
                Err(if object.code == 410 { WatchFailure::gone(why) } else { WatchFailure::new(why) })
            }
            kind @ ("ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK") => {
                self.is_of("an event", (&object.kind, &object.api_version), "EndpointSlice")?;
                let revision = revision(object.metadata.resource_version.clone())?;
                let changed = match kind {
                    "BOOKMARK" => false,
                    "DELETED" => self.slices.remove(&object.name().map_err(WatchFailure::new)?),
                    _ => {
                        let name = object.name().map_err(WatchFailure::new)?;
                        self.slices.insert(name, object.read(zone)).map(|()| true).map_err(WatchFailure::new)?
                    }
                };
                self.revision = revision;
                Ok(changed)
            }
            // A kind that a later version may add.
            _ => Ok(false),
        }
    }

    /// Checks the kind and the version of what the server sent: another kind has no endpoints, and that would be believed.
    fn is_of(&self, what: &str, (kind, version): (&str, &str), wanted: &str) -> Result<(), WatchFailure> {
        if kind == wanted
            && version.strip_prefix(GROUP).is_some_and(|rest| rest.strip_prefix('/') == Some(self.version))
        {
            return Ok(());
        }
        let (kind, version) = (legible(kind), legible(version));
        let own = self.version;
        Err(WatchFailure::new(format!(
            "the API server sent {what} that is no {wanted} of {GROUP}/{own}: its kind is {kind:?} of {version:?}"
        )))
    }
}

/// Reads a page, and puts each slice into `slices` before the next one is read: what is held is bounded by what they may have.
struct SlicePage<'a> {
    slices: &'a mut SliceMap,
    zone: Option<&'a str>,
}

impl<'de> DeserializeSeed<'de> for SlicePage<'_> {
    type Value = WrittenPage;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<WrittenPage, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for SlicePage<'_> {
    type Value = WrittenPage;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of Kubernetes")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WrittenPage, A::Error> {
        let mut page = WrittenPage::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "kind" => page.kind = map.next_value()?,
                "apiVersion" => page.api_version = map.next_value()?,
                "metadata" => page.metadata = map.next_value()?,
                "items" => map.next_value_seed(SliceItems { slices: &mut *self.slices, zone: self.zone })?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(page)
    }
}

/// The items of a page.
struct SliceItems<'a> {
    slices: &'a mut SliceMap,
    zone: Option<&'a str>,
}

impl<'de> DeserializeSeed<'de> for SliceItems<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SliceItems<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of EndpointSlices")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(slice) = list.next_element::<WrittenSlice>()? {
            let name = slice.name().map_err(A::Error::custom)?;
            self.slices.insert(name, slice.read(self.zone)).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

fn revision(text: String) -> Result<String, WatchFailure> {
    if text.is_empty() || text.len() > REVISION {
        return Err(WatchFailure::new("the API server sent an object without a resourceVersion".into()));
    }
    Ok(text)
}

fn parse<T: DeserializeOwned>(body: &[u8], what: &str) -> Result<T, WatchFailure> {
    serde_json::from_slice(body).map_err(|error| invalid(what, &error))
}

fn invalid(what: &str, error: &serde_json::Error) -> WatchFailure {
    // The message may quote any part of the body.
    let error = legible(&error.to_string());
    WatchFailure::new(format!("the API server sent {what} that is not valid: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn known() -> KnownSlices {
        KnownSlices::new("v1", &Budget::new(1 << 20))
    }

    fn list(more: &Value) -> Value {
        let mut list = json!({
            "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": { "resourceVersion": "5" },
            "items": [{ "metadata": { "name": "a" }, "endpoints": [{ "addresses": ["10.0.0.1"] }] }],
        });
        list.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        list
    }

    fn refused(text: &str) -> String {
        known().add_page(text.as_bytes(), None).unwrap_err().why
    }

    #[test]
    fn only_lists_of_slices_are_lists() {
        let mut known = known();
        assert!(known.add_page(list(&json!({})).to_string().as_bytes(), None).unwrap().is_none());
        assert_eq!((known.slices.endpoints(), known.revision.as_str()), (1, "5"));
        for more in [
            json!({ "kind": "PodList", "apiVersion": "v1" }),
            json!({ "kind": "Status" }),
            json!({ "kind": "EndpointSlice" }),
            json!({ "apiVersion": "discovery.k8s.io/v1beta1" }),
            json!({ "apiVersion": "discovery.k8s.io" }),
        ] {
            let why = refused(&list(&more).to_string());
            assert!(why.contains("a list that is no EndpointSliceList of discovery.k8s.io/v1: its kind is"), "{why}");
        }
        let why = refused(&list(&json!({ "items": [{ "endpoints": [] }] })).to_string());
        assert!(why.contains("without a valid name"), "{why}");
        assert!(refused("{\"metadata\":{\"resourceVersion\":\"5\"}}").contains("is no EndpointSliceList"));
        assert!(refused(&format!("{} x", list(&json!({})))).contains("not valid: trailing characters"));
        assert!(refused(&list(&json!({ "kind": "a\u{2028}\u{202e}b" })).to_string()).contains("\"a  b\""));
    }

    /// What a list may not have ends it at once: what follows is not even valid.
    #[test]
    fn lists_end_at_their_bounds() {
        let slices = |each: &str, many: usize| {
            let items: Vec<_> =
                (0..many).map(|n| format!(r#"{{"metadata":{{"name":"s{n}"}},"endpoints":{each}}}"#)).collect();
            refused(&format!("{{\"items\":[{},rubbish", items.join(",")))
        };
        assert!(slices("[]", 2_001).contains("more than 2000 EndpointSlices"));
        let endpoints = format!("[{}]", vec!["{\"addresses\":[\"10.0.0.1\"]}"; 1_000].join(","));
        assert!(slices(&endpoints, 21).contains("or 20000 endpoints"));
        let endless =
            format!("{{\"items\":[{{\"metadata\":{{\"name\":\"a\"}},\"endpoints\":[{},rubbish", "{},".repeat(1_001));
        assert!(refused(&endless).contains("a list has more than 1000 elements"));
    }

    #[test]
    fn only_slices_are_events() {
        let mut known = known();
        let event = |kind: &str, of: &str, name: &str| {
            let metadata = json!({ "name": name, "resourceVersion": "7" });
            let endpoints = json!([{ "addresses": ["10.0.0.1"] }]);
            let object = json!({ "kind": of, "apiVersion": "discovery.k8s.io/v1", "metadata": metadata, "endpoints": endpoints });
            json!({ "type": kind, "object": object }).to_string()
        };
        assert!(known.apply(event("ADDED", "EndpointSlice", "a").as_bytes(), None).unwrap());
        for (kind, of, name) in [
            ("MODIFIED", "Pod", "a"),
            ("MODIFIED", "", "a"),
            ("DELETED", "Pod", "a"),
            ("BOOKMARK", "Pod", ""),
            ("ADDED", "EndpointSlice", ""),
        ] {
            assert!(known.apply(event(kind, of, name).as_bytes(), None).is_err(), "{kind} {of} {name}");
            assert_eq!(known.slices.endpoints(), 1);
        }
        assert!(!known.apply(event("BOOKMARK", "EndpointSlice", "").as_bytes(), None).unwrap());
        assert!(known.apply(event("DELETED", "EndpointSlice", "a").as_bytes(), None).unwrap());
    }
}
