use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};

use super::key::SigningKey;
use super::*;

const CONTENT: &[u8] = b"the bytes of a component";

/// The order of P-256's group, big-endian, and of Ed25519's, little-endian.
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7,
    0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];
const ED25519_ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

fn ed25519() -> SigningKey {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    SigningKey::Ed25519(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap())
}

fn p256() -> SigningKey {
    SigningKey::new().unwrap().0
}

/// Keys of P-256 and of Ed25519 for all services, and one for `team-a-*`.
fn trusted(keys: [&SigningKey; 3]) -> TrustedKeys {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    // A file may have several keys, and text between them.
    let [ec, ed, team] = keys.map(|key| key.public().pem());
    std::fs::write(path("all.pub"), format!("release keys\n{ec}\n\n{ed}")).unwrap();
    std::fs::write(path("team.pub"), team).unwrap();
    let text = format!("{}, team-a-*={}", path("all.pub").display(), path("team.pub").display());
    let source = [("trust.keys".to_owned(), text)].into();
    let sources = [(lodge_base::config::Origin::Flag, source)];
    let config = lodge_base::config::resolve(&sources).unwrap().config;
    TrustedKeys::read(&config.trust.keys).unwrap()
}

/// The two numbers of an ECDSA signature in DER.
fn numbers(der: &[u8]) -> [Vec<u8>; 2] {
    let first = usize::from(der[3]);
    [der[4..4 + first].to_vec(), der[6 + first..].to_vec()]
}

fn der(numbers: &[Vec<u8>]) -> Vec<u8> {
    let body: Vec<u8> = numbers.iter().flat_map(|number| [&[2, number.len() as u8], &number[..]].concat()).collect();
    [&[0x30, body.len() as u8], &body[..]].concat()
}

/// The order less `s`, as DER has it.
fn other_s(s: &[u8]) -> Vec<u8> {
    let s = s.strip_prefix(&[0]).unwrap_or(s);
    let s = [vec![0; 32 - s.len()], s.to_vec()].concat();
    let (mut result, mut borrow) = (vec![0; 32], 0);
    for at in (0..32).rev() {
        let difference = i32::from(P256_ORDER[at]) - i32::from(s[at]) - borrow;
        (result[at], borrow) = (difference.rem_euclid(256) as u8, i32::from(difference < 0));
    }
    let zeros = result.iter().take_while(|byte| **byte == 0).count();
    let result = result[zeros..].to_vec();
    if result[0] & 0x80 == 0 { result } else { [vec![0], result].concat() }
}

