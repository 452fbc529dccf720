use std::fs;

use super::sources::SchemaSources;
use super::*;
use http::header::HeaderValue;
use lodge_manifest::policies::PolicySettings;

fn policies() -> Policies {
    let validation = Some(Validation::Body(BodySchema { schema: "user.json".into(), size: 1 << 20 }));
    let service = PolicySettings { validation, ..PolicySettings::default() };
    let off = PolicySettings { validation: Some(Validation::Off), ..PolicySettings::default() };
    let routes = vec![("/a".to_owned(), PolicySettings::default()), ("/b".to_owned(), off)];
    Policies { service, routes, ..Policies::default() }
}

/// What the body of such a request has to be, by the check of a route.
fn expected(
    checks: &RequestChecks,
    route: usize,
    method: &Method,
    fields: &[(header::HeaderName, &str)],
    has_body: bool,
) -> Result<Option<ExpectedBody>, ValidationFault> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    let body = if has_body { BodyPresence::Present } else { BodyPresence::Absent };
    checks.expected(
        route,
        &RequestHead {
            method,
            uri: &Uri::from_static("/"),
            headers: &headers,
            changes: ManifestChanges::default(),
            body,
        },
    )
}

/// Returns whether a fault is that of a type that is no JSON.
fn is_other_type<T>(result: &Result<T, ValidationFault>) -> bool {
    matches!(result, Err(ValidationFault::Type(of)) if of.accepted() == "application/json")
}

const JSON: (header::HeaderName, &str) = (header::CONTENT_TYPE, "application/json");

/// What has no JSON is refused, so that nothing is passed on that was not checked.
#[tokio::test]
async fn heads_decide_what_is_read() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("user.json"), "true").unwrap();
    let mut checks = RequestChecks::new(&policies()).unwrap();
    assert!(RequestChecks::new(&Policies::default()).is_none());
    // Without its schema, nothing is valid.
    assert_eq!(expected(&checks, 0, &Method::POST, &[JSON], true).unwrap_err(), ValidationFault::Unavailable);
    SchemaSources::default().open(&mut checks, "users", directory.path()).await.unwrap();
    assert!(expected(&checks, 1, &Method::POST, &[], true).unwrap().is_none());
    assert!(expected(&checks, usize::MAX, &Method::POST, &[], true).is_err(), "calls have the check of the service");
    let applies = |method: &Method, fields: &[(header::HeaderName, &str)], has_body| {
        expected(&checks, 0, method, fields, has_body).map(|expected| expected.is_some())
    };
    for kind in [
        "application/json",
        "Application/JSON",
        "application/json; charset=UTF-8",
        "application/json;charset=\"utf-8\"",
        "application/merge-patch+json",
        "application/problem+json; profile=x",
    ] {
        assert_eq!(applies(&Method::POST, &[(header::CONTENT_TYPE, kind)], true), Ok(true), "{kind}");
    }
    for kind in [
        "",
        "text/plain",
        "text/json",
        "application/jsonp",
        "application/xml",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "application/json, text/plain",
        "application/",
        "json",
        "+json",
        "multipart/form-data; boundary=application/json",
        "application/json; charset=",
        "application/json-seq",
        "application/x-www-form-urlencoded, application/y+json",
        "application/x-www-form-urlencoded x+json",
        "application/a/b+json",
        "application/\u{e9}+json",
    ] {
        assert!(is_other_type(&applies(&Method::POST, &[(header::CONTENT_TYPE, kind)], true)), "{kind}");
    }
    assert!(is_other_type(&applies(&Method::POST, &[], true)));
    assert!(is_other_type(&applies(&Method::POST, &[JSON, JSON], true)));
    for (coding, expected) in
        [("gzip", Err(ValidationFault::Coding)), ("identity, br", Err(ValidationFault::Coding)), ("identity", Ok(true))]
    {
        assert_eq!(applies(&Method::PUT, &[JSON, (header::CONTENT_ENCODING, coding)], true), expected, "{coding}");
    }
    // A body counts whatever the method is.
    for method in [Method::GET, Method::HEAD, Method::DELETE, Method::OPTIONS] {
        assert_eq!(applies(&method, &[], false), Ok(false));
        assert!(is_other_type(&applies(&method, &[], true)));
        assert_eq!(applies(&method, &[JSON], true), Ok(true));
    }
    for method in [Method::POST, Method::PUT, Method::PATCH] {
        assert_eq!(applies(&method, &[JSON], false), Err(ValidationFault::Missing));
    }
}

