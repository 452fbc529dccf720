use std::fs;

use super::sources::SchemaSources;
use super::*;
use lodge_manifest::policies::PolicySettings;

fn policies() -> Policies {
    let validation = Some(Validation::Body(BodySchema { schema: "user.json".into(), size: 1 << 20 }));
    let service = PolicySettings { validation, ..PolicySettings::default() };
    let off = PolicySettings { validation: Some(Validation::Off), ..PolicySettings::default() };
    let routes = vec![("/a".to_owned(), PolicySettings::default()), ("/b".to_owned(), off)];
    Policies { service, routes, ..Policies::default() }
}

/// What has no JSON is refused, so that nothing is passed on that was not checked.
#[test]
fn heads_decide_what_is_read() {
    let checks = BodyChecks::new(&policies()).unwrap();
    assert!(checks.of_route(1).is_none() && BodyChecks::new(&Policies::default()).is_none());
    let check = checks.of_route(0).unwrap();
    assert!(Arc::ptr_eq(check, checks.of_route(usize::MAX).unwrap()), "calls have the checks of the service");
    let applies = |method: &Method, fields: &[(header::HeaderName, &str)], has_body| {
        let fields = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        let mut headers = HeaderMap::new();
        fields.for_each(|(name, value)| {
            headers.append(name, value);
        });
        check.applies(method, &headers, has_body)
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
        assert_eq!(applies(&Method::POST, &[(header::CONTENT_TYPE, kind)], true), Err(BodyFault::Type), "{kind}");
    }
    let json = (header::CONTENT_TYPE, "application/json");
    assert_eq!(applies(&Method::POST, &[], true), Err(BodyFault::Type));
    assert_eq!(applies(&Method::POST, &[json.clone(), json.clone()], true), Err(BodyFault::Type));
    for (coding, expected) in
        [("gzip", Err(BodyFault::Coding)), ("identity, br", Err(BodyFault::Coding)), ("identity", Ok(true))]
    {
        assert_eq!(
            applies(&Method::PUT, &[json.clone(), (header::CONTENT_ENCODING, coding)], true),
            expected,
            "{coding}"
        );
    }
    // A body counts whatever the method is.
    for method in [Method::GET, Method::HEAD, Method::DELETE, Method::OPTIONS] {
        assert_eq!(applies(&method, &[], false), Ok(false));
        assert_eq!(applies(&method, &[], true), Err(BodyFault::Type));
        assert_eq!(applies(&method, std::slice::from_ref(&json), true), Ok(true));
    }
    for method in [Method::POST, Method::PUT, Method::PATCH] {
        assert_eq!(applies(&method, std::slice::from_ref(&json), false), Err(BodyFault::Missing));
    }
    // Without its schema, nothing is valid.
    assert_eq!(check.check(b"1"), Err(BodyFault::Unavailable));
    assert_eq!(check.check_quickly(b"1"), Some(Err(BodyFault::Unavailable)));
}

/// A schema is read again when it changes; what is no schema changes nothing.
#[tokio::test]
async fn schemas_are_followed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("user.json");
    let sources = SchemaSources::default();
    let mut checks = BodyChecks::new(&policies()).unwrap();
    let problem = sources.open(&mut checks, directory.path()).await.unwrap_err();
    assert!(problem.starts_with("validate.body: ") && problem.contains("user.json: it cannot be read"), "{problem}");
    fs::write(&path, "{\"type\":\"nmber\"}").unwrap();
    let problem = sources.open(&mut checks, directory.path()).await.unwrap_err();
    assert!(problem.contains("user.json: /type: write one of"), "{problem}");
    fs::write(&path, "{\"type\":\"number\"}").unwrap();
    sources.open(&mut checks, directory.path()).await.unwrap();
    let check = Arc::clone(checks.of_route(0).unwrap());
    let number = || check.check_quickly(b"1") == Some(Ok(()));
    assert!(number());
    assert!(matches!(check.check(b"\"1\""), Err(BodyFault::Schema(_))));
    assert_eq!(check.check(b""), Err(BodyFault::Missing));
    assert!(matches!(check.check(b"{\"a\":1,\"a\":1}"), Err(BodyFault::Json(_))));
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
    assert_eq!(check.check(b"\"1\""), Ok(()));
    // A long body, or one that takes many steps, has its result later.
    let long = format!("\"{}\"", "a".repeat(QUICK_BYTES));
    assert_eq!((check.check_quickly(long.as_bytes()), check.check(long.as_bytes())), (None, Ok(())));
}
