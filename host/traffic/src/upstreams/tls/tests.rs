use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lodge_manifest::auth::certificate::CertificatePattern;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn pem(kind: &str, der: &[u8]) -> String {
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(der))
}

fn text(authority: &Authority) -> String {
    pem("CERTIFICATE", authority.der())
}

/// A certificate for these names, and its key.
fn issue(authority: &Authority, names: &[&str]) -> (CertificateDer<'static>, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    for name in names {
        let is_uri = name.contains("://");
        let name = (*name).try_into().unwrap();
        params.subject_alt_names.push(if is_uri { SanType::URI(name) } else { SanType::DnsName(name) });
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (certificate.der().clone(), pem("PRIVATE KEY", &key.serialize_der()))
}

/// Only the names of a chain that is valid count, and any of them may be the one.
#[test]
fn replicas_have_one_of_the_names() {
    let (trusted, other) = (authority(), authority());
    let roots = Arc::new(pem::authorities(text(&trusted).as_bytes()).unwrap());
    let provider = rustls::crypto::ring::default_provider();
    let names = [
        CertificatePattern::Uri("spiffe://a.test/users".into()),
        CertificatePattern::Below("spiffe://a.test/jobs/".into()),
        CertificatePattern::Label(".users.test".into()),
    ];
    let verifier = NamedVerifier::new(roots, &names, &provider);
    let verify = |by: &Authority, names: &[&str]| {
        let (certificate, _) = issue(by, names);
        let server = ServerName::try_from("10.0.0.7").unwrap();
        let verified = verifier.verify_server_cert(&certificate, &[], &server, &[], UnixTime::now());
        verified.map(|_| ()).map_err(|error| error.to_string())
    };
    for names in [&["spiffe://a.test/users"][..], &["spiffe://b.test/x", "spiffe://a.test/jobs/1"], &["x.users.test"]] {
        assert_eq!(verify(&trusted, names), Ok(()), "{names:?}");
        // Both authorities have the same name.
        assert!(verify(&other, names).unwrap_err().contains("BadSignature"), "{names:?}");
    }
    for names in [&["spiffe://a.test/orders"][..], &["users.test", "a.test"], &["spiffe://a.test/users/x"], &[]] {
        let error = verify(&trusted, names).unwrap_err();
        assert!(error.contains("upstream.tls.names has spiffe://a.test/users, spiffe://a.test/jobs/*"), "{error}");
    }
}

/// What is not valid as a whole is not used, and never replaces what is.
#[test]
fn only_whole_files_are_used() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let (one, two) = (authority(), authority());
    let ((first, first_key), (second, second_key)) = (issue(&one, &["a.test"]), issue(&one, &["b.test"]));
    let (ca, first, second) = (text(&one), pem("CERTIFICATE", &first), pem("CERTIFICATE", &second));
    let spec = TlsSpec {
        ca: Some(at("ca.pem")),
        certificate: Some(at("own.crt")),
        key: Some(at("own.key")),
        names: Vec::new(),
    };
    let files = TlsFiles { spec, system: None };
    let write = |name: &str, text: &str| fs::write(at(name), text).unwrap();
    let mut looks = Looks::default();
    let mut look = || files.look(&mut looks).map(|state| state.map(|state| state.own.unwrap().names.dns));
    let named = |name: &str| Ok(Some(vec![name.to_owned()]));
    assert!(look().unwrap_err().starts_with("upstream.tls.ca: "));
    write("ca.pem", &ca);
    write("own.crt", &first);
    write("own.key", &first_key);
    // The certificate of a replica is verified in every handshake.
    let sessions = format!("{:?}", files.state(&files.read().unwrap()).unwrap().config.resumption);
    assert!(sessions.contains("NoClientSessionStorage"), "{sessions}");
    // Used when two looks have read the same, and once.
    assert_eq!([look(), look(), look()], [Ok(None), named("a.test"), Ok(None)]);
    // Between the two looks the key follows, as a program writes it.
    write("own.crt", &second);
    assert_eq!(look(), Ok(None));
    write("own.key", &second_key);
    assert_eq!([look(), look()], [Ok(None), named("b.test")]);
    for (name, bad, why) in [
        ("own.key", &*first_key, "its key belongs to another certificate"),
        ("own.key", "", "its key is not PEM"),
        ("own.crt", "", "it contains no certificate"),
        ("own.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "it is not X.509"),
        ("ca.pem", "", "upstream.tls.ca: "),
        ("ca.pem", &ca[..ca.len() / 2], "upstream.tls.ca: "),
    ] {
        let good = fs::read_to_string(at(name)).unwrap();
        write(name, bad);
        assert_eq!(look(), Ok(None), "{why}");
        let problem = look().unwrap_err();
        assert!(problem.starts_with("upstream.tls.") && problem.contains(why) && problem.contains(name), "{problem}");
        assert_eq!(look(), Ok(None), "it is told once");
        write(name, &good);
        assert_eq!([look(), look()], [Ok(None), named("b.test")]);
    }
    // Files that are gone for a moment.
    fs::rename(at("own.key"), at("away")).unwrap();
    assert!(look().unwrap_err().contains("own.key cannot be read"));
    fs::rename(at("away"), at("own.key")).unwrap();
    assert_eq!([look(), look(), look()], [Ok(None), named("b.test"), Ok(None)]);
    // Another authority, through a link that is switched.
    fs::write(at("other.pem"), text(&two)).unwrap();
    std::os::unix::fs::symlink("other.pem", at("link")).unwrap();
    fs::rename(at("link"), at("ca.pem")).unwrap();
    assert_eq!([look(), look()], [Ok(None), named("b.test")]);
}
