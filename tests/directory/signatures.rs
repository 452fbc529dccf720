//! Promise: with `trust.keys`, only signed components are served, by any signer and any tool. What is not signed never
//! replaces what is, and no request is lost meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::changes::{Load, put, serves, version};
use crate::harness::{Process, Setup, cache, eventually, host, lodge, metric, output, until, wasm};

/// A key that `lodge sign` has made, and its public half, in a directory of their own.
struct Keys {
    directory: tempfile::TempDir,
}

impl Keys {
    fn new(names: &[&str]) -> Self {
        let keys = Self { directory: tempfile::tempdir().unwrap() };
        for name in names {
            let (code, stdout, stderr) = output(&mut lodge(&["sign", "--new-key", &keys.at(&format!("{name}.key"))]));
            assert!(code == Some(0) && stdout.contains(&format!("{name}.pub")), "{stdout}{stderr}");
        }
        keys
    }

    fn at(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// The signature of `bytes` by the key `name`.
    fn sign(&self, name: &str, bytes: &[u8]) -> Vec<u8> {
        let file = self.at("signed");
        fs::write(&file, bytes).unwrap();
        let (code, _, stderr) = output(&mut lodge(&["sign", &file, "--key", &self.at(&format!("{name}.key"))]));
        assert_eq!(code, Some(0), "{stderr}");
        fs::read(format!("{file}.sig")).unwrap()
    }

    fn trusted_by(&self, setup: Setup) -> Setup {
        setup.set("trust.keys", &self.at("release.pub")).set("watch.poll", "200ms")
    }
}

/// Runs a program of the machine with the file `input`. Returns its output, and `None` where there is no such program.
fn tool(program: &str, args: &[&str]) -> Option<Vec<u8>> {
    let mut command = Command::new(program);
    let done = command.args(args).env("COSIGN_PASSWORD", "").stdin(Stdio::null()).output().ok()?;
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    Some(done.stdout)
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn verify(file: &str, key: &str) -> (Option<i32>, String, String) {
    output(&mut lodge(&["verify", file, "--key", key]))
}

/// What one tool signs, the other one verifies.
#[test]
fn openssl_and_lodge_understand_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (file, raw, signature) = (at("users.wasm"), at("raw"), at("users.wasm.sig"));
    fs::write(&file, b"a component").unwrap();
    if tool("openssl", &["version"]).is_none() {
        return eprintln!("skipped: there is no openssl here");
    }
    for kind in [&["ed25519"][..], &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]] {
        let (key, public) = (at("key"), at("pub"));
        tool("openssl", &[&["genpkey", "-out", &key, "-algorithm"], kind].concat());
        tool("openssl", &["pkey", "-in", &key, "-pubout", "-out", &public]);
        let is_ed25519 = kind.len() == 1;
        let signed = match is_ed25519 {
            true => &["pkeyutl", "-sign", "-rawin", "-inkey", &key, "-in", &file, "-out", &raw][..],
            false => &["dgst", "-sha256", "-sign", &key, "-out", &raw, &file],
        };
        tool("openssl", signed);
        fs::write(&signature, base64(&fs::read(&raw).unwrap())).unwrap();
        let (code, stdout, stderr) = verify(&file, &public);
        assert!(code == Some(0) && stdout.contains("is signed by a key of"), "{kind:?}: {stdout}{stderr}");
        // The other way round.
        let (code, _, stderr) = output(&mut lodge(&["sign", &file, "--key", &key]));
        assert_eq!(code, Some(0), "{stderr}");
        tool("openssl", &["base64", "-d", "-A", "-in", &signature, "-out", &raw]);
        let verified = match is_ed25519 {
            true => &["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", &public, "-in", &file, "-sigfile", &raw][..],
            false => &["dgst", "-sha256", "-verify", &public, "-signature", &raw, &file],
        };
        tool("openssl", verified);
        fs::write(&file, b"another component").unwrap();
        let (code, _, stderr) = verify(&file, &public);
        assert!(code == Some(1) && stderr.contains("it is no signature of"), "{stderr}");
        fs::write(&file, b"a component").unwrap();
        fs::remove_file(&signature).unwrap();
        assert!(verify(&file, &public).2.contains("`lodge sign` writes it"));
    }
    // A key of Lodge is one of openssl.
    let keys = Keys::new(&["release"]);
    tool("openssl", &["pkey", "-in", &keys.at("release.key"), "-noout", "-check"]);
    let public = tool("openssl", &["pkey", "-in", &keys.at("release.key"), "-pubout"]).unwrap();
    assert_eq!(fs::read(keys.at("release.pub")).unwrap(), public);
    let again = output(&mut lodge(&["sign", "--new-key", &keys.at("release.key")]));
    assert!(again.0 == Some(1) && again.2.contains("exists"), "{again:?}");
}

