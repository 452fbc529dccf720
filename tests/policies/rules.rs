//! Promise: the rules of a manifest decide by what is known of a request, before a sandbox; nobody gets around them, and a mistake
//! in one is refused before any request.

use http::Method;

use super::admission::refused;
use super::auth::create;
use crate::calls::local::ask as call;
use crate::harness::{Connection, TestHost, host, lodge, metric, output, until_metric, wasm};

const MANIFEST: &str = r#"
routes = ["/echo", { path = "/echo/open", rules = [{ when = 'request.query.pass == "1"', allow = true }] }]
auth = { api_keys = "keys.list" }

[[rules]]
when = 'request.method == "DELETE" && !("admin" in identity.scopes)'
deny = 403
message = "only administrators"

[[rules]]
when = 'cidr("127.0.3.0/24").containsIP(client.address) || identity.subject == "caller"'
deny = true

[[rules]]
when = '"admin" in identity.scopes'
set = { x-tier = "gold", x-who = { cel = 'identity.subject + "@" + request.host' } }
version = "canary"

[[rules]]
when = 'request.headers["x-number"].startsWith("1") && now > timestamp("2020-01-01T00:00:00Z")'
set = { x-tier = "silver" }
"#;

async fn ask(host: &TestHost, method: Method, path: &str, headers: &[(&str, &str)]) -> crate::harness::Response {
    host.connect().await.ask(method, path, headers, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_decide() {
    let setup = host(&["echo", "caller"]).named("echo", "echo@canary");
    let file = setup.directory.path().join("keys.list");
    let (ada, bob) = (create(&file, "ada", &["--scope", "admin"]), create(&file, "bob", &[]));
    let setup = setup.manifest("echo", MANIFEST).manifest("echo@canary", "percent = 0\nenv.A = 'b'");
    let host = setup.manifest("caller", "calls = '*'").start().await;
    let (ada, bob) = (("x-api-key", ada.as_str()), ("x-api-key", bob.as_str()));
    let sandboxes = async || metric(host.admin, "lodge_instantiation_seconds_count{service=\"echo\"}").await;
    let before = sandboxes().await;
    let denied = ask(&host, Method::DELETE, "/echo/head", &[bob]).await;
    assert_eq!(refused(&denied), (403, "rule-denied".into()));
    let problem: serde_json::Value = serde_json::from_slice(&denied.body).unwrap();
    assert_eq!(problem["detail"], "only administrators");
    assert!(denied.header("www-authenticate").is_empty(), "{denied:?}");
    // No header is there: the condition has no value.
    assert_eq!(refused(&ask(&host, Method::GET, "/echo/head", &[bob]).await), (403, "rule-failed".into()));
    let mut far = Connection::from("127.0.3.1".parse().unwrap(), host.address).await;
    assert_eq!(refused(&far.ask(Method::GET, "/echo/head", &[ada], "").await), (403, "rule-denied".into()));
    let called = call(&host, "caller", "http://echo.internal/head", &[("x-tier", "gold")]).await;
    assert_eq!(refused(&called), (403, "rule-denied".into()), "a call is one of its service");
    assert_eq!(sandboxes().await, before, "a sandbox was made for a request that is denied");
    // Only the host writes what is set, whatever the client sends and however it is spelt.
    let forged = [ada, ("x-tier", "root"), ("x_tier", "root"), ("x-who", "root"), ("X-Number", "12")];
    let seen = ask(&host, Method::DELETE, "/echo/head", &forged).await.text();
    assert!(seen.contains("x-tier: gold\n") && seen.contains("x-who: ada@localhost\n"), "{seen}");
    assert!(!seen.contains("root"), "{seen}");
    let other = [bob, ("x-number", "12"), ("x-who", "root")];
    let seen = ask(&host, Method::GET, "/echo/head", &other).await.text();
    assert!(seen.contains("x-tier: silver\n") && !seen.contains("x-who"), "{seen}");
    let open = ask(&host, Method::DELETE, "/echo/open/head?pass=1", &[bob, ("x-tier", "root")]).await;
    assert!(open.status == 200 && !open.text().contains("x-tier"), "{open:?}");
    for path in ["/echo/open/..%2Fhead?pass=1", "/echo//open/head?pass=1", "/echo/open;/head?pass=1"] {
        assert_eq!(ask(&host, Method::DELETE, path, &[bob]).await.status, 400, "{path}");
    }
    // One request went to the version that the rule names, in spite of its share.
    for (name, count) in [("echo@canary", 1), ("echo", 2)] {
        until_metric(host.admin, &format!("lodge_requests_total{{service=\"{name}\",code=\"2xx\"}}"), count).await;
    }
    for (reason, count) in [("rule-denied", 3), ("rule-failed", 1)] {
        let name = format!("lodge_refusals_total{{service=\"echo\",reason=\"{reason}\"}}");
        until_metric(host.admin, &name, count).await;
    }
    let admin = host.admin.to_string();
    let (code, shown, stderr) =
        tokio::task::spawn_blocking(move || output(&mut lodge(&["inspect", "echo", "--admin", &admin]))).await.unwrap();
    assert!(code == Some(0) && shown.contains("deny 403 when request.method == \"DELETE\""), "{shown}{stderr}");
    assert!(!shown.contains("gold"), "{shown}");
    host.edit("echo", "rules = []").await;
    assert_eq!(ask(&host, Method::DELETE, "/echo/head", &[]).await.status, 200);
}

/// `lodge check` names file, line, column and remedy.
#[test]
fn mistakes_are_found_before() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(wasm("hello"), directory.path().join("hello.wasm")).unwrap();
    let text = "[[rules]]\nwhen = 'request.methd == \"GET\"'\ndeny = 403";
    std::fs::write(directory.path().join("hello.toml"), text).unwrap();
    let (code, stdout, stderr) = output(&mut lodge(&["check", directory.path().to_str().unwrap()]));
    let expected = "line 2: when: column 8: unknown variable `request.methd`; did you mean `request.method`?";
    assert!(code == Some(1) && format!("{stdout}{stderr}").contains(expected), "{code:?} {stdout}{stderr}");
}
