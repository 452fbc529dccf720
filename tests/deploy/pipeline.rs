//! Promise: a pipeline deploys, promotes and rolls back on a host elsewhere with a key that can do nothing else, and shows before
//! what it would change.

use std::fs;
use std::path::{Path, PathBuf};

use http::Method;
use lodge_manifest::digest::Digest;
use serde_json::Value;

use crate::harness::{Connection, Response, TestHost, host, lodge, output, until, within};
use crate::policies::auth::create;
use crate::versions::traffic_split::{asked, version};

/// A host whose components must be signed, with keys for its API.
pub(super) struct Place {
    elsewhere: tempfile::TempDir,
    pub(super) host: TestHost,
}

impl Place {
    pub(super) async fn new() -> Self {
        let elsewhere = tempfile::tempdir().unwrap();
        let at = |name: &str| elsewhere.path().join(name);
        let (code, _, stderr) = output(&mut lodge(&["sign", "--new-key", at("release.key").to_str().unwrap()]));
        assert_eq!(code, Some(0), "{stderr}");
        for (name, scopes) in [
            ("ci", &["deploy:users", "deploy:aaa", "deploy:Hello"][..]),
            ("other", &["deploy:team-*"]),
            ("viewer", &["read"]),
        ] {
            let scopes: Vec<_> = scopes.iter().flat_map(|scope| ["--scope", scope]).collect();
            fs::write(at(name), create(&at("admin.keys"), name, &scopes)).unwrap();
        }
        let shown = |name: &str| at(name).display().to_string();
        let setup = host(&["hello"]).file("users.wasm", &version(1)).manifest("hello", "enabled = false");
        let file = setup.directory.path().join("users.wasm").display().to_string();
        let (code, _, stderr) = output(&mut lodge(&["sign", &file, "--key", &shown("release.key")]));
        assert_eq!(code, Some(0), "{stderr}");
        let host = setup.set("trust.keys", &shown("release.pub")).set("admin_keys", &shown("admin.keys"));
        let host = host.set("audit.file", &shown("audit.log")).set("engine.max_file", "1MiB").start().await;
        assert_eq!(host.refusals(), Vec::<String>::new());
        Self { elsewhere, host }
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.elsewhere.path().join(name)
    }

    pub(super) fn write(&self, name: &str, content: &[u8]) -> String {
        let path = self.at(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    /// Runs a command with the key in the file `key`.
    pub(super) fn run(&self, key: &str, args: &[&str]) -> (Option<i32>, String, String) {
        let (host, key) = (format!("http://{}", self.host.admin), self.at(key).display().to_string());
        output(lodge(args).args(["--host", &host, "--token-file", &key]))
    }

    /// Sends a component as no command would.
    pub(super) async fn put(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let bearer = format!("Bearer {}", fs::read_to_string(self.at("ci")).unwrap());
        let headers = [headers, &[("authorization", &bearer)]].concat();
        Connection::http1(self.host.admin).await.ask(Method::PUT, path, &headers, body).await
    }

    /// The names and contents of all files of the directory, but for locks.
    pub(super) fn files(&self) -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(self.host.directory()).unwrap().map(|entry| entry.unwrap());
        let named = entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.path()));
        let mut all: Vec<_> = named
            .filter(|(name, path)| !name.ends_with(".lock") && path.is_file())
            .map(|(name, path)| (name, fs::read(path).unwrap()))
            .collect();
        all.sort();
        all
    }

    /// The lines of the audit trail about operators, without their times and hashes.
    pub(super) fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.at("audit.log")).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["kind"] == "operator").collect()
    }

    /// Waits for a line of the trail: who did what, and the status.
    async fn recorded(&self, subject: &str, path: &str, status: Option<u16>) {
        let wanted = |line: &Value| {
            line["subject"] == subject
                && line["path"] == path
                && line.get("status").and_then(Value::as_u64) == status.map(u64::from)
        };
        let what = format!("the trail has {subject} {path} {status:?}");
        until(&what, || self.audit().iter().any(wanted)).await;
    }
}

