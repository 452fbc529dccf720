//! WebAssembly artifacts: the manifest of a component in a registry, in the current form of the CNCF and in older ones.
//!
//! An artifact has one layer, which is the component. The current form is an OCI manifest whose config is
//! `application/vnd.wasm.config.v0+json` and whose layer is `application/wasm`. Older tools write the layer
//! `application/vnd.wasm.content.layer.v1+wasm`. An index lists manifests for several platforms.

use bytes::Bytes;
use lodge_base::bounded::Bounded;
use lodge_manifest::digest::Digest;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::RegistryError;
use super::exchange::shown;

/// The type of an OCI manifest.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The types of manifests and indexes that are read.
pub(super) const ACCEPTED: [&str; 4] = [
    MANIFEST,
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// The type of the config.
const CONFIG: &str = "application/vnd.wasm.config.v0+json";

/// The types of layers that are components: the current one first.
const LAYERS: [&str; 2] = ["application/wasm", "application/vnd.wasm.content.layer.v1+wasm"];

/// The annotation of a layer with the signature of the component, as the file beside a component has it.
const SIGNATURE: &str = "lodge.signature";

/// The most bytes of a signature.
const MOST_SIGNATURE: usize = 64 << 10;

/// The most entries of a list in a manifest.
const MOST_ENTRIES: usize = 1000;

/// A description of content in a registry.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    digest: String,
    pub(super) size: u64,
    platform: Option<Platform>,
    annotations: Annotations,
}

/// The annotation that is used: others may be any number.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
struct Annotations {
    #[serde(default, rename = "lodge.signature")]
    signature: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
struct Platform {
    architecture: String,
    os: String,
}

/// What a manifest or an index lists.
type DescriptorList = Bounded<Descriptor, MOST_ENTRIES>;

/// A manifest or an index; which of the two depends on the lists that it has.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    media_type: String,
    config: Option<Descriptor>,
    layers: Option<DescriptorList>,
    manifests: Option<DescriptorList>,
}

/// The type that a manifest gives itself.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DocumentType {
    media_type: Option<String>,
}

/// What a manifest in a registry leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Leads {
    /// The component, and the config beside it.
    Component(Descriptor, Option<Descriptor>),
    /// The manifest of the component.
    Manifest(Descriptor),
}

impl Descriptor {
    /// Returns the file with the signature of the component.
    pub(super) fn signature(&self) -> Option<&str> {
        self.annotations.signature.as_deref().filter(|text| text.len() <= MOST_SIGNATURE)
    }

    /// Returns the digest.
    ///
    /// # Errors
    /// If it is not a SHA-256.
    pub(super) fn digest(&self) -> Result<Digest, RegistryError> {
        let digest = self.digest.strip_prefix("sha256:").and_then(Digest::read);
        digest.ok_or_else(|| wrong(&format!("has the digest `{}`, which is not a SHA-256", shown(&self.digest))))
    }
}

fn wrong(what: &str) -> RegistryError {
    RegistryError::new(format!("the manifest in the registry {what}"))
}

/// Returns the type of a manifest, as it has to be pushed again: that which it gives itself, or that of an OCI manifest.
pub(super) fn kind(bytes: &[u8]) -> String {
    let written: DocumentType = serde_json::from_slice(bytes).unwrap_or_default();
    written.media_type.unwrap_or_else(|| MANIFEST.to_owned())
}

/// Reads a manifest or an index.
///
/// # Errors
/// Why it leads to no component.
pub(super) fn read(bytes: &[u8]) -> Result<Leads, RegistryError> {
    let document: Document = serde_json::from_slice(bytes).map_err(|error| {
        // The message may quote any part of the document.
        wrong(&format!("is not a manifest: {}", shown(&error.to_string())))
    })?;
    if document.schema_version != 2 {
        return Err(wrong("has a form that is not supported (its schemaVersion is not 2)"));
    }
    let Document { layers, manifests, config, media_type, .. } = document;
    let is_index = media_type.contains("index") || media_type.contains("list");
    match (layers, manifests) {
        // A document that could be read as both is read as neither.
        (Some(layers), None) if !is_index => component(&layers.0, config),
        (None, Some(manifests)) => wasm(&manifests.0),
        _ => Err(wrong("is neither a manifest nor an index")),
    }
}

