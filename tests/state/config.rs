//! Promise: guests read the configuration that their manifest describes, new values reach the next request, and no secret
//! reaches a log, an error or the API.

use std::fs;

use crate::harness::{Process, eventually, get, host, lodge, output, until, wasm};

const MANIFEST: &str = "
    config_directories = ['values']
    [config]
    greeting = 'Hello'
    password = { file = 'password', secret = true }
    home = { env = 'PATH' }
    missing = { env = 'LODGE_NOT_THERE', default = 'usual' }
    [env]
    PLAIN = 'text'
    TOKEN = { file = 'token', secret = true }
    PASSWORD = { config = 'password' }
    COLOR = { config = 'color' }
    HOME_PATH = { env = 'PATH' }
    MISSING = { config = 'nothing', default = 'usual' }
";

/// Values that must appear nowhere.
const CANARY: &str = "canary-5f1e8a";
const TOKEN: &str = "canary-77d0b2";

#[tokio::test(flavor = "multi_thread")]
async fn all_interfaces_have_the_same_values() {
    let setup = host(&["configured", "configured3"]).file("password", CANARY.as_bytes());
    let setup = setup.file("token", TOKEN.as_bytes());
    fs::create_dir(setup.directory.path().join("values")).unwrap();
    let setup = setup.file("values/color", b"blue\n").file("values/greeting", b"shadowed\n");
    let host = setup.manifest("configured", MANIFEST).manifest("configured3", MANIFEST).start().await;
    let at = async |path: &str| host.get(path).await.text();
    for interface in ["candidate", "draft", "dated", "spin"] {
        assert_eq!(at(&format!("/configured/{interface}/greeting")).await, "Hello", "{interface}");
        assert_eq!(at(&format!("/configured/{interface}/color")).await, "blue");
        assert_eq!(at(&format!("/configured/{interface}/missing")).await, "usual");
        assert_eq!(at(&format!("/configured/{interface}/password")).await, CANARY);
    }
    let path = std::env::var("PATH").unwrap();
    for (name, value) in [
        ("PLAIN", "text"),
        ("TOKEN", TOKEN),
        ("PASSWORD", CANARY),
        ("COLOR", "blue"),
        ("HOME_PATH", &path),
        ("MISSING", "usual"),
        ("HOME", "none"),
    ] {
        assert_eq!(at(&format!("/configured/env/{name}")).await, value, "{name}");
    }
    assert_eq!(at("/configured3/spin/greeting").await, "Hello");
    assert_eq!(at("/configured3/secrets/password").await, format!("SecretValue::String({CANARY:?})"));
    for interface in ["candidate", "draft", "dated"] {
        assert_eq!(at(&format!("/configured/{interface}/nothing")).await, "none");
        // All values but secrets.
        let all = at(&format!("/configured/{interface}/")).await;
        assert_eq!(all, format!("color=blue,greeting=Hello,home={path},missing=usual"));
    }
    assert_eq!(at("/configured/spin/nothing").await, r#"Error::Undefined("nothing")"#);
    assert_eq!(at("/configured3/spin/nothing").await, r#"Error::Undefined("nothing")"#);
    assert_eq!(at("/configured3/secrets/nothing").await, "SecretsError::NotFound");
}

/// A new value is read without a restart, and a request that is at work keeps the one that it has.
#[tokio::test(flavor = "multi_thread")]
async fn values_change_between_requests() {
    for isolation in ["request", "service"] {
        let manifest = format!(
            "isolation = '{isolation}'\nlimits.wall = '30s'\n[config]\nname = {{ file = 'name' }}\n
                     [env]\nNAME = {{ config = 'name' }}\nFILE = {{ file = 'name' }}"
        );
        let setup = host(&["configured"]).file("name", b"one").manifest("configured", &manifest);
        let host = setup.start().await;
        assert_eq!(host.get("/configured/draft/name").await.text(), "one");
        let address = host.address;
        let long = tokio::spawn(async move { get(address, "/configured/twice/name").await.text() });
        until("it is at work", || host.current.snapshot().target("configured").unwrap().admission.in_flight() == 1)
            .await;
        // Renamed into place: what is written there would have to stay for a while.
        lodge_base::files::replace(&host.directory().join("name"), b"two").unwrap();
        let generation = host.current.snapshot().generation;
        let name = async || host.get("/configured/draft/name").await.text();
        eventually("the new value is read", async || name().await == "two").await;
        // A warm instance has copied its environment, so it is replaced.
        for name in ["NAME", "FILE"] {
            assert_eq!(host.get(&format!("/configured/env/{name}")).await.text(), "two", "{isolation}");
        }
        assert!(!long.is_finished(), "the long request must be at work while the value changes");
        assert_eq!(long.await.unwrap(), "one one");
        assert_eq!(host.current.snapshot().generation, generation, "no new version for a new value");
        // What cannot be read changes nothing.
        fs::remove_file(host.directory().join("name")).unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        assert_eq!(host.get("/configured/draft/name").await.text(), "two");
    }
}

/// Without a value there is no service: one that starts without its password would fail at every request.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_a_refusal() {
    let host =
        host(&["configured"]).manifest("configured", "[config]\npassword = { file = 'password', secret = true }");
    let host = host.start().await;
    let expected = "password cannot be read";
    assert!(host.refusals()[0].contains(expected), "{:?}", host.refusals());
    fs::write(host.directory().join("password"), CANARY).unwrap();
    until("it serves", || host.current.snapshot().target("configured").is_some()).await;
    // The file was empty before it was written.
    let password = async || host.get("/configured/draft/password").await.text();
    eventually("the value is read", async || password().await == CANARY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_appear_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    fs::copy(wasm("configured"), directory.path().join("configured.wasm")).unwrap();
    fs::create_dir(directory.path().join("values")).unwrap();
    write("password", CANARY);
    write("token", TOKEN);
    write("values/color", "blue");
    write("configured.toml", MANIFEST);
    let guests = directory.path().display().to_string();
    let process = Process::serve(directory.path(), &[]).await;
    // The guest prints it to both streams and fails with it.
    let failed = get(process.address, "/configured/print/password").await;
    assert_eq!(failed.status, 502);
    until("its last line is in the log", || process.log().contains("the guest has failed with ***")).await;
    assert!(process.log().contains("stdout has ***") && process.log().contains("stderr has ***"));
    let also = get(process.address, "/configured/print-env/TOKEN").await;
    until("it is in the log", || process.log().matches("the guest has failed with ***").count() >= 2).await;
    let admin = process.admin.to_string();
    let mut seen = vec![failed.text(), also.text(), process.log()];
    for path in ["/v1/services", "/v1/services/configured", "/metrics"] {
        seen.push(get(process.admin, path).await.text());
    }
    for command in [vec!["inspect", "configured"], vec!["ps"], vec!["check", &guests]] {
        let admin = format!("http://{admin}");
        let (_, stdout, stderr) = output(lodge(&command).env("LODGE_URL", &admin));
        seen.extend([stdout, stderr]);
    }
    for text in &seen {
        assert!(!text.contains(CANARY) && !text.contains(TOKEN), "{text}");
    }
    assert!(seen.iter().any(|text| text.contains("password")), "the names of keys are shown");
}

/// A service reads what another one and the host share with it, as it is now, and nothing else of them.
#[tokio::test(flavor = "multi_thread")]
async fn values_of_others() {
    let users = "config_shared = ['url']\n[config]\nurl = 'http://one'\nown = 'canary-own'";
    let other = "[config]\nurl = { service = 'users', key = 'url' }\nregion = { host = 'region' }\n\
                 [env]\nURL = { service = 'users', key = 'url' }";
    let setup = host(&[]).named("configured", "users").named("configured", "other").named("configured", "greedy");
    let setup = setup.manifest("users", users).manifest("other", other);
    let setup = setup.manifest("greedy", "[config]\nown = { service = 'users', key = 'own' }");
    let shared = tempfile::tempdir().unwrap();
    let file = shared.path().join("shared.toml");
    fs::write(&file, "[config]\nregion = 'eu'\nunused = 'canary-unused'").unwrap();
    let host = setup.set("shared_config", &file.display().to_string()).start().await;
    assert_eq!(host.get("/other/draft/").await.text(), "region=eu,url=http://one");
    assert_eq!(host.get("/other/env/URL").await.text(), "http://one");
    let refusals = host.refusals();
    let wanted = "users.toml does not share it: add `own` to its `config_shared`";
    assert!(refusals.len() == 1 && refusals[0].contains(wanted), "{refusals:?}");
    fs::write(host.directory().join("users.toml"), users.replace("one", "two")).unwrap();
    fs::write(&file, "[config]\nregion = 'us'").unwrap();
    let values = async || host.get("/other/draft/").await.text();
    eventually("the new values are read", async || values().await == "region=us,url=http://two").await;
}

/// What no edit of a file can mend is told as such.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_variable_needs_a_restart() {
    let setup = host(&["hello"]).manifest("hello", "[config]\na = { env = 'LODGE_NO_SUCH' }").named("hello", "other");
    let host = setup.manifest("other", "[config]\na = { file = 'absent' }").start().await;
    let refusals = host.refusals();
    let of = |words: &[&str]| refusals.iter().filter(|it| words.iter().all(|words| it.contains(words))).count();
    assert_eq!(of(&["no environment variable LODGE_NO_SUCH", "only a restart mends it"]), 1, "{refusals:?}");
    assert_eq!(of(&["absent cannot be read", "the service starts as soon as"]), 1, "{refusals:?}");
}
