//! Promise: the commands for a running host reach one elsewhere, by the URL of a proxy before its admin listener.

use std::path::Path;

use crate::harness::authority::Authority;
use crate::harness::{host, lodge, output};

/// The token of the host.
const TOKEN: &str = "the-token-of-a-host";

/// Runs a command with these certificate authorities in place of those of the system.
fn run(args: &[&str], roots: &Path) -> (Option<i32>, String, String) {
    output(lodge(args).env("SSL_CERT_FILE", roots).env("SSL_CERT_DIR", "/nowhere"))
}

/// The proxy is another Lodge: its service `ops` has the admin listener as its replica.
#[tokio::test(flavor = "multi_thread")]
async fn commands_reach_a_host_by_https() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.issue(&["localhost"]).write(directory.path(), "tls");
    let roots = directory.path().join("roots.pem");
    std::fs::write(&roots, authority.pem()).unwrap();
    let behind = host(&["hello"]).set("admin_token", TOKEN).start().await;
    let manifest = format!(
        "routes = [{{ path = '/ops', strip_prefix = true }}]\n[upstream]\nreplicas = ['http://{}']",
        behind.admin
    );
    let certificates = directory.path().display().to_string();
    let proxy = host(&[]).manifest("ops", &manifest).set("tls.listen", "127.0.0.1:0");
    let proxy = proxy.set("tls.certificates", &certificates).start().await;
    let url = format!("https://localhost:{}/ops/", proxy.https.port());

    let (code, stdout, stderr) = run(&["ps", "--host", &url, "--admin-token", TOKEN], &roots);
    assert!(code == Some(0) && stdout.contains("hello") && stderr.is_empty(), "{stdout}{stderr}");
    let (code, stdout, stderr) = run(&["inspect", "hello", "--host", &url, "--admin-token", TOKEN], &roots);
    assert!(code == Some(0) && stdout.contains("/hello"), "{stdout}{stderr}");
    let (code, stdout, stderr) = run(&["disable", "hello", "--host", &url, "--admin-token", TOKEN], &roots);
    assert_eq!((code, stdout.as_str()), (Some(0), "hello: disabled\n"), "{stderr}");
    assert_eq!(behind.get("/hello").await.status, 503);

    let shown = url.trim_end_matches('/');
    let (code, _, stderr) = run(&["ps", "--host", &url], &roots);
    assert!(code == Some(1) && stderr.contains(&format!("{shown} requires a token")), "{stderr}");
    let (code, _, stderr) = run(&["ps", "--host", &url, "--admin-token", "another-token-than-its"], &roots);
    assert!(code == Some(1) && stderr.contains("does not accept this token"), "{stderr}");
    // A certificate of an authority that is not trusted.
    std::fs::write(&roots, Authority::new().pem()).unwrap();
    let (code, _, stderr) = run(&["ps", "--host", &url, "--admin-token", TOKEN], &roots);
    assert!(code == Some(1) && stderr.contains("cannot reach https://localhost"), "{stderr}");
    // On this machine, plain http reveals the token to nobody.
    let plain = format!("http://{}", behind.admin);
    let (code, stdout, stderr) = run(&["ps", "--host", &plain, "--admin-token", TOKEN], &roots);
    assert!(code == Some(0) && stdout.contains("disabled") && stderr.is_empty(), "{stdout}{stderr}");
    let (code, _, stderr) = run(&["ps", "--host", "localhost:9090"], &roots);
    assert!(code == Some(64) && stderr.contains("write it like https://lodge.example"), "{stderr}");
}
