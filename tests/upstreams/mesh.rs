//! Promise: hosts that know each other by certificates of one authority are a mesh: each admits the services that its manifests name,
//! reaches those that it means, and certificates change without a lost request.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::harness::authority::Authority;
use crate::harness::{TestHost, get, host, lodge, output, until};

/// The only replica of a service, if that is served.
fn replica(host: &TestHost, service: &str) -> Option<(String, String)> {
    let snapshot = host.current.snapshot();
    let [replica] = snapshot.target(service)?.backend.upstream()?.replicas().try_into().ok()?;
    Some((replica.state.into_owned(), replica.why.unwrap_or_default()))
}

/// Waits until the files of `users` have been looked at, as this says.
async fn until_status(host: &TestHost, what: &str, is: impl Fn(&lodge_traffic::upstreams::UpstreamStatus) -> bool) {
    let status = || host.current.snapshot().target("users").unwrap().backend.upstream().unwrap().status();
    until(what, || is(&status())).await;
}

fn replace(path: &Path, text: &str) {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(fresh, path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_know_each_other() {
    let (mesh, next, stranger) = (Authority::new(), Authority::new(), Authority::new());
    let files = tempfile::tempdir().unwrap();
    let at = |name: &str| files.path().join(name);
    mesh.issue(&["spiffe://lodge.test/users", "users.test"]).write(files.path(), "users");
    let orders = mesh.issue(&["spiffe://lodge.test/orders", "orders.test"]);
    orders.write(files.path(), "orders");
    std::fs::write(at("mesh.pem"), mesh.pem()).unwrap();
    std::fs::write(at("clients.pem"), mesh.pem() + &next.pem()).unwrap();
    std::fs::write(at("stranger.pem"), stranger.pem()).unwrap();
    std::fs::copy(at("mesh.pem"), at("ca.pem")).unwrap();
    let allows = |id: &str| format!("auth = {{ client_certificates = ['spiffe://lodge.test/{id}'] }}");
    let far = host(&["hello", "echo"])
        .set("tls.listen", "127.0.0.1:0")
        .set("tls.certificates", at("users.crt").to_str().unwrap())
        .set("tls.client_ca", at("clients.pem").to_str().unwrap())
        .manifest("hello", &allows("orders"))
        .manifest("echo", &allows("billing"))
        .start()
        .await;
    let upstream = |routes: &str, tls: &str| {
        let (replica, files) = (far.https, files.path().display().to_string());
        let tls = tls.replace("FILES", &files);
        format!(
            "routes = [{routes}]\n[upstream]\nreplicas = ['https://{replica}']\n\
             health = {{ path = '/hello', interval = '1s', status = '200' }}\nretry.attempts = 0\nejection.failures = 0\n[upstream.tls]\n{tls}"
        )
    };
    let own = "certificate = 'FILES/orders.crt'\nkey = 'FILES/orders.key'";
    let users = "ca = 'FILES/ca.pem'\nnames = 'spiffe://lodge.test/users'";
    let near = host(&[])
        .manifest("users", &upstream("'/hello', '/echo'", &format!("{users}\n{own}")))
        .manifest("stranger", &upstream("'/stranger'", &format!("ca = 'FILES/stranger.pem'\n{own}")))
        .manifest(
            "other",
            &upstream("'/other'", &format!("ca = 'FILES/mesh.pem'\nnames = 'spiffe://lodge.test/billing'\n{own}")),
        )
        .manifest("address", &upstream("'/address'", &format!("ca = 'FILES/mesh.pem'\n{own}")))
        .manifest("nobody", &upstream("'/nobody'", users))
        .start()
        .await;
    assert_eq!(near.refusals(), Vec::<String>::new());
    let hello = near.get("/hello").await;
    assert_eq!((hello.status, hello.text().as_str()), (200, "Hello, World!"));
    assert_eq!(near.get("/echo").await.status, 403, "this service admits another one");
    // Each of the others has its own problem, though their replica is the same.
    for (service, why) in [
        ("stranger", "no trusted authority has signed its certificate"),
        ("other", "spiffe://lodge.test/users, users.test\", and upstream.tls.names has spiffe://lodge.test/billing"),
        ("address", "its certificate is for users.test, spiffe://lodge.test/users, and not for the host of its URL"),
        ("nobody", "it may require a client certificate: set `upstream.tls.certificate`"),
    ] {
        until("the check has failed", || replica(&near, service).is_some_and(|(state, _)| state == "down")).await;
        let (_, found) = replica(&near, service).unwrap();
        assert!(found.contains(why), "{service}: {found}");
        assert_eq!(found.contains("or set `upstream.tls.names`"), service == "address", "{found}");
        assert_eq!(found.contains("a client certificate"), service == "nobody", "{found}");
        assert_eq!(near.get(&format!("/{service}")).await.status, 502);
    }
    let inspected = async |service: &'static str| {
        let address = near.admin.to_string();
        let inspect = move || output(lodge(&["inspect", service]).args(["--admin", &address])).1;
        tokio::task::spawn_blocking(inspect).await.unwrap()
    };
    let shown = inspected("users").await;
    assert!(
        shown.contains("certificate   spiffe://lodge.test/orders, orders.test (CN=orders.test), expires "),
        "{shown}"
    );
    assert!(shown.contains("tls: ca ") && !shown.contains("PRIVATE"), "{shown}");
    assert!(inspected("stranger").await.contains("name the file of its authority in `upstream.tls.ca`"));
    let metrics = get(near.admin, "/metrics").await.text();
    let expiry = format!("lodge_tls_certificate_expiry_seconds{{file=\"{}\"}} ", at("orders.crt").display());
    assert_eq!(metrics.matches(&expiry).count(), 1, "{metrics}");
    certificates_change(&near, &next, files.path()).await;
}

/// The certificate of this host changes under requests, a bad one does not replace it, and connections of an authority that is no
/// longer trusted are not used.
async fn certificates_change(near: &TestHost, next: &Authority, files: &Path) {
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, address) = (Arc::clone(&stop), near.address);
    let requests = tokio::spawn(async move {
        let mut responses = 0;
        while !stopped.load(Relaxed) {
            let response = get(address, "/hello").await;
            assert_eq!(response.status, 200, "{response:?}");
            responses += 1;
        }
        responses
    });
    let names = |name: &'static str| {
        move |status: &lodge_traffic::upstreams::UpstreamStatus| {
            status.certificate.as_ref().is_some_and(|own| own.names.iter().any(|known| known == name))
        }
    };
    let renewed = next.issue(&["spiffe://lodge.test/orders", "renewed.test"]);
    replace(&files.join("orders.crt"), &renewed.certificate);
    until_status(near, "half a pair is refused", |status| {
        status.tls_fails.as_ref().is_some_and(|why| why.contains("its key belongs to another certificate"))
    })
    .await;
    until_status(near, "the one before stays", names("orders.test")).await;
    replace(&files.join("orders.key"), &renewed.key);
    until_status(near, "the new pair is in use", names("renewed.test")).await;
    until_status(near, "nothing is wrong", |status| status.tls_fails.is_none()).await;
    stop.store(true, Relaxed);
    assert!(requests.await.unwrap() > 0);
    let trusted = std::fs::read_to_string(files.join("ca.pem")).unwrap();
    for (authority, state) in
        [(std::fs::read_to_string(files.join("stranger.pem")).unwrap(), "down"), (trusted, "available")]
    {
        replace(&files.join("ca.pem"), &authority);
        until("the checks go by the new authority", || replica(near, "users").is_some_and(|(now, _)| now == state))
            .await;
        assert_eq!(near.get("/hello").await.status, if state == "down" { 502 } else { 200 });
    }
}