pub(super) const COMPONENT: &str = "/v1/services/users/component";

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_goes_all_the_way() {
    let place = Place::new().await;
    let key = place.at("release.key").display().to_string();
    let mut client = place.host.connect().await;
    let two = place.write("two.wasm", &version(2));
    let canary = ["deploy", "users", &two, "--key", &key, "--canary", "10%", "--wait=1s"];
    let (code, stdout, stderr) = place.run("ci", &canary);
    assert!(code == Some(2) && stdout.starts_with("users@canary serves "), "{stdout}{stderr}");
    let unjudged = "users@canary was not judged: 0 requests of it counted in 1s";
    assert!(stderr.contains(unjudged), "{stderr}");
    let share = place.host.current.snapshot();
    let share = share.targets.iter().find(|target| &*target.deployment().name == "users@canary").unwrap();
    assert_eq!(share.deployment().spec.manifest.share.as_ref().unwrap().percent.to_string(), "10%");
    place.recorded("ci", "/v1/services/users@canary/component", Some(200)).await;
    let digest = place.audit().last().unwrap()["digest"].as_str().unwrap().to_owned();
    assert!(stdout.trim_end().ends_with(&digest[..12]), "{stdout}{digest}");
    // The same again is no change.
    let before = place.files();
    let (code, stdout, stderr) = place.run("ci", &[&canary[..7], &["--wait", "1s", "--min-requests=0"]].concat());
    assert!(
        code == Some(0) && stdout.contains(", which was there already\nusers@canary was judged by 0 "),
        "{stdout}{stderr}"
    );
    let component = |files: &[(String, Vec<u8>)]| {
        files.iter().filter(|(name, _)| !name.ends_with(".sig")).cloned().collect::<Vec<_>>()
    };
    assert_eq!(component(&place.files()), component(&before), "only the signature is another one");
    let before = place.files();
    // Another key may not touch it, and this one no other service, nor what it is not for.
    for (who, args, why) in [
        ("other", &["promote", "users"][..], "403 this request needs the scope `deploy:users` or `deploy`"),
        ("viewer", &["rollback", "users"], "403 this request needs the scope `deploy:users` or `deploy`"),
        ("viewer", &canary[..5], "403 this request needs the scope `deploy:users` or `deploy`"),
        (
            "ci",
            &["deploy", "hello", &two, "--key", &key],
            "the scope `deploy:hello` or `deploy`, which the key ci has not",
        ),
        ("ci", &["disable", "users"], "the scope `operate`"),
        ("ci", &["ps"], "the scope `read`"),
        ("ci", &["inspect", "hello"], "the scope `read` or `deploy:hello`"),
        ("viewer", &["log-level", "debug"], "the scope `operate`"),
        ("release.pub", &["ps"], ""),
    ] {
        let (code, stdout, stderr) = place.run(who, args);
        assert!(code != Some(0) && stdout.is_empty() && stderr.contains(why), "{who} {args:?}: {stdout}{stderr}");
    }
    assert_eq!(place.files(), before);
    place.recorded("other", "/v1/services/users@canary/promote", Some(403)).await;
    let (code, stdout, _) = place.run("viewer", &["ps"]);
    assert!(code == Some(0) && stdout.contains("users@canary"), "{stdout}");
    // A key that may deploy it may look at it.
    assert_eq!(place.run("ci", &["inspect", "users@canary"]).0, Some(0));

    let (code, stdout, stderr) = place.run("ci", &["promote", "users"]);
    assert!(
        code == Some(0) && stdout.starts_with("users serves ") && stdout.contains(&digest[..12]),
        "{stdout}{stderr}"
    );
    assert!(stderr.contains("was not judged before: 0 requests of it counted"), "{stderr}");
    assert_eq!(asked(&mut client, "/users", &[]).await, 2);
    // The same again is no change, of a pipeline that knows what it promotes.
    let whole = Digest::of(&version(2)).to_string();
    let (code, stdout, stderr) = place.run("ci", &["promote", "users", "--digest", &whole]);
    assert!(code == Some(0) && stdout.ends_with(", which was there already\n"), "{stdout}{stderr}");
    assert_eq!(place.run("ci", &["promote", "users", "--digest", &"0".repeat(64)]).0, Some(1));
    let only = place.run("ci", &["rollback", "users", "--canary-only"]);
    assert_eq!((only.0, only.1.as_str()), (Some(0), "there is no users@canary; nothing was changed\n"), "{}", only.2);
    assert_eq!(asked(&mut client, "/users", &[]).await, 2);
    assert_eq!(place.run("ci", &["rollback", "users"]).0, Some(0));
    assert_eq!(asked(&mut client, "/users", &[]).await, 1);
    // Another one undoes it.
    for number in [2, 1] {
        assert_eq!(place.run("ci", &["rollback", "users"]).0, Some(0));
        assert_eq!(asked(&mut client, "/users", &[]).await, number);
    }
    fs::remove_file(place.host.directory().join("users.wasm.previous")).unwrap();
    let (code, _, stderr) = place.run("ci", &["rollback", "users"]);
    assert!(code == Some(1) && stderr.contains("nothing to roll back to"), "{stderr}");
    place.recorded("ci", "/v1/services/users/rollback", Some(409)).await;
    // A canary is removed, also by the key of CI.
    assert_eq!(place.run("ci", &canary[..7]).0, Some(0));
    let (code, stdout, stderr) = place.run("ci", &["rollback", "users"]);
    assert!(code == Some(0) && stdout.starts_with("users serves "), "{stdout}{stderr}");
    assert!(!place.host.directory().join("users@canary.wasm").exists());
    // Revoked keys are refused within seconds.
    let file = place.at("admin.keys").display().to_string();
    assert_eq!(output(&mut lodge(&["keys", "revoke", "ci", "--file", &file])).0, Some(0));
    until("the key is refused", || place.run("ci", &["inspect", "users"]).2.contains("does not accept this token"))
        .await;
    let text = fs::read_to_string(place.at("audit.log")).unwrap();
    let secrets = ["ci", "other", "viewer"].map(|name| fs::read_to_string(place.at(name)).unwrap());
    assert!(secrets.iter().all(|secret| !text.contains(secret.trim())), "{text}");
}

