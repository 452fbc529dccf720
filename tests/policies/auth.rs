//! Promise: a route with `auth` takes requests of known senders only, before the cache and before a sandbox. A service
//! sees who the sender is, and nobody can pretend to be another one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use http::Method;

use super::admission::refused;
use crate::calls::local::ask as call;
use crate::harness::{
    Connection, Habit, Replica, Response, Setup, TestHost, eventually, host, lodge, output, until, until_metric,
};

/// Makes a key, and returns it.
pub(crate) fn create(file: &Path, name: &str, more: &[&str]) -> String {
    let file = file.to_str().unwrap();
    let args: Vec<_> = ["keys", "create", name, "--file", file].into_iter().chain(more.iter().copied()).collect();
    let (code, stdout, stderr) = output(&mut lodge(&args));
    assert_eq!(code, Some(0), "{stderr}");
    stdout.trim_end().to_owned()
}

fn revoke(file: &Path, name: &str) {
    let (code, stdout, stderr) = output(&mut lodge(&["keys", "revoke", name, "--file", file.to_str().unwrap()]));
    assert_eq!((code, stdout.as_str()), (Some(0), format!("revoked {name}\n").as_str()), "{stderr}");
}

/// A host with these services, and the keys of `ada`, with the scope `admin`, and of `bob`.
fn keyed(names: &[&str]) -> (Setup, String, String) {
    let setup = host(names);
    let file = setup.directory.path().join("keys.list");
    let ada = create(&file, "ada", &["--scope", "admin", "--expires", "1day"]);
    let bob = create(&file, "bob", &[]);
    (setup, ada, bob)
}

async fn ask(host: &TestHost, path: &str, headers: &[(&str, &str)]) -> Response {
    host.connect().await.ask(Method::GET, path, headers, "").await
}

const KEYS: &str = "auth = { api_keys = 'keys.list' }";

#[tokio::test(flavor = "multi_thread")]
async fn keys_decide_who_is_let_in() {
    let (setup, ada, bob) = keyed(&["hello", "echo"]);
    let routes = "routes = ['/echo', { path = '/echo/admin', auth = { scopes = 'admin' } },\n\
                  { path = '/echo/open', auth = false }]";
    let manifest = format!("{routes}\n{KEYS}\nrate = {{ limit = '9/h', by = 'identity' }}");
    let host = setup.manifest("echo", &manifest).start().await;
    let missing = ask(&host, "/echo/head", &[]).await;
    assert_eq!(refused(&missing), (401, "auth-missing".into()));
    assert_eq!(missing.header("www-authenticate"), "ApiKey realm=\"echo\", header=\"x-api-key\"");
    let wrong = ask(&host, "/echo/head", &[("x-api-key", &format!("{ada}x"))]).await;
    assert_eq!(refused(&wrong), (401, "auth-invalid".into()));
    assert!(!String::from_utf8_lossy(&wrong.body).contains(&ada), "{wrong:?}");
    let seen = ask(&host, "/echo/head", &[("x-api-key", &ada)]).await;
    assert_eq!((seen.status, seen.header("ratelimit").as_str()), (200, "\"identity\";r=8;t=400"));
    let text = seen.text();
    for line in ["x-lodge-auth-method: api-key\n", "x-lodge-auth-subject: ada\n", "x-lodge-auth-scopes: admin\n"] {
        assert!(text.contains(line), "no {line} in {text}");
    }
    assert!(!text.contains("x-api-key") && !text.contains(&ada), "{text}");
    // Each sender has a rate of its own.
    assert_eq!(ask(&host, "/echo/head", &[("x-api-key", &bob)]).await.header("ratelimit"), "\"identity\";r=8;t=400");
    assert_eq!(ask(&host, "/echo/admin/head", &[("x-api-key", &ada)]).await.status, 200);
    let scope = ask(&host, "/echo/admin/head", &[("x-api-key", &bob)]).await;
    assert_eq!(refused(&scope), (403, "auth-insufficient".into()));
    let open = ask(&host, "/echo/open/head", &[("x-api-key", "unverified")]).await;
    assert!(open.status == 200 && !open.text().contains("x-lodge-auth"), "{open:?}");
    // What a service may take for another route does not get around its check, nor does the host of its name.
    for path in ["/echo/open/..%2Fhead", "/echo//admin/head", "/echo/open/..;/admin/head"] {
        assert_eq!(ask(&host, path, &[]).await.status, 400, "{path}");
    }
    let named = ask(&host, "/admin/head", &[("host", "echo.localhost")]).await;
    assert_eq!(named.status, 404, "{named:?}");
    assert_eq!(host.get("/hello").await.status, 200, "a service without it");
    for cause in ["missing", "unknown-key", "scope"] {
        let name = format!("lodge_auth_failures_total{{service=\"echo\",cause=\"{cause}\"}}");
        until_metric(host.admin, &name, 1).await;
    }
}

