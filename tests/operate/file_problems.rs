//! Promise: every file that is read again, and cannot be used now, is told by `ps` and `inspect` with what is in force, until it is
//! mended.

use std::collections::BTreeMap;

use lodge_traffic::auth::api_keys::{KeyEntry, KeyFile};

use crate::harness::authority::Authority;
use crate::harness::{Process, TestHost, eventually, get, host, lodge, output, until, until_metric};

const MANIFEST: &str = r#"
auth.api_keys = "shop.keys"
validate.body = "order.json"
errors.pages = { 404 = "missing.html" }
routes = ["/hello", { path = "/tokens", auth = { jwt = { keys = "issuer.json", issuer = "https://a.test", audience = "a" } } },
          { path = "/users", auth = { passwords = "users.list" } }]

[config]
greeting = { file = "greeting.txt" }
"#;

/// What each file of the service has before it is broken, and which line tells of it then.
const FILES: [(&str, &str, &str); 6] = [
    ("shop.keys", "", "auth.api_keys: "),
    ("users.list", "", "auth.passwords: "),
    ("issuer.json", r#"{"keys":[]}"#, "auth.jwt.keys: "),
    ("order.json", r#"{"type":"object"}"#, "validate.body: "),
    ("missing.html", "<p>nothing here", "errors.pages: "),
    ("greeting.txt", "hello", "greeting"),
];

const REFUSED: &str = "the last good one is used, and the service will be refused at the next start";

async fn run(host: &TestHost, args: &'static [&'static str]) -> String {
    let admin = host.admin.to_string();
    let command = move || output(lodge(args).args(["--admin", &admin])).1;
    tokio::task::spawn_blocking(command).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_followed_file_is_told() {
    let (authority, others) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.issue(&["localhost"]).write(others.path(), "tls");
    let at = |name: &str| others.path().join(name);
    std::fs::write(at("ca.pem"), authority.pem()).unwrap();
    std::fs::write(at("down.html"), "<p>down").unwrap();
    let mut setup = host(&["hello"]).manifest("hello", MANIFEST).set("tls.listen", "127.0.0.1:0");
    for (name, text, _) in FILES {
        setup = setup.file(name, text.as_bytes());
    }
    let upstream = "upstream = { replicas_file = 'far.list', tls = { ca = 'far.pem' } }";
    setup = setup.file("far.list", b"https://127.0.0.1:9\n").file("far.pem", authority.pem().as_bytes());
    let host = setup
        .manifest("far", upstream)
        .set("tls.certificates", at("tls.crt").to_str().unwrap())
        .set("tls.client_ca", at("ca.pem").to_str().unwrap())
        .set("errors.pages", &format!("503={}", at("down.html").display()))
        .start()
        .await;
    assert!(host.refusals().is_empty(), "{:?}", host.refusals());
    assert!(!run(&host, &["ps"]).await.contains("PROBLEMS"));
    let service: BTreeMap<_, _> =
        FILES.iter().map(|(name, text, _)| (host.directory().join(name), text.to_string())).collect();
    let far = ["far.list", "far.pem"].map(|name| host.directory().join(name));
    let all: BTreeMap<_, _> = service
        .keys()
        .cloned()
        .chain(far)
        .chain(["tls.crt", "ca.pem", "down.html"].map(at))
        .map(|path| (std::fs::read(&path).unwrap(), path))
        .map(|(bytes, path)| (path, bytes))
        .collect();
    for path in all.keys() {
        // Neither keys nor a page, a schema, a list or a certificate.
        std::fs::write(path, [0xff, 0xfe]).unwrap();
    }
    let lines = FILES.iter().map(|(_, _, line)| format!("hello.toml: {line}"));
    let lines: Vec<_> = lines
        .map(|line| line.replace("toml: greeting", "toml: "))
        .chain(
            [
                "far.toml: upstream: ",
                "far.toml: upstream.tls.ca: ",
                "tls.certificates: ",
                "tls.client_ca: ",
                "errors.pages: ",
            ]
            .map(str::to_owned),
        )
        .collect();
    eventually("all files are told", async || {
        let told = run(&host, &["ps"]).await;
        lines.iter().all(|line| told.lines().any(|told| told.starts_with(line)))
    })
    .await;
    // Every file is named by its whole path.
    let told = run(&host, &["ps"]).await;
    let problems = told.split("PROBLEMS\n").nth(1).unwrap();
    for line in problems.lines() {
        let of = all.keys().filter(|path| line.contains(&*path.to_string_lossy())).count();
        assert_eq!(of, 1, "{line}");
    }
    let kind = |kind: &str| format!("lodge_problems{{kind=\"{kind}\"}}");
    let counts = [("auth.api_keys", 1), ("config", 1), ("errors.pages", 2), ("upstream", 2), ("trust.keys", 0)];
    for (of, count) in counts {
        until_metric(host.admin, &kind(of), count).await;
    }
    let inspected = run(&host, &["inspect", "hello"]).await;
    assert_eq!(inspected.matches(REFUSED).count(), 5, "{inspected}");
    let kept = "the service keeps the configuration that it has, and will be refused at the next start of the host";
    assert!(inspected.contains(kept), "{inspected}");
    assert_eq!(get(host.address, "/hello").await.status, 401, "what was read last is in force");
    for (path, bytes) in &all {
        std::fs::write(path, bytes).unwrap();
    }
    eventually("no file is told", async || !run(&host, &["ps"]).await.contains("PROBLEMS")).await;
    for (of, _) in counts {
        until_metric(host.admin, &kind(of), 0).await;
    }
}

/// Without keys nobody but the holder of `admin_token` can use the API, so this is told where everybody can see it.
#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_file_of_operators_keys_is_told_once() {
    let (directory, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = place.path().join("admin.keys").display().to_string();
    let (code, _, stderr) = output(&mut lodge(&["keys", "create", "ci", "--scope", "read", "--file", &file]));
    assert_eq!(code, Some(0), "{stderr}");
    let token = "0123456789abcdef0123";
    let args = ["--admin-keys", &*file, "--admin-token", token];
    let process = Process::serve(directory.path(), &args).await;
    let (kind, said) =
        ("lodge_problems{kind=\"admin_keys\"}", format!("{file}: it has no keys, so nobody can use one"));
    until_metric(process.admin, kind, 0).await;
    let before = std::fs::read(&file).unwrap();
    std::fs::write(&file, "").unwrap();
    until("it is in the log", || process.log().contains(&said)).await;
    until_metric(process.admin, kind, 1).await;
    let admin = process.admin.to_string();
    let ps = output(&mut lodge(&["ps", "--admin", &admin, "--admin-token", token])).1;
    assert!(ps.contains(&format!("PROBLEMS\nadmin_keys: {said}\n")), "{ps}");
    std::fs::write(&file, before).unwrap();
    until_metric(process.admin, kind, 0).await;
    let log = process.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(&said)).collect();
    assert!(lines.len() == 1 && lines[0].contains("WARN"), "{log}");
}

/// The name of an API key, and what is wrong with it, are told to operators alone.
#[tokio::test(flavor = "multi_thread")]
async fn refused_keys_are_told() {
    let mut file = KeyFile::default();
    let entry = |name: &str| KeyEntry { name: name.into(), ..KeyEntry::default() };
    let expired = KeyEntry { expires: Some("2020-01-01T00:00:00Z".into()), ..entry("old") };
    let [old, narrow] = [expired, entry("narrow")].map(|entry| file.create(entry).unwrap());
    let host = host(&["hello"])
        .manifest("hello", "auth = { api_keys = 'shop.keys', scopes = ['orders'] }")
        .file("shop.keys", file.text().as_bytes())
        .start()
        .await;
    let refused = [
        (old.as_str(), 401, "auth-invalid (expired-key, key old)"),
        (narrow.as_str(), 403, "auth-insufficient (scope, key narrow)"),
        ("lodge_key_unknown", 401, "auth-invalid (unknown-key)"),
    ];
    for (key, status, told) in refused {
        let mut client = host.connect().await;
        let response = client.ask(http::Method::GET, "/hello", &[("x-api-key", key)], "").await;
        assert_eq!(response.status, status, "{told}");
        assert!(!response.text().contains("old") && !response.text().contains("narrow"), "{}", response.text());
        eventually(told, async || run(&host, &["inspect", "hello"]).await.contains(told)).await;
    }
}
