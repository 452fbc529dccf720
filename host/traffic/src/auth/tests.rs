use std::time::Duration;

use super::api_keys::{KeyEntry, KeyFile};
use super::certificate::ClientCertificate;
use super::denial::DenialKind;
use super::*;
use lodge_base::config;
use lodge_manifest::Manifest;

/// The checks of a service with this manifest, and its API keys: `ada` with the scopes `read` and `write`, `bob` without
/// any, and `eve` whose key has expired.
fn service(manifest: &str) -> (Authentication, [String; 3]) {
    let mut file = KeyFile::default();
    let entry = |name: &str, scopes: &[&str], expires: Option<&str>| KeyEntry {
        name: name.to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        expires: expires.map(str::to_owned),
        ..KeyEntry::default()
    };
    let keys = [
        entry("ada", &["read", "write"], None),
        entry("bob", &[], None),
        entry("eve", &["read"], Some("2001-01-01T00:00:00Z")),
    ];
    let keys = keys.map(|entry| file.create(entry).unwrap());
    let limits = config::resolve(&[]).unwrap().config.limits;
    let manifest = Manifest::read("users", manifest, &limits, 1 << 30).unwrap();
    let live = Arc::new(LiveValue::new(KeyRing::read(&file.text()).unwrap()));
    let mut checks = Authentication::new("users", &manifest.policies).unwrap();
    checks.checks().for_each(|check| check.keys = Some(Arc::clone(&live)));
    (checks, keys)
}

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&str, &str)| {
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
    };
    let mut headers = HeaderMap::new();
    for (name, value) in fields.iter().map(field) {
        headers.append(name, value);
    }
    headers
}

fn cause(checks: &Authentication, route: usize, fields: &[(&str, &str)]) -> Option<Cause> {
    checks
        .check(route, &mut headers(fields), (RequestSender::Client(None), None), SystemTime::now())
        .err()
        .map(|denial| denial.cause)
}

const NONE: usize = usize::MAX;

#[test]
fn keys_in_a_header() {
    let (checks, [ada, bob, eve]) = service("auth = { api_keys = 'k' }");
    let mut good = headers(&[("x-api-key", &ada), ("accept", "*/*")]);
    let identity =
        checks.check(NONE, &mut good, (RequestSender::Client(None), None), SystemTime::now()).unwrap().unwrap();
    assert_eq!((identity.method(), identity.subject()), (AuthMethod::ApiKey, "ada"));
    let expected = [
        ("accept", "*/*"),
        ("x-lodge-auth-method", "api-key"),
        ("x-lodge-auth-subject", "ada"),
        ("x-lodge-auth-scopes", "read write"),
    ];
    assert_eq!(good, headers(&expected), "the key is removed");
    let check = |fields: &[(&str, &str)], expected| assert_eq!(cause(&checks, NONE, fields), expected, "{fields:?}");
    check(&[("X-API-Key", &bob)], None);
    check(&[], Some(Cause::Missing));
    check(&[("authorization", &format!("Bearer {ada}"))], Some(Cause::Missing));
    check(&[("x-api-key", "")], Some(Cause::Missing));
    check(&[("x-api-key", &format!("Bearer {ada}"))], Some(Cause::UnknownKey));
    check(&[("x-api-key", &eve)], Some(Cause::ExpiredKey));
    check(&[("x-api-key", &ada), ("x-api-key", &ada)], Some(Cause::Several));
    check(&[("x-api-key", "no"), ("x-api-key", &ada)], Some(Cause::Several));
    check(&[("x-api-key", &"a".repeat(MOST + 1))], Some(Cause::TooLong));
    check(&[("x_api_key", &ada)], Some(Cause::Missing));
}

