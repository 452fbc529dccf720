//! Promise: a header that `[api]` does not check never reaches a service as its client has sent it, and a request needs no header that
//! the host takes from it or writes itself.

use http::Method;

use super::admission::refused;
use super::auth::create;
use crate::calls::local::{ALL, ask as call};
use crate::harness::host;

/// The value that clients send. No parameter may have it.
const SENT: &str = "sent-7";

/// Headers with required parameters, and whether a request of a client may be without one.
const HEADERS: [(&str, bool); 35] = [
    ("x-own", false),
    ("via", false),
    ("te", false),
    ("tracestate", false),
    ("traceparent", false),
    ("b3", false),
    ("x-b3-parentspanid", false),
    ("x-b3-new", false),
    ("x-forwarded", false),
    ("if-none-match", false),
    ("range", false),
    ("origin", false),
    ("connection", true),
    ("keep-alive", true),
    ("upgrade", true),
    ("http2-settings", true),
    ("proxy-connection", true),
    ("proxy-authorization", true),
    ("forwarded", true),
    ("x-forwarded-for", true),
    ("x-forwarded-proto", true),
    ("x-forwarded-host", true),
    ("x-forwarded-prefix", true),
    ("x-forwarded-client-cert", true),
    ("x-forwarded-new", true),
    ("x-real-ip", true),
    ("x-request-id", true),
    ("x_request_id", true),
    ("x-lodge-auth-subject", true),
    ("x-lodge-auth-new", true),
    ("lodge-call", true),
    // The manifest removes or sets these.
    ("x-api-key", true),
    ("x-set", true),
    ("x-removed", true),
    ("x-tier", true),
];

const MANIFEST: &str = "routes = ['/echo']\nauth = { api_keys = 'keys.list' }\napi = { openapi = 'api.json', base = '/echo' }\n\
    [headers]\nrequest.set = { x-set = 'manifest' }\nrequest.remove = 'x-removed'\n\
    [[rules]]\nwhen = 'request.method == \"GET\"'\nset = { x-tier = 'gold' }";

/// Whether a service has got what a client has sent in a header.
fn has_got(text: &str, name: &str) -> bool {
    text.lines().any(|line| line.split_once(": ").is_some_and(|(known, value)| known == name && value.contains(SENT)))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_checked_is_not_the_clients() {
    let paths = HEADERS.iter().enumerate().map(|(number, (name, _))| {
        let parameter =
            serde_json::json!({ "name": name, "in": "header", "required": true, "schema": { "type": "integer" } });
        (format!("/{number}/head"), serde_json::json!({ "get": { "parameters": [parameter] } }))
    });
    let paths: serde_json::Map<_, _> = paths.collect();
    let document = serde_json::json!({ "openapi": "3.1.0", "paths": paths }).to_string();
    let setup = host(&["echo", "caller"]);
    let key = create(&setup.directory.path().join("keys.list"), "ada", &[]);
    let setup = setup.manifest("echo", MANIFEST).manifest("caller", ALL).file("api.json", document.as_bytes());
    let host = setup.start().await;
    let key = ("x-api-key", key.as_str());
    for (number, (name, may_be_absent)) in HEADERS.into_iter().enumerate() {
        let path = format!("/echo/{number}/head");
        let ask = async |headers: &[(&str, &str)]| host.connect().await.ask(Method::GET, &path, headers, "").await;
        let without = ask(&[key]).await;
        match may_be_absent {
            true => assert_eq!(without.status, 200, "{name}: {}", without.text()),
            false => assert_eq!(refused(&without), (400, "parameter-invalid".into()), "{name}"),
        }
        // The key is one of the headers.
        let with = if name == key.0 { ask(&[key]).await } else { ask(&[key, (name, SENT)]).await };
        match with.status {
            200 => assert!(!has_got(&with.text(), name), "{name} is not checked: {}", with.text()),
            _ => assert_eq!(refused(&with), (400, "parameter-invalid".into()), "{name}"),
        }
        if !may_be_absent && name != "te" {
            assert_eq!(ask(&[key, (name, "7")]).await.status, 200, "{name}");
        }
    }
    // In calls the manifest sets and removes less.
    for name in ["x-own", "tracestate", "x-real-ip", "x-api-key", "x-set", "x-removed", "x-tier", "x-lodge-auth-new"] {
        let number = HEADERS.iter().position(|(known, _)| *known == name).unwrap();
        let called = call(&host, "caller", &format!("http://echo.internal/echo/{number}/head"), &[(name, SENT)]).await;
        let checked = called.status == 400 && called.problem() == "parameter-invalid";
        assert!(checked || called.status == 200 && !has_got(&called.text(), name), "{name}: {}", called.text());
    }
}