/// The same with `cosign`, where it is installed: it is in no test image.
#[test]
fn cosign_and_lodge_understand_each_other() {
    if tool("cosign", &["version"]).is_none() {
        return eprintln!("skipped: there is no cosign here");
    }
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let file = at("users.wasm");
    fs::write(&file, b"a component").unwrap();
    tool("cosign", &["generate-key-pair", "--output-key-prefix", &at("cosign")]);
    let (key, public) = (at("cosign.key"), at("cosign.pub"));
    let refused = output(&mut lodge(&["sign", &file, "--key", &key]));
    assert!(refused.2.contains("`cosign sign-blob --key`"), "{refused:?}");
    let local = ["--yes", "--tlog-upload=false"];
    let text = tool("cosign", &[&["sign-blob", "--key", &key, &file][..], &local].concat()).unwrap();
    fs::write(at("users.wasm.sig"), text).unwrap();
    assert_eq!(verify(&file, &public).0, Some(0));
    tool(
        "cosign",
        &[&["sign-blob", "--key", &key, "--new-bundle-format", "--bundle", &at("users.wasm.sig"), &file][..], &local]
            .concat(),
    );
    assert_eq!(verify(&file, &public).0, Some(0), "a bundle");
    let keys = Keys::new(&["release"]);
    output(&mut lodge(&["sign", &file, "--key", &keys.at("release.key")]));
    let (public, signature) = (keys.at("release.pub"), at("users.wasm.sig"));
    tool("cosign", &["verify-blob", "--key", &public, "--signature", &signature, "--insecure-ignore-tlog=true", &file]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_signed_is_served() {
    let keys = Keys::new(&["release", "other"]);
    let host = keys.trusted_by(host(&["hello"]).named("version", "version")).start().await;
    let directory = host.directory();
    // Other tests have compiled this component, so its machine code is in the cache, which does not help.
    let unsigned = "hello.wasm: it has no signature (hello.wasm.sig); sign it, as with `lodge sign`, and put the signature beside it";
    assert!(host.refusals().iter().any(|line| line.starts_with(unsigned)), "{:?}", host.refusals());
    assert_eq!(host.get("/hello").await.status, 503);
    put(directory, "hello.wasm.sig", &keys.sign("release", &fs::read(wasm("hello")).unwrap()));
    eventually("hello is served", async || host.get("/hello").await.text() == "Hello, World!").await;
    put(directory, "version.wasm", &version(0));
    put(directory, "version.wasm.sig", &keys.sign("release", &version(0)));
    serves(host.address, 0).await;
    // Under load: the component first, the signature first, and copies that take long.
    let load = Load::on(host.address);
    for number in 1..=12 {
        let (component, signature) = (version(number), keys.sign("release", &version(number)));
        let mut files = [("version.wasm", component), ("version.wasm.sig", signature)];
        if number % 2 == 0 {
            files.reverse();
        }
        for (name, bytes) in files {
            match number % 3 {
                0 => fs::write(directory.join(name), bytes).unwrap(),
                _ => put(directory, name, &bytes),
            }
            tokio::time::sleep(Duration::from_millis(u64::try_from(number).unwrap() * 90)).await;
        }
        serves(host.address, number).await;
        until("nothing is refused", || host.refusals().is_empty()).await;
    }
    // Never what is not signed, nor by another key, nor with a signature of something else.
    put(directory, "version.wasm", &version(90));
    let refused = || host.refusals().iter().any(|line| line.starts_with("version.wasm: its signature is not valid"));
    until("it is refused", refused).await;
    put(directory, "version.wasm.sig", &keys.sign("other", &version(90)));
    tokio::time::sleep(Duration::from_millis(700)).await;
    until("it is still refused", refused).await;
    fs::remove_file(directory.join("version.wasm.sig")).unwrap();
    until("it has none", || host.refusals().iter().any(|line| line.contains("it has no signature"))).await;
    put(directory, "version.wasm", &version(91));
    tokio::time::sleep(Duration::from_millis(700)).await;
    serves(host.address, 12).await;
    let (completed, seen) = load.end().await;
    assert!(
        completed > 100 && !seen.iter().any(|text| text.ends_with("90") || text.ends_with("91")),
        "{completed}: {seen:?}"
    );
}

/// A key that is replaced: components by the key before are refused, and go on until their new signature is there.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_read_again() {
    let keys = Keys::new(&["release", "next"]);
    let signature = keys.sign("release", &version(0));
    let setup = host(&[]).file("version.wasm", &version(0)).file("version.wasm.sig", &signature);
    let host = keys.trusted_by(setup).start().await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    let load = Load::on(host.address);
    fs::copy(keys.at("next.pub"), keys.at("release.pub")).unwrap();
    until("it is refused", || host.refusals().iter().any(|line| line.contains("none of the keys"))).await;
    put(host.directory(), "version.wasm.sig", &keys.sign("next", &version(0)));
    until("it is not", || host.refusals().is_empty()).await;
    put(host.directory(), "version.wasm.sig", &keys.sign("next", &version(1)));
    put(host.directory(), "version.wasm", &version(1));
    serves(host.address, 1).await;
    load.end().await;
}

/// The commands move the signature with its component, and refuse what the host would refuse.
#[tokio::test(flavor = "multi_thread")]
async fn commands_carry_signatures() {
    let keys = Keys::new(&["release", "other"]);
    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let put_signed = |number: usize| {
        fs::write(directory.path().join("version.wasm"), version(number)).unwrap();
        fs::write(directory.path().join("version.wasm.sig"), keys.sign("release", &version(number))).unwrap();
    };
    put_signed(1);
    let file = |number: usize| {
        let path: PathBuf = elsewhere.path().join(format!("{number}.wasm"));
        fs::write(&path, version(number)).unwrap();
        path.display().to_string()
    };
    let settings = elsewhere.path().join("lodge.toml");
    fs::write(&settings, format!("[trust]\nkeys = '{}'\n", keys.at("release.pub"))).unwrap();
    let settings = settings.display().to_string();
    let process = Process::serve(directory.path(), &["--config", &settings]).await;
    let (admin, guests) = (process.admin.to_string(), directory.path().display().to_string());
    let run = |args: &[&str]| {
        let mut command = lodge(args);
        command.args(["--admin", &admin, "--guests", &guests, "--config", &settings]);
        output(command.env("LODGE_CACHE_DIRECTORY", cache()))
    };
    serves(process.address, 1).await;
    let load = Load::on(process.address);
    let (code, _, stderr) = run(&["deploy", "version", &file(2)]);
    assert!(code == Some(1) && stderr.contains("it has no signature (2.wasm.sig)"), "{stderr}");
    let (code, _, stderr) = run(&["deploy", "version", &file(2), "--key", &keys.at("other.key")]);
    assert!(code == Some(1) && stderr.contains("by none of the keys"), "{stderr}");
    let (code, stdout, stderr) = run(&["deploy", "version", &file(2), "--key", &keys.at("release.key")]);
    assert!(code == Some(0) && stdout.starts_with("version serves "), "{stdout}{stderr}");
    serves(process.address, 2).await;
    // The same component again keeps the signature that it has, and no other one takes its place.
    let signature = fs::read(directory.path().join("version.wasm.sig")).unwrap();
    let (code, stdout, stderr) = run(&["deploy", "version", &file(2)]);
    assert!(code == Some(0), "{stdout}{stderr}");
    let (code, _, stderr) = output(
        lodge(&["deploy", "version", &file(3), "--admin", &admin, "--guests", &guests])
            .env("LODGE_CACHE_DIRECTORY", cache()),
    );
    assert!(code == Some(1) && stderr.contains("has no signature, and version.wasm has one"), "{stderr}");
    assert_eq!(fs::read(directory.path().join("version.wasm.sig")).unwrap(), signature);
    assert_eq!(fs::read(directory.path().join("version.wasm")).unwrap(), version(2));
    assert_eq!(run(&["rollback", "version"]).0, Some(0));
    serves(process.address, 1).await;
    // A signature beside the file is copied.
    fs::write(format!("{}.sig", file(3)), keys.sign("release", &version(3))).unwrap();
    let (code, stdout, stderr) = run(&["deploy", "version", &file(3), "--canary", "0%"]);
    assert!(code == Some(0), "{stdout}{stderr}");
    let beside = directory.path().join("version@canary.wasm.sig");
    assert!(beside.exists());
    let (code, stdout, stderr) = run(&["promote", "version"]);
    assert!(code == Some(0) && !beside.exists(), "{stdout}{stderr}");
    serves(process.address, 3).await;
    assert_eq!(run(&["deploy", "version", &file(4), "--canary", "0%", "--key", &keys.at("release.key")]).0, Some(0));
    assert_eq!(run(&["rollback", "version"]).0, Some(0));
    assert!(!beside.exists());
    assert_eq!(run(&["rollback", "version"]).0, Some(0));
    serves(process.address, 1).await;
    let reported = metric(process.admin, "lodge_reload_failures_total").await;
    assert_eq!(reported, 0.0, "a pair on its way was reported: {}", process.log());
    load.end().await;
    // `check` says the same as a host.
    fs::remove_file(directory.path().join("version.wasm.sig")).unwrap();
    let (code, stdout, _) =
        output(lodge(&["check", &guests, "--config", &settings]).env("LODGE_CACHE_DIRECTORY", cache()));
    assert!(code == Some(1) && stdout.contains("REFUSED: it has no signature"), "{stdout}");
}

#[test]
fn a_host_without_its_keys_does_not_start() {
    let directory = tempfile::tempdir().unwrap();
    let guests = directory.path().display().to_string();
    let elsewhere = tempfile::tempdir().unwrap();
    let missing = elsewhere.path().join("none.pub").display().to_string();
    let args = ["serve", &guests, "--listen", "127.0.0.1:0", "--admin", "off", "--trust-keys", &missing];
    let (code, _, stderr) = output(&mut lodge(&args));
    assert!(code == Some(64) && stderr.contains(&format!("trust.keys: {missing}: No such file")), "{stderr}");
    // Nor one whose `trust.keys` names no file, nor with keys that somebody who can write services can replace.
    let (code, _, stderr) = output(lodge(&args[..6]).env("LODGE_TRUST_KEYS", ""));
    assert!(code == Some(64) && stderr.contains("LODGE_TRUST_KEYS: it names no file"), "{stderr}");
    let inside = directory.path().join("release.key").display().to_string();
    assert_eq!(output(&mut lodge(&["sign", "--new-key", &inside])).0, Some(0));
    let public = directory.path().join("release.pub").display().to_string();
    let (code, _, stderr) = output(lodge(&args[..6]).args(["--trust-keys", &public]));
    assert!(code == Some(64) && stderr.contains("is inside the guests directory"), "{stderr}");
}

#[test]
fn a_new_key_is_private_and_its_public_half_is_not() {
    use std::os::unix::fs::PermissionsExt;
    let keys = Keys::new(&["release"]);
    let mode = |name: &str| fs::metadata(keys.at(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("release.key"), 0o600);
    // Within the mask of this process.
    fs::write(keys.at("like"), "").unwrap();
    assert_eq!(mode("release.pub"), 0o644 & mode("like"));
    let (code, _, stderr) = output(&mut lodge(&["sign", "--new-key", &keys.at("other.pub")]));
    assert!(code == Some(1) && stderr.contains("this is the name of the public key"), "{stderr}");
    assert!(!Path::new(&keys.at("other.pub")).exists());
}

/// `lodge dev` serves what it builds, and says that it asks for no signatures.
#[tokio::test(flavor = "multi_thread")]
async fn dev_asks_for_no_signatures() {
    let keys = Keys::new(&["release"]);
    let directory = tempfile::tempdir().unwrap();
    fs::copy(wasm("hello"), directory.path().join("hello.wasm")).unwrap();
    let (guests, log) = (directory.path().display().to_string(), keys.at("log"));
    let args = ["dev", &guests, "--listen", "127.0.0.1:0", "--admin", "off", "--trust-keys", &keys.at("release.pub")];
    let mut dev = lodge(&args);
    dev.env("LODGE_CACHE_DIRECTORY", cache()).stderr(fs::File::create(Path::new(&log)).unwrap());
    let dev = crate::harness::Leashed(dev.spawn().unwrap());
    let said = |words: &str| fs::read_to_string(&log).unwrap_or_default().contains(words);
    until("it says so", || said("`lodge dev` serves components without a signature")).await;
    until("hello is served", || said("hello")).await;
    assert!(!said("refused"));
    drop(dev);
}
