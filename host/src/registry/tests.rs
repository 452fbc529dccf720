use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use base64::Engine as _;
use lodge_base::config::pull::{Credentials, Pull};
use lodge_manifest::digest::Digest;
use lodge_manifest::reference::Reference;

use super::artifact::WasmArtifact;
use super::client::RegistryClient;
use super::testing::{FakeRegistry, component, response, settings};
use super::{Access, PartialFile, RegistryError};

/// A file that a test pulls into.
struct Target {
    _directory: tempfile::TempDir,
    partial: PathBuf,
    to: PathBuf,
}

impl Target {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (partial, to) = (directory.path().join("part"), directory.path().join("whole"));
        Self { _directory: directory, partial, to }
    }

    async fn pull(&self, settings: &Pull, reference: &Reference) -> Result<Vec<u8>, RegistryError> {
        let client = RegistryClient::new(settings).unwrap();
        let mut session = client.session(reference, Access::Pull);
        let found = session.resolve(reference, 1 << 20).await?;
        session.fetch(&found, PartialFile::open(&self.partial)?, &self.to).await?;
        Ok(std::fs::read(&self.to).unwrap())
    }
}

async fn pull(settings: &Pull, reference: &Reference) -> Result<Vec<u8>, String> {
    Target::new().pull(settings, reference).await.map_err(|error| error.to_string())
}

fn fails(result: Result<Vec<u8>, String>, with: &str) {
    let problem = result.unwrap_err();
    assert!(problem.contains(with) && !problem.contains('\n'), "{problem}");
}

#[tokio::test]
async fn components_of_tags_digests_and_indexes() {
    let (registry, bytes) = (FakeRegistry::start().await, component(b"1"));
    let digest = registry.put("1", &bytes);
    // The layer of older tools, and an index that leads to the manifest.
    let old = String::from_utf8(WasmArtifact::of(&bytes, None, (&[], &[]), "").manifest.to_vec()).unwrap();
    registry.manifest("old", old.replace("application/wasm", "application/vnd.wasm.content.layer.v1+wasm").as_bytes());
    let platform = r#""platform": {"architecture": "wasm", "os": "wasip2"}"#;
    let index = format!(r#"{{"schemaVersion": 2, "manifests": [{{"digest": "sha256:{digest}", {platform}}}]}}"#);
    registry.manifest("index", index.as_bytes());
    for version in
        [":1".to_owned(), ":old".into(), ":index".into(), format!("@sha256:{digest}"), format!(":x@sha256:{digest}")]
    {
        assert_eq!(pull(&settings(), &registry.reference(&version)).await.as_ref(), Ok(&bytes), "{version}");
    }
    let asked = registry.asked("accept");
    assert!(asked[0].contains("application/vnd.oci.image.manifest.v1+json"), "{asked:?}");
    fails(pull(&settings(), &registry.reference(":2")).await, "users:2 (manifest unknown)");
}

/// What a registry sends in place of something else is not used.
#[tokio::test]
async fn wrong_content_is_refused() {
    let (registry, bytes) = (FakeRegistry::start().await, component(b"1"));
    let digest = registry.put("1", &bytes);
    let pinned = registry.reference(&format!("@sha256:{digest}"));
    registry.content(&format!("manifests/sha256:{digest}"), &WasmArtifact::of(b"2", None, (&[], &[]), "").manifest);
    fails(pull(&settings(), &pinned).await, "in place of sha256:");
    // The same number of other bytes, then fewer and more of them.
    let path = format!("blobs/sha256:{}", Digest::of(&bytes));
    let target = Target::new();
    for (sent, why) in [
        (component(b"2"), "in place of sha256:"),
        (bytes[..5].to_vec(), "broke off after 5 of"),
        ([&bytes[..], b"more"].concat(), "more than the"),
    ] {
        registry.content(&path, &sent);
        let problem = target.pull(&settings(), &registry.reference(":1")).await.unwrap_err().to_string();
        assert!(problem.contains(why) && !target.to.exists(), "{problem}");
    }
    // After all of that, the right bytes are taken.
    registry.content(&path, &bytes);
    assert_eq!(target.pull(&settings(), &registry.reference(":1")).await.unwrap(), bytes);
    assert!(!target.partial.exists());
}

/// A component that breaks off is continued where it ended, also by a later attempt, if the registry can.
#[tokio::test]
async fn transfers_are_resumed() {
    let (registry, bytes) = (FakeRegistry::start().await, component(&[7; 5000]));
    registry.put("1", &bytes);
    let requests = Arc::new(AtomicUsize::new(0));
    let (whole, count) = (bytes.clone(), Arc::clone(&requests));
    let broken = move |head: &str| {
        if !head.contains("/blobs/") || count.fetch_add(1, Relaxed) > 0 {
            return None;
        }
        let mut sent = response("200 OK", "", &whole);
        sent.truncate(sent.len() - 2000);
        Some(sent)
    };
    registry.habit(broken);
    assert_eq!(pull(&settings(), &registry.reference(":1")).await.unwrap(), bytes);
    let ranges: Vec<_> = registry.asked("range").into_iter().filter(|line| line.contains("/blobs/")).collect();
    let rest = format!("bytes={}-", bytes.len() - 2000);
    assert!(ranges.len() == 2 && ranges[0].ends_with(" -") && ranges[1].ends_with(&rest), "{ranges:?}");
    // One that does not continue sends everything again.
    registry.reform();
    let target = Target::new();
    std::fs::write(&target.partial, &bytes[..100]).unwrap();
    let whole = bytes.clone();
    registry.habit(move |head| head.contains("/blobs/").then(|| response("200 OK", "", &whole)));
    assert_eq!(target.pull(&settings(), &registry.reference(":1")).await.unwrap(), bytes);
    assert!(registry.asked("range").last().unwrap().ends_with("bytes=100-"));
    // What was left of another file is noticed at the end.
    registry.reform();
    std::fs::write(&target.partial, b"rubbish").unwrap();
    assert!(target.pull(&settings(), &registry.reference(":1")).await.is_err());
    assert_eq!(target.pull(&settings(), &registry.reference(":1")).await.unwrap(), bytes);
}

#[tokio::test]
async fn sizes_are_bounded() {
    let registry = FakeRegistry::start().await;
    let large = |size: u64| {
        let manifest = WasmArtifact::of(b"x", None, (&[], &[]), "").manifest;
        let text = String::from_utf8(manifest.to_vec()).unwrap();
        text.replace("\"size\":1}", &format!("\"size\":{size}}}"))
    };
    registry.manifest("1", large((1 << 20) + 1).as_bytes());
    fails(pull(&settings(), &registry.reference(":1")).await, "over engine.max_file");
    assert_eq!(registry.asked("x").len(), 1, "only the manifest was requested");
    // A body without an end is given up at the size of the manifest.
    registry.put("2", b"x");
    registry.habit(|head| {
        let endless = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 1 << 20]].concat();
        head.contains("/blobs/").then_some(endless)
    });
    fails(pull(&settings(), &registry.reference(":2")).await, "more than the 1 bytes");
    registry.habit(|_| Some(response("200 OK", "", &vec![b' '; (4 << 20) + 1])));
    fails(pull(&settings(), &registry.reference(":2")).await, "more than 4194304 bytes");
}

