//! `[keyvalue]`: the store of a service.

use serde_json::{Value, json};

use crate::schema;
use crate::section::{Capability, Owner, Section, Subject, View, words};
use crate::written::{Problems, Written, with_defaults};
use lodge_base::config::key::{Key, count, size};

/// The most buckets that a manifest lists.
const BUCKETS: usize = 64;

/// The most bytes of a bucket's name.
const BUCKET_NAME: usize = 128;

/// The largest quota in keys and in bytes.
const MOST_KEYS: usize = 1_000_000_000;
const MOST_BYTES: usize = 1 << 40;

/// The keys with one value.
const KEYS: &[Key<KeyValueGrant>] = &[
    Key {
        name: "keys",
        default: "100000",
        help: "the most keys that the service may store",
        set: |grant, text| count(text, 1..=MOST_KEYS).map(|keys| grant.keys = keys as u64),
    },
    Key {
        name: "bytes",
        default: "64MiB",
        help: "the most bytes of all keys and values that it may store",
        set: |grant, text| size(text, 1024..=MOST_BYTES).map(|bytes| grant.bytes = bytes as u64),
    },
];

/// `[keyvalue]`.
pub(crate) const SECTION: Section = Section {
    name: "keyvalue",
    page: "state",
    schema: || {
        let mut table = schema::settings(KEYS, &blank(), &[]);
        let buckets = schema::texts(json!({ "type": "string" }));
        if let Some(properties) = table.get_mut("properties").and_then(Value::as_object_mut) {
            let help = "the buckets that its guests may open, one or a list; any without this key";
            properties.insert("buckets".into(), schema::described(buckets, help));
        }
        json!({ "anyOf": [{ "const": true }, table] })
    },
    owner: Owner::Service(|manifest, written, problems| manifest.keyvalue = read(written, problems)),
    subject: Subject::Execution,
    view: Some(View {
        label: "key-value",
        value: |manifest| {
            let grant = manifest.keyvalue.as_ref()?;
            let bytes = bytesize::ByteSize(grant.bytes).display().iec().to_string();
            let buckets = if grant.buckets.is_empty() { "any".into() } else { json!(grant.buckets) };
            Some(json!({ "keys": grant.keys, "bytes": bytes, "buckets": buckets }))
        },
        text: words,
    }),
    capability: Some(&Capability {
        what: "key-value store",
        interfaces: &["wasi:keyvalue/", "wasmcloud:keyvalue/", "spin:key-value/key-value", "fermyon:spin/key-value"],
        given: "denied unless its manifest has [keyvalue]",
        grant: Some("[keyvalue]\n# buckets = [\"default\"]  # any without this key\n"),
    }),
};

/// What a service may store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValueGrant {
    /// The buckets that its guests may open; any if empty.
    pub buckets: Vec<String>,
    /// The most keys.
    pub keys: u64,
    /// The most bytes of all keys and values.
    pub bytes: u64,
}

/// Returns a value for [`KEYS`] to fill in. It is never used as it is.
fn blank() -> KeyValueGrant {
    KeyValueGrant { buckets: Vec::new(), keys: 0, bytes: 0 }
}

fn read(written: &Written<'_>, problems: &mut Problems) -> Option<KeyValueGrant> {
    let mut grant = with_defaults(KEYS, blank());
    let Some(keys) = written.table() else {
        // `keyvalue = true` is short for a section without keys.
        let granted =
            problems.take(written.boolean().map_err(|_| written.error("write a section [keyvalue], or true")))?;
        return granted.then_some(grant);
    };
    let mut sound = true;
    for key in keys {
        if key.inside(written) == "buckets" {
            let buckets = problems.take(key.items("[\"default\", \"sessions\"]")).unwrap_or_default();
            let name = |bucket: &Written<'_>| {
                let name = bucket.string("write names of buckets, between quotes")?;
                let fits = !name.is_empty() && name.len() <= BUCKET_NAME;
                let problem = || bucket.error(format!("the name of a bucket has 1 to {BUCKET_NAME} bytes"));
                fits.then(|| name.to_owned()).ok_or_else(problem)
            };
            if buckets.len() > BUCKETS {
                problems.push(key.error(format!(
                    "{} buckets are more than {BUCKETS}; leave the key out to allow any",
                    buckets.len()
                )));
            }
            grant.buckets = buckets.iter().filter_map(|bucket| problems.take(name(bucket))).collect();
        } else {
            let known: Vec<_> = KEYS.iter().map(|key| key.name).chain(["buckets"]).collect();
            let set = match known.contains(&key.inside(written)) {
                true => key.set("keyvalue", KEYS, &mut grant),
                false => Err(key.unknown("keyvalue", &known)),
            };
            sound &= problems.take(set).is_some();
        }
    }
    sound.then_some(grant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read as manifest;

    #[test]
    fn forms() {
        let grant = |text: &str| manifest(text).map(|manifest| manifest.keyvalue);
        let usual = KeyValueGrant { buckets: Vec::new(), keys: 100_000, bytes: 64 << 20 };
        assert_eq!(grant(""), Ok(None));
        assert_eq!(grant("keyvalue = true"), Ok(Some(usual.clone())));
        assert_eq!(grant("keyvalue = false"), Ok(None));
        assert_eq!(grant("[keyvalue]"), Ok(Some(usual.clone())));
        let some = KeyValueGrant { buckets: vec!["a".into(), "b".into()], keys: 7, bytes: 2048 };
        assert_eq!(grant("[keyvalue]\nbuckets = ['a', 'b']\nkeys = 7\nbytes = '2KiB'"), Ok(Some(some)));
        let one = KeyValueGrant { buckets: vec!["a".into()], ..usual };
        assert_eq!(grant("keyvalue.buckets = 'a'"), Ok(Some(one)));
    }

    #[test]
    fn problems_name_the_key() {
        let problem = |text: &str| manifest(text).unwrap_err();
        assert_eq!(problem("keyvalue = 1"), "line 1: keyvalue: write a section [keyvalue], or true");
        assert_eq!(
            problem("[keyvalue]\nbucket = 'a'"),
            "line 2: unknown key `keyvalue.bucket`; did you mean `keyvalue.buckets`?"
        );
        assert_eq!(
            problem("[keyvalue]\nbuckets = ['']"),
            "line 2: keyvalue.buckets: the name of a bucket has 1 to 128 bytes"
        );
        assert!(problem("[keyvalue]\nkeys = 0").contains("between 1 and"));
    }
}
