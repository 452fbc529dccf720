mod id_tokens;
mod issuer;

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::json;

use self::issuer::{CLAIMS, ISSUER, Issuer, NOW};
use super::super::identity::AuthMethod;
use super::*;
use lodge_base::config;
use lodge_manifest::Manifest;
use lodge_manifest::auth::Auth;
use lodge_manifest::auth::jwt::ALGORITHMS;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A verifier with the keys of `issuer`, and these settings besides its own.
fn verifier(issuer: &Issuer, more: &str) -> Verifier {
    let text = format!("[auth.jwt]\nissuer = '{ISSUER}'\nkeys = 'k'\n{more}");
    let text = if more.contains("audience") { text } else { format!("{text}\naudience = ['users', 'orders']") };
    let limits = config::resolve(&[]).unwrap().config.limits;
    let manifest = Manifest::read("users", &text, &limits, 1 << 30).unwrap();
    let Some(Auth::Identified(settings)) = manifest.policies.service.auth else { panic!() };
    Verifier::new(settings.jwt.unwrap(), Arc::new(LiveValue::new(KeySet::read(&issuer.jwks()).unwrap())))
}

/// The claims with some of them replaced; `null` removes one.
fn claims(changes: serde_json::Value) -> String {
    let mut all: serde_json::Value = serde_json::from_str(CLAIMS).unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            serde_json::Value::Null => drop(all.as_object_mut().unwrap().remove(name)),
            value => all[name] = value.clone(),
        }
    }
    all.to_string()
}

#[test]
fn every_algorithm_verifies_its_own_signatures() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer, "");
    for (name, algorithm) in ALGORITHMS {
        let token = issuer.sign(name, &format!("{{\"alg\":\"{name}\",\"kid\":\"{}\"}}", issuer.kid(name)), CLAIMS);
        let identity = verifier.verify(token.as_bytes(), at(NOW)).unwrap_or_else(|cause| panic!("{name}: {cause:?}"));
        assert_eq!((identity.method(), identity.subject(), identity.issuer()), (AuthMethod::Jwt, "ann", ISSUER));
        // Where only others are allowed, it is not.
        let other = if name == "ES256" { "RS256" } else { "ES256" };
        let others = self::verifier(&issuer, &format!("algorithms = '{other}'"));
        assert_eq!(others.verify(token.as_bytes(), at(NOW)).unwrap_err(), Cause::Algorithm, "{algorithm:?}");
        let only = self::verifier(&issuer, &format!("algorithms = ['{other}', '{name}']"));
        assert!(only.verify(token.as_bytes(), at(NOW)).is_ok(), "{name}");
    }
}

#[test]
fn claims_may_have_any_of_their_forms() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer, "");
    for changes in [
        json!({ "aud": ["x", "orders"] }),
        json!({ "aud": "orders" }),
        json!({ "nbf": NOW, "iat": NOW + 600 }),
        json!({ "nbf": NOW + 30 }),
        json!({ "exp": NOW as f64 + 0.5, "nbf": null }),
        json!({ "exp": NOW - 29 }),
        json!({ "scope": null, "scp": ["a", "b"] }),
        json!({ "scope": " a  b " }),
        json!({ "sub": "\u{fc}\r\nx" }),
    ] {
        let token = issuer.es256(&claims(changes.clone()));
        let verified = verifier.verify(token.as_bytes(), at(NOW));
        assert!(verified.is_ok(), "{changes}: {verified:?}");
    }
    for kind in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
        let header = format!("{{\"alg\":\"ES256\",\"typ\":\"{kind}\",\"kid\":\"es256\"}}");
        assert!(verifier.verify(issuer.sign("ES256", &header, CLAIMS).as_bytes(), at(NOW)).is_ok(), "{kind}");
    }
    // Without a name, the only key that fits is meant.
    let unnamed = issuer.sign("ES256", "{\"alg\":\"ES256\"}", CLAIMS);
    assert!(verifier.verify(unnamed.as_bytes(), at(NOW)).is_ok());
    let any = self::verifier(&issuer, "audience = '*'");
    for changes in [json!({ "aud": null }), json!({ "aud": "elsewhere" })] {
        assert!(any.verify(issuer.es256(&claims(changes)).as_bytes(), at(NOW)).is_ok());
    }
}

