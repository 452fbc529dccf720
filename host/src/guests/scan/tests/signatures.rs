//! Signatures that come late, go, or change with the keys: nothing else than what is signed is ever served.

use super::*;
use crate::guests::trust::key::SigningKey;

/// A world whose components must be signed by a key of the file `keys`, for services that begin with `a` only by that of the file
/// `own`.
struct Signed {
    world: World,
    key: SigningKey,
    own: SigningKey,
}

impl Signed {
    fn new() -> Self {
        let [key, own] = [(); 2].map(|()| SigningKey::new().unwrap().0);
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("keys"), key.public().pem()).unwrap();
        fs::write(directory.path().join("own"), own.public().pem()).unwrap();
        let text =
            format!("{}, a*={}", directory.path().join("keys").display(), directory.path().join("own").display());
        let source = (config::Origin::Flag, [("trust.keys".to_owned(), text)].into());
        let config = config::resolve(&[source]).unwrap().config;
        Self { world: World::of(directory, config, true), key, own }
    }

    fn sign(&mut self, name: &str, content: &[u8]) {
        let text = self.key.sign(content).unwrap();
        self.world.write(&format!("{name}.sig"), text);
    }

    fn serves(&self, name: &str, number: u8) -> bool {
        self.world.live(name).is_some_and(|spec| spec.digest == Digest::of(&component(number)))
    }
}

#[test]
fn a_signature_may_come_late_and_a_component_too() {
    let mut signed = Signed::new();
    signed.world.write("a.wasm", component(0));
    signed.world.pass(SETTLE * 4);
    assert!(signed.world.live("a").is_none());
    let refused = signed.world.refused().concat();
    assert!(refused.contains("a.wasm: it has no signature (a.wasm.sig)"), "{refused}");
    signed.sign("a.wasm", &component(0));
    signed.world.pass(HELD * 2);
    assert!(signed.serves("a", 0));
    assert_eq!(signed.world.refused(), Vec::<String>::new());
    for (number, late) in [(1, true), (2, false)] {
        let (before, now) = (number - 1, component(number));
        if late {
            signed.world.write("a.wasm", &now);
        } else {
            signed.sign("a.wasm", &now);
        }
        // Until both are there, the service goes on, and nothing is reported for as long as a copy takes.
        signed.world.pass(SETTLE - Duration::from_millis(1));
        assert!(signed.serves("a", before) && signed.world.refused().is_empty());
        if late {
            signed.sign("a.wasm", &now);
        } else {
            signed.world.write("a.wasm", &now);
        }
        signed.world.look();
        assert!(signed.serves("a", number) && signed.world.refused().is_empty());
    }
    // However long the signature does not come.
    signed.world.write("a.wasm", component(3));
    signed.world.pass(SETTLE * 100);
    assert!(signed.serves("a", 2));
    assert!(signed.world.refused().concat().contains("or of another file"), "{:?}", signed.world.refused());
    signed.world.write("a.wasm", component(2));
    signed.world.pass(SETTLE);
    assert!(signed.serves("a", 2));
    assert_eq!(signed.world.refused(), Vec::<String>::new());
    // Nor is what was served before served again without its signature.
    signed.world.unlink("a.wasm");
    signed.world.unlink("a.wasm.sig");
    signed.world.pass(GONE * 2);
    signed.world.write("a.wasm", component(2));
    signed.world.pass(SETTLE * 4);
    assert!(signed.world.live("a").is_none());
}