fn component(layers: &[Descriptor], config: Option<Descriptor>) -> Result<Leads, RegistryError> {
    let found = LAYERS.iter().find_map(|kind| layers.iter().find(|layer| layer.media_type == *kind));
    let Some(layer) = found else {
        let kinds: Vec<_> = layers.iter().take(3).map(|layer| format!("`{}`", shown(&layer.media_type))).collect();
        let has = if kinds.is_empty() { "none".into() } else { kinds.join(", ") };
        return Err(wrong(&format!("has no layer that is a component (`{}`), but {has}", LAYERS.join("` or `"))));
    };
    if layers.iter().filter(|layer| LAYERS.contains(&layer.media_type.as_str())).count() > 1 {
        return Err(wrong("has more than one layer that is a component"));
    }
    Ok(Leads::Component(layer.clone(), config))
}

/// The manifest for WebAssembly in an index.
fn wasm(manifests: &[Descriptor]) -> Result<Leads, RegistryError> {
    let platform = |wanted: &str| {
        manifests.iter().find(|one| {
            let of = one.platform.as_ref();
            of.is_some_and(|of| of.architecture == "wasm" && of.os.starts_with(wanted))
        })
    };
    // Components before core modules.
    let found = platform("wasip2").or_else(|| platform("wasip3")).or_else(|| platform("wasi"));
    let only = || manifests.first().filter(|one| manifests.len() == 1 && one.platform.is_none());
    let found = found.or_else(only).ok_or_else(|| {
        let known = manifests.iter().filter_map(|one| one.platform.as_ref()).take(5);
        let known: Vec<_> = known.map(|of| format!("{}/{}", shown(&of.os), shown(&of.architecture))).collect();
        wrong(&format!("is an index without WebAssembly (it has {})", known.join(", ")))
    })?;
    Ok(Leads::Manifest(found.clone()))
}

/// A component as it is pushed: the bytes of its config and of its manifest.
pub(super) struct WasmArtifact {
    pub(super) config: Bytes,
    pub(super) manifest: Bytes,
}

/// The config of a component, as far as it follows from the component.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ArtifactConfig<'a> {
    created: &'a str,
    architecture: &'static str,
    os: &'static str,
    layer_digests: [String; 1],
    component: ArtifactInterfaces<'a>,
}

#[derive(Serialize)]
struct ArtifactInterfaces<'a> {
    exports: &'a [String],
    imports: &'a [String],
}

