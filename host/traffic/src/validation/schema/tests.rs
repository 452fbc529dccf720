use super::*;

fn mistake(text: &str) -> String {
    let mistake = Schema::read(text).expect_err(text);
    assert!(!mistake.contains('\n'), "{mistake}");
    mistake
}

/// A mistake has its place, and never makes a schema that lets anything pass.
#[test]
fn mistakes_are_refused_with_their_place() {
    for (text, expected) in [
        ("{", "line 1: it ends here, before it is complete"),
        ("{\"type\":\"string\",\"type\":\"number\"}", "the object that ends here has the key `type` twice"),
        ("[]", "the schema: a schema is an object, true or false"),
        (r#"{"properties":{"a":1}}"#, "/properties/a: a schema is an object, true or false"),
        (r#"{"properties":[]}"#, "/properties: write an object"),
        (r#"{"type":"strin"}"#, "/type: write one of null, boolean,"),
        (r#"{"type":[]}"#, "/type: write one of"),
        (r#"{"required":"a"}"#, "/required: write a list of names"),
        (r#"{"required":[1]}"#, "/required: write a list of names"),
        (r#"{"minLength":-1}"#, "/minLength: write a whole number from 0"),
        (r#"{"minLength":"1"}"#, "/minLength: write a number"),
        (r#"{"multipleOf":0}"#, "/multipleOf: write a number above 0"),
        (r#"{"multipleOf":1.2345678901234567e30}"#, ""),
        (r#"{"exclusiveMinimum":true}"#, "/exclusiveMinimum: write a number"),
        (r#"{"enum":"a"}"#, "/enum: write a list"),
        (r#"{"anyOf":[]}"#, "/anyOf: write at least one schema"),
        (r#"{"uniqueItems":1}"#, "/uniqueItems: write true or false"),
        (r#"{"pattern":"("}"#, "/pattern: it is not a pattern that can be searched in linear time"),
        (r#"{"patternProperties":{"(a)\\1":true}}"#, r"/patternProperties/(a)\\1: it is not a pattern"),
        (r#"{"items":[true]}"#, "/items: write `prefixItems`"),
        (
            r#"{"dependencies":{}}"#,
            "/dependencies: this version of JSON Schema does not have it; write `dependentRequired`",
        ),
        (r#"{"nullable":true}"#, "/nullable: this version"),
        (r#"{"$schema":"http://json-schema.org/draft-04/schema#"}"#, "/$schema: it is none of the versions"),
        (r#"{"$schema":"http://json-schema.org/draft-07/schema#","prefixItems":[true]}"#, "/prefixItems: this version"),
        (r#"{"$ref":"other.json"}"#, "/$ref: `other.json` is not in this file, and the host fetches no schemas"),
        (r#"{"$ref":"https://example.com/a"}"#, "/$ref: `https://example.com/a` is not in this file"),
        (r#"{"$ref":"file:///etc/passwd"}"#, "/$ref: `file:///etc/passwd` is not in this file"),
        (r##"{"$ref":"#/$defs/a"}"##, "/$ref: `#/$defs/a` leads to nothing in this file"),
        (r##"{"$ref":"#a"}"##, "/$ref: `#a` leads to nothing in this file"),
        (r##"{"$ref":"#/required","required":["a"]}"##, "/required: a schema is an object"),
        (r##"{"$ref":"#"}"##, "the schema: it refers to itself for the same value"),
        (
            r##"{"$defs":{"a":{"anyOf":[true,{"$ref":"#/$defs/b"}]},"b":{"not":{"$ref":"#/$defs/a"}}},"$ref":"#/$defs/a"}"##,
            "it refers to itself for the same value",
        ),
        (r#"{"$id":"https://a.example/x#y"}"#, "/$id: it has a fragment"),
        (r#"{"$defs":{"a":{"$anchor":"x"},"b":{"$anchor":"x"}}}"#, "another schema has the same anchor"),
        (r#"{"$defs":{"a":{"$id":"x"},"b":{"$id":"x"}}}"#, "another schema has the same identifier"),
        (
            r##"{"$defs":{"a":{"$id":"a","$dynamicAnchor":"x"},"b":{"$id":"b","$dynamicAnchor":"x"}},"$ref":"a","items":{"$dynamicRef":"b#x"}}"##,
            "/items/$dynamicRef: there are several schemas with this `$dynamicAnchor`",
        ),
    ] {
        let mistake = mistake(text);
        assert!(mistake.contains(expected), "{text}: {mistake}");
    }
}

/// What is bounded when a schema is read.
#[test]
fn schemas_are_bounded() {
    let deep = format!("{}true{}", "{\"not\":".repeat(101), "}".repeat(101));
    assert!(mistake(&deep).contains("more than 100 levels"));
    let all = |count: usize, one: &str| format!("{{\"allOf\":[{}]}}", vec![one; count].join(","));
    assert!(mistake(&all(MOST_SUBSCHEMAS, "true")).contains("more than 10000 subschemas"));
    assert!(mistake(&all(MOST_PATTERNS + 1, "{\"pattern\":\"a\"}")).contains("more than 200 patterns"));
    assert!(mistake(&format!("{{\"enum\":[{}]}}", vec!["1"; 200_000].join(","))).contains("more than 200000 values"));
    // Each subschema has a place, with all keys that lead to it.
    for text in [
        format!(r#"{{"properties":{{"{}":true}}}}"#, "k".repeat(2_039)),
        format!(r#"{{"properties":{{"{0}":{{"items":{{"properties":{{"{0}":true}}}}}}}}}}"#, "k".repeat(1_020)),
    ] {
        let mistake = mistake(&text);
        assert!(
            mistake.contains(": the keys that lead to a value inside of it have more than 2048 bytes"),
            "{mistake}"
        );
        assert!(mistake.len() < 500, "{mistake}");
    }
    assert!(Schema::read(&format!(r#"{{"properties":{{"{}":true}}}}"#, "k".repeat(2_038))).is_ok());
    let base = format!(r#"{{"$id":"https://a.example/{}/x","$defs":{{"a":{{"$id":"b"}}}}}}"#, "k".repeat(2_048));
    assert!(mistake(&base).contains("/$id: with what it is relative to, it has more than 2048 bytes"));
    assert_eq!(Schema::read(&all(9_000, "true")).unwrap().count(), 9_001);
}

/// Only what the root refers to is compiled, but all of it has its place.
#[test]
fn references_lead_inside_of_the_file() {
    for text in [
        r##"{"$defs":{"a":{"type":"string"}},"properties":{"a":{"$ref":"#/$defs/a"}}}"##,
        r##"{"$defs":{"a/b~%":{"type":"string"}},"properties":{"a":{"$ref":"#/$defs/a~1b~0%25"}}}"##,
        r##"{"$id":"https://a.example/x/user.json","$defs":{"a":{"$id":"name.json","type":"string"}},"properties":{"a":{"$ref":"/x/name.json"}}}"##,
        r##"{"$defs":{"a":{"$anchor":"name","type":"string"}},"properties":{"a":{"$ref":"#name"}}}"##,
        r##"{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"a":{"$id":"#name","type":"string"}},"properties":{"a":{"$ref":"#name"}}}"##,
        r##"{"x-own":{"a":{"type":"string"}},"properties":{"a":{"$ref":"#/x-own/a"}}}"##,
        r##"{"properties":{"a":{"items":{"$dynamicRef":"#node"}}},"$dynamicAnchor":"node"}"##,
        r##"{"$schema":"https://json-schema.org/draft/2019-09/schema","$recursiveAnchor":true,"properties":{"a":{"items":{"$recursiveRef":"#"}}}}"##,
        // What looks like an identifier is data.
        r##"{"enum":[{"$id":"x"},{"$id":"x"}],"properties":{"$id":{"type":"string"},"a":true},"const":{"$ref":"y"}}"##,
    ] {
        Schema::read(text).unwrap_or_else(|mistake| panic!("{text}: {mistake}"));
    }
}

/// Memory is bounded by the bytes of the file: what several schemas have inside is copied for each of them, so that is counted.
#[test]
fn copies_are_counted() {
    let nested = |levels: usize| {
        let list = vec!["0"; 20_000].join(",");
        let value = (0..levels).fold(format!("[{list}]"), |value, _| format!(r#"{{"const":{value}}}"#));
        let references: Vec<_> =
            (0..levels).map(|at| format!(r##"{{"$ref":"#/$defs/a{}"}}"##, "/const".repeat(at))).collect();
        Schema::read(&format!(r#"{{"$defs":{{"a":{value}}},"allOf":[{}]}}"#, references.join(",")))
    };
    assert!(nested(5).is_ok());
    assert!(nested(90).unwrap_err().contains("the values of `enum` and `const` take more than 32 MiB"));
    // One value has one place.
    let place = |place: &str| Schema::read(&format!(r##"{{"$defs":{{"a~":true}},"$ref":"#/$defs/{place}"}}"##));
    assert!(place("a~0").is_ok());
    assert!(place("a~").unwrap_err().contains("leads to nothing in this file"));
    let below = |key: usize| {
        let names: Vec<_> = (0..9_000).map(|at| format!(r#""a{at}":true"#)).collect();
        let properties = format!(r#"{{"properties":{{{}}}}}"#, names.join(","));
        Schema::read(&format!(r##"{{"$defs":{{"{}":{properties}}}}}"##, "k".repeat(key)))
    };
    assert!(below(500).is_ok());
    assert!(below(1_000).unwrap_err().contains("there are too many subschemas below long keys"));
}
