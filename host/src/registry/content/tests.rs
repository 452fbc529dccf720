use super::evict::RECENT;
use super::*;
use crate::registry::artifact::WasmArtifact;
use bytes::Bytes;
use std::time::Duration;

fn reference(text: &str) -> Reference {
    Reference::read(text).unwrap()
}

fn found(bytes: &[u8], signature: Option<&str>) -> FoundComponent {
    FoundComponent::of(None, WasmArtifact::of(bytes, signature, (&[], &[]), "").manifest).unwrap()
}

fn put(store: &ContentStore, text: &str, bytes: &[u8], signature: Option<&str>) -> PulledComponent {
    let found = found(bytes, signature);
    let pulled = PulledComponent::of(&found);
    fs::write(store.component(&pulled), bytes).unwrap();
    store.keep(&reference(text), &found).unwrap();
    pulled
}

/// As if this reference had last been used so long ago.
fn age(store: &ContentStore, text: &str, age: Duration) {
    store.touch(&reference(text), SystemTime::now() - age);
}

#[test]
fn records_are_those_of_their_reference_and_component() {
    let directory = tempfile::tempdir().unwrap();
    let store = ContentStore::at(&directory.path().join("cache"), 1 << 20).unwrap();
    let pulled = put(&store, "oci://r.example/users:1", b"component", None);
    let find = |text: &str| store.find(&reference(text));
    assert_eq!(find("oci://r.example/users:1"), Some(pulled));
    assert_eq!(find("oci://r.example/users:2"), None);
    // A record under another name does not count.
    let other = store.record_of(&reference("oci://r.example/users:2"));
    fs::copy(store.record_of(&reference("oci://r.example/users:1")), other).unwrap();
    assert_eq!(find("oci://r.example/users:2"), None);
    fs::write(store.component(&pulled), b"shorter").unwrap();
    assert_eq!(find("oci://r.example/users:1"), None);
    store.discard(&pulled);
    assert_eq!(find("oci://r.example/users:1"), None);
}

/// Whatever a record says, a pinned digest leads to the component of that manifest.
#[test]
fn a_pinned_digest_is_that_of_the_documents() {
    let directory = tempfile::tempdir().unwrap();
    let store = ContentStore::at(&directory.path().join("cache"), 1 << 20).unwrap();
    let good = found(b"good", None);
    let pinned = format!("oci://r.example/users@sha256:{}", good.manifest);
    put(&store, &pinned, b"good", None);
    assert_eq!(store.find(&reference(&pinned)), Some(PulledComponent::of(&good)));
    put(&store, &pinned, b"evil", None);
    assert_eq!(store.find(&reference(&pinned)), None);
    // An index that is pinned leads to the manifest that it names, and to no other.
    let index = |of: &FoundComponent| {
        let text = format!(r#"{{"schemaVersion": 2, "manifests": [{{"digest": "sha256:{}"}}]}}"#, of.manifest);
        Bytes::from(text)
    };
    let of = FoundComponent::of(Some(index(&good)), good.document.clone()).unwrap();
    let pinned = reference(&format!("oci://r.example/users@sha256:{}", of.named));
    store.keep(&pinned, &of).unwrap();
    assert_eq!(store.find(&pinned), Some(PulledComponent::of(&of)));
    assert!(FoundComponent::of(Some(index(&good)), found(b"evil", None).document).is_err());
}

/// The signature of a component is that of its own manifest, whatever others say about the same bytes.
#[test]
fn signatures_are_those_of_their_manifests() {
    let directory = tempfile::tempdir().unwrap();
    let store = ContentStore::at(&directory.path().join("cache"), 1 << 20).unwrap();
    let users = put(&store, "oci://r.example/users:1", b"component", Some("c2ln"));
    let other = put(&store, "oci://evil.example/users:1", b"component", Some("Z2FyYmFnZQ=="));
    let unsigned = put(&store, "oci://evil.example/users:2", b"component", None);
    let signature = |of| fs::read_to_string(store.component(of).with_extension("wasm.sig")).ok();
    assert_eq!(signature(&users).as_deref(), Some("c2ln"));
    assert_eq!(signature(&other).as_deref(), Some("Z2FyYmFnZQ=="));
    assert_eq!(signature(&unsigned), None);
    fs::remove_file(store.component(&users).with_extension("wasm.sig")).unwrap();
    assert!(store.find(&reference("oci://r.example/users:1")).is_some());
    assert_eq!(signature(&users).as_deref(), Some("c2ln"), "it is in the record");
}

#[test]
fn the_store_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let names = ["oci://r.example/users:1", "oci://r.example/users:2", "oci://r.example/users:3"];
    let store = ContentStore::at(&directory.path().join("cache"), 25_000).unwrap();
    let pulled: Vec<_> = (0_u8..).zip(names).map(|(n, name)| put(&store, name, &[n; 10_000], None)).collect();
    let known = || [0, 1, 2].map(|n: usize| store.has(&pulled[n]));
    store.evict(&InUse::default(), false);
    assert_eq!(known(), [true; 3], "all were in use a moment ago, by some host");
    for (name, old) in names.iter().zip([3, 2, 1]) {
        age(&store, name, RECENT * old);
    }
    let mut in_use = InUse::default();
    in_use.add(&reference(names[0]), [pulled[0].manifest]);
    store.evict(&in_use, false);
    assert_eq!(known(), [true, false, true], "the oldest that is not in use");
    assert_eq!(fs::read_dir(store.records()).unwrap().count(), 2);
    store.evict(&in_use, true);
    assert_eq!(known(), [true, false, false], "the disk is full");
    store.release(&reference(names[0]));
    store.evict(&InUse::default(), true);
    assert_eq!((known(), fs::read_dir(store.records()).unwrap().count()), ([false; 3], 0));
}

/// Parts count, a reference has one, and that of another reference is another file.
#[test]
fn parts_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let store = ContentStore::at(&directory.path().join("cache"), 0).unwrap();
    let (one, two) = (reference("oci://r.example/users:1"), reference("oci://evil.example/users:1"));
    let parts = || fs::read_dir(store.components()).unwrap().count();
    let of = PulledComponent::of(&found(b"component", None));
    let writing = store.partial(&one, &of).unwrap();
    let other = store.partial(&two, &of).unwrap();
    assert_eq!(parts(), 2);
    store.evict(&InUse::default(), true);
    assert_eq!(parts(), 2, "both are being written");
    drop((writing, other));
    let mut in_use = InUse::default();
    in_use.add(&one, []);
    for path in entries(&store.components()).map(|(path, _)| path) {
        fs::write(path, b"some").unwrap();
    }
    store.evict(&in_use, false);
    assert_eq!(parts(), 1, "what no manifest names is removed");
    for n in 0..10 {
        store.partial(&one, &PulledComponent::of(&found(&[n], None))).unwrap();
    }
    assert_eq!(parts(), 1);
}

#[test]
fn others_cannot_write_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");
    let store = ContentStore::at(&cache, 0).unwrap();
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for path in [&cache, &store.path, &store.records()] {
        mode(path, 0o777);
        assert!(ContentStore::at(&cache, 0).is_err_and(|why| why.contains("other users can write to it")));
        // As a volume is mounted with fsGroup.
        mode(path, 0o770);
        ContentStore::at(&cache, 0).unwrap();
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o750);
    }
}