/// An Ed25519 signature whose `s` is larger by the order.
fn larger_s(signature: &[u8]) -> Vec<u8> {
    let mut result = signature.to_vec();
    let mut carry = 0;
    for (byte, order) in result[32..].iter_mut().zip(ED25519_ORDER) {
        let sum = u32::from(*byte) + u32::from(order) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    result
}

#[test]
fn good_signatures_and_bad_ones() {
    let (ec, ed, team, stranger) = (p256(), ed25519(), p256(), p256());
    let trusted = trusted([&ec, &ed, &team]);
    let admits = |content: &[u8], file: &[u8], service: &str| {
        let admitted = trusted.admits(service, "users.wasm", content, &Signature::read(file));
        admitted.map_err(|refusal| refusal.to_string())
    };
    let by = |key: &SigningKey| key.sign(CONTENT).unwrap();
    let raw = |key: &SigningKey| STANDARD.decode(by(key)).unwrap();
    let text = |bytes: &[u8]| STANDARD.encode(bytes);
    let [r, s] = numbers(&raw(&ec));
    let bundle = format!(
        r#"{{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","messageSignature":{{"signature":"{}"}}}}"#,
        by(&ec)
    );
    let wrapped: String =
        by(&ec).as_bytes().chunks(40).map(|line| format!("{}\r\n", str::from_utf8(line).unwrap())).collect();
    for (name, file, service) in [
        ("P-256", by(&ec), "users"),
        ("Ed25519", by(&ed), "users"),
        ("with a newline", by(&ec) + "\n", "users"),
        ("wrapped", wrapped, "users"),
        ("the bundle of cosign 3", bundle.clone(), "users"),
        ("the bundle before", format!(r#"{{"base64Signature":"{}"}}"#, by(&ed)), "users"),
        ("a bundle with a mark and a line before it", format!("\u{feff}\n{bundle}"), "users"),
        ("with the one of another key before it", format!("{}\n\n{}\n", by(&stranger), by(&ec)), "users"),
        ("the other s", text(&der(&[r.clone(), other_s(&s)])), "users"),
        ("a key of the team", by(&team), "team-a-users"),
        ("a key of all for the team", by(&ec), "team-a-users"),
    ] {
        assert_eq!(admits(CONTENT, file.as_bytes(), service), Ok(()), "{name}");
    }
    let p384 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, &SystemRandom::new()).unwrap();
    let p384 = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, p384.as_ref(), &SystemRandom::new()).unwrap();
    let none = "by none of the keys that `trust.keys` has for users, or of another file";
    let padded = [vec![0], r.clone()].concat();
    for (name, file, expected) in [
        ("another key", by(&stranger).into_bytes(), none),
        ("a key of another pattern", by(&team).into_bytes(), none),
        ("another file", ec.sign(b"another").unwrap().into_bytes(), none),
        ("another file, Ed25519", ed.sign(b"another").unwrap().into_bytes(), none),
        ("truncated", text(&raw(&ec)[..60]).into_bytes(), none),
        ("truncated, Ed25519", text(&raw(&ed)[..63]).into_bytes(), none),
        ("truncated base64", by(&ec).into_bytes()[..91].to_vec(), "it is not base64"),
        ("data after it", text(&[raw(&ec), vec![0]].concat()).into_bytes(), none),
        ("data after it, Ed25519", text(&[raw(&ed), vec![0]].concat()).into_bytes(), none),
        (
            "five in one file",
            [by(&stranger), by(&stranger), by(&stranger), by(&stranger), by(&ec)].join("\n\n").into(),
            "it has more than 4 signatures",
        ),
        (
            "two in one file without a blank line",
            format!("{}\n{}", by(&ec), by(&ec)).into_bytes(),
            "its signature is not valid",
        ),
        ("a number with a zero before it", text(&der(&[padded, s.clone()])).into_bytes(), none),
        ("a negative number", text(&der(&[vec![0x80; 32], s.clone()])).into_bytes(), none),
        ("zero", text(&der(&[vec![0], s.clone()])).into_bytes(), none),
        ("a long form of the length", text(&[&[0x30, 0x81, raw(&ec)[1]], &raw(&ec)[2..]].concat()).into_bytes(), none),
        ("an s that is larger by the order", text(&larger_s(&raw(&ed))).into_bytes(), none),
        ("of the digest", ed.sign(ring::digest::digest(&ring::digest::SHA256, CONTENT).as_ref()).unwrap().into(), none),
        ("P-384", text(p384.sign(&SystemRandom::new(), CONTENT).unwrap().as_ref()).into_bytes(), none),
        ("r and s without DER", text(&[vec![1; 64]].concat()).into_bytes(), none),
        ("empty", Vec::new(), "it is empty"),
        ("blank", b" \n".to_vec(), "it is empty"),
        ("not base64", b"signature".to_vec(), "it is not base64"),
        ("binary", raw(&ec), "it is not base64"),
        ("base64 of a URL", b"-_-_".to_vec(), "it is not base64"),
        ("a bundle of another thing", b"{\"dsseEnvelope\":{}}".to_vec(), "a bundle without a signature"),
        ("half a bundle", b"{\"base64Signature\":".to_vec(), "it is not valid JSON"),
        ("large", vec![b'A'; 60_000], none),
    ] {
        let refused = admits(CONTENT, &file, "users").unwrap_err();
        assert!(refused.contains(expected), "{name}: {refused}");
    }
    let absent = trusted.admits("users", "users.wasm", CONTENT, &Signature::Absent).unwrap_err();
    assert_eq!(
        absent.to_string(),
        "users.wasm: it has no signature (users.wasm.sig); sign it, as with `lodge sign`, and put the signature beside it; \
         what still serves keeps its manifest until then, except that `enabled = false` stops it"
    );
    // The key of its pattern does not help where the name of the service is not in it.
    let prefix = admits(CONTENT, by(&team).as_bytes(), "team-a").unwrap_err();
    assert!(prefix.contains("has for team-a, or"), "{prefix}");
    let unreadable =
        trusted.admits("users", "users.wasm", CONTENT, &Signature::Unreadable("denied".into())).unwrap_err();
    assert_eq!(unreadable.remedy, READABLE);
}

#[test]
fn files_of_keys() {
    let p384 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, &SystemRandom::new()).unwrap();
    let p384 = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, p384.as_ref(), &SystemRandom::new()).unwrap();
    let info =
        [0x30, 0x76, 0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x22, 3, 0x62, 0];
    let pem =
        |label: &str, der: &[u8]| format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der));
    let other_curve = pem("PUBLIC KEY", &[&info[..], p384.public_key().as_ref()].concat());
    let (key, private) = SigningKey::new().unwrap();
    let public = key.public().pem();
    let mut off_curve =
        STANDARD.decode(public.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap();
    *off_curve.last_mut().unwrap() ^= 1;
    assert_eq!(PublicKey::read(public.as_bytes()), Ok(vec![key.public()]));
    assert_eq!(SigningKey::read(private.as_bytes()).map(|key| key.public()), Ok(key.public()));
    for (text, expected) in [
        (other_curve.clone(), "it has a key of another type; Ed25519 and ECDSA P-256 are supported"),
        // One bad key is not left out.
        (public.clone() + &other_curve, "it has a key of another type"),
        (private.clone(), "it has a private key"),
        (pem("CERTIFICATE", b"x"), "it has a certificate"),
        (String::new(), "it has no public key"),
        (public.replace("-----END", "-----ENE"), "it is not valid PEM"),
        // What the parser skips, beside a good key.
        (public.clone() + &pem("PGP PUBLIC KEY BLOCK", b"x"), "it has 2 sections (PEM), and 1 of them"),
        (public.clone() + &pem("CERTIFICATE REQUEST", b"x"), "it has something else than public keys"),
        (format!("{public} {other_curve}"), "it has 2 sections (PEM), and 1 of them"),
        (format!("{public}\u{feff}{public}"), "it has 2 sections (PEM), and 1 of them"),
        (format!("\u{feff}{public}"), "it has 1 sections (PEM), and 0 of them"),
        (pem("PUBLIC KEY", &off_curve), "its key is not a point on the curve P-256"),
        (pem("PUBLIC KEY", b""), "it has a key of another type"),
    ] {
        let problem = PublicKey::read(text.as_bytes()).unwrap_err();
        assert!(problem.contains(expected), "{problem} is not {expected}");
    }
    for (text, expected) in [
        (public, "it has no private key"),
        (pem("EC PRIVATE KEY", b"x"), "`openssl pkcs8 -topk8 -nodes`"),
        (pem("ENCRYPTED SIGSTORE PRIVATE KEY", b"x"), "`cosign sign-blob --key`"),
        (pem("PRIVATE KEY", b"x"), "its key is of another type"),
    ] {
        let problem = SigningKey::read(text.as_bytes()).err().unwrap();
        assert!(problem.contains(expected), "{problem} is not {expected}");
    }
}