/// Tokens whose signature is right, and that are not valid all the same.
#[test]
fn signed_tokens_that_are_refused() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer, "");
    let check = |token: &str, expected: Cause, what: &str| {
        assert_eq!(verifier.verify(token.as_bytes(), at(NOW)).map(drop), Err(expected), "{what}");
    };
    for (changes, expected) in [
        (json!({ "exp": null }), Cause::Claims),
        (json!({ "exp": "2030-01-01" }), Cause::Claims),
        (json!({ "exp": NOW.to_string() }), Cause::Claims),
        (json!({ "exp": NOW - 30 }), Cause::ExpiredToken),
        (json!({ "exp": 0 }), Cause::ExpiredToken),
        (json!({ "exp": -1 }), Cause::ExpiredToken),
        (json!({ "exp": -1e300 }), Cause::ExpiredToken),
        (json!({ "nbf": NOW + 31 }), Cause::EarlyToken),
        (json!({ "nbf": 1e300 }), Cause::EarlyToken),
        (json!({ "nbf": [NOW] }), Cause::Claims),
        (json!({ "iat": "now" }), Cause::Claims),
        (json!({ "iss": null }), Cause::Issuer),
        (json!({ "iss": format!("{ISSUER}/") }), Cause::Issuer),
        (json!({ "iss": ISSUER.to_uppercase() }), Cause::Issuer),
        (json!({ "iss": [ISSUER] }), Cause::Issuer),
        (json!({ "aud": null }), Cause::Audience),
        (json!({ "aud": "user" }), Cause::Audience),
        (json!({ "aud": "users orders" }), Cause::Audience),
        (json!({ "aud": [] }), Cause::Audience),
        (json!({ "aud": ["x", "y"] }), Cause::Audience),
        (json!({ "aud": ["users", 7] }), Cause::Claims),
        (json!({ "aud": { "users": true } }), Cause::Claims),
        (json!({ "aud": vec!["users"; 257] }), Cause::Claims),
        (json!({ "sub": null }), Cause::Claims),
        (json!({ "sub": "" }), Cause::Claims),
        (json!({ "sub": 7 }), Cause::Claims),
        (json!({ "sub": "x".repeat(513) }), Cause::Claims),
        (json!({ "scope": 7 }), Cause::Claims),
        (json!({ "scope": ["a b"] }), Cause::Claims),
        (json!({ "scope": "a\"b" }), Cause::Claims),
        (json!({ "scope": "a\nb" }), Cause::Claims),
        (json!({ "x": "x".repeat(8 << 10) }), Cause::TooLong),
    ] {
        check(&issuer.es256(&claims(changes.clone())), expected, &changes.to_string());
    }
    let twice = CLAIMS.replacen('{', "{\"sub\":\"root\",", 1);
    for payload in [&twice, "[]", "7", "\"x\"", "null", "{}x", "not json", ""] {
        check(&issuer.es256(payload), Cause::Malformed, payload);
    }
    for header in [
        "\"crit\":[\"exp\"],\"exp\":1",
        "\"crit\":[]",
        "\"crit\":null",
        "\"b64\":false",
        "\"zip\":\"DEF\"",
        "\"enc\":\"A256GCM\"",
        "\"cty\":\"JWT\"",
        "\"typ\":\"logout+jwt\"",
        "\"typ\":\"dpop+jwt\"",
        "\"typ\":\"\"",
        "\"typ\":7",
        "\"kid\":7",
        "\"kid\":null",
        "\"kid\":\"\"",
        "\"alg\":\"ES256\"",
        "\"\\u0061lg\":\"none\"",
    ] {
        let token = issuer.sign("ES256", &format!("{{\"alg\":\"ES256\",{header}}}"), CLAIMS);
        check(&token, Cause::Malformed, header);
    }
    for header in ["{\"kid\":\"es256\"}", "{\"alg\":7}", "{\"alg\":null}", "[\"ES256\"]", "ES256"] {
        check(&issuer.sign("ES256", header, CLAIMS), Cause::Malformed, header);
    }
}