fn with_password(directory: &Path, registry: &str) -> Pull {
    let path = directory.join("config.json");
    // user:secret
    std::fs::write(&path, format!(r#"{{"auths": {{"{registry}": {{"auth": "dXNlcjpzZWNyZXQ="}}}}}}"#)).unwrap();
    Pull { credentials: Credentials::At(path), ..settings() }
}

#[tokio::test]
async fn credentials_answer_a_challenge() {
    let (directory, registry, bytes) = (tempfile::tempdir().unwrap(), FakeRegistry::start().await, component(b"1"));
    registry.put("1", &bytes);
    let realm = format!("http://{}/token", registry.address);
    registry.habit(move |head| {
        let authorization = head.lines().find_map(|line| line.strip_prefix("authorization: "));
        if head.starts_with("GET /token?") {
            let good = authorization == Some("Basic dXNlcjpzZWNyZXQ=")
                && head.starts_with("GET /token?scope=repository%3Ateam%2Fusers%3Apull&service=s ");
            let token: &[u8] = if good { br#"{"access_token": "t0k"}"# } else { b"{}" };
            return Some(response("200 OK", "", token));
        }
        let challenge =
            format!("www-authenticate: Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:x:delete\"\r\n");
        (authorization != Some("Bearer t0k")).then(|| response("401 Unauthorized", &challenge, b""))
    });
    let known = with_password(directory.path(), &registry.address);
    assert_eq!(pull(&known, &registry.reference(":1")).await.unwrap(), bytes);
    // One token is enough for all requests of a pull.
    assert_eq!(registry.asked("x").iter().filter(|line| line.contains("/token")).count(), 1);
    fails(pull(&settings(), &registry.reference(":1")).await, "server of tokens returns none");
    // A registry that repeats the request in its error.
    registry.habit(|head| {
        let repeated = head.lines().find_map(|line| line.strip_prefix("authorization: Basic ")).unwrap_or_default();
        let problem =
            format!(r#"{{"errors": [{{"code": "{repeated}", "message": "{repeated}"}}, {{"code": "DENIED"}}]}}"#);
        let status = if repeated.is_empty() { "401 Unauthorized" } else { "403 Forbidden" };
        Some(response(status, "www-authenticate: Basic realm=\"x\"\r\n", problem.as_bytes()))
    });
    let denied = pull(&known, &registry.reference(":1")).await.unwrap_err();
    assert!(denied.ends_with(":1 (denied)") && !denied.contains("dXNlcjpzZWNyZXQ"), "{denied}");
    registry.habit(|head| {
        let good = head.contains("authorization: Basic dXNlcjpzZWNyZXQ=\r\n");
        (!good).then(|| response("401 Unauthorized", "www-authenticate: Basic realm=\"x\"\r\n", b""))
    });
    assert_eq!(pull(&known, &registry.reference(":1")).await.unwrap(), bytes);
    fails(pull(&settings(), &registry.reference(":1")).await, "does not accept the credentials");
}

/// A redirect leads neither credentials to another host, nor a request to a host that the registry should not reach.
#[tokio::test]
async fn redirects_to_other_hosts() {
    let (directory, bytes) = (tempfile::tempdir().unwrap(), component(b"1"));
    let (registry, other) = (FakeRegistry::start().await, FakeRegistry::start().await);
    registry.put("1", &bytes);
    other.put("1", &bytes);
    let to = other.address.clone();
    registry.habit(move |head| {
        if !head.contains("authorization: Basic") {
            return Some(response("401 Unauthorized", "www-authenticate: basic realm=x\r\n", b""));
        }
        let path = head.split(' ').nth(1)?.to_owned();
        let location = format!("location: http://{to}{path}\r\n");
        head.contains("/blobs/").then(|| response("307 Temporary Redirect", &location, b""))
    });
    let known = with_password(directory.path(), &registry.address);
    fails(pull(&known, &registry.reference(":1")).await, "it has no public address, and is not in pull.registries");
    assert!(other.asked("x").is_empty());
    let listed = Pull { registries: vec![other.address.clone()], ..known.clone() };
    assert_eq!(pull(&listed, &registry.reference(":1")).await.unwrap(), bytes);
    assert_eq!(other.asked("authorization").len(), 1);
    assert!(other.asked("authorization")[0].ends_with(" -"), "{:?}", other.asked("authorization"));
    // To itself, for ever.
    registry.habit(|head| {
        let location = format!("location: {}\r\n", head.split(' ').nth(1)?);
        Some(response("302 FoundComponent", &location, b""))
    });
    fails(pull(&known, &registry.reference(":1")).await, "more than 5 redirects");
    registry.habit(|_| Some(response("302 FoundComponent", "location: http://plain.invalid/\r\n", b"")));
    fails(pull(&known, &registry.reference(":1")).await, "it is plain http");
}

#[tokio::test]
async fn the_registry_says_when_to_come_again() {
    let registry = FakeRegistry::start().await;
    registry.habit(|_| Some(response("429 Too Many Requests", "retry-after: 7\r\n", b"slow down")));
    let problem = Target::new().pull(&settings(), &registry.reference(":1")).await.unwrap_err();
    assert!(problem.to_string().contains("too many requests"), "{problem}");
    assert_eq!(problem.after(), Some(Duration::from_secs(7)));
    registry.habit(|_| Some(response("503 Service Unavailable", "retry-after: 99999999\r\n", b"")));
    let problem = Target::new().pull(&settings(), &registry.reference(":1")).await.unwrap_err();
    assert_eq!(problem.after(), Some(Duration::from_secs(3600)));
    registry.stop();
    let problem = Target::new().pull(&settings(), &registry.reference(":1")).await.unwrap_err();
    assert!(problem.to_string().contains("does not respond"), "{problem}");
}

/// A registry with TLS needs a certificate of an authority that the system or `pull.ca` trusts.
#[tokio::test]
async fn certificates_are_verified() {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::pki_types::PrivateKeyDer;
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(ring).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let tls = tls.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
    let registry = FakeRegistry::secure(Some(Arc::new(tls).into())).await;
    let bytes = component(b"1");
    registry.put("1", &bytes);
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    let pem = base64::engine::general_purpose::STANDARD.encode(cert.der());
    std::fs::write(&ca, format!("-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n")).unwrap();
    let settings = Pull { plain_http: Vec::new(), ca: Some(ca.clone()), ..settings() };
    assert_eq!(pull(&settings, &registry.reference(":1")).await.unwrap(), bytes);
    let problem = pull(&Pull { ca: None, ..settings.clone() }, &registry.reference(":1")).await.unwrap_err();
    assert!(problem.contains("certificate"), "{problem}");
    assert_eq!(RegistryClient::doubt(&settings), None);
    std::fs::write(&ca, "rubbish").unwrap();
    let doubt = RegistryClient::doubt(&settings).unwrap();
    assert!(doubt.starts_with("pull.ca: /") && doubt.ends_with(": no component can be pulled"), "{doubt}");
    assert_eq!(RegistryClient::doubt(&Pull { ca: None, ..settings.clone() }), None);
    assert!(RegistryClient::new(&settings).is_err_and(|why| why.contains("no certificate")));
}

/// A file that another process writes is left alone, and a link is not followed.
#[test]
fn partial_files_have_one_writer() {
    let target = Target::new();
    let _first = PartialFile::open(&target.partial).unwrap();
    assert!(PartialFile::open(&target.partial).is_err_and(|why| why.to_string().contains("another process")));
    let link = target.partial.with_extension("link");
    std::os::unix::fs::symlink(&target.to, &link).unwrap();
    assert!(PartialFile::open(&link).is_err() && !target.to.exists());
    // Nor does it wait for the reader of a FIFO.
    let fifo = target.partial.with_extension("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
    assert!(PartialFile::open(&fifo).is_err_and(|why| why.to_string().contains("is not a regular file")));
}
