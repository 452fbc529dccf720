mod bounds;

use http::Uri;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

use super::*;
use crate::validation::{BodyPresence, ManifestChanges};

const DOCUMENT: &str = include_str!("tests/users.json");

/// The result for a request: `ok`, `body` if it has one that has to meet a schema, or what is wrong.
fn ask(api: &Api, line: &str, headers: &[(&str, &str)], has_body: bool) -> String {
    let (method, target) = line.split_once(' ').unwrap();
    let uri: Uri = target.parse().unwrap();
    let mut all = HeaderMap::new();
    for (name, value) in headers {
        all.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let method = Method::try_from(method).unwrap();
    let body = if has_body { BodyPresence::Present } else { BodyPresence::Absent };
    let changes = ManifestChanges::default();
    let head = RequestHead { method: &method, uri: &uri, headers: &all, changes, body };
    match api.expected(uri.path(), &head, 1) {
        Ok(None) => "ok".into(),
        Ok(Some(_)) => "body".into(),
        Err(ValidationFault::Path) => "404".into(),
        Err(ValidationFault::Method(allow)) => format!("405 {allow}"),
        Err(ValidationFault::Parameters(errors)) => {
            let one = |error: &crate::validation::evaluation::SchemaError| {
                let name = error.parameter.as_ref().unwrap();
                format!("{} {}{}: {}", name.place, name.name, error.pointer, error.message)
            };
            errors.iter().map(one).collect::<Vec<_>>().join("; ")
        }
        Err(ValidationFault::Type(of)) => format!("Type {}", of.accepted()),
        Err(fault) => format!("{fault:?}"),
    }
}

#[test]
fn only_operations_of_the_document_are_taken() {
    let api = Api::read(DOCUMENT).unwrap();
    assert_eq!(api.count(), 11);
    for (line, expected) in [
        ("GET /", "ok"),
        ("GET /users", "ok"),
        ("HEAD /users", "ok"),
        ("GET /users/7", "ok"),
        ("GET /users/me", "ok"),
        ("GET /users/", "404"),
        ("GET /groups/", "ok"),
        ("GET /groups", "404"),
        ("GET /users/7/x", "404"),
        ("GET /Users", "404"),
        ("GET /x-own", "404"),
        ("GET /users/{id}", "path id: must be of type integer"),
        ("DELETE /users", "405 GET, HEAD, POST"),
        ("PATCH /users/me", "405 GET, HEAD"),
        ("OPTIONS /users/me", "405 GET, HEAD"),
        ("HEAD /files/a,b", "405 PUT"),
        // The first segment in which two paths differ decides.
        ("GET /a/b/c", "ok"),
        ("GET /a/d/c", "405 POST"),
    ] {
        assert_eq!(ask(&api, line, &[], false), expected, "{line}");
    }
}

/// Every spelling of a parameter that a client may choose.
#[test]
fn parameters_meet_their_schemas() {
    let api = Api::read(DOCUMENT).unwrap();
    for (line, expected) in [
        ("GET /users/0", "path id: must be at least 1"),
        ("GET /users/seven", "path id: must be of type integer"),
        ("GET /users/%37", "ok"),
        ("GET /users/1e0", "ok"),
        ("GET /users/1.5", "path id: must be of type integer"),
        ("GET /users/07", "path id: must be of type integer"),
        ("GET /users/+7", "path id: must be of type integer"),
        ("GET /users/%207", "path id: must be of type integer"),
        ("GET /users/0x7", "path id: must be of type integer"),
        ("GET /users/null", "path id: must be of type integer"),
        ("GET /users/true", "path id: must be of type integer"),
        ("GET /users/%FF", "path id: must be UTF-8"),
        ("PUT /files/a,b", "ok"),
        ("PUT /files/a%2Cb", "ok"),
        ("PUT /files/a,b,c", "path names: must have at most 2 items"),
        ("PUT /files/a,%20b", "path names/1: must match the pattern of the schema"),
        ("GET /users?limit=100&other=x", "ok"),
        ("GET /users?limit=101", "query limit: must meet one of the schemas in `anyOf`"),
        ("GET /users?limit=", "query limit: must meet one of the schemas in `anyOf`"),
        ("GET /users?limit", "query limit: must meet one of the schemas in `anyOf`"),
        ("GET /users?limit=1&limit=2", "query limit: must be there once"),
        ("GET /users?limit=1&limit=1", "query limit: must be there once"),
        ("GET /users?%6Cimit=x", "query limit: must meet one of the schemas in `anyOf`"),
        ("GET /users?LIMIT=x", "ok"),
        ("GET /users?limit=%31%30", "ok"),
        ("GET /users?limit=1%00", "query limit: must meet one of the schemas in `anyOf`"),
        ("GET /users?limit=auto", "ok"),
        ("GET /users?limit=manual", "query limit: must meet one of the schemas in `anyOf`"),
        ("GET /users?deep=true", "ok"),
        ("GET /users?deep=1", "query deep: must be of type boolean"),
        ("GET /users?deep=True", "query deep: must be of type boolean"),
        ("GET /users?name=a+b&", "ok"),
        ("GET /users?name=a%2Bb", "query name: must match the pattern of the schema"),
        ("GET /users?name=%FF", "query name: must be UTF-8"),
        ("GET /users?name=5", "query name: must match the pattern of the schema"),
        ("GET /users?role=a&role=b", "ok"),
        ("GET /users?role=a,b", "query role/0: must be one of the 2 values that the schema allows"),
        ("GET /users?role=a&role=c", "query role/1: must be one of the 2 values that the schema allows"),
        ("GET /users?role=a&role=b&role=a", "query role: must have at most 2 items"),
        ("GET /users?ids=1,2,3", "ok"),
        ("GET /users?ids=1%2C2", "ok"),
        ("GET /users?ids=1,x", "query ids/1: must be of type integer"),
        ("GET /users?ids=1,", "query ids/1: must be of type integer"),
        ("GET /users?ids=1&ids=2", "query ids: must be there once"),
        (
            "GET /users?limit=x&deep=x",
            "query deep: must be of type boolean; query limit: must meet one of the schemas in `anyOf`",
        ),
        ("GET /groups/?limit=101", "query limit: must be at most 100"),
        ("GET /groups/?limit=101&limit=1", "query limit: must be there once"),
    ] {
        assert_eq!(ask(&api, line, &[], false), expected, "{line}");
    }
    for (headers, expected) in [
        (&[("x-trace", "abc")][..], "ok"),
        (&[], "header x-trace: must be there"),
        (&[("x-trace", "abc"), ("x-trace", "abc")], "header x-trace: must be there once"),
        (&[("x-trace", "ABC")], "header x-trace: must match the pattern of the schema"),
        (&[("x-trace", "\u{e9}")], "header x-trace: must match the pattern of the schema"),
        (&[("x-trace", "a"), ("x-tags", "1, 2"), ("X-Tags", "3")], "ok"),
        (&[("x-trace", "a"), ("x-tags", "1,2,3,4")], "header x-tags: must have at most 3 items"),
        (&[("x-trace", "a"), ("x-tags", "1"), ("x-tags", "2,b")], "header x-tags/2: must be of type integer"),
        (&[("x-trace", "a"), ("accept", "x"), ("authorization", "y")], "ok"),
        (&[("x-trace", "a"), ("cookie", "theme=dark; other=1")], "ok"),
        (
            &[("x-trace", "a"), ("cookie", "other=1;theme=pink")],
            "cookie theme: must be one of the 2 values that the schema allows",
        ),
        (&[("x-trace", "a"), ("cookie", "theme=dark; theme=light")], "cookie theme: must be there once"),
        (
            &[("x-trace", "a"), ("cookie", "Theme=pink; theme")],
            "cookie theme: must be one of the 2 values that the schema allows",
        ),
    ] {
        assert_eq!(ask(&api, "DELETE /users/7", headers, false), expected, "{headers:?}");
    }
}

/// A body has one of the types of its operation, and meets the schema of that if it is JSON.
#[test]
fn bodies_have_the_types_of_their_operation() {
    let api = Api::read(DOCUMENT).unwrap();
    let kind = |kind| ("content-type", kind);
    let other = |types: &str| format!("Type {types}");
    let patch = "application/json, application/merge-patch+json, text/*";
    for (line, headers, has_body, expected) in [
        ("GET /users", &[kind("application/json")][..], true, "Unexpected".into()),
        ("GET /users", &[kind("application/json")], false, "ok".into()),
        ("POST /users", &[kind("application/json")], true, "body".into()),
        ("POST /users", &[kind("Application/JSON; charset=utf-8")], true, "body".into()),
        ("POST /users", &[kind("application/json; charset=utf-16")], true, other("application/json")),
        ("POST /users", &[kind("application/json"), kind("application/json")], true, other("application/json")),
        ("POST /users", &[kind("application/json, text/csv")], true, other("application/json")),
        ("POST /users", &[kind("application/vnd.a+json")], true, other("application/json")),
        ("POST /users", &[kind("text/csv")], true, other("application/json")),
        ("POST /users", &[], true, other("application/json")),
        ("POST /users", &[kind("application/json")], false, "Missing".into()),
        ("POST /users", &[kind("application/json"), ("content-encoding", "gzip")], true, "Coding".into()),
        ("PATCH /users/1", &[], false, "ok".into()),
        ("PATCH /users/1", &[kind("application/merge-patch+json")], true, "body".into()),
        // Without a schema.
        ("PATCH /users/1", &[kind("application/json")], true, "ok".into()),
        ("PATCH /users/1", &[kind("text/csv"), ("content-encoding", "gzip")], true, "ok".into()),
        ("PATCH /users/1", &[kind("application/xml")], true, other(patch)),
        ("PUT /files/a", &[kind("application/json")], true, "body".into()),
        ("PUT /files/a", &[kind("image/png")], true, "ok".into()),
    ] {
        let headers: Vec<_> = headers.iter().copied().chain([("x-trace", "a")]).collect();
        assert_eq!(ask(&api, line, &headers, has_body), expected, "{line} {headers:?}");
    }
    let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let (method, uri) = (Method::POST, Uri::from_static("/users"));
    let (changes, body) = (ManifestChanges::default(), BodyPresence::Present);
    let head = RequestHead { method: &method, uri: &uri, headers: &headers, changes, body };
    let expected = api.expected("/users", &head, 1).unwrap().unwrap();
    for (body, valid) in
        [(r#"{"name":"a","friend":{"name":"b"}}"#, true), (r#"{"name":"a","friend":{}}"#, false), ("[]", false)]
    {
        assert_eq!(expected.check(body.as_bytes()).is_ok(), valid, "{body}");
    }
    // The first bytes tell that there is a body.
    let head = RequestHead { method: &Method::GET, body: BodyPresence::Unknown, ..head };
    let later = api.expected("/users", &head, 1).unwrap().unwrap();
    assert_eq!((later.begin(), later.check(b"")), (Err(ValidationFault::Unexpected), Ok(())));
}

proptest! {
    /// Any text is found again behind its encoding, and an integer is one number as JSON writes it, once.
    #[test]
    fn texts_are_those_that_were_encoded(text in "\\PC{1,12}", number in any::<i64>(), times in 0..3usize) {
        let document = serde_json::json!({ "openapi": "3.1.0", "paths": { "/{text}": { "get": { "parameters": [
            { "name": "text", "in": "path", "required": true, "schema": { "const": text } },
            { "name": "text", "in": "query", "schema": { "const": text } },
            { "name": "number", "in": "query", "schema": { "type": "integer", "const": number } }
        ] } } } });
        let api = Api::read(&document.to_string()).unwrap();
        let encoded = utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string();
        let numbers = format!("&number={number}").repeat(times);
        let expected = if times < 2 { "ok" } else { "query number: must be there once" };
        prop_assert_eq!(ask(&api, &format!("GET /{encoded}?text={encoded}{numbers}"), &[], false), expected);
        let other = format!("GET /{encoded}?number={number}0");
        prop_assert_eq!(ask(&api, &other, &[], false) == "ok", number == 0);
    }

    /// Whatever a query is, an integer in it is accepted only if JSON has it.
    #[test]
    fn only_numbers_are_integers(value in "[0-9eE+. \\-%a-f]{0,6}") {
        let document = r#"{"openapi":"3.1.0","paths":{"/":{"get":{"parameters":[{"name":"n","in":"query","schema":{"type":"number"}}]}}}}"#;
        let api = Api::read(document).unwrap();
        let encoded = utf8_percent_encode(&value, NON_ALPHANUMERIC).to_string();
        let is_number = serde_json::from_str::<f64>(&value).is_ok_and(f64::is_finite) && value.trim() == value;
        prop_assert_eq!(ask(&api, &format!("GET /?n={encoded}"), &[], false) == "ok", is_number, "{}", value);
    }
}

/// What the host cannot check is refused when the document is read.
#[test]
fn what_cannot_be_checked_is_refused() {
    let item = |item: &str| format!(r#"{{"openapi":"3.1.0","paths":{{"/a/{{id}}":{item}}}}}"#);
    let id = r#"{"name":"id","in":"path","required":true,"schema":{"type":"string"}}"#;
    let parameter = |parameter: &str| item(&format!(r#"{{"get":{{"parameters":[{id},{parameter}]}}}}"#));
    let schema = |schema: &str| parameter(&format!(r#"{{"name":"b","in":"query","schema":{schema}}}"#));
    let content =
        |content: &str| item(&format!(r#"{{"post":{{"parameters":[{id}],"requestBody":{{"content":{content}}}}}}}"#));
    for (text, expected) in [
        ("[]".into(), "/openapi: write a document of OpenAPI 3.1, such as \"3.1.0\": the document is no object"),
        ("openapi: 3.1.0\npaths:\n  /a: &a {}\n  /b: *a\n".into(), "line 4, column 7: aliases"),
        (
            "openapi: 3.1\npaths: {}\n".into(),
            "line 1: /openapi: write a document of OpenAPI 3.1, such as \"3.1.0\": this is a number",
        ),
        ("openapi: '3.2.0'\n".into(), "\"3.1.0\": this is \"3.2.0\""),
        ("info: {}\nswagger: '2.0'\n".into(), "this is a document of Swagger 2.0; docs/validation.md says how"),
        ("info: {}\n".into(), "/openapi: write a document of OpenAPI 3.1, such as \"3.1.0\": it is missing"),
        (
            "openapi: 3.1.0\npaths:\n  /a:\n    get:\n      requestBody: {}\n".into(),
            "line 5: /paths/~1a/get/requestBody: it has no `content`",
        ),
        ("openapi: 3.1.0\npaths:\n  /a:\n    get: {parameters: 1}\n".into(), "/paths/~1a/get/parameters: write a list"),
        ("{openapi: 3.1.0}".into(), "line 1, column 2: it is not JSON"),
        (
            r#"{"openapi":"3.0.3","paths":{}}"#.into(),
            "this is \"3.0.3\"; docs/validation.md says how those of 3.0 are converted",
        ),
        (r#"{"openapi":"3.1.0","openapi":"3.1.0"}"#.into(), "has the key `openapi` twice"),
        (r#"{"openapi":"3.1.0","jsonSchemaDialect":"x"}"#.into(), "/jsonSchemaDialect: it is none of"),
        (r#"{"openapi":"3.1.0"}"#.into(), "/paths: it is missing"),
        (r#"{"openapi":"3.1.0","paths":[]}"#.into(), "/paths: write an object"),
        (r#"{"openapi":"3.1.0","paths":{"a":{}}}"#.into(), "/paths/a: write a path like"),
        (r#"{"openapi":"3.1.0","paths":{"/*":{}}}"#.into(), "/paths/~1*: write a path like"),
        (r#"{"openapi":"3.1.0","paths":{"/a//b":{}}}"#.into(), "write a path like"),
        (r#"{"openapi":"3.1.0","paths":{"/a.{b}":{}}}"#.into(), "/paths/~1a.{b}: write a path like"),
        (r#"{"openapi":"3.1.0","paths":{"/{a}/{a}":{}}}"#.into(), "write a path like"),
        (r#"{"openapi":"3.1.0","paths":{"/a/{b}":{},"/a/{c}":{}}}"#.into(), "/a/{b} and /a/{c} are the same path"),
        (r#"{"openapi":"3.1.0","paths":{"/a":{},"/%61":{}}}"#.into(), "are the same path"),
        (item("{\"get\":{}}"), "/paths/~1a~1{id}/get: the parameter `id` of its path is not described"),
        (item("{\"fetch\":{}}"), "/fetch: it is no method"),
        (item("{\"get\":[]}"), "/get: the parameter `id`"),
        (item("{\"parameters\":{}}"), "/parameters: write a list"),
        (item(r##"{"$ref":"other.json"}"##), "/$ref: a reference leads to a place in the document"),
        (item(r##"{"$ref":"file:///etc/passwd#/a"}"##), "/$ref: a reference leads to a place in the document"),
        (item(r##"{"$ref":"#/components/x"}"##), "/$ref: it leads to nothing in the document"),
        (item(r##"{"$ref":"#/paths/~1a~1%7Bid%7D"}"##), "more than 10 references"),
        (
            parameter(r#"{"name":"b","in":"path","required":true,"schema":{"type":"string"}}"#),
            "its path has no parameter `b`",
        ),
        (
            parameter(r#"{"name":"b","in":"body","schema":{"type":"string"}}"#),
            "write `in`: path, query, header or cookie",
        ),
        (parameter(r#"{"name":"b c","in":"header","schema":{"type":"string"}}"#), "is not one of a header"),
        (parameter(r#"{"in":"query","schema":{"type":"string"}}"#), "it has no `name`"),
        (parameter(r#"{"name":"b","in":"query"}"#), "/parameters/1: it has no `schema`"),
        (
            parameter(r#"{"name":"b","in":"query","content":{"application/json":{}}}"#),
            "only a `schema` with `style: form`",
        ),
        (
            parameter(r#"{"name":"b","in":"query","style":"deepObject","schema":{"type":"string"}}"#),
            "only a `schema` with `style: form`",
        ),
        (
            parameter(r#"{"name":"b","in":"header","style":"form","schema":{"type":"string"}}"#),
            "only a `schema` with `style: simple`",
        ),
        (
            parameter(r#"{"name":"b","in":"query","required":"true","schema":{"type":"string"}}"#),
            "/required: write true or false",
        ),
        (
            parameter(r#"{"name":"b","in":"cookie","schema":{"type":"array","items":{"type":"string"}}}"#),
            "write `explode: false`",
        ),
        (
            parameter(r#"{"name":"b","in":"query","allowEmptyValue":true,"schema":{"type":"string"}}"#),
            "/parameters/1: `allowEmptyValue` is not supported",
        ),
        (schema(r#"{"const":{"a":1}}"#), "/schema: a value in `enum` or `const` of a parameter is no list"),
        (schema(r#"{"const":[1]}"#), "/schema: a value in `enum` or `const` of a parameter is no list"),
        (schema(r#"{"enum":[1,[1]]}"#), "/schema: a value in `enum` or `const` of a parameter is no list"),
        (parameter(id), "/parameters/1: the parameter is there twice"),
        (
            parameter(
                r#"{"name":"X","in":"header","schema":{"type":"string"}},{"name":"x","in":"header","schema":{"type":"string"}}"#,
            ),
            "/parameters/2: the parameter is there twice",
        ),
        (
            item(r#"{"get":{"parameters":[{"name":"id","in":"path","schema":{"type":"string"}}]}}"#),
            "has `required: true`",
        ),
        (schema(r#"{"type":"object"}"#), "that are objects are not supported"),
        (schema("{}"), "/schema: say which `type` the parameter has"),
        (schema(r#"{"type":"null"}"#), "say which `type` the parameter has"),
        (schema(r#"{"type":"strin"}"#), "say which `type` the parameter has"),
        (schema(r#"{"type":["string","strin"]}"#), "schema/type: write one of"),
        (schema(r#"{"type":"string","minLength":-1}"#), "schema/minLength: write a whole number"),
        (schema(r#"{"type":"array"}"#), "needs `items`"),
        (schema(r#"{"type":"array","items":{}}"#), "/items: say which `type` the items have"),
        (
            schema(r#"{"type":"array","items":{"type":"array","items":{"type":"string"}}}"#),
            "lists of lists are not supported",
        ),
        (schema(r#"{"type":["array","string"],"items":{"type":"string"}}"#), "has no other type"),
        (schema(r##"{"$ref":"#/components/schemas/x"}"##), "it leads to nothing in the document"),
        (schema(r##"{"$ref":"#/paths/~1a~1{id}/get/parameters/1/schema"}"##), "or 50 of them inside of each other"),
        (content(r#"{"json":{}}"#), "write a media type"),
        (content(r#"{"*/json":{}}"#), "write a media type"),
        (content(r#"{"text/csv":{},"Text/CSV; header=present":{}}"#), "the media type is there twice"),
        (content(r#"{"application/json":{"schema":{"nullable":true}}}"#), "/nullable: this version"),
        (content(r#"{"application/json":{"schema":{"$ref":"https://a.example/x"}}}"#), "the host fetches no schemas"),
        (content(r#"{"application/json":{"schema":{"pattern":"("}}}"#), "/pattern: it is not a pattern"),
        (
            item(&format!(r#"{{"post":{{"parameters":[{id}],"requestBody":{{}}}}}}"#)),
            "/requestBody: it has no `content`",
        ),
    ] {
        let mistake = Api::read(&text).unwrap_err();
        assert!(mistake.contains(expected) && !mistake.contains('\n'), "{text}: {mistake}");
    }
}
