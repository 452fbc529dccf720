//! ID tokens, good and bad ones.

use serde_json::json;

use super::super::id_token;
use super::*;

const NONCE: &str = "n-0S6_WzA2Mj";

fn id_claims(changes: serde_json::Value) -> String {
    let mut all = json!({ "iat": NOW - 1, "nonce": NONCE, "email": "ann@example.com" });
    all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    claims(all)
}

#[test]
fn id_tokens_are_for_one_login() {
    let issuer = Issuer::new();
    let keys = KeySet::read(&issuer.jwks()).unwrap();
    let settings = verifier(&issuer, "audience = 'users'").settings;
    let verify = |token: &str| id_token::verify(&settings, &keys, token, NONCE, at(NOW));
    let good = [
        json!({}),
        json!({ "azp": "users" }),
        json!({ "aud": ["users"] }),
        json!({ "aud": ["others", "users"], "azp": "users" }),
        json!({ "iat": NOW + 30 }),
        json!({ "iat": NOW - 630 }),
    ];
    for changes in good {
        let token =
            verify(&issuer.es256(&id_claims(changes.clone()))).unwrap_or_else(|cause| panic!("{changes}: {cause:?}"));
        assert_eq!((token.subject.as_str(), &token.claims["email"]), ("ann", &json!("ann@example.com")));
    }
    for (changes, cause) in [
        (json!({ "nonce": "another" }), Cause::Nonce),
        (json!({ "nonce": null }), Cause::Nonce),
        (json!({ "nonce": [NONCE] }), Cause::Nonce),
        (json!({ "nonce": "" }), Cause::Nonce),
        (json!({ "iss": "https://evil.example" }), Cause::Issuer),
        (json!({ "iss": format!("{ISSUER}/") }), Cause::Issuer),
        (json!({ "aud": "others" }), Cause::Audience),
        (json!({ "aud": null }), Cause::Audience),
        (json!({ "aud": ["users", "others"] }), Cause::Audience),
        (json!({ "aud": ["users", "others"], "azp": "others" }), Cause::Audience),
        (json!({ "azp": "others" }), Cause::Audience),
        (json!({ "azp": 7 }), Cause::Claims),
        (json!({ "sub": null }), Cause::Claims),
        (json!({ "sub": "" }), Cause::Claims),
        (json!({ "iat": null }), Cause::Claims),
        (json!({ "iat": "1" }), Cause::Claims),
        (json!({ "iat": NOW + 31 }), Cause::EarlyToken),
        (json!({ "iat": NOW - 632 }), Cause::ExpiredToken),
        (json!({ "exp": NOW - 31 }), Cause::ExpiredToken),
        (json!({ "exp": null }), Cause::Claims),
        (json!({ "nbf": NOW + 31 }), Cause::EarlyToken),
    ] {
        assert_eq!(verify(&issuer.es256(&id_claims(changes.clone()))).unwrap_err(), cause, "{changes}");
    }
    let text = id_claims(json!({}));
    let header = |header: &str| verify(&issuer.sign("ES256", header, &text)).map(|token| token.subject);
    assert_eq!(header(r#"{"alg":"ES256","typ":"JWT"}"#).unwrap(), "ann");
    for (fields, cause) in [
        (r#"{"alg":"none"}"#, Cause::Algorithm),
        (r#"{"alg":"HS256","kid":"es256"}"#, Cause::Algorithm),
        (r#"{"alg":"ES256","kid":"es256","typ":"at+jwt"}"#, Cause::Malformed),
        (r#"{"alg":"ES256","kid":"es256","typ":"application/AT+JWT"}"#, Cause::Malformed),
        (r#"{"alg":"ES256","kid":"es256","typ":"logout+jwt"}"#, Cause::Malformed),
        (r#"{"alg":"ES256","kid":"unknown"}"#, Cause::UnknownKid),
        (r#"{"alg":"ES384","kid":"es384"}"#, Cause::Signature),
    ] {
        assert_eq!(header(fields).unwrap_err(), cause, "{fields}");
    }
    let twice = format!("{{\"sub\":\"eve\",{}", text.strip_prefix('{').unwrap());
    assert_eq!(verify(&issuer.es256(&twice)).unwrap_err(), Cause::Malformed);
    assert_eq!(verify(&issuer.es256(&id_claims(json!({ "x": "x".repeat(9000) })))).unwrap_err(), Cause::TooLong);
    let none = KeySet::none(std::time::Instant::now());
    assert_eq!(id_token::verify(&settings, &none, &issuer.es256(&text), NONCE, at(NOW)).unwrap_err(), Cause::NoKeys);
    let other = Issuer::new();
    assert_eq!(verify(&other.es256(&text)).unwrap_err(), Cause::Signature);
    let only = verifier(&issuer, "audience = 'users'\nalgorithms = 'RS256'").settings;
    let refused = id_token::verify(&only, &keys, &issuer.es256(&text), NONCE, at(NOW));
    assert_eq!(refused.unwrap_err(), Cause::Algorithm);
}