/// Whether a body follows may be known only by its first bytes.
#[tokio::test]
async fn bodies_may_be_absent() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("user.json"), "true").unwrap();
    let mut checks = RequestChecks::new(&policies()).unwrap();
    SchemaSources::default().open(&mut checks, "users", directory.path()).await.unwrap();
    let (uri, headers) = (Uri::from_static("/"), HeaderMap::new());
    let unknown = |method| {
        let head = RequestHead {
            method,
            uri: &uri,
            headers: &headers,
            changes: ManifestChanges::default(),
            body: BodyPresence::Unknown,
        };
        checks.expected(0, &head)
    };
    let fault = unknown(&Method::POST).unwrap_err();
    assert_eq!(fault.detail().unwrap(), "Content-Type is missing; send application/json");
    let later = unknown(&Method::DELETE).unwrap().unwrap();
    assert_eq!((later.begin(), later.check(b""), later.check(b"1")), (Err(fault.clone()), Ok(()), Err(fault)));
}

/// A schema is read again when it changes; what is no schema changes nothing.
#[tokio::test]
async fn schemas_are_followed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("user.json");
    let sources = SchemaSources::default();
    let mut checks = RequestChecks::new(&policies()).unwrap();
    let problem = sources.open(&mut checks, "users", directory.path()).await.unwrap_err();
    assert!(problem.starts_with("validate.body: ") && problem.contains("user.json: it cannot be read"), "{problem}");
    fs::write(&path, "{\"type\":\"nmber\"}").unwrap();
    let problem = sources.open(&mut checks, "users", directory.path()).await.unwrap_err();
    assert!(problem.contains("user.json: line 1: /type: write one of"), "{problem}");
    fs::write(&path, "{\"type\":\"number\"}").unwrap();
    sources.open(&mut checks, "users", directory.path()).await.unwrap();
    let check = || expected(&checks, 0, &Method::POST, &[JSON], true).unwrap().unwrap();
    let number = || check().check_quickly(b"1") == Some(Ok(()));
    assert!(number());
    assert!(matches!(check().check(b"\"1\""), Err(ValidationFault::Schema(_))));
    assert_eq!(check().check(b""), Err(ValidationFault::Missing));
    assert!(matches!(check().check(b"{\"a\":1,\"a\":1}"), Err(ValidationFault::Json(_))));
    fs::write(&path, "{\"type\":\"strin\"}").unwrap();
    tokio::time::sleep(crate::live_files::POLL + crate::live_files::SETTLE * 4).await;
    assert!(number(), "the last good schema stays");
    fs::write(&path, "{\"type\":\"string\"}").unwrap();
    let changed = async {
        while number() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), changed).await.unwrap();
    assert_eq!(check().check(b"\"1\""), Ok(()));
    // A long body, or one that takes many steps, has its result later.
    let long = format!("\"{}\"", "a".repeat(QUICK_BYTES));
    assert_eq!((check().check_quickly(long.as_bytes()), check().check(long.as_bytes())), (None, Ok(())));
}

/// The fault says what is wrong with the type, and not that the body is no JSON.
#[test]
fn other_types_are_named() {
    let detail = |types: &[&str]| {
        let types = types.iter().map(|kind| (header::CONTENT_TYPE, HeaderValue::from_str(kind).unwrap()));
        ValidationFault::Type(OtherType::of(&types.collect(), "application/json")).detail().unwrap()
    };
    let form = "application/x-www-form-urlencoded";
    assert_eq!(detail(&[form]), format!("Content-Type is {form}; send application/json"));
    assert_eq!(detail(&[]), "Content-Type is missing; send application/json");
    assert_eq!(detail(&["a/b", "a/b"]), "Content-Type is there twice; send application/json");
    let long = detail(&[&"x".repeat(1_000)]);
    assert!(long.len() < 200 && long.contains('…'), "{long}");
}

/// A file that is broken or gone is told with its key, until it is good again; so is what may be a slip.
#[tokio::test]
async fn problems_and_hints_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("user.json");
    fs::write(&path, "{\"require\":[\"a\"]}").unwrap();
    let (sources, mut checks) = (SchemaSources::default(), RequestChecks::new(&policies()).unwrap());
    sources.open(&mut checks, "users", directory.path()).await.unwrap();
    assert_eq!(
        checks.hints(),
        [
            "validate.body: user.json: /require is no keyword; did you mean `required`?",
            "validate.body: user.json: no keyword of it checks anything, so that every body of JSON is valid",
        ]
    );
    assert_eq!(checks.problems(), [""; 0]);
    let soon = async |expected: &str| {
        let start = std::time::Instant::now();
        // A problem ends with what to do.
        let is_there = |shown: String| shown == expected || (!expected.is_empty() && shown.starts_with(expected));
        while !is_there(checks.problems().concat()) {
            assert!(start.elapsed().as_secs() < 20, "{expected}: {:?}", checks.problems());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    fs::write(&path, "").unwrap();
    soon(&format!("validate.body: {}: it is empty", path.display())).await;
    let moved = path.with_extension("old");
    fs::write(&path, "{\"required\":[\"a\"]}").unwrap();
    soon("").await;
    assert_eq!(checks.hints(), [""; 0]);
    // Moved away and back it has the same time and number.
    fs::rename(&path, &moved).unwrap();
    soon(&format!("validate.body: {}: it cannot be read: ", path.display())).await;
    fs::rename(&moved, &path).unwrap();
    soon("").await;
}