/// A broken file neither takes away what it had nor holds up the change of another one.
#[test]
fn a_broken_file_holds_up_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let (one, two, next) = (p256(), p256(), p256());
    fs::write(at("one"), one.public().pem()).unwrap();
    fs::write(at("two"), two.public().pem()).unwrap();
    let source = [("trust.keys".to_owned(), format!("{}, {}", at("one").display(), at("two").display()))].into();
    let config = lodge_base::config::resolve(&[(lodge_base::config::Origin::Flag, source)]).unwrap().config;
    let mut live = LiveKeys::default();
    let mut trusts = |key: &SigningKey| {
        let signature = Signature::read(key.sign(CONTENT).unwrap().as_bytes());
        live.refresh(&config.trust).unwrap().admits("users", "users.wasm", CONTENT, &signature).is_ok()
    };
    assert!(trusts(&one) && trusts(&two));
    for broken in [Some(""), Some("-----BEGIN"), None] {
        match broken {
            Some(text) => fs::write(at("two"), text).unwrap(),
            None => fs::remove_file(at("two")).unwrap(),
        }
        assert!(trusts(&one) && trusts(&two), "{broken:?}");
    }
    fs::write(at("one"), next.public().pem()).unwrap();
    assert!(
        !trusts(&one) && trusts(&two) && trusts(&next),
        "the first key is revoked although the other file is broken"
    );
    let [change] = &*live.changes else { panic!("{:?}", live.changes) };
    let [removed, added] = [&one, &next].map(|key| key.public().fingerprint());
    assert_eq!(change.change, format!("added {added}; removed {removed}"));
    assert_eq!(change.file, at("one"));
}

