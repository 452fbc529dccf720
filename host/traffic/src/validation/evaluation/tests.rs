use super::super::json::JsonBounds;
use super::place::POINTER;
use super::*;

const BOUNDS: JsonBounds = JsonBounds { depth: 100, values: 200_000 };

fn check(schema: &str, body: &str) -> Result<(), Invalid> {
    let schema = Schema::read(schema).unwrap_or_else(|mistake| panic!("{schema}: {mistake}"));
    schema.check(&Json::read(body.as_bytes(), BOUNDS).unwrap(), 1_000_000)
}

fn errors(schema: &str, body: &str) -> Vec<String> {
    match check(schema, body) {
        Ok(()) => Vec::new(),
        Err(Invalid::Errors(errors)) => {
            errors.into_iter().map(|error| format!("{}: {}", error.pointer, error.message)).collect()
        }
        Err(Invalid::Steps) => panic!("too many steps"),
    }
}

const USER: &str = r##"{
    "type": "object",
    "required": ["name", "age"],
    "properties": {
        "name": { "type": "string", "minLength": 1, "maxLength": 5, "pattern": "^[a-z]+$" },
        "age": { "type": "integer", "minimum": 0, "exclusiveMaximum": 150 },
        "role": { "enum": ["admin", "user", null] },
        "tags": { "type": "array", "items": { "$ref": "#/$defs/tag" }, "maxItems": 3, "uniqueItems": true },
        "price": { "type": "number", "multipleOf": 0.01 }
    },
    "additionalProperties": false,
    "$defs": { "tag": { "type": "string" } }
}"##;