#[test]
fn keys_as_bearer_tokens() {
    let (checks, [ada, ..]) = service("auth = { api_keys = 'k', header = 'authorization' }");
    let check = |value: &str, expected| {
        assert_eq!(cause(&checks, NONE, &[("authorization", value)]), expected, "{value}");
    };
    check(&format!("Bearer {ada}"), None);
    check(&format!("bearer   {ada}"), None);
    check(&ada, Some(Cause::NoBearer));
    check(&format!("Basic {ada}"), Some(Cause::NoBearer));
    check(&format!("Bearer{ada}"), Some(Cause::NoBearer));
    check("Bearer ", Some(Cause::NoBearer));
    check("", Some(Cause::Missing));
    check(&format!("Bearer {ada}, Bearer {ada}"), Some(Cause::UnknownKey));
    assert_eq!(cause(&checks, NONE, &[("x-api-key", &ada)]), Some(Cause::Missing));
}

#[test]
fn routes_have_checks_of_their_own() {
    let (checks, [ada, bob, _]) = service(
        "routes = ['/a', { path = '/b', auth = { scopes = ['write'] } }, { path = '/c', auth = false },
         { path = '/d', auth = { claims = { sub = 'bob' }, forward = true } }]
         auth = { api_keys = 'k' }",
    );
    let check = |route: usize, key: &str, expected| {
        assert_eq!(cause(&checks, route, &[("x-api-key", key)]), expected, "{route} {key}");
    };
    [0, NONE].into_iter().for_each(|route| check(route, &bob, None));
    check(0, "no", Some(Cause::UnknownKey));
    check(1, &ada, None);
    check(1, &bob, Some(Cause::Scope));
    check(2, "no", None);
    check(3, &bob, None);
    check(3, &ada, Some(Cause::Claim));
    // Without credentials, nobody is identified. The service sees none of those that clients send on all of its paths.
    let mut open = headers(&[("x-api-key", &ada), ("authorization", "Basic eDp5"), ("x_api_key", &ada)]);
    assert!(checks.check(2, &mut open, (RequestSender::Client(None), None), SystemTime::now()).unwrap().is_none());
    assert_eq!(open, headers(&[("authorization", "Basic eDp5")]));
    let (bearer, _) =
        service("routes = [{ path = '/a', auth = false }]\nauth = { api_keys = 'k', header = 'authorization' }");
    for (sent, seen) in [("Bearer a.b.c", None), ("Basic eDp5", Some("Basic eDp5"))] {
        let mut open = headers(&[("authorization", sent)]);
        assert!(bearer.check(0, &mut open, (RequestSender::Client(None), None), SystemTime::now()).unwrap().is_none());
        assert_eq!(open.get("authorization").map(HeaderValue::as_bytes), seen.map(str::as_bytes));
    }
    let mut forwarded = headers(&[("x-api-key", &bob)]);
    checks.check(3, &mut forwarded, (RequestSender::Client(None), None), SystemTime::now()).unwrap();
    assert_eq!(forwarded["x-api-key"], bob.as_str());
}

/// A service sees no credential that any of its checks takes, on whichever route, unless the manifest forwards it.
#[test]
fn no_route_sees_the_credentials_of_another() {
    let routes = "routes = [{ path = '/open', auth = false }, { path = '/login', auth = { passwords = 'p' } }, \
                  { path = '/both', auth = { api_keys = 'k', forward = true } }]\n";
    let (checks, [ada, ..]) = service(&format!("{routes}auth = {{ api_keys = 'k' }}"));
    let seen = |route: usize| {
        let mut sent = headers(&[("x-api-key", &ada), ("authorization", "Basic eDp5"), ("accept", "*/*")]);
        checks.check(route, &mut sent, (RequestSender::Client(None), None), SystemTime::now()).unwrap();
        ["x-api-key", "authorization", "accept"].map(|name| sent.contains_key(name))
    };
    assert_eq!(seen(0), [false, false, true]);
    assert_eq!(seen(NONE), [false, false, true]);
    assert_eq!(seen(2), [true, false, true], "forwarded is what the route itself takes");
    // Tokens as well, of a service that takes keys in the same header on one route only.
    let (checks, _) = service(
        "routes = [{ path = '/a', auth = { api_keys = 'k', header = 'authorization' } }, { path = '/b', auth = false }]",
    );
    let mut sent = headers(&[("authorization", "Bearer x")]);
    assert!(checks.check(1, &mut sent, (RequestSender::Client(None), None), SystemTime::now()).unwrap().is_none());
    assert!(sent.is_empty(), "{sent:?}");
}