/// Another service has all other paths, and nobody gets by these to a service whose keys are not there yet.
#[tokio::test(flavor = "multi_thread")]
async fn restrictions_hold_while_a_service_is_refused() {
    let api = format!("routes = [{{ path = '/api', methods = 'GET' }}]\n{KEYS}");
    let setup = host(&["echo", "hello"]).manifest("echo", "routes = '/*'\ncors.origins = 'https://a.example'");
    let host = setup.manifest("hello", &api).start().await;
    assert!(host.refusals().iter().any(|refusal| refusal.contains("auth.api_keys")), "{:?}", host.refusals());
    assert_eq!(host.get("/x/head").await.status, 200);
    let preflight = [("origin", "https://a.example"), ("access-control-request-method", "GET")];
    for (method, path, headers, expected) in [
        (Method::GET, "/api/secret", &[][..], (503, "refused")),
        (Method::GET, "/x/..%2Fapi/secret", &[], (400, "bad-request")),
        (Method::GET, "/api%2Fsecret", &[], (400, "bad-request")),
        (Method::POST, "/api/secret", &[], (405, "method-not-allowed")),
        // Nor do pages of other origins that the other service allows.
        (Method::OPTIONS, "/api/secret", &preflight, (405, "method-not-allowed")),
    ] {
        let response = host.connect().await.ask(method.clone(), path, headers, "").await;
        let (status, reason) = refused(&response);
        assert_eq!((status, &*reason), expected, "{method} {path}");
    }
}

/// Nor to one that is refused because of another file than its manifest.
#[tokio::test(flavor = "multi_thread")]
async fn restrictions_hold_whatever_is_wrong() {
    let digest = format!("digest = 'sha256:{}'", "0".repeat(64));
    for (wrong, reason) in [(&*digest, "requires sha256:"), ("middleware = ['gone.wasm']", "there is no such file")] {
        let orders = format!("{wrong}\nroutes = [{{ path = '/api', methods = 'GET' }}]\n{KEYS}");
        let setup = host(&["echo", "hello"]).manifest("echo", "routes = '/*'");
        let host = setup.manifest("hello", &orders).start().await;
        assert!(host.refusals().iter().any(|refusal| refusal.contains(reason)), "{:?}", host.refusals());
        assert_eq!(host.get("/x/head").await.status, 200);
        for (path, expected) in [("/api/secret", (503, "refused")), ("/x/..%2Fapi/secret", (400, "bad-request"))] {
            let (status, reason) = refused(&host.get(path).await);
            assert_eq!((status, &*reason), expected, "{wrong} {path}");
        }
    }
}

/// No client and no guest can send a header of the host's, in any spelling.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_can_forge_who_the_sender_is() {
    let (setup, ada, _) = keyed(&["echo", "caller", "caller3"]);
    let other = std::fs::read(crate::harness::wasm("echo")).unwrap();
    let setup = setup.file("plain.wasm", &other).manifest("echo", KEYS);
    let setup = setup.manifest("caller", "calls = '*'").manifest("caller3", "calls = '*'");
    for proxies in ["", "127.0.0.0/8"] {
        let (setup, directory) = (host(&[]), setup.directory.path());
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, setup.directory.path().join(path.file_name().unwrap())).unwrap();
        }
        let host = setup.set("trusted_proxies", proxies).start().await;
        let forged = [
            ("x-lodge-auth-subject", "root"),
            ("X-Lodge-Auth-Subject", "root"),
            ("x_lodge_auth_subject", "root"),
            ("x-lodge_auth-subject", "root"),
            ("x-lodge-auth-anything", "root"),
            ("connection", "x-lodge-auth-subject"),
            ("x-forwarded-for", "192.0.2.7"),
        ];
        let http2: Vec<_> = forged.iter().copied().filter(|(name, _)| *name != "connection").collect();
        for path in ["/echo/head", "/plain/head"] {
            let key = [("x-api-key", &*ada)];
            let of = |forged: &[(&'static str, &'static str)]| forged.to_vec();
            let (one, two) = (of(&forged), of(&http2));
            let with = |forged: Vec<(&'static str, &'static str)>| {
                forged.into_iter().chain(key).collect::<Vec<(&str, &str)>>()
            };
            let mut client = host.connect().await;
            let seen = client.ask(Method::GET, path, &with(one), "").await;
            let mut client = Connection::http2(host.address).await;
            let also = client.ask(Method::GET, path, &with(two), "").await;
            for seen in [seen, also] {
                assert_eq!(seen.status, 200);
                let text = seen.text();
                assert!(!text.contains("root"), "{proxies}: {text}");
                assert_eq!(text.contains("x-lodge-auth-subject: ada\n"), path == "/echo/head", "{text}");
            }
        }
        // A guest is identified by its name, whatever it says and for whichever caller it works.
        for caller in ["caller", "caller3"] {
            let seen = call(&host, caller, "http://echo.internal/head", &forged).await.text();
            assert!(seen.contains("x-lodge-auth-method: call\n"), "{seen}");
            assert!(seen.contains(&format!("x-lodge-auth-subject: {caller}\n")) && !seen.contains("root"), "{seen}");
        }
        host.edit("echo", "auth = { api_keys = 'keys.list', calls = 'checked' }").await;
        let denied = call(&host, "caller", "http://echo.internal/head", &[]).await;
        assert_eq!((denied.status, denied.header("www-authenticate").contains("ApiKey")), (401, true), "{denied:?}");
        let seen = call(&host, "caller", "http://echo.internal/head", &[("x-api-key", &ada)]).await;
        assert!(seen.text().contains("x-lodge-auth-subject: ada\n"), "{seen:?}");
    }
}