impl WasmArtifact {
    /// Describes a component in the current form, with its signature if it has one. The same arguments give the same bytes.
    pub(super) fn of(
        component: &[u8],
        signature: Option<&str>,
        (imports, exports): (&[String], &[String]),
        created: &str,
    ) -> Self {
        let digest = format!("sha256:{}", Digest::of(component));
        let config = ArtifactConfig {
            created,
            architecture: "wasm",
            os: "wasip2",
            layer_digests: [digest.clone()],
            component: ArtifactInterfaces { exports, imports },
        };
        let config = serde_json::to_vec(&config).unwrap_or_default();
        let mut layer = json!({ "mediaType": LAYERS[0], "digest": digest, "size": component.len() });
        if let (Some(signature), Some(layer)) = (signature, layer.as_object_mut()) {
            layer.insert("annotations".into(), json!({ SIGNATURE: signature }));
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": CONFIG,
                "digest": format!("sha256:{}", Digest::of(&config)),
                "size": config.len(),
            },
            "layers": [layer],
        });
        Self { config: config.into(), manifest: manifest.to_string().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(kind: &str) -> String {
        let digest = "a".repeat(64);
        format!(r#"{{"mediaType": "{kind}", "digest": "sha256:{digest}", "size": 7}}"#)
    }

    fn found(layers: &[&str]) -> Result<Leads, RegistryError> {
        let layers: Vec<_> = layers.iter().map(|kind| layer(kind)).collect();
        let config = layer("application/vnd.wasm.config.v1+json");
        read(format!(r#"{{"schemaVersion": 2, "config": {config}, "layers": [{}]}}"#, layers.join(",")).as_bytes())
    }

    #[test]
    fn both_forms_are_read() {
        for kind in LAYERS {
            let Leads::Component(layer, config) = found(&["text/plain", kind]).unwrap() else { panic!("{kind}") };
            assert_eq!((layer.media_type.as_str(), layer.size), (kind, 7));
            assert!(layer.digest().is_ok() && config.is_some());
        }
        let written =
            WasmArtifact::of(b"component", Some("c2ln"), (&["a".into()], &["b".into()]), "1970-01-01T00:00:00Z");
        let Leads::Component(layer, Some(config)) = read(&written.manifest).unwrap() else { panic!() };
        assert_eq!((layer.digest().unwrap(), layer.signature()), (Digest::of(b"component"), Some("c2ln")));
        assert_eq!((config.media_type.as_str(), config.digest().unwrap()), (CONFIG, Digest::of(&written.config)));
        let text = String::from_utf8(written.config.to_vec()).unwrap();
        assert!(text.contains(r#""component":{"exports":["b"],"imports":["a"]}"#), "{text}");
    }

    #[test]
    fn an_index_leads_to_webassembly() {
        let entry = |architecture: &str, os: &str, size: u32| {
            format!(
                r#"{{"digest": "x", "size": {size}, "platform": {{"architecture": "{architecture}", "os": "{os}"}}}}"#
            )
        };
        let index = |entries: &[String]| {
            read(format!(r#"{{"schemaVersion": 2, "manifests": [{}]}}"#, entries.join(",")).as_bytes())
        };
        let several = [entry("amd64", "linux", 1), entry("wasm", "wasip1", 2), entry("wasm", "wasip2", 3)];
        assert!(matches!(index(&several), Ok(Leads::Manifest(Descriptor { size: 3, .. }))));
        assert!(matches!(index(&several[..2]), Ok(Leads::Manifest(Descriptor { size: 2, .. }))));
        assert!(matches!(index(&[r#"{"size": 4}"#.into()]), Ok(Leads::Manifest(Descriptor { size: 4, .. }))));
        let problem = index(&several[..1]).unwrap_err().to_string();
        assert!(problem.contains("without WebAssembly (it has linux/amd64)"), "{problem}");
        assert!(index(&[]).is_err());
    }

    #[test]
    fn other_manifests_are_explained() {
        let check = |text: &str, what: &str| {
            let problem = read(text.as_bytes()).unwrap_err().to_string();
            assert!(problem.contains(what), "{problem}");
        };
        check("<html>", "is not a manifest");
        check(r#"{"schemaVersion": 1, "layers": []}"#, "schemaVersion");
        check(r#"{"schemaVersion": 2}"#, "neither a manifest nor an index");
        check(r#"{"schemaVersion": 2, "layers": [], "manifests": []}"#, "neither a manifest nor an index");
        check(r#"{"schemaVersion": 2, "mediaType": "x.index.y", "layers": []}"#, "neither");
        check(r#"{"schemaVersion": 2, "layers": []}"#, "but none");
        let tar = found(&["application/vnd.oci.image.layer.v1.tar+gzip"]).unwrap_err().to_string();
        assert!(tar.contains("`application/vnd.oci.image.layer.v1.tar+gzip`"), "{tar}");
        assert!(found(&[LAYERS[0], LAYERS[1]]).unwrap_err().to_string().contains("more than one"));
        let odd = Descriptor { digest: "sha512:0".into(), ..Descriptor::default() };
        assert!(odd.digest().unwrap_err().to_string().contains("not a SHA-256"));
    }

    /// A document of a few megabytes takes no more memory than its texts: lists end at their bound, where what follows is not even
    /// valid, and of annotations only the one that is used is read.
    #[test]
    fn lists_of_a_registry_are_bounded() {
        for list in ["layers", "manifests"] {
            let of = |entries: usize, rest: &str| {
                let why =
                    read(format!("{{\"schemaVersion\": 2, \"{list}\": [{}{rest}", "{},".repeat(entries)).as_bytes());
                why.unwrap_err().to_string()
            };
            assert!(of(MOST_ENTRIES, "{},rubbish").contains("a list has more than 1000 elements"), "{list}");
            assert!(!of(MOST_ENTRIES - 1, "{}]}").contains("elements"), "{list}");
        }
        let texts: Vec<_> = (0..10).map(|number| format!("\"{number}\": {number}")).collect();
        let annotations = format!("{{{}, \"lodge.signature\": \"c2ln\"}}", texts.join(","));
        let layer = format!("{{\"mediaType\": \"{}\", \"annotations\": {annotations}}}", LAYERS[0]);
        let document = format!("{{\"schemaVersion\": 2, \"layers\": [{layer}]}}");
        let Leads::Component(layer, None) = read(document.as_bytes()).unwrap() else { panic!() };
        assert_eq!(layer.signature(), Some("c2ln"));
        assert_eq!(kind(document.as_bytes()), MANIFEST);
        assert_eq!(kind(b"{\"mediaType\": \"a/b\", \"layers\": [{}]}"), "a/b");
    }
}