/// What was issued once, and is not valid here or now, is no guess.
#[test]
fn old_credentials_are_no_guesses() {
    let (checks, [.., eve]) = service("auth = { api_keys = 'k' }");
    let guessed = |key: &str| cause(&checks, NONE, &[("x-api-key", key)]).map(Cause::is_guess);
    assert_eq!((guessed(&eve), guessed("lodge_key_x")), (Some(false), Some(true)));
    let none =
        [Cause::ExpiredToken, Cause::EarlyToken, Cause::Audience, Cause::Issuer, Cause::UnknownKid, Cause::Missing];
    assert!(!none.into_iter().any(Cause::is_guess));
    assert!([Cause::WrongPassword, Cause::Signature, Cause::Malformed].into_iter().all(Cause::is_guess));
}

#[test]
fn calls_are_trusted_unless_the_manifest_says_otherwise() {
    let (checks, [ada, ..]) = service("auth = { api_keys = 'k', scopes = 'admin' }");
    let mut call = headers(&[("x-api-key", &ada)]);
    let identity =
        checks.check(NONE, &mut call, (RequestSender::Service("orders"), None), SystemTime::now()).unwrap().unwrap();
    assert_eq!((identity.method(), identity.subject()), (AuthMethod::Call, "orders"));
    assert_eq!([&call["x-lodge-auth-method"], &call["x-lodge-auth-subject"]], ["call", "orders"]);
    let (checked, [ada, ..]) = service("auth = { api_keys = 'k', calls = 'checked' }");
    let check = |fields: &[(&str, &str)]| {
        let checked =
            checked.check(NONE, &mut headers(fields), (RequestSender::Service("orders"), None), SystemTime::now());
        checked.map(|identity| identity.unwrap().method()).map_err(|denial| denial.cause)
    };
    assert_eq!(check(&[]), Err(Cause::Missing));
    assert_eq!(check(&[("x-api-key", &ada)]), Ok(AuthMethod::ApiKey));
    // Messages and schedules are the host's own.
    let identity =
        checked.check(NONE, &mut HeaderMap::new(), (RequestSender::Host, None), SystemTime::now()).unwrap().unwrap();
    assert_eq!((identity.method(), identity.subject()), (AuthMethod::Host, "lodge"));
}

/// The challenges are those of RFC 6750 3, and never have the credentials in them.
#[test]
fn challenges_say_what_is_needed() {
    let challenge = |manifest: &str, header: &str, value: &str| {
        let (checks, [_, bob, _]) = service(manifest);
        let value = value.replace("BOB", &bob);
        let denial = checks
            .check(NONE, &mut headers(&[(header, &value)]), (RequestSender::Client(None), None), SystemTime::now())
            .unwrap_err();
        let [challenge] = &*denial.challenges else { panic!("{denial:?}") };
        (denial.cause.kind(), challenge.to_str().unwrap().to_owned())
    };
    let bearer = "auth = { api_keys = 'k', header = 'authorization', scopes = ['a', 'b'] }";
    let check = |manifest: &str, header: &str, value: &str, kind: DenialKind, expected: &str| {
        assert_eq!(challenge(manifest, header, value), (kind, expected.to_owned()));
    };
    check(bearer, "accept", "", DenialKind::Missing, "Bearer realm=\"users\"");
    let invalid = "Bearer realm=\"users\", error=\"invalid_token\"";
    check(bearer, "authorization", "Bearer x", DenialKind::Invalid, invalid);
    let scope = "Bearer realm=\"users\", error=\"insufficient_scope\", scope=\"a b\"";
    check(bearer, "authorization", "Bearer BOB", DenialKind::Insufficient, scope);
    let key = "ApiKey realm=\"users\", header=\"x-api-key\"";
    check("auth = { api_keys = 'k' }", "accept", "", DenialKind::Missing, key);
    check("auth = { api_keys = 'k' }", "x-api-key", "x", DenialKind::Invalid, key);
}