/// What a directory would change, before it does.
#[tokio::test(flavor = "multi_thread")]
async fn differences_are_shown() {
    let host = host(&["hello"]).file("users.wasm", &version(1)).manifest("users", "rate = '9/s'").start().await;
    let place = tempfile::tempdir().unwrap();
    let own = place.path();
    let diff = |directory: &Path, more: &[&str]| {
        let (directory, url) = (directory.display().to_string(), format!("http://{}", host.admin));
        output(lodge(&["diff", &directory, "--host", &url]).args(more))
    };
    assert_eq!(diff(host.directory(), &[]), (Some(0), String::new(), String::new()));
    fs::write(own.join("users.wasm"), version(2)).unwrap();
    fs::write(own.join("users.toml"), "routes = ['/u']\nlimits.cpu = '1s'").unwrap();
    fs::write(own.join("new.wasm"), version(3)).unwrap();
    let (code, stdout, stderr) = diff(own, &[]);
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!((code, stderr.as_str()), (Some(1), ""), "{stdout}");
    assert_eq!([lines[0], lines[1]], ["- hello", "+ new"]);
    assert!(lines[2].starts_with("~ users: component ") && lines[2].ends_with(", limits, rate, routes"), "{stdout}");
    let (code, stdout, _) = diff(own, &["--json"]);
    let all: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &all[1]["change"], &all[2]["keys"][2]), (Some(1), &"added".into(), &"routes".into()));
    assert_eq!(all[2]["component"]["host"].as_str().map(str::len), Some(64), "{all}");
    fs::write(own.join("users.toml"), "routs = 1").unwrap();
    let (code, _, stderr) = diff(own, &[]);
    assert!(code == Some(2) && stderr.contains("users.toml"), "{stderr}");
    let (code, _, stderr) = diff(&own.join("none"), &[]);
    assert!(code == Some(2) && stderr.contains("none"), "{stderr}");
    let (code, ..) = within(async { output(&mut lodge(&["diff", "--host", "http://127.0.0.1:1"])) }).await;
    assert_eq!(code, Some(2));
}
