use serde_json::json;

use super::*;

fn written(changes: &Value) -> Result<ProviderUrls, String> {
    let mut fields = json!({
        "issuer": "https://i.example",
        "authorization_endpoint": "https://i.example/authorize?tenant=1",
        "token_endpoint": "https://i.example/token",
        "jwks_uri": "https://keys.example/jwks",
    });
    for (name, value) in changes.as_object().unwrap() {
        fields[name] = value.clone();
    }
    ProviderUrls::read(fields.as_object().unwrap(), "https://i.example")
}

#[test]
fn configurations() {
    let plain = written(&json!({})).unwrap();
    assert_eq!((plain.basic, plain.names_itself, plain.end_session.is_some()), (true, false, false));
    let methods = |list: &[&str]| written(&json!({ "token_endpoint_auth_methods_supported": list })).unwrap().basic;
    assert!(methods(&["client_secret_post", "client_secret_basic"]) && methods(&["private_key_jwt"]));
    assert!(!methods(&["client_secret_post"]));
    let more = json!({ "end_session_endpoint": "https://i.example/end", "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": true });
    assert!(written(&more).is_ok_and(|read| read.names_itself && read.end_session.is_some()));
    for (changes, expected) in [
        (json!({ "issuer": "https://i.example/" }), "another issuer, `https://i.example/`; write `auth.login.issuer`"),
        (
            json!({ "issuer": format!("a\u{1b}{}", "b".repeat(1000)) }),
            &format!("`a\\u{{1b}}{}`", "b".repeat(SHOWN - 7)),
        ),
        (json!({ "issuer": "https://evil.example" }), "another issuer"),
        (json!({ "issuer": ["https://i.example"] }), "has no `issuer`"),
        (json!({ "token_endpoint": "http://i.example/token" }), "`token_endpoint` of its configuration is no https"),
        (json!({ "token_endpoint": "http://127.0.0.1/token" }), "`token_endpoint`"),
        (json!({ "token_endpoint": "https://u:p@i.example/" }), "`token_endpoint`"),
        (json!({ "authorization_endpoint": "javascript:alert(1)" }), "`authorization_endpoint`"),
        (json!({ "authorization_endpoint": "https://i.example/#x" }), "`authorization_endpoint`"),
        (json!({ "jwks_uri": null }), "`jwks_uri` of its configuration is no text"),
        (json!({ "jwks_uri": "file:///etc/passwd" }), "`jwks_uri`"),
        (json!({ "end_session_endpoint": "/end" }), "`end_session_endpoint`"),
        (json!({ "code_challenge_methods_supported": ["plain"] }), "S256"),
    ] {
        let problem = written(&changes).unwrap_err();
        assert!(problem.contains(expected), "{changes}: {problem}");
    }
}

#[test]
fn responses_to_codes() {
    let check = |status: u16, body: &str| {
        granted(StatusCode::from_u16(status).unwrap(), body.as_bytes()).map(|granted| granted.id_token)
    };
    assert_eq!(check(200, r#"{"id_token":"a.b.c","scope":"openid"}"#), Ok("a.b.c".into()));
    for (status, body, expected, part) in [
        (400, r#"{"error":"invalid_grant"}"#, Cause::LoginRefused, "400 Bad Request and the error `invalid_grant`"),
        (401, r#"{"error":"invalid_client"}"#, Cause::ClientRefused, "`invalid_client`; check `auth.login.client_id`"),
        (400, r#"{"error":"unauthorized_client"}"#, Cause::ClientRefused, "`unauthorized_client`; check"),
        (401, "", Cause::ClientRefused, "401 Unauthorized; check"),
        (400, r#"{"error":"invalid_request"}"#, Cause::NoProvider, "`invalid_request`"),
        (500, r#"{"error":"invalid_client"}"#, Cause::NoProvider, "responded with 500"),
    ] {
        let (cause, why) = check(status, body).unwrap_err();
        assert!(cause == expected && why.contains(part), "{body}: {cause:?} {why}");
    }
    for (status, body, expected) in [
        (400, "{\"error\":\"a\\nb\\u001b[31m\"}", "the error `ab[31m`"),
        (500, r#"{"error":"invalid_grant"}"#, "responded with 500"),
        (302, "", "responded with 302"),
        (200, "", "no ID token"),
        (200, r#"{"id_token":7}"#, "no ID token"),
        (200, r#"{"id_token":"a","scope":null}"#, "`scope`"),
        (200, r#"{"id_token":"a","scope":7}"#, "`scope`"),
        (200, r#"{"id_token":"a","scope":{"openid":true}}"#, "`scope`"),
        (200, r#"{"id_token":"a","scope":["openid",null]}"#, "`scope`"),
        (200, r#"{"id_token":"a","id_token":"b"}"#, "no ID token"),
    ] {
        let (cause, problem) = check(status, body).unwrap_err();
        assert!(cause == Cause::NoProvider && problem.contains(expected), "{body}: {problem}");
    }
}

#[test]
fn scopes_that_were_granted() {
    for (more, expected) in [
        ("", None),
        (r#","scope":"openid email""#, Some("openid email")),
        (r#","scope":["openid","email"]"#, Some("openid email")),
        (r#","scope":[]"#, Some("")),
        (r#","scope":"""#, Some("")),
    ] {
        let granted = granted(StatusCode::OK, format!(r#"{{"id_token":"a"{more}}}"#).as_bytes()).unwrap();
        assert_eq!(granted.scope.as_deref(), expected, "{more}");
    }
}

#[test]
fn credentials_are_encoded() {
    let shown = basic("a:b", "p w%").unwrap();
    let text = shown.to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
    assert_eq!(STANDARD.decode(text).unwrap(), b"a%3Ab:p+w%25");
}