/// A body, and the errors that a client gets, with their places and without any value.
#[test]
fn bodies_and_their_errors() {
    for (body, expected) in [
        (r#"{"name":"ada","age":36}"#, &[][..]),
        (r#"{"age":36.0,"name":"\u0061da","role":null,"tags":[],"price":19.99}"#, &[]),
        (r#"{"name":"ada","age":0,"tags":["x","y"]}"#, &[]),
        (r#"null"#, &[": must be of type object"]),
        (r#"[]"#, &[": must be of type object"]),
        (r#"{}"#, &[": must have the property `name`", ": must have the property `age`"]),
        (r#"{"name":"ada"}"#, &[": must have the property `age`"]),
        (
            r#"{"name":"","age":1}"#,
            &["/name: must have at least 1 characters", "/name: must match the pattern of the schema"],
        ),
        (r#"{"name":"adaada","age":1}"#, &["/name: must have at most 5 characters"]),
        (r#"{"name":"Ada","age":1}"#, &["/name: must match the pattern of the schema"]),
        (r#"{"name":7,"age":1}"#, &["/name: must be of type string"]),
        (r#"{"name":"ada","age":36.5}"#, &["/age: must be of type integer"]),
        (r#"{"name":"ada","age":-1}"#, &["/age: must be at least 0"]),
        (r#"{"name":"ada","age":150}"#, &["/age: must be less than 150"]),
        (r#"{"name":"ada","age":1e400000}"#, &["not read"]),
        (r#"{"name":"ada","age":18446744073709551616}"#, &["/age: must be less than 150"]),
        (r#"{"name":"ada","age":"1"}"#, &["/age: must be of type integer"]),
        (r#"{"name":"ada","age":1,"role":"root"}"#, &["/role: must be one of the 3 values that the schema allows"]),
        (r#"{"name":"ada","age":1,"tags":["x","x"]}"#, &["/tags: must not have an item twice"]),
        (
            r#"{"name":"ada","age":1,"tags":["x",1,"y","z"]}"#,
            &["/tags: must have at most 3 items", "/tags/1: must be of type string"],
        ),
        (r#"{"name":"ada","age":1,"price":0.001}"#, &["/price: must be a multiple of 0.01"]),
        (r#"{"name":"ada","age":1,"admin":true}"#, &["/admin: must not be there"]),
        (r#"{"name":"ada","age":1,"a/b~":true}"#, &["/a~1b~0: must not be there"]),
        (r#"{"Name":"ada","age":1}"#, &["/Name: must not be there", ": must have the property `name`"]),
    ] {
        if expected == ["not read"] {
            assert!(Json::read(body.as_bytes(), BOUNDS).is_err());
            continue;
        }
        let mut found = errors(USER, body);
        let mut expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{body}");
    }
}

/// Keywords, one at a time: a schema, bodies that meet it, and bodies that do not.
#[test]
fn keywords_mean_what_the_standard_says() {
    type Row = (&'static str, &'static [&'static str], &'static [&'static str]);
    let rows: &[Row] = &[
        ("true", &["1"], &[]),
        ("false", &[], &["1"]),
        (r#"{"type":["null","integer"]}"#, &["null", "1", "1.0", "1e3", "1e300"], &["1.5", "\"1\"", "true", "[]"]),
        (r#"{"const":{"a":[1,2]}}"#, &[r#"{"a":[1.0,2]}"#], &[r#"{"a":[2,1]}"#, "{}"]),
        (r#"{"const":false}"#, &["false"], &["0", "null", "\"\""]),
        (r#"{"const":9007199254740993}"#, &["9007199254740993"], &["9007199254740992"]),
        (r#"{"minLength":2}"#, &["\"ab\"", "7"], &["\"\u{1f600}\""]),
        (r#"{"maxLength":1}"#, &["\"\u{1f600}\""], &["\"ab\""]),
        (r#"{"maximum":1.5}"#, &["1.5", "1", "-1e300", "\"9\""], &["1.6", "2"]),
        (r#"{"exclusiveMinimum":1}"#, &["1.1"], &["1", "1.0"]),
        (r#"{"minProperties":1,"maxProperties":2}"#, &[r#"{"a":1}"#, "[]"], &["{}", r#"{"a":1,"b":1,"c":1}"#]),
        (r#"{"prefixItems":[{"type":"string"}],"items":false}"#, &["[]", "[\"a\"]"], &["[1]", "[\"a\",1]"]),
        (r#"{"contains":{"minimum":5},"minContains":2,"maxContains":3}"#, &["[5,6]"], &["[5]", "[5,6,7,8]"]),
        (r#"{"contains":true,"minContains":0}"#, &["[]"], &[]),
        (r#"{"uniqueItems":true}"#, &["[1,true,\"1\",[1]]"], &["[1,2,1.0]", r#"[{"a":1,"b":2},{"b":2,"a":1}]"#]),
        (
            r#"{"patternProperties":{"^x-":{"type":"integer"}},"additionalProperties":{"type":"string"}}"#,
            &[r#"{"x-a":1,"b":"c"}"#],
            &[r#"{"x-a":"1"}"#, r#"{"b":1}"#],
        ),
        (r#"{"propertyNames":{"maxLength":2}}"#, &[r#"{"ab":1}"#], &[r#"{"abc":1}"#]),
        (r#"{"dependentRequired":{"a":["b"]}}"#, &["{}", r#"{"b":1}"#, r#"{"a":1,"b":2}"#], &[r#"{"a":1}"#]),
        (r#"{"dependentSchemas":{"a":{"minProperties":2}}}"#, &[r#"{"b":1}"#, r#"{"a":1,"b":1}"#], &[r#"{"a":1}"#]),
        (r#"{"allOf":[{"minimum":1},{"maximum":2}]}"#, &["1"], &["0", "3"]),
        (r#"{"anyOf":[{"type":"string"},{"minimum":2}]}"#, &["\"a\"", "2"], &["1"]),
        (r#"{"oneOf":[{"multipleOf":2},{"multipleOf":3}]}"#, &["2", "3"], &["6", "1"]),
        (r#"{"not":{"type":"string"}}"#, &["1"], &["\"a\""]),
        (
            r#"{"if":{"required":["a"]},"then":{"required":["b"]},"else":{"required":["c"]}}"#,
            &[r#"{"a":1,"b":1}"#, r#"{"c":1}"#],
            &[r#"{"a":1}"#, "{}"],
        ),
        (
            r#"{"allOf":[{"properties":{"a":true}}],"properties":{"b":true},"unevaluatedProperties":false}"#,
            &[r#"{"a":1,"b":2}"#],
            &[r#"{"a":1,"c":2}"#],
        ),
        (
            r#"{"anyOf":[{"properties":{"a":{"type":"string"}}},{"properties":{"b":true}}],"unevaluatedProperties":false}"#,
            &[r#"{"a":"x","b":1}"#],
            &[r#"{"a":1}"#],
        ),
        (
            r#"{"prefixItems":[true],"contains":{"const":7},"unevaluatedItems":{"type":"string"}}"#,
            &["[1,7,\"a\"]"],
            &["[7,1]"],
        ),
        (r#"{"not":{"not":{"properties":{"a":true}}},"unevaluatedProperties":false}"#, &["{}"], &[r#"{"a":1}"#]),
        (
            r##"{"properties":{"next":{"$ref":"#"}},"additionalProperties":false}"##,
            &[r#"{"next":{"next":{}}}"#],
            &[r#"{"next":{"nxt":{}}}"#],
        ),
        (r#"{"format":"email","x-own":1,"title":"t"}"#, &["\"no\""], &[]),
        (
            r##"{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"type":"string"}],"additionalItems":{"type":"integer"},"dependencies":{"a":["b"]}}"##,
            &["[\"a\",1]"],
            &["[\"a\",\"b\"]", r#"{"a":1}"#],
        ),
        (
            r##"{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"a":{"type":"string"}},"$ref":"#/definitions/a","maxLength":1}"##,
            &["\"ab\""],
            &["1"],
        ),
        (
            r##"{"$schema":"https://json-schema.org/draft/2019-09/schema","items":[true],"unevaluatedItems":false}"##,
            &["[1]"],
            &["[1,2]"],
        ),
    ];
    for (schema, valid, invalid) in rows {
        for body in *valid {
            assert_eq!(check(schema, body), Ok(()), "{schema} {body}");
        }
        for body in *invalid {
            assert!(!errors(schema, body).is_empty(), "{schema} {body}");
        }
    }
}

/// A client is told of some errors, each of a bounded length.
#[test]
fn errors_are_bounded() {
    let many = format!("[{}]", vec!["1"; 1_000].join(","));
    assert_eq!(errors(r#"{"items":{"type":"string"}}"#, &many).len(), MOST_ERRORS);
    let long = format!("{{\"{}\":1}}", "\u{e9}".repeat(10_000));
    let found = errors(r#"{"additionalProperties":false}"#, &long);
    assert!(found[0].len() < POINTER + 40, "{}", found[0].len());
    // Alternatives that were tried have no errors of their own.
    assert_eq!(
        errors(r#"{"anyOf":[{"type":"string"},{"type":"null"}]}"#, "1"),
        [": must meet one of the schemas in `anyOf`"]
    );
}

/// Steps bound what a client can make the host compute, and the stack.
#[test]
fn evaluation_ends() {
    let doubling = r##"{"$ref":"#/$defs/n","$defs":{"n":{"anyOf":[
        {"properties":{"c":{"$ref":"#/$defs/n"}},"allOf":[{"required":["x"]}]},{"properties":{"c":{"$ref":"#/$defs/n"}}}]}}}"##;
    let nested = |levels: usize| format!("{}1{}", "{\"c\":".repeat(levels), "}".repeat(levels));
    assert_eq!(check(doubling, &nested(8)), Ok(()));
    assert_eq!(check(doubling, &nested(60)), Err(Invalid::Steps));
    // `not` makes no success of a failure for want of steps.
    let inverted = r##"{"not":{"$ref":"#/$defs/n"},"$defs":{"n":{"anyOf":[
        {"properties":{"c":{"$ref":"#/$defs/n"}},"allOf":[{"required":["x"]}]},{"properties":{"c":{"$ref":"#/$defs/n"}}}]}}}"##;
    assert_eq!(check(inverted, &nested(60)), Err(Invalid::Steps));
    let text = format!("\"{}\"", "a".repeat(1 << 20));
    assert_eq!(check(r#"{"pattern":"^([a-z]{1,100}){1,5}$"}"#, &text), Err(Invalid::Steps));
    let simple = Schema::read(r#"{"pattern":"^[a-z]*$"}"#).unwrap();
    assert_eq!(simple.check(&Json::read(text.as_bytes(), BOUNDS).unwrap(), crate::validation::STEPS), Ok(()));
    // Short texts as well: many patterns for each of many keys, and many names for each of many objects.
    let keys: Vec<_> = (0..100_000).map(|key: u32| format!("\"{key}\":0")).collect();
    let patterns: Vec<_> = (0..20).map(|at| format!("\"^x{at}\":true")).collect();
    let patterns = format!("{{\"patternProperties\":{{{}}}}}", patterns.join(","));
    assert_eq!(check(&patterns, &format!("{{{}}}", keys.join(","))), Err(Invalid::Steps));
    assert_eq!(check(&patterns, &format!("{{{}}}", keys[..10_000].join(","))), Ok(()));
    let names = |value: &str| (0..200).map(|at| format!("\"x{at}\":{value}")).collect::<Vec<_>>().join(",");
    for (keyword, value) in [("dependentRequired", "[]"), ("dependentSchemas", "true")] {
        let schema = format!("{{\"items\":{{\"{keyword}\":{{{}}}}}}}", names(value));
        let objects = |count| format!("[{}]", vec!["{}"; count].join(","));
        assert_eq!(check(&schema, &objects(6_000)), Err(Invalid::Steps), "{keyword}");
        assert_eq!(check(&schema, &objects(1_000)), Ok(()), "{keyword}");
    }
    let items: Vec<_> = (0..190_000).map(|item: u32| item.to_string()).collect();
    assert_eq!(check(r#"{"uniqueItems":true}"#, &format!("[{}]", items.join(","))), Err(Invalid::Steps));
    // Many schemas for one value, each inside of another.
    let chain: Vec<_> = (0..DEPTH + 1).map(|at| format!("\"{at}\":{{\"$ref\":\"#/$defs/{}\"}}", at + 1)).collect();
    let chain = format!("{{\"$ref\":\"#/$defs/0\",\"$defs\":{{{},\"{}\":true}}}}", chain.join(","), DEPTH + 1);
    assert_eq!(check(&chain, "1"), Err(Invalid::Steps));
    // As deep as a body can be, on a small stack.
    let deep = std::thread::Builder::new().stack_size(1 << 20).spawn(move || {
        let list = r##"{"items":{"allOf":[{"anyOf":[{"$ref":"#"}]}]}}"##;
        check(list, &format!("{}{}", "[".repeat(64), "]".repeat(64)))
    });
    assert_eq!(deep.unwrap().join().unwrap(), Ok(()));
}

/// What is evaluated twice, for its errors, is paid for twice.
#[test]
fn errors_cost_steps() {
    let schema = Schema::read(r#"{"type":"string"}"#).unwrap();
    for (value, left) in [(Json::Text("a".into()), 98), (Json::Null, 96)] {
        let mut steps = 100;
        let result = schema.check_within(&value, &mut steps);
        assert_eq!((result.is_ok(), steps), (left == 98, left), "{value:?}");
    }
}
