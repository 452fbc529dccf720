//! What is bounded when a document is read, and when a request is checked.

use super::*;

/// What is bounded when a document is read, and when a request is checked.
#[test]
fn documents_and_requests_are_bounded() {
    let read = |paths: &[String]| Api::read(&format!(r#"{{"openapi":"3.1.0","paths":{{{}}}}}"#, paths.join(",")));
    let paths = |count: usize| (0..count).map(|at| format!(r#""/p{at}":{{"get":{{}}}}"#)).collect::<Vec<_>>();
    assert_eq!(read(&paths(1_000)).unwrap().count(), 1_000);
    assert!(read(&paths(1_001)).unwrap_err().contains("more than 1000 paths"));
    let parameters = |count: usize, of: usize| {
        let all = (0..count)
            .map(|at| format!(r#"{{"name":"q{at}","in":"query","schema":{{"type":"string","pattern":"^(a|b)*$"}}}}"#));
        let all = all.collect::<Vec<_>>().join(",");
        (0..of)
            .map(|at| format!(r##""/p{at}":{{"parameters":[{all}],"get":{{}},"put":{{}},"post":{{}}}}"##))
            .collect::<Vec<_>>()
    };
    assert!(read(&parameters(101, 1)).unwrap_err().contains("more than 100 parameters"));
    assert!(read(&parameters(100, 70)).unwrap_err().contains("more than 100 parameters, or 20000 in all"));
    // Before they are compared with each other, also those that are not checked.
    let accept = |count: usize| vec![r#"{"name":"Accept","in":"header"}"#; count].join(",");
    let skipped = |count: usize, of: usize| {
        let one = |at: usize| format!(r##""/p{at}":{{"get":{{"parameters":[{}]}}}}"##, accept(count));
        (0..of).map(one).collect::<Vec<_>>()
    };
    assert!(read(&skipped(101, 1)).unwrap_err().contains("/parameters: there are more than 100 parameters"));
    assert!(read(&skipped(100, 201)).unwrap_err().contains("or 20000 in all"));
    assert!(read(&skipped(100, 2)).is_ok());
    let types: Vec<_> = (0..21).map(|at| format!(r#""text/t{at}":{{}}"#)).collect();
    let body = format!(r#""/a":{{"post":{{"requestBody":{{"content":{{{}}}}}}}}}"#, types.join(","));
    assert!(read(&[body]).unwrap_err().contains("/content: there are more than 20 media types"));
    let keys: Vec<_> = (0..101).map(|at| format!(r#""x-{at}":1"#)).collect();
    assert!(
        read(&[format!(r#""/a":{{{}}}"#, keys.join(","))])
            .unwrap_err()
            .contains("/paths/~1a: it has more than 100 keys")
    );
    // Each part has a place, with all keys that lead to it.
    let long = read(&[format!(r#""/{}":{{"get":{{}}}}"#, "k".repeat(3_000))]).unwrap_err();
    assert!(long.contains("/paths: the keys that lead to a value inside of it have more than 2048 bytes"), "{long}");
    // Alternatives that double with each of them.
    let one = |at: usize| format!(r##"{{"$ref":"#/components/schemas/s{at}"}}"##);
    let alternatives = (0..20).map(|at| format!(r#""s{at}":{{"anyOf":[{0},{0}]}}"#, one(at + 1)));
    let alternatives: Vec<_> = alternatives.chain([r#""s20":{"type":"string"}"#.to_owned()]).collect();
    let text = format!(
        r##"{{"openapi":"3.1.0","paths":{{"/":{{"get":{{"parameters":[{{"name":"a","in":"query","schema":{{"$ref":"#/components/schemas/s0"}}}}]}}}}}},"components":{{"schemas":{{{}}}}}}}"##,
        alternatives.join(",")
    );
    assert!(Api::read(&text).unwrap_err().contains("more than 100000 schemas"));
    // The steps are those of all parameters, and errors are as many as a client needs.
    let api = read(&parameters(100, 1)).unwrap();
    let query: Vec<_> = (0..100).map(|at| format!("q{at}={}", "a".repeat(400))).collect();
    let reply = ask(&api, &format!("GET /p0?{}", query.join("&")), &[], false);
    assert!(reply.contains("must be simpler: the parameters take too long to check"), "{reply}");
    let query: Vec<_> = (0..100).map(|at| format!("q{at}=c")).collect();
    assert_eq!(ask(&api, &format!("GET /p0?{}", query.join("&")), &[], false).matches(';').count(), 19);
    let many = r#"{"openapi":"3.1.0","paths":{"/":{"get":{"parameters":[{"name":"n","in":"query","schema":{"type":"array","items":{"type":"integer"}}}]}}}}"#;
    let api = Api::read(many).unwrap();
    assert_eq!(ask(&api, &format!("GET /?{}", vec!["n=1"; 1_000].join("&")), &[], false), "ok");
    assert_eq!(
        ask(&api, &format!("GET /?{}", vec!["n=1"; 1_001].join("&")), &[], false),
        "query n: must have at most 1000 items"
    );
}

/// To read the items of a list takes steps, whatever the schema says of them.
#[test]
fn items_take_steps() {
    let one = |at: usize| {
        let schema = r#"{"type":"array","items":{"type":["integer","string"]},"maxItems":0}"#;
        format!(r#"{{"name":"p{at}","in":"query","explode":false,"schema":{schema}}}"#)
    };
    let all: Vec<_> = (0..30).map(one).collect();
    let document = format!(r#"{{"openapi":"3.1.0","paths":{{"/":{{"get":{{"parameters":[{}]}}}}}}}}"#, all.join(","));
    let query: Vec<_> = (0..30).map(|at| format!("p{at}={}", vec!["1"; 1_000].join(","))).collect();
    let reply = ask(&Api::read(&document).unwrap(), &format!("GET /?{}", query.join("&")), &[], false);
    assert!(reply.contains("must be simpler: the parameters take too long to check"), "{reply}");
}

/// What is no media type is not one of a range.
#[test]
fn ranges_have_media_types_only() {
    let api = Api::read(DOCUMENT).unwrap();
    for kind in [
        "application/json,",
        "application/json, x",
        "application/ json",
        "application/json foo",
        "application/json/",
        "application/",
        "/json",
        "json",
        ";",
    ] {
        assert_eq!(ask(&api, "PUT /files/a", &[("content-type", kind)], true), "Type */*", "{kind}");
    }
    assert_eq!(ask(&api, "PUT /files/a", &[("content-type", "application/json ; x=1")], true), "body");
}

/// A document with one required parameter in a header, which is an integer.
fn with_header(name: &str) -> Api {
    let document = serde_json::json!({ "openapi": "3.1.0", "paths": { "/": { "get": { "parameters": [
        { "name": name, "in": "header", "required": true, "schema": { "type": "integer" } }
    ] } } } });
    Api::read(&document.to_string()).unwrap()
}

/// A header is checked as the service gets it, unless the host writes it. One that the host may remove need not be there.
#[test]
fn headers_of_the_host_are_not_required() {
    for (name, without, with) in [
        ("Accept", true, true),
        ("Forwarded", true, true),
        ("X-Forwarded-For", true, true),
        ("X-Forwarded-Prefix", true, true),
        ("X-Lodge-Auth-Subject", true, true),
        ("X-Request-Id", true, true),
        ("Lodge-Call", true, true),
        ("Connection", true, false),
        ("Host", true, false),
        ("X-Real-IP", true, false),
        ("X-Forwarded-New", true, false),
        ("X_Request_Id", true, false),
        ("Via", false, false),
        ("TE", false, false),
        ("Content-Length", false, false),
        ("traceparent", false, false),
        ("tracestate", false, false),
        ("b3", false, false),
        ("X-B3-ParentSpanId", false, false),
        ("X-B3-New", false, false),
        ("X-Forwarded", false, false),
        ("Content_Type", false, false),
    ] {
        let api = with_header(name);
        let missing = ask(&api, "GET /", &[], false);
        assert_eq!(missing == "ok", without, "{name}: {missing}");
        let wrong = ask(&api, "GET /", &[(name, "sent")], false);
        assert_eq!(wrong == "ok", with, "{name}: {wrong}");
    }
    // No service gets the cookies of the host.
    let cookie = r#"{"openapi":"3.1.0","paths":{"/":{"get":{"parameters":[{"name":"__Host-lodge-a","in":"cookie","required":true,"schema":{"type":"integer"}}]}}}}"#;
    assert_eq!(ask(&Api::read(cookie).unwrap(), "GET /", &[], false), "ok");
}

/// What operations refer to is in memory once, and what each has of its own is short.
#[test]
fn operations_share_what_they_refer_to() {
    let (name, kind) = ("q".repeat(256), format!("application/{}", "k".repeat(243)));
    let document = |name: &str, kind: &str| {
        let operation = r##"{"requestBody":{"$ref":"#/components/requestBodies/b"}}"##;
        format!(
            r##"{{"openapi":"3.1.0","paths":{{"/a":{{"$ref":"#/components/pathItems/p"}},"/b":{{"$ref":"#/components/pathItems/p"}}}},
            "components":{{"pathItems":{{"p":{{"put":{operation},"post":{operation},
            "parameters":[{{"name":"{name}","in":"query","schema":{{"type":"string"}}}}]}}}},
            "requestBodies":{{"b":{{"content":{{"{kind}":{{}}}}}}}}}}}}"##
        )
    };
    let api = Api::read(&document(&name, &kind)).unwrap();
    let all: Vec<_> = api.paths.iter().flat_map(|path| &path.operations).map(|(_, operation)| operation).collect();
    assert_eq!(all.len(), 4);
    for operation in &all {
        assert!(Arc::ptr_eq(&operation.parameters[0].name, &all[0].parameters[0].name));
        assert!(Arc::ptr_eq(operation.body.as_ref().unwrap(), all[0].body.as_ref().unwrap()));
    }
    let long = Api::read(&document(&format!("{name}q"), &kind)).unwrap_err();
    assert!(long.ends_with("/parameters/0: its `name` has more than 256 bytes"), "{long}");
    let long = Api::read(&document(&name, &format!("{kind}k"))).unwrap_err();
    assert!(long.contains("a media type has at most 255 bytes"), "{long}");
    let deep = |segments: usize| {
        Api::read(&format!(r#"{{"openapi":"3.1.0","paths":{{"{}":{{"get":{{}}}}}}}}"#, "/a".repeat(segments)))
    };
    assert!(deep(100).is_ok());
    assert!(deep(101).unwrap_err().contains("of at most 100 segments"));
    // A message is one line, whatever a name is.
    let path = r#"{"openapi":"3.1.0","paths":{"/":{"get":{"parameters":[{"name":"a\nb","in":"path","required":true,"schema":{"type":"string"}}]}}}}"#;
    assert!(Api::read(path).unwrap_err().contains(r"its path has no parameter `a\nb`"));
}
