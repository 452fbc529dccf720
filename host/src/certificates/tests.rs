use std::fs;
use std::path::Path;

use super::*;

/// Returns a certificate for these names and its key, as PEM. It expires at the end of this year.
fn issue(names: &[&str], year: i32) -> (String, String) {
    use base64::Engine;
    let pem = |kind: &str, der: &[u8]| {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
    };
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.not_after = rcgen::date_time_ymd(year, 12, 31);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (pem("CERTIFICATE", certificate.der()), pem("PRIVATE KEY", &key.serialize_der()))
}

/// The files of these looks, by name.
fn found(directory: &Path) -> Vec<String> {
    let (pairs, _) = pairs::find(&[directory.to_owned()]);
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    pairs.iter().map(|pair| name(&pair.certificate)).collect()
}

#[test]
fn keys_are_found_by_the_names_of_common_tools() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    let (certificate, key) = issue(&["a.test"], 2050);
    write("tls.crt", &certificate);
    write("tls.key", &key);
    write("ca.crt", &certificate);
    write("fullchain.pem", &certificate);
    write("privkey.pem", &key);
    write("cert.pem", &certificate);
    write("localhost+1.pem", &certificate);
    write("localhost+1-key.pem", &key);
    write("both.pem", &format!("{certificate}{key}"));
    write(".hidden.crt", &certificate);
    write(".hidden.key", &key);
    write("README", "text");
    fs::create_dir(directory.path().join("folder.crt")).unwrap();
    assert_eq!(found(directory.path()), ["both.pem", "fullchain.pem", "localhost+1.pem", "tls.crt"]);
    let problem = |name: &str| pairs::find(&[directory.path().join(name)]).1.remove(0);
    assert!(problem("ca.crt").ends_with("has no key; put ca.key beside it, or the key into the same file"));
    assert!(problem("nothing.crt").contains("nothing.crt cannot be read: "));
}

#[test]
fn a_directory_has_a_bound() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..=1_000 {
        fs::write(directory.path().join(format!("{number}.crt")), "").unwrap();
    }
    let (pairs, problems) = pairs::find(&[directory.path().to_owned()]);
    assert!(pairs.is_empty() && problems[0].ends_with("has more than 1000 certificates"), "{problems:?}");
}

/// The content of a pair replaces the one before only if it can be used; without its files, it is given up after a while if
/// there is another one.
#[test]
fn good_certificates_stay() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let write = |name: &str, (certificate, key): &(String, String)| {
        fs::write(at(&format!("{name}.key")), key).unwrap();
        fs::write(at(&format!("{name}.crt")), certificate).unwrap();
    };
    let [first, second] = [issue(&["a.test", "*.B.test"], 2050), issue(&["c.test"], 2040)];
    write("1", &first);
    write("2", &second);
    let certificates = Certificates::new(vec![directory.path().to_owned()], Vec::new()).unwrap();
    let serving = || certificates.serving.load_full();
    let [old, other] = [serving().all[0].cert[0].clone(), serving().all[1].cert[0].clone()];
    let named = |name: &str| Some(serving().named(name)?[0].cert[0].clone());
    assert_eq!([named("A.TEST"), named("x.b.test")], [Some(old.clone()), Some(old.clone())]);
    assert_eq!([named("c.test"), named("b.test"), named("x.y.b.test"), named("x")], [Some(other), None, None, None]);
    assert_eq!(
        certificates.expiries().iter().map(|expiry| expiry.at).collect::<Vec<_>>(),
        [2_556_057_600, 2_240_524_800]
    );
    let look = || certificates.look(SystemTime::now());
    assert_eq!(look(), Vec::<String>::new());
    for (rubbish, problem) in [
        ("", "it contains no certificate (BEGIN CERTIFICATE)"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "it is not X.509: "),
        (&second.0, "its key belongs to another certificate"),
    ] {
        fs::write(at("1.crt"), rubbish).unwrap();
        assert!(look()[0].contains(problem), "{problem}");
        assert_eq!(named("a.test"), Some(old.clone()), "the good one stays: {problem}");
    }
    fs::write(at("1.crt"), &first.0).unwrap();
    assert_eq!(look(), Vec::<String>::new());
    fs::remove_file(at("1.key")).unwrap();
    for _ in 0..GONE - 1 {
        look();
        assert_eq!(named("a.test"), Some(old.clone()));
    }
    look();
    assert_eq!(named("a.test"), None, "its files are gone");
    fs::remove_file(at("2.key")).unwrap();
    for _ in 0..GONE * 2 {
        assert!(look()[0].contains("has no certificate with a key beside it"));
    }
    assert!(named("c.test").is_some(), "the last one stays");
}

/// A chain expires when its first certificate to expire does.
#[test]
fn a_chain_expires_as_a_whole() {
    let [(leaf, key), (authority, _)] = [issue(&["a.test"], 2050), issue(&[], 2030)];
    let certificate = Certificate::new(format!("{leaf}{authority}").as_bytes(), key.as_bytes()).unwrap();
    assert_eq!((certificate.not_after, certificate.names), (1_924_905_600, vec!["a.test".to_owned()]));
}