/// A token chooses among the keys of the issuer and what each is for, and nothing else.
#[test]
fn tokens_do_not_choose_how_they_are_verified() {
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let verifier = verifier(&issuer, "");
    let check = |token: &str, expected: Cause, what: &str| {
        assert_eq!(verifier.verify(token.as_bytes(), at(NOW)).map(drop), Err(expected), "{what}");
    };
    let unsigned = |header: &str, signature: &str| {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{signature}", encode(header), encode(CLAIMS))
    };
    for name in
        ["none", "None", "NONE", "nOnE", "", "HS256", "HS384", "HS512", "RS1", "ES512", "ES256K", "es256", "A128KW"]
    {
        for signature in ["", "AAAA"] {
            check(&unsigned(&format!("{{\"alg\":\"{name}\"}}"), signature), Cause::Algorithm, name);
        }
    }
    // An HMAC with the public key as secret, in all its forms.
    for secret in issuer.public_keys() {
        for name in ["HS256", "RS256", "ES256", "EdDSA"] {
            let header = format!("{{\"alg\":\"{name}\",\"kid\":\"{}\"}}", issuer.kid(name));
            let token = issuer.hmac(&secret, &header);
            let expected = if name == "HS256" { Cause::Algorithm } else { Cause::Signature };
            check(&token, expected, name);
        }
    }
    // Keys of another type, and algorithms that a key is not for.
    for (signed, named, kid, expected) in [
        ("ES256", "ES384", "es256", Cause::Algorithm),
        ("ES384", "ES256", "es384", Cause::Algorithm),
        ("ES256", "RS256", "es256", Cause::Algorithm),
        ("EdDSA", "ES256", "ed", Cause::Algorithm),
        ("RS256", "PS256", "rsa", Cause::Signature),
        ("PS256", "RS256", "rsa", Cause::Signature),
        ("RS256", "RS512", "rsa", Cause::Signature),
        ("RS256", "RS256", "only-ps256", Cause::Algorithm),
        ("ES256", "ES256", "ed", Cause::Algorithm),
        ("ES256", "ES256", "../es256", Cause::UnknownKid),
        ("ES256", "ES256", "/etc/passwd", Cause::UnknownKid),
        ("ES256", "ES256", "es256\u{0}", Cause::UnknownKid),
        ("ES256", "ES256", "ES256", Cause::UnknownKid),
        ("ES256", "ES256", "https://i.example/jwks#es256", Cause::UnknownKid),
        ("RS256", "RS256", "' OR 1=1 --", Cause::UnknownKid),
    ] {
        let header = json!({ "alg": named, "kid": kid }).to_string();
        check(&issuer.sign(signed, &header, CLAIMS), expected, &header);
    }
    // Two keys fit a token for RSA that names none.
    check(&issuer.sign("PS256", "{\"alg\":\"PS256\"}", CLAIMS), Cause::UnknownKid, "no kid");
    // A key that the token brings, or tells where to fetch.
    let foreign: serde_json::Value = serde_json::from_str(&other.jwks()).unwrap();
    let own = foreign["keys"].as_array().unwrap().iter().find(|key| key["kid"] == "es256").unwrap();
    for more in [
        json!({ "jwk": own }),
        json!({ "jku": "https://evil.example/jwks.json" }),
        json!({ "x5u": "https://evil.example/cert.pem" }),
        json!({ "x5c": ["AAAA"] }),
    ] {
        let mut header = json!({ "alg": "ES256", "kid": "es256" });
        more.as_object().unwrap().iter().for_each(|(name, value)| header[name] = value.clone());
        check(&other.sign("ES256", &header.to_string(), CLAIMS), Cause::Signature, &more.to_string());
    }
}

