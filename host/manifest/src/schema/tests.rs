//! The schema agrees with the reader.

use super::*;
use crate::Manifest;
use crate::share::Rollback;
use lodge_base::config;

/// Returns whether a value matches this schema, for the keywords that are used here except patterns.
fn fits(schema: &Value, value: &Value) -> bool {
    let is = |kind: &str| match kind {
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other}"),
    };
    let kinds = match &schema["type"] {
        Value::String(kind) => is(kind),
        Value::Array(kinds) => kinds.iter().any(|kind| is(kind.as_str().unwrap())),
        _ => true,
    };
    let words = schema["enum"].as_array().is_none_or(|words| words.contains(value));
    let any = schema["anyOf"].as_array().is_none_or(|schemas| schemas.iter().any(|schema| fits(schema, value)));
    let number = value.as_f64();
    let least = schema["minimum"].as_f64().zip(number).is_none_or(|(least, number)| number >= least);
    let most = schema["maximum"].as_f64().zip(number).is_none_or(|(most, number)| number <= most);
    let items = value.as_array().into_iter().flatten();
    let items = schema["items"].is_null() || items.into_iter().all(|item| fits(&schema["items"], item));
    let keys = value.as_object().into_iter().flatten().all(|(key, value)| {
        match (&schema["properties"][key], &schema["additionalProperties"]) {
            (Value::Null, Value::Bool(more)) => *more,
            (Value::Null, Value::Null) => true,
            (Value::Null, other) => fits(other, value),
            (known, _) => fits(known, value),
        }
    });
    let mut required = schema["required"].as_array().into_iter().flatten();
    let whole = !value.is_object() || required.all(|key| !value[key.as_str().unwrap()].is_null());
    kinds && words && any && least && most && items && keys && whole
}

/// Returns whether the schema and the parser accept a manifest of a service or version.
fn judged(text: &str) -> (bool, bool) {
    let limits = config::resolve(&[]).unwrap().config.limits;
    let service = Manifest::read("x", text, &limits, 1 << 30);
    let version = Manifest::read("x", "", &limits, 1 << 30).unwrap().version(text, 1 << 30);
    let value = serde_json::to_value(toml::from_str::<toml::Value>(text).unwrap()).unwrap();
    (fits(&manifest(), &value), service.is_ok() || version.is_ok())
}

#[test]
fn takes_what_the_reader_takes() {
    let far = |more: &str| format!("[upstream]\nreplicas = ['http://a', {{ url = 'http://b', weight = 2 }}]\n{more}");
    for (text, good) in [
        ("calls = 'users'".to_owned(), true),
        ("calls = '*'".to_owned(), true),
        ("calls = ['users']".to_owned(), true),
        ("calls = 7".to_owned(), false),
        ("limits.wall = '30s'".to_owned(), true),
        ("limits.wall = 30".to_owned(), false),
        ("limits.memory = 67108864".to_owned(), true),
        ("limits.queue = true".to_owned(), false),
        ("percent = 101".to_owned(), false),
        ("percent = '2.5%'\nrollback = {}".to_owned(), true),
        ("rate = '5/s'".to_owned(), true),
        ("rate = { limit = '5/s', burst = 7 }".to_owned(), true),
        ("rate = { limit = 5 }".to_owned(), false),
        ("rate = { burst = 7 }".to_owned(), false),
        ("breaker = { calls = 3, window = '1m' }".to_owned(), true),
        ("breaker = { window = 10 }".to_owned(), false),
        ("breaker = { failures = 50 }".to_owned(), false),
        ("adaptive = { latency = 100 }".to_owned(), false),
        (far("policy = 'weighted'\nupgrade = true\nconnections = 3\nhedge = '50ms'\nretry.budget = '5%'"), true),
        (far("connect = 1"), false),
        (far("connect = true"), false),
        (far("upgrade = 1"), false),
        (far("policy = 3"), false),
        (far("panic = 50"), false),
        (far("ejection.failures = false"), false),
        (far("health = { path = '/h', status = 204, interval = '9s' }"), true),
        (far("health = { path = '/h', interval = 9 }"), false),
    ] {
        assert_eq!(judged(&text), (good, good), "of schema and reader: {text}");
    }
}

/// Schema and parser accept every manifest in the docs.
#[test]
fn takes_the_manifests_of_the_docs() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let pages = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.chain([root.join("README.md")]).filter(|path| path.extension().is_some_and(|end| end == "md"));
    let mut judged_so_far = 0;
    for path in pages {
        let text = std::fs::read_to_string(&path).unwrap().replace("sha256:…", &format!("sha256:{}", "0".repeat(64)));
        for block in text.split("```toml manifest\n").skip(1).map(|block| block.split("```").next().unwrap()) {
            assert_eq!(judged(block), (true, true), "of schema and reader: {}\n{block}", path.display());
            judged_so_far += 1;
        }
    }
    assert!(judged_so_far >= 6, "{judged_so_far}");
}

#[test]
fn defaults_are_the_readers() {
    let schema = manifest();
    let default = |path: &str| schema.pointer(&format!("/properties/{path}/default")).cloned().unwrap_or_default();
    let Rollback { errors, p99, minimum } = Rollback::default();
    let hundredths = |n: u32| json!(f64::from(n) / 100.0);
    let rollback = ["errors", "p99", "minimum"].map(|key| default(&format!("rollback/properties/{key}")));
    assert_eq!(
        rollback.map(|value| value.as_f64()),
        [hundredths(errors.0), hundredths(p99), json!(minimum)].map(|value| value.as_f64())
    );
    assert_eq!([default("percent"), default("mirror")], [json!(0), json!(0)]);
    let upstream = |key: &str| default(&format!("upstream/properties/{key}"));
    assert_eq!(
        [upstream("upgrade"), upstream("connections"), upstream("read")],
        [json!(false), json!(256), json!("10s")]
    );
    assert_eq!(upstream("replicas_file"), Value::Null);
}