#[test]
fn keys_are_those_of_their_files_now() {
    let mut signed = Signed::new();
    for name in ["a", "b"] {
        signed.world.write(&format!("{name}.wasm"), component(0));
    }
    signed.sign("a.wasm", &component(0));
    signed.sign("b.wasm", &component(0));
    signed.world.pass(SETTLE * 2);
    assert!(signed.serves("a", 0) && signed.serves("b", 0));
    let own = signed.own.sign(&component(1)).unwrap();
    for name in ["a", "a@2", "b"] {
        signed.world.write(&format!("{name}.wasm"), component(1));
        signed.world.write(&format!("{name}.wasm.sig"), &own);
    }
    signed.world.pass(SETTLE * 2);
    assert!(signed.serves("a", 1) && signed.serves("a@2", 1), "a version has the keys of its service");
    assert!(signed.serves("b", 0));
    let refused = signed.world.refused().concat();
    assert!(
        refused.contains("b.wasm: its signature is not valid: it is by none of the keys that `trust.keys` has for b"),
        "{refused}"
    );
    // A file that is not readable changes nothing.
    signed.world.write("own", "");
    signed.world.pass(SETTLE * 4);
    signed.world.write("a@3.wasm", component(1));
    signed.world.write("a@3.wasm.sig", &own);
    signed.world.pass(SETTLE * 2);
    assert!(signed.serves("a@3", 1));
    // Another key: what was signed by the one before is refused, and goes on until then.
    let next = SigningKey::new().unwrap().0;
    signed.world.write("own", next.public().pem());
    signed.world.pass(SETTLE * 2);
    assert!(signed.serves("a", 1));
    assert!(signed.world.refused().iter().any(|line| line.starts_with("a.wasm: its signature is not valid")));
    signed.world.write("a.wasm.sig", next.sign(&component(1)).unwrap());
    signed.world.pass(SETTLE * 2);
    assert!(!signed.world.refused().iter().any(|line| line.starts_with("a.wasm")), "{:?}", signed.world.refused());
    // A component that several services name is for those that its key is for.
    signed.world.write("b.toml", "component = 'a.wasm'");
    signed.world.write("ab.toml", "component = 'a.wasm'");
    signed.world.unlink("b.wasm");
    signed.world.pass(SETTLE * 4);
    assert!(signed.serves("ab", 1) && signed.serves("b", 0));
    let refused = signed.world.refused();
    assert!(refused.iter().any(|line| line.starts_with("b.toml: component a.wasm: its signature")), "{refused:?}");
    assert!(
        !refused.iter().any(|line| line.starts_with("a.wasm")),
        "the file is good for its own service: {refused:?}"
    );
}

/// A host that starts before its keys are there serves nothing until then.
#[test]
fn without_keys_nothing_is_served() {
    let mut signed = Signed::new();
    let key = signed.key.public().pem();
    signed.world.unlink("keys");
    signed.world.scanner = Scanner::new(signed.world.directory.path());
    signed.world.write("b.wasm", component(0));
    signed.sign("b.wasm", &component(0));
    signed.world.pass(SETTLE * 4);
    assert!(signed.world.live("b").is_none());
    let refused = signed.world.refused().concat();
    assert!(
        refused.contains("b.wasm: its signature is not valid: there are none")
            && refused.contains("keys: No such file"),
        "{refused}"
    );
    assert!(refused.contains("make it one with public keys that the host can read"), "{refused}");
    signed.world.write("keys", key);
    signed.world.pass(SETTLE * 2);
    assert!(signed.serves("b", 0));
}

/// Each component in front of a service needs a signature for it, and what changes there is another version.
#[test]
fn middleware_is_signed_as_well() {
    let mut signed = Signed::new();
    fs::create_dir(signed.world.at("m")).unwrap();
    signed.world.write("b.toml", "middleware = 'm/gate.wasm'");
    signed.world.write("b.wasm", component(0));
    signed.sign("b.wasm", &component(0));
    signed.world.pass(SETTLE * 4);
    assert!(signed.world.live("b").is_none());
    let refused = signed.world.refused().concat();
    assert!(refused.contains("b.toml: middleware m/gate.wasm: there is no such file"), "{refused}");
    signed.world.write("m/gate.wasm", component(1));
    signed.world.pass(SETTLE * 4);
    let refused = signed.world.refused().concat();
    assert!(refused.contains("b.toml: middleware m/gate.wasm: it has no signature"), "{refused}");
    signed.sign("m/gate.wasm", &component(1));
    signed.world.pass(SETTLE * 4);
    let before = signed.world.live("b").unwrap();
    assert_eq!((before.middleware.len(), before.middleware[0].digest), (1, Digest::of(&component(1))));
    // What is not signed does not take its place.
    signed.world.write("m/gate.wasm", component(2));
    signed.world.pass(SETTLE * 100);
    assert_eq!(signed.world.live("b").as_ref(), Some(&before));
    signed.sign("m/gate.wasm", &component(2));
    signed.world.pass(SETTLE * 4);
    let now = signed.world.live("b").unwrap();
    assert_eq!(now.digest, before.digest);
    assert_ne!(now.code_digest(), before.code_digest());
}