/// A signature has one form, and covers every byte.
#[test]
fn signatures_have_one_form() {
    let issuer = Issuer::new();
    let verifier = verifier(&issuer, "");
    let good = issuer.es256(CLAIMS);
    let [header, payload, signature] = &*good.split('.').collect::<Vec<_>>() else { panic!("{good}") };
    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let check = |token: String, expected: Cause| {
        assert_eq!(verifier.verify(token.as_bytes(), at(NOW)).map(drop), Err(expected), "{token}");
    };
    let with = |signature: &[u8]| format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(signature));
    assert!(verifier.verify(with(&bytes).as_bytes(), at(NOW)).is_ok());
    check(with(&issuer.der(&format!("{header}.{payload}"))), Cause::Signature);
    let (r, s) = bytes.split_at(32);
    let zero = [0; 32];
    // The order of P-256.
    let order = hex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
    for (r, s) in [(&zero[..], &zero[..]), (r, &zero), (&zero, s), (&order, s), (r, &order), (&order, &order), (s, r)] {
        check(with(&[r, s].concat()), Cause::Signature);
    }
    check(with(&bytes[..63]), Cause::Signature);
    check(with(&[&bytes[..], &[0]].concat()), Cause::Signature);
    check(with(&[0; 64]), Cause::Signature);
    check(with(&[0; 1]), Cause::Signature);
    // Every byte that was signed counts.
    let other = URL_SAFE_NO_PAD.encode(claims(json!({ "sub": "root" })));
    check(format!("{header}.{other}.{signature}"), Cause::Signature);
    let spaced = URL_SAFE_NO_PAD.encode("{\"alg\":\"ES256\", \"kid\":\"es256\"}");
    check(format!("{spaced}.{payload}.{signature}"), Cause::Signature);
    // Base64 has one spelling.
    check(format!("{header}.{payload}.{}", STANDARD.encode(&bytes)), Cause::Malformed);
    check(format!("{header}.{payload}.{}+/", &signature[..84]), Cause::Malformed);
    check(format!("{header}.{payload}.{}", URL_SAFE.encode(&bytes)), Cause::Malformed);
    // The last letter has bits that mean nothing.
    let last = signature.chars().next_back().unwrap();
    let twin = char::from(last as u8 + 1);
    check(format!("{header}.{payload}.{}{twin}", &signature[..signature.len() - 1]), Cause::Malformed);
    check(format!("{header}.{payload} .{signature}"), Cause::Signature);
    for token in [
        format!("{header}.{payload}"),
        format!("{header}.{payload}."),
        format!("{header}..{signature}"),
        format!(".{payload}.{signature}"),
        format!("{good}."),
        format!("{good}.{signature}"),
        format!("{header}.{payload}.{signature}\n"),
        format!(" {good}"),
        format!("{good}\u{0}"),
        format!("{good}="),
        "..".to_owned(),
        "...".to_owned(),
        ".".repeat(8 << 10),
        "a".repeat(100),
        String::new(),
    ] {
        check(token, Cause::Malformed);
    }
    check("a".repeat((8 << 10) + 1), Cause::TooLong);
    assert_eq!(verifier.verify(b"\xff.\xff.\xff", at(NOW)).map(drop), Err(Cause::Malformed));
}

/// A token that was verified before is checked against the clock and the keys of now.
#[test]
fn what_was_verified_before_ends_all_the_same() {
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let verifier = verifier(&issuer, "");
    let token = issuer.es256(&claims(json!({ "exp": NOW + 60, "nbf": NOW })));
    let verify = |seconds: u64| verifier.verify(token.as_bytes(), at(seconds));
    let first = verify(NOW).unwrap();
    assert!(Arc::ptr_eq(&first, &verify(NOW + 1).unwrap()), "it is remembered");
    assert_eq!(verify(NOW + 90).unwrap_err(), Cause::ExpiredToken);
    assert_eq!(verify(NOW - 31).unwrap_err(), Cause::EarlyToken);
    assert!(verify(NOW + 89).is_ok());
    // The key is gone, comes back, and may not be used any more.
    verifier.keys.replace(KeySet::read(&other.jwks()).unwrap());
    assert_eq!(verify(NOW).unwrap_err(), Cause::Signature);
    verifier.keys.replace(KeySet::read(&issuer.jwks()).unwrap());
    assert!(verify(NOW).is_ok());
    verifier.keys.replace(KeySet::read(&issuer.jwks()).unwrap().until(Instant::now()));
    assert_eq!(verify(NOW).unwrap_err(), Cause::NoKeys);
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
