//! `[keyvalue]`: the store of a service, and the buckets that services share.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::name::is_name;
use crate::schema;
use crate::section::{Capability, Owner, Section, Subject, View, words};
use crate::written::{Problems, Written, with_defaults};
use lodge_base::config::key::{Key, count, size, word};

/// The most buckets that a manifest lists.
const BUCKETS: usize = 64;

/// The most bytes of a bucket's name.
const BUCKET_NAME: usize = 128;

/// The most buckets that a manifest shares or uses, and the most services that use one.
const SHARED: usize = 64;

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
            let services =
                json!({ "type": "object", "additionalProperties": { "enum": ACCESS.map(|(word, _)| word) } });
            let shared = json!({ "type": "object", "additionalProperties": services });
            let help = "buckets that other services may use: for each bucket the services, with `read` or `write`";
            properties.insert("shared".into(), schema::described(shared, help));
            let of = json!({
                "type": "object",
                "properties": { "service": { "type": "string" }, "bucket": { "type": "string" } },
                "required": ["service"],
                "additionalProperties": false,
            });
            let from = json!({ "type": "object", "additionalProperties": of });
            let help = "buckets of other services that its guests may open, by the names for which they do";
            properties.insert("from".into(), schema::described(from, help));
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
            let mut shown = json!({ "keys": grant.keys, "bytes": bytes, "buckets": buckets });
            if let Some(shown) = shown.as_object_mut() {
                shown.extend(shown_shares(grant));
            }
            Some(shown)
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

/// The words for what another service may do with a bucket.
const ACCESS: [(&str, BucketAccess); 2] = [("read", BucketAccess::Read), ("write", BucketAccess::Write)];

/// What another service may do with a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketAccess {
    /// Read it.
    Read,
    /// Read and write it.
    Write,
}

/// A bucket of another service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketOf {
    /// The service.
    pub service: String,
    /// The name of the bucket there.
    pub bucket: String,
}

/// The buckets that a service shares, each with the services that may use it.
pub type SharedBuckets = BTreeMap<String, BTreeMap<String, BucketAccess>>;

/// What a service may store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValueGrant {
    /// The buckets that other services may use.
    pub shared: SharedBuckets,
    /// The buckets of other services that its guests may open, if those share them, by the names for which they do.
    pub from: BTreeMap<String, BucketOf>,
    /// The buckets that its guests may open; any if empty.
    pub buckets: Vec<String>,
    /// The most keys.
    pub keys: u64,
    /// The most bytes of all keys and values.
    pub bytes: u64,
}

/// Returns a value for [`KEYS`] to fill in. It is never used as it is.
fn blank() -> KeyValueGrant {
    KeyValueGrant { shared: BTreeMap::new(), from: BTreeMap::new(), buckets: Vec::new(), keys: 0, bytes: 0 }
}

fn read(written: &Written<'_>, problems: &mut Problems) -> Option<KeyValueGrant> {
    let mut grant = with_defaults(KEYS, blank());
    let Some(keys) = written.table() else {
        return problems.take(written.granted())?.then_some(grant);
    };
    let mut sound = true;
    for key in keys {
        if key.inside(written) == "buckets" {
            let buckets = problems.take(key.items("[\"default\", \"sessions\"]")).unwrap_or_default();
            let name =
                |bucket: &Written<'_>| bucket_name(bucket, bucket.string("write names of buckets, between quotes")?);
            if buckets.len() > BUCKETS {
                problems.push(key.error(format!(
                    "{} buckets are more than {BUCKETS}; leave the key out to allow any",
                    buckets.len()
                )));
            }
            grant.buckets = buckets.iter().filter_map(|bucket| problems.take(name(bucket))).collect();
        } else if key.inside(written) == "shared" {
            grant.shared = shared(&key, problems);
        } else if key.inside(written) == "from" {
            grant.from = from(&key, problems);
        } else {
            let known: Vec<_> = KEYS.iter().map(|key| key.name).chain(["buckets", "shared", "from"]).collect();
            let set = match known.contains(&key.inside(written)) {
                true => key.set("keyvalue", KEYS, &mut grant),
                false => Err(key.unknown("keyvalue", &known)),
            };
            sound &= problems.take(set).is_some();
        }
    }
    sound.then_some(grant)
}

fn bucket_name(written: &Written<'_>, name: &str) -> Result<String, String> {
    let fits = !name.is_empty() && name.len() <= BUCKET_NAME;
    let problem = || written.error(format!("the name of a bucket has 1 to {BUCKET_NAME} bytes"));
    fits.then(|| name.to_owned()).ok_or_else(problem)
}

fn service_name(written: &Written<'_>, name: &str) -> Result<String, String> {
    let problem = || written.error(format!("`{}` cannot be the name of a service", name.escape_debug()));
    is_name(name).then(|| name.to_owned()).ok_or_else(problem)
}

/// Returns the keys of a table with at most [`SHARED`] of them.
fn entries<'a>(written: &Written<'a>, form: &str, problems: &mut Problems) -> Vec<Written<'a>> {
    let entries = written.table().ok_or_else(|| written.error(form));
    let entries = problems.take(entries).unwrap_or_default();
    if entries.len() > SHARED {
        problems.push(written.error(format!("{} entries are more than {SHARED}", entries.len())));
    }
    entries
}

