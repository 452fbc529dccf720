//! Promise: the commands for a running host reach one elsewhere, by the URL of a proxy before its admin listener.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
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
    let other = url.replace("localhost", "127.0.0.1");
    let (code, _, stderr) = run(&["ps", "--host", &other], &roots);
    assert!(code == Some(1) && stderr.contains("its certificate is not for 127.0.0.1, but for "), "{stderr}");
    let (code, _, stderr) = run(&["ps", "--host", &format!("http://{}", proxy.address)], &roots);
    assert!(code == Some(1) && stderr.contains("that is a listener for services"), "{stderr}");
    let (code, _, stderr) = run(&["ps", "--host", &format!("http://{}", proxy.https)], &roots);
    assert!(code == Some(1) && stderr.contains("write https:// in place of http://"), "{stderr}");
    // A certificate of an authority that is not trusted.
    std::fs::write(&roots, Authority::new().pem()).unwrap();
    let (code, _, stderr) = run(&["ps", "--host", &url, "--admin-token", TOKEN], &roots);
    assert!(code == Some(1) && stderr.contains("cannot reach https://localhost"), "{stderr}");
    assert!(stderr.contains("of an authority that this machine does not trust: SSL_CERT_FILE"), "{stderr}");
    // On this machine, plain http reveals the token to nobody.
    let plain = format!("http://{}", behind.admin);
    let (code, stdout, stderr) = run(&["ps", "--host", &plain, "--admin-token", TOKEN], &roots);
    assert!(code == Some(0) && stdout.contains("disabled") && stderr.is_empty(), "{stdout}{stderr}");
    let (code, _, stderr) = run(&["ps", "--host", "localhost:9090"], &roots);
    assert!(code == Some(64) && stderr.contains("write it like https://lodge.example"), "{stderr}");
}

/// Runs `lodge ps` against a server that is no host. Returns what the server received, and what was told to the operator.
fn sent(directory: &Path, args: &[&str], token: Option<&str>) -> (String, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && peer.read(&mut byte).unwrap() > 0 {
            head.extend_from_slice(&byte);
        }
        peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]").unwrap();
        String::from_utf8(head).unwrap().to_ascii_lowercase()
    });
    let mut command = lodge(&["ps", "--host", &url]);
    command.args(args).current_dir(directory);
    if let Some(token) = token {
        command.env("LODGE_ADMIN_TOKEN", token);
    }
    let (status, _, told) = output(&mut command);
    assert_eq!(status, Some(0), "{told}");
    (server.join().unwrap(), told)
}

#[test]
fn the_token_of_this_machine_goes_nowhere_else() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("lodge.toml"), "admin_token = \"token-of-this-machine\"\n").unwrap();
    let file = directory.path().join("other.token");
    std::fs::write(&file, "token-of-the-other\n").unwrap();
    // The command warns of one that others can read.
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let (head, told) = sent(directory.path(), &[], None);
    assert!(!head.contains("authorization"), "{head}");
    assert!(told.contains("the admin_token of lodge.toml is not sent elsewhere"), "{told}");
    for (args, token) in [(&["--token-file", "other.token"][..], None), (&[], Some("token-of-the-other"))] {
        let (head, told) = sent(directory.path(), args, token);
        assert!(head.contains("authorization: bearer token-of-the-other\r\n"), "{head}");
        assert_eq!(told, "");
    }
}