/// Versions have the checks of their service as it is now, also those that are older than these.
#[tokio::test(flavor = "multi_thread")]
async fn versions_have_the_checks_of_their_service() {
    let (setup, ada, _) = keyed(&["echo"]);
    let other = std::fs::read(crate::harness::wasm("echo")).unwrap();
    let setup = setup.file("echo@2.wasm", &other).manifest("echo@2", "match = ['header:x-version=2']");
    let host = setup.start().await;
    let second = ("x-version", "2");
    assert_eq!(ask(&host, "/echo/head", &[second]).await.status, 200);
    // From now on the second version cannot be deployed again.
    std::fs::write(host.directory().join("echo@2.wasm"), "no component").unwrap();
    until("it is refused", || host.refusals().concat().contains("echo@2.wasm")).await;
    std::fs::write(host.directory().join("echo.toml"), KEYS).unwrap();
    eventually("the manifest is in force", async || ask(&host, "/echo/head", &[]).await.status == 401).await;
    assert_eq!(refused(&ask(&host, "/echo/head", &[second]).await), (401, "auth-missing".into()));
    assert_eq!(ask(&host, "/echo/head", &[second, ("x-api-key", &ada)]).await.status, 200);
}

/// A replica gets what a guest gets.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_see_the_sender() {
    let (setup, ada, _) = keyed(&[]);
    let replica = Replica::start("one").await;
    replica.set(Habit::Describe);
    let upstream = format!("[upstream]\nreplicas = ['http://{}']", replica.address);
    let host = setup.manifest("far", &format!("{KEYS}\n{upstream}")).start().await;
    assert_eq!(ask(&host, "/far", &[]).await.status, 401);
    let forged = [("x-lodge-auth-method", "root"), ("x-api-key", &*ada)];
    let seen = ask(&host, "/far", &forged).await.text();
    assert!(seen.contains("x-lodge-auth-method: api-key") && seen.contains("x-lodge-auth-subject: ada"), "{seen}");
    assert!(!seen.contains("root") && !seen.contains(&ada), "{seen}");
    host.edit("far", &format!("auth = {{ api_keys = 'keys.list', forward = true }}\n{upstream}")).await;
    assert!(ask(&host, "/far", &[("x-api-key", &ada)]).await.text().contains(&ada));
}

/// A stored response is for those who are let in, and only shared if the service says so.
#[tokio::test(flavor = "multi_thread")]
async fn stored_responses_are_personal() {
    let (setup, ada, bob) = keyed(&["cacheable"]);
    let host = setup.manifest("cacheable", &format!("cache = true\n{KEYS}")).start().await;
    let [ada, bob] = [&ada, &bob].map(|key| [("x-api-key", key.as_str())]);
    let path = "/cacheable?cache-control=max-age%3D60";
    let first = ask(&host, path, &ada).await;
    assert_eq!(first.status, 200);
    for key in [&ada, &bob] {
        let other = ask(&host, path, key).await;
        assert_eq!(other.status, 200);
        assert_ne!(other.text(), first.text(), "a response that is not public was shared");
    }
    let public = "/cacheable?cache-control=public,max-age%3D60";
    let first = ask(&host, public, &ada).await;
    let shared = ask(&host, public, &bob).await;
    assert_eq!((shared.text(), shared.header("cache-status").contains("hit")), (first.text(), true), "{shared:?}");
    for wrong in [&[][..], &[("x-api-key", "wrong")]] {
        let refused = ask(&host, public, wrong).await;
        assert_eq!((refused.status, refused.header("cache-status").as_str()), (401, ""));
    }
}

