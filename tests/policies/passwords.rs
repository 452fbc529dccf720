//! Promise: users with passwords are let in at the cost of one hash, and failed attempts of any kind have a rate of their own for
//! each client address.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;

use super::admission::refused;
use super::auth::create;
use crate::harness::{Connection, Response, TestHost, eventually, host, lodge, until_metric};

/// Adds a user to a file of keys.
fn add(file: &Path, name: &str, password: &str, more: &[&str]) -> (bool, String) {
    let args = [&["keys", "create", name, "--password", "--file", file.to_str().unwrap()], more].concat();
    let mut command = lodge(&args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.stdout.is_empty());
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

async fn ask(host: &TestHost, value: &str) -> Response {
    host.connect().await.ask(Method::GET, "/echo/head", &[("authorization", value)], "").await
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn users_have_passwords() {
    let setup = host(&["echo"]);
    let file = setup.directory.path().join("users.list");
    assert!(add(&file, "ann", "correct horse", &["--scope", "a"]).0);
    let key = create(&file, "ci", &[]);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("password = \"pbkdf2-sha256$600000$") && !text.contains("horse"), "{text}");
    for (name, password, expected) in [
        ("ann", "correct horse", "another key has the same name"),
        ("bob", "short", "a password has 8 to 1024 bytes"),
        ("b:b", "correct horse", "the name of a user has no `:`"),
    ] {
        let (done, stderr) = add(&file, name, password, &[]);
        assert!(!done && stderr.contains(expected), "{stderr}");
    }
    let manifest = "auth = { api_keys = 'users.list', passwords = 'users.list' }";
    let host = setup.manifest("echo", manifest).start().await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    let missing = host.get("/echo/head").await;
    assert_eq!(refused(&missing), (401, "auth-missing".into()));
    let challenges = format!("{:?}", missing.headers.get_all("www-authenticate").iter().collect::<Vec<_>>());
    assert!(challenges.contains("Basic realm=") && challenges.contains("ApiKey realm="), "{challenges}");
    let seen = ask(&host, &basic("ann", "correct horse")).await;
    assert_eq!(seen.status, 200, "{seen:?}");
    let text = seen.text();
    for line in ["x-lodge-auth-method: basic\n", "x-lodge-auth-subject: ann\n", "x-lodge-auth-scopes: a\n"] {
        assert!(text.contains(line), "no {line} in {text}");
    }
    assert!(!text.contains("authorization"), "{text}");
    for (user, password) in [("ann", "correct horsf"), ("bob", "correct horse"), ("ann", ""), ("ci", &*key)] {
        assert_eq!(refused(&ask(&host, &basic(user, password)).await), (401, "auth-invalid".into()), "{user}");
    }
    for value in ["Basic", "Basic x", "Bearer x"] {
        assert_eq!(ask(&host, value).await.status, 401, "{value}");
    }
    // Two credentials are one too many, and the key alone is enough.
    let both = [("authorization", &*basic("ann", "correct horse")), ("x-api-key", &key)];
    let both = host.connect().await.ask(Method::GET, "/echo/head", &both, "").await;
    assert_eq!(refused(&both), (401, "auth-invalid".into()));
    let by_key = host.connect().await.ask(Method::GET, "/echo/head", &[("x-api-key", &key)], "").await;
    assert!(by_key.text().contains("x-lodge-auth-method: api-key\n"), "{by_key:?}");
    // A user that is removed is not let in for a remembered password.
    std::fs::write(&file, "").unwrap();
    let ann = basic("ann", "correct horse");
    eventually("the user is gone", async || ask(&host, &ann).await.status != 200).await;
}

/// The first requests of a user cost one hash, however many come at once, on routes with the same file. A client that goes away
/// has used its attempts.
#[tokio::test(flavor = "multi_thread")]
async fn hashes_are_few() {
    let setup = host(&["echo"]).set("auth_failures", "3");
    let file = setup.directory.path().join("users.list");
    assert!(add(&file, "ann", "correct horse", &[]).0);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "nobody else reads a new file");
    let key = create(&file, "ci", &[]);
    // A user whose hash takes longer than its client waits.
    let (salt, hash) = (STANDARD.encode([1; 16]), STANDARD.encode([2; 32]));
    let slow = format!("[[key]]\nname = 'slow'\npassword = 'pbkdf2-sha256$5000000${salt}${hash}'\n");
    std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + &slow).unwrap();
    let auth = "auth = { api_keys = 'users.list', passwords = 'users.list' }";
    let manifest = format!("routes = ['/echo', {{ path = '/echo/more', {auth} }}]\n{auth}");
    let host = setup.manifest("echo", &manifest).start().await;
    let address = host.address;
    let all = (0..100).map(|n| {
        tokio::spawn(async move {
            let value = basic("ann", "correct horse");
            let path = ["/echo/head", "/echo/more/head"][n % 2];
            Connection::http1(address).await.ask(Method::GET, path, &[("authorization", &*value)], "").await.status
        })
    });
    for request in all.collect::<Vec<_>>() {
        assert_eq!(request.await.unwrap(), 200);
    }
    until_metric(host.admin, "lodge_auth_password_hashes_total{result=\"right\"}", 1).await;
    let by_key = async || host.connect().await.ask(Method::GET, "/echo/head", &[("x-api-key", &*key)], "").await.status;
    for n in 0..3 {
        assert_eq!(by_key().await, 200, "{n}");
        let mut guess = tokio::net::TcpStream::connect(address).await.unwrap();
        let value = basic("slow", &format!("a guess, number {n}"));
        let head = format!("GET /echo/head HTTP/1.1\r\nhost: localhost\r\nauthorization: {value}\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut guess, head.as_bytes()).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    // Attempts count before their hashes are known.
    eventually("all three count", async || by_key().await == 429).await;
}

/// Failures count, and what succeeds or has no credentials does not.
#[tokio::test(flavor = "multi_thread")]
async fn failed_attempts_have_a_rate() {
    let setup = host(&["echo", "hello"]).set("auth_failures", "3").set("trusted_proxies", "127.0.0.0/8");
    let file = setup.directory.path().join("keys.list");
    let key = create(&file, "ada", &[]);
    let bob = create(&file, "bob", &[]);
    let old = create(&file, "old", &["--expires", "1s"]);
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let manifest = "routes = ['/echo', { path = '/echo/open', auth = false }, { path = '/echo/admin', auth = { claims = { sub = 'bob' } } }]\n\
                    auth = { api_keys = 'keys.list' }";
    let host = setup.manifest("echo", manifest).start().await;
    let ask = async |client: &str, path: &str, key: &str| {
        let headers = [("x-forwarded-for", client), ("x-api-key", key)];
        host.connect().await.ask(Method::GET, path, &headers, "").await
    };
    for _ in 0..10 {
        assert_eq!(ask("192.0.2.1", "/echo/head", &key).await.status, 200);
        assert_eq!(ask("192.0.2.1", "/echo/head", "").await.status, 401, "without credentials");
        assert_eq!(ask("192.0.2.1", "/echo/admin/head", &key).await.status, 403, "valid, but not enough");
        assert_eq!(ask("192.0.2.1", "/echo/head", &old).await.status, 401, "valid once");
    }
    for _ in 0..3 {
        assert_eq!(ask("192.0.2.1", "/echo/head", "wrong").await.status, 401);
    }
    let limited = ask("192.0.2.1", "/echo/head", "wrong").await;
    assert_eq!(refused(&limited), (429, "auth-limited".into()));
    let wait: u32 = limited.header("retry-after").parse().unwrap();
    assert!((1..=20).contains(&wait), "{wait}");
    // Right credentials of this address wait as well, or an attempt would tell. Others do not, nor do routes without credentials.
    assert_eq!(ask("192.0.2.1", "/echo/head", &key).await.status, 429);
    assert_eq!(ask("192.0.2.1", "/hello", "").await.status, 200);
    assert_eq!(ask("192.0.2.1", "/echo/open/head", "wrong").await.status, 200);
    assert_eq!(ask("192.0.2.2", "/echo/admin/head", &bob).await.status, 200);
    until_metric(host.admin, "lodge_auth_failures_total{service=\"echo\",cause=\"unknown-key\"}", 3).await;
    // A manifest that changes does not begin anew.
    host.edit("echo", &format!("{manifest}\nlimits.wall = '9s'")).await;
    assert_eq!(ask("192.0.2.1", "/echo/head", &key).await.status, 429);
}