/// A key that is removed is refused from the next request on, whatever was verified before.
#[test]
fn what_is_replaced_is_forgotten() {
    let live = Arc::new(LiveValue::new(KeyRing::read("").unwrap()));
    let mut file = KeyFile::default();
    let key = file.create(KeyEntry { name: "ada".into(), ..KeyEntry::default() }).unwrap();
    let find = || live.load().find(key.as_bytes(), SystemTime::now() + Duration::from_secs(1)).is_ok();
    assert!(!find());
    live.replace(KeyRing::read(&file.text()).unwrap());
    assert!(find());
    file.revoke("ada");
    live.replace(KeyRing::read(&file.text()).unwrap());
    assert!(!find());
}

/// Without its files, a service lets nobody in.
#[test]
fn checks_are_closed_until_their_files_are_read() {
    let limits = config::resolve(&[]).unwrap().config.limits;
    let policies = |text: &str| Manifest::read("users", text, &limits, 1 << 30).unwrap().policies;
    let checks = Authentication::new("users", &policies("auth = { api_keys = 'k' }")).unwrap();
    assert_eq!(cause(&checks, NONE, &[("x-api-key", "anything")]), Some(Cause::Missing));
    assert!(
        Authentication::new("users", &policies("auth = false\nroutes = [{ path = '/a', auth = false }]")).is_none()
    );
}

/// The certificate of a connection, where a request has no other credentials.
#[test]
fn certificates_are_credentials() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let of = |uris: &[&str], dns: &[&str]| {
        ClientCertificate::new(HeaderValue::from_static("x"), uris, dns, now + Duration::from_secs(60))
    };
    let (checks, [ada, ..]) =
        service("auth = { api_keys = 'k', client_certificates = ['spiffe://a.test/*', 'a.test'] }");
    let check = |certificate: &ClientCertificate, fields: &[(&str, &str)], now: SystemTime| {
        let sender = RequestSender::Client(Some(certificate));
        let checked = checks.check(NONE, &mut headers(fields), (sender, None), now);
        let subject = checked.map(|identity| identity.map(|identity| identity.subject().to_owned()));
        subject.map_err(|denial| denial.cause)
    };
    let known = of(&["spiffe://b.test/x", "spiffe://a.test/x"], &["a.test"]);
    assert_eq!(check(&known, &[], now), Ok(Some("spiffe://a.test/x".into())), "URIs first");
    assert_eq!(check(&of(&[], &["b.test", "A.test"]), &[], now), Ok(Some("A.test".into())));
    assert_eq!(check(&of(&["spiffe://b.test/x"], &["b.test"]), &[], now), Err(Cause::Certificate));
    assert_eq!(check(&of(&[], &[]), &[], now), Err(Cause::Certificate));
    // A connection may last longer than its certificate.
    assert_eq!(check(&known, &[], now + Duration::from_secs(60)), Err(Cause::ExpiredCertificate));
    // Other credentials count first, and must be valid.
    assert_eq!(check(&known, &[("x-api-key", &ada)], now), Ok(Some("ada".into())));
    assert_eq!(check(&known, &[("x-api-key", "no")], now), Err(Cause::UnknownKey));
    // Where certificates are no credentials, one changes nothing.
    let (keys, _) = service("auth = { api_keys = 'k' }");
    let sender = RequestSender::Client(Some(&known));
    assert_eq!(keys.check(NONE, &mut HeaderMap::new(), (sender, None), now).unwrap_err().cause, Cause::Missing);
    // Scopes are those of keys and tokens.
    let (scoped, _) = service("auth = { api_keys = 'k', client_certificates = 'a.test', scopes = 'x' }");
    let denial = scoped.check(NONE, &mut HeaderMap::new(), (sender, None), now).unwrap_err();
    assert_eq!(denial.cause, Cause::Scope);
    let challenge = HeaderValue::from_static("ClientCertificate realm=\"users\"");
    assert!(denial.challenges.contains(&challenge), "{:?}", denial.challenges);
    // A call has no connection.
    let (called, _) = service("auth = { client_certificates = 'a.test', calls = 'checked' }");
    let call = called.check(NONE, &mut HeaderMap::new(), (RequestSender::Service("orders"), None), now).unwrap_err();
    assert_eq!(call.cause, Cause::Missing);
}
