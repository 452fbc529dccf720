//! `[blobstore]`: the objects of a service.

use serde_json::json;

use crate::schema;
use crate::section::{Capability, Owner, Section, Subject, View, words};
use lodge_base::config::key::{Key, count, size};

/// The largest quotas in objects and in bytes.
const MOST_OBJECTS: usize = 10_000_000;
const MOST_BYTES: usize = 1 << 46;

/// The keys.
const KEYS: &[Key<BlobGrant>] = &[
    Key {
        name: "objects",
        default: "10000",
        help: "the most objects that the service may store",
        set: |grant, text| count(text, 1..=MOST_OBJECTS).map(|objects| grant.objects = objects as u64),
    },
    Key {
        name: "bytes",
        default: "1GiB",
        help: "the most bytes of all its objects, and of those that are being written",
        set: |grant, text| size(text, 1024..=MOST_BYTES).map(|bytes| grant.bytes = bytes as u64),
    },
];

/// `[blobstore]`.
pub(crate) const SECTION: Section = Section {
    name: "blobstore",
    page: "blobs",
    schema: || json!({ "anyOf": [{ "const": true }, schema::settings(KEYS, &BLANK, &[])] }),
    owner: Owner::Service(|manifest, written, problems| manifest.blobstore = written.grant(KEYS, BLANK, problems)),
    subject: Subject::Execution,
    view: Some(View {
        label: "objects",
        value: |manifest| {
            let grant = manifest.blobstore.as_ref()?;
            let bytes = bytesize::ByteSize(grant.bytes).display().iec().to_string();
            Some(json!({ "objects": grant.objects, "bytes": bytes }))
        },
        text: words,
    }),
    capability: Some(&Capability {
        what: "blob store",
        interfaces: &["wasi:blobstore/", "wasmcloud:blobstore/"],
        given: "denied unless its manifest has [blobstore]",
        grant: Some("[blobstore]\n# bytes = \"1GiB\"  # all objects together\n"),
    }),
};

/// What a service may store as objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobGrant {
    /// The most objects.
    pub objects: u64,
    /// The most bytes of all objects.
    pub bytes: u64,
}

/// A value for [`KEYS`] to fill in. It is never used as it is.
const BLANK: BlobGrant = BlobGrant { objects: 0, bytes: 0 };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read as manifest;

    #[test]
    fn forms() {
        let grant = |text: &str| manifest(text).map(|manifest| manifest.blobstore);
        let usual = BlobGrant { objects: 10_000, bytes: 1 << 30 };
        assert_eq!(grant(""), Ok(None));
        assert_eq!(grant("blobstore = true"), Ok(Some(usual)));
        assert_eq!(grant("blobstore = false"), Ok(None));
        assert_eq!(grant("[blobstore]"), Ok(Some(usual)));
        let some = BlobGrant { objects: 7, bytes: 2048 };
        assert_eq!(grant("[blobstore]\nobjects = 7\nbytes = '2KiB'"), Ok(Some(some)));
    }

    #[test]
    fn problems_name_the_key() {
        let problem = |text: &str| manifest(text).unwrap_err();
        assert_eq!(problem("blobstore = 1"), "line 1: blobstore: write a section [blobstore], or true");
        assert!(problem("[blobstore]\nobjects = 0").contains("blobstore.objects: must be between 1 and"));
        assert!(problem("[blobstore]\nbytes = '1'").contains("blobstore.bytes"));
        assert_eq!(
            problem("[blobstore]\nbyte = '1KiB'"),
            "line 2: unknown key `blobstore.byte`; did you mean `blobstore.bytes`?"
        );
    }
}