/// New keys are valid within seconds, revoked ones are refused, a bad file changes nothing, and no request of a valid key
/// is lost meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn keys_change_under_load() {
    let (setup, ada, bob) = keyed(&["hello"]);
    let file = setup.directory.path().join("keys.list");
    let host = setup.manifest("hello", KEYS).start().await;
    let (stop, address) = (Arc::new(AtomicBool::new(false)), host.address);
    let loads: Vec<_> = (0..2)
        .map(|_| {
            let (stop, ada) = (Arc::clone(&stop), ada.clone());
            tokio::spawn(async move {
                let (mut client, mut count) = (Connection::http1(address).await, 0);
                while !stop.load(Relaxed) {
                    let response = client.ask(Method::GET, "/hello", &[("x-api-key", &ada)], "").await;
                    assert_eq!(response.status, 200, "{response:?}");
                    count += 1;
                }
                count
            })
        })
        .collect();
    let reaches = async |key: &str, status: u16| {
        let seen = async || ask(&host, "/hello", &[("x-api-key", key)]).await.status;
        eventually(&format!("it is {status}"), async || seen().await == status).await;
    };
    assert_eq!(ask(&host, "/hello", &[("x-api-key", &bob)]).await.status, 200);
    for round in 0..2 {
        let name = format!("key{round}");
        let key = create(&file, &name, &[]);
        reaches(&key, 200).await;
        let good = std::fs::read(&file).unwrap();
        // Written in place, and only in part: the keys in it are not all.
        std::fs::write(&file, &good[..good.len() - 20]).unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
        assert_eq!(ask(&host, "/hello", &[("x-api-key", &key)]).await.status, 200);
        std::fs::remove_file(&file).unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
        assert_eq!(ask(&host, "/hello", &[("x-api-key", &key)]).await.status, 200);
        std::fs::write(&file, &good).unwrap();
        revoke(&file, &name);
        reaches(&key, 401).await;
    }
    revoke(&file, "bob");
    reaches(&bob, 401).await;
    stop.store(true, Relaxed);
    for load in loads {
        assert!(load.await.unwrap() > 10);
    }
}

/// A service whose keys cannot be read is not served, and is as soon as they can.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_waits_for_its_keys() {
    let host = host(&["hello"]).manifest("hello", KEYS).start().await;
    let [refusal] = &*host.refusals() else { panic!("{:?}", host.refusals()) };
    assert!(refusal.contains("auth.api_keys: ") && refusal.contains("cannot be read"), "{refusal}");
    assert_eq!(host.get("/hello").await.status, 503);
    let key = create(&host.directory().join("keys.list"), "ada", &[]);
    until("it is served", || host.refusals().is_empty()).await;
    assert_eq!(ask(&host, "/hello", &[("x-api-key", &key)]).await.status, 200);
    assert_eq!(host.get("/hello").await.status, 401);
}

#[test]
fn keys_are_written_by_commands() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.list");
    let path = file.to_str().unwrap();
    let run = |args: &[&str]| output(&mut lodge(&[&["keys"], args, &["--file", path]].concat()));
    let missing = run(&["list"]);
    assert!(
        missing.0 == Some(1) && missing.2.contains("there is no such file; `lodge keys create NAME"),
        "{missing:?}"
    );
    let key = create(&file, "ci", &["--scope", "a:read", "--scope", "b", "--expires", "90days"]);
    assert!(key.starts_with("lodge_key_") && !std::fs::read_to_string(&file).unwrap().contains(&key));
    let (_, list, _) = run(&["list"]);
    let row = list.lines().nth(1).unwrap_or_default();
    assert!(
        list.starts_with("NAME   SCOPES") && row.starts_with("ci     a:read b   20") && row.ends_with('Z'),
        "{list}"
    );
    let json: serde_json::Value = serde_json::from_str(&run(&["list", "--json"]).1).unwrap();
    assert_eq!((json[0]["name"].as_str(), json[0]["scopes"][1].as_str()), (Some("ci"), Some("b")));
    for (args, expected) in [
        (&["create", "ci"][..], "key ci: another key has the same name"),
        (&["create", "x", "--scope", "a b"], "or one with spaces or quotes"),
        (&["create", ""], "the name of a key has 1 to 128 bytes"),
        (&["create", "x", "--expires", "soon"], "--expires: `soon` is not a time span"),
        (&["revoke", "nobody"], "there is no key `nobody`"),
    ] {
        let (code, stdout, stderr) = run(args);
        assert!(code != Some(0) && stdout.is_empty() && stderr.contains(expected), "{args:?}: {stderr}");
    }
    std::fs::write(&file, "[[key]]\nname = 'a'").unwrap();
    assert!(run(&["create", "x"]).2.contains("missing field `sha256`"), "a file that is not valid is not replaced");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "[[key]]\nname = 'a'");
}