/// Keys in the served directory could be replaced by anybody who can write there.
#[test]
fn keys_are_not_in_the_served_directory() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("guests")).unwrap();
    for path in ["guests/a.pub", "b.pub"] {
        fs::write(at(path), p256().public().pem()).unwrap();
    }
    std::os::unix::fs::symlink("guests/a.pub", at("link.pub")).unwrap();
    std::os::unix::fs::symlink("../b.pub", at("guests/out.pub")).unwrap();
    for (path, expected) in [
        ("b.pub", None),
        ("guests/a.pub", Some("inside")),
        ("link.pub", Some("inside")),
        ("guests/out.pub", Some("inside")),
    ] {
        let texts = [("trust.keys", at(path)), ("guests", at("guests"))];
        let source = texts.map(|(name, path)| (name.to_owned(), path.display().to_string())).into();
        let config = lodge_base::config::resolve(&[(lodge_base::config::Origin::Flag, source)]).unwrap().config;
        let problem = misconfigured(&config);
        assert_eq!(problem.is_some(), expected.is_some(), "{path}: {problem:?}");
        assert!(problem.is_none_or(|problem| problem.contains("is inside the guests directory")), "{path}");
    }
}

/// The pair of a component and its signatures is valid at every moment of a change.
#[test]
fn signatures_of_both_components() {
    let (old, new) = (p256(), ed25519());
    let [before, now] = [old.sign(b"old").unwrap(), new.sign(b"new").unwrap()];
    let both = signature::joined(before.as_bytes(), now.as_bytes());
    let Signature::Bytes(signatures) = Signature::read(&both) else { panic!() };
    let [old, new] = [old.public(), new.public()];
    assert!(old.verifies(b"old", &signatures[0]) && new.verifies(b"new", &signatures[1]) && signatures.len() == 2);
    assert_eq!(signature::joined(b"nothing", now.as_bytes()), now.as_bytes());
    assert_eq!(signature::joined(now.as_bytes(), now.as_bytes()), now.as_bytes());
    let mut many = both;
    for number in 0_u8..9 {
        let next = p256().sign(&[number]).unwrap();
        many = signature::joined(&many, next.as_bytes());
    }
    assert!(matches!(Signature::read(&many), Signature::Bytes(signatures) if signatures.len() == 4));
}
