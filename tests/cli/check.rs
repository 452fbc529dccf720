//! Promise: `lodge check` says before a start what services may do, and what may differ on another host.

use crate::harness::{lodge, output, wasm};

/// The grants of every service, from its manifest alone: what is there need not be a component that compiles.
#[test]
fn grants_are_listed() {
    let directory = tempfile::tempdir().unwrap();
    for (name, manifest) in [
        ("hello", ""),
        ("orders", "calls = 'users'\nhttp = ['https://api.example.com']\n[env]\nTOKEN = 'canary'"),
        ("users", "[keyvalue]\nbuckets = 'a'\n[config]\ncolour = 'blue'\npassword = { env = 'HIDDEN', secret = true }"),
    ] {
        std::fs::copy(wasm("hello"), directory.path().join(format!("{name}.wasm"))).unwrap();
        std::fs::write(directory.path().join(format!("{name}.toml")), manifest).unwrap();
    }
    // What a service without guests reaches for its clients.
    for (name, manifest) in [
        ("zfar", "upstream = { replicas = ['http://127.0.0.1:81'], replicas_file = 'far.list' }"),
        ("zsite", "files.root = 'public'"),
    ] {
        std::fs::write(directory.path().join(format!("{name}.toml")), manifest).unwrap();
    }
    let path = directory.path().display().to_string();
    let (code, stdout, stderr) = output(&mut lodge(&["check", &path, "--grants"]));
    assert_eq!(code, Some(0), "{stderr}");
    let lines: Vec<Vec<&str>> = stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let line = |words: &str| assert!(lines.contains(&words.split(' ').collect()), "{words}: {stdout}");
    line("nothing beyond its requests, clocks, random numbers and log lines");
    line("may call users");
    line("may send to https://api.example.com");
    line("environment TOKEN");
    line("key-value buckets a, bytes 64.0 MiB, keys 100000");
    line("upstream http://127.0.0.1:81, far.list");
    assert!(stdout.contains("\n  files         ") && stdout.contains("root public"), "{stdout}");
    assert!(stdout.contains("password") && !stdout.contains("canary"), "{stdout}");
    let (_, json, _) = output(&mut lodge(&["check", &path, "--grants", "--json"]));
    let grants: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(grants[0], serde_json::json!({ "name": "hello", "grants": {} }));
    assert_eq!(grants[1]["grants"]["calls"], serde_json::json!(["users"]));
    assert_eq!(grants[2]["grants"]["keyvalue"]["buckets"], serde_json::json!(["a"]));
    assert!(!json.contains("canary"), "{json}");
    std::fs::write(directory.path().join("users.toml"), "nonsense").unwrap();
    let (code, _, stderr) = output(&mut lodge(&["check", &path, "--grants"]));
    assert!(code == Some(1) && stderr.contains("users.toml"), "{stderr}");
}

/// What a start would refuse because a disabled service, or one with mistakes, has the same route.
#[test]
fn routes_of_services_that_do_not_serve_count() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let check = || output(&mut lodge(&["check", &directory.path().display().to_string()]));
    let routes = "routes = ['/shop']\n";
    let replicas = "upstream.replicas = ['http://127.0.0.1:81']";
    write("new.toml", &format!("{routes}{replicas}"));
    write("old.toml", &format!("enabled = false\n{routes}{replicas}"));
    let (code, stdout, stderr) = check();
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(
        stdout.contains("new.toml  REFUSED: its route /shop already belongs to old, which is disabled"),
        "{stdout}"
    );
    assert!(stdout.contains("remove this route from old.toml"), "{stdout}");
    write("old.toml", &format!("no_key = 1\n{routes}{replicas}"));
    let (code, stdout, _) = check();
    assert!(code == Some(1) && stdout.contains("its route /shop already belongs to old;"), "{stdout}");
    write("old.toml", &format!("enabled = false\n{replicas}"));
    let (code, stdout, stderr) = check();
    assert_eq!(code, Some(0), "{stdout}{stderr}");
}

/// A refusal may come from settings that this machine has not.
#[test]
fn a_check_without_settings_says_so() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("far.toml"), "upstream.replicas = ['http://127.0.0.1:81']\naudit = true")
        .unwrap();
    let check = |args: &[&str]| {
        let path = directory.path().display().to_string();
        output(lodge(&["check", &path]).args(args).current_dir(directory.path()))
    };
    let (code, stdout, stderr) = check(&[]);
    assert!(code == Some(1) && stdout.contains("this host has no audit trail"), "{stdout}{stderr}");
    assert!(stderr.contains("no lodge.toml was read: a host with other settings may refuse other files"), "{stderr}");
    let file = directory.path().join("host.toml.settings");
    std::fs::write(&file, "audit.file = '/nowhere/audit.log'").unwrap();
    let (code, stdout, stderr) = check(&["--config", &file.display().to_string()]);
    assert!(code == Some(0) && !stderr.contains("no lodge.toml"), "{stdout}{stderr}");
}

/// Every policy that a manifest has is a line, and a rate of a cluster is told where there is none.
#[test]
fn policies_are_listed() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(wasm("hello"), directory.path().join("hello.wasm")).unwrap();
    let manifest = "rate = { limit = '5/s', scope = 'cluster' }\nbreaker = {}\nallow = ['10.0.0.0/8']\npriority = 'high'\n\
                    cache.ttl = '1m'\ncors.origins = 'https://a.test'\nlimits.wall = '7s'\nauth.api_keys = 'hello.keys'\n\
                    routes = ['/hello', { path = '/login', rate = '1/m' }]";
    std::fs::write(directory.path().join("hello.toml"), manifest).unwrap();
    std::fs::write(directory.path().join("hello.keys"), "").unwrap();
    let path = directory.path().display().to_string();
    let (code, stdout, stderr) = output(&mut lodge(&["check", &path]));
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let lines: Vec<String> = stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "rate 5/s, burst 5, by client, of all hosts together",
        "rate /login: 1/m, burst 1, by client",
        "allow 10.0.0.0/8",
        "priority high",
        "cache ttl 1m",
        "CORS https://a.test",
        "limits wall 7s",
    ] {
        assert!(lines.iter().any(|told| told == line), "{line}: {stdout}");
    }
    for start in ["breaker ", "auth "] {
        assert!(lines.iter().any(|told| told.starts_with(start)), "{start}: {stdout}");
    }
    assert!(stderr.contains("hello.toml: rate.scope is `cluster`, and this host is in no cluster"), "{stderr}");
    let (_, json, _) = output(&mut lodge(&["check", &path, "--json"]));
    let reports: serde_json::Value = serde_json::from_str(&json).unwrap();
    let policies = reports[0]["service"]["policies"].as_array().unwrap();
    assert!(policies.iter().any(|policy| policy["route"] == "/login" && policy["policy"] == "rate"), "{json}");
}