fn shared(written: &Written<'_>, problems: &mut Problems) -> SharedBuckets {
    const FORM: &str = "write services for each bucket, such as shared.default = { reports = \"read\" }";
    let mut all = SharedBuckets::new();
    for bucket in entries(written, FORM, problems) {
        let mut services = BTreeMap::new();
        for service in entries(&bucket, FORM, problems) {
            let access =
                service.string(FORM).and_then(|text| word(text, &ACCESS).map_err(|wrong| service.error(wrong)));
            let name = service_name(&service, service.inside(&bucket));
            if let (Some(name), Some(access)) = (problems.take(name), problems.take(access)) {
                services.insert(name, access);
            }
        }
        if let Some(name) = problems.take(bucket_name(&bucket, bucket.inside(written))) {
            all.insert(name, services);
        }
    }
    all
}

fn from(written: &Written<'_>, problems: &mut Problems) -> BTreeMap<String, BucketOf> {
    const FORM: &str =
        "write a bucket of a service, such as from.people = { service = \"users\", bucket = \"default\" }";
    let mut all = BTreeMap::new();
    for entry in entries(written, FORM, problems) {
        let own = problems.take(bucket_name(&entry, entry.inside(written)));
        let (mut service, mut bucket) = (None, own.clone());
        for part in problems.take(entry.item().ok_or_else(|| entry.error(FORM))).unwrap_or_default() {
            match part.name.as_str() {
                "service" => service = problems.take(part.string(FORM).and_then(|name| service_name(&part, name))),
                "bucket" => bucket = problems.take(part.string(FORM).and_then(|name| bucket_name(&part, name))),
                _ => problems.push(part.unknown("", &["service", "bucket"])),
            }
        }
        match (own, service, bucket) {
            (Some(own), Some(service), Some(bucket)) => drop(all.insert(own, BucketOf { service, bucket })),
            _ => problems.push(entry.error(FORM)),
        }
    }
    all
}

/// What is shown of the buckets that services share.
fn shown_shares(grant: &KeyValueGrant) -> serde_json::Map<String, Value> {
    let mut shown = serde_json::Map::new();
    let access = |access: BucketAccess| ACCESS.iter().find(|(_, of)| *of == access).map_or("", |(word, _)| word);
    if !grant.shared.is_empty() {
        let services = |services: &BTreeMap<String, BucketAccess>| {
            services.iter().map(|(name, of)| (name.clone(), json!(access(*of)))).collect::<serde_json::Map<_, _>>()
        };
        let shared = grant.shared.iter().map(|(bucket, users)| (bucket.clone(), json!(services(users))));
        shown.insert("shared".into(), shared.collect::<serde_json::Map<_, _>>().into());
    }
    if !grant.from.is_empty() {
        let of = |of: &BucketOf| json!(format!("{} of {}", of.bucket, of.service));
        let from = grant.from.iter().map(|(own, from)| (own.clone(), of(from)));
        shown.insert("from".into(), from.collect::<serde_json::Map<_, _>>().into());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read as manifest;

    #[test]
    fn forms() {
        let grant = |text: &str| manifest(text).map(|manifest| manifest.keyvalue);
        let usual = KeyValueGrant { keys: 100_000, bytes: 64 << 20, ..blank() };
        assert_eq!(grant(""), Ok(None));
        assert_eq!(grant("keyvalue = true"), Ok(Some(usual.clone())));
        assert_eq!(grant("keyvalue = false"), Ok(None));
        assert_eq!(grant("[keyvalue]"), Ok(Some(usual.clone())));
        let some = KeyValueGrant { buckets: vec!["a".into(), "b".into()], keys: 7, bytes: 2048, ..blank() };
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
    #[test]
    fn buckets_are_shared() {
        let grant = |text: &str| manifest(text).map(|manifest| manifest.keyvalue.unwrap());
        let text = "[keyvalue]\nshared.default = { reports = 'read', billing = 'write' }\n\
                    from.people = { service = 'users', bucket = 'default' }\nfrom.own.service = 'users'";
        let read = grant(text).unwrap();
        let services = [("billing".to_owned(), BucketAccess::Write), ("reports".to_owned(), BucketAccess::Read)];
        assert_eq!(read.shared, [("default".to_owned(), services.into())].into());
        let of = |bucket: &str| BucketOf { service: "users".into(), bucket: bucket.into() };
        assert_eq!(read.from, [("people".to_owned(), of("default")), ("own".to_owned(), of("own"))].into());
        for wrong in [
            "shared = 'default'",
            "shared.default = 'reports'",
            "shared.default = { reports = 'all' }",
            "shared.default = { 'a/b' = 'read' }",
            "shared.'' = { reports = 'read' }",
            "from = 'users'",
            "from.people = 'users'",
            "from.people = { bucket = 'default' }",
            "from.people = { service = '../users' }",
            "from.people = { service = 'users', bucket = '' }",
            "from.people = { service = 'users', key = 'x' }",
        ] {
            let problem = grant(&format!("[keyvalue]\n{wrong}")).unwrap_err();
            assert!(problem.contains("line 2"), "{wrong}: {problem}");
        }
    }
}
