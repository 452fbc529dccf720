//! Promise: a client certificate that the handshake verified is a credential, by the names that the manifest lists; that of a proxy is
//! not one of its clients, and nothing that a client writes is one.

use std::path::Path;

use super::admission::refused;
use crate::harness::authority::{Authority, Issued};
use crate::harness::{Connection, Response, Setup, TestHost, host};
use http::Method;

const MANIFEST: &str = "auth = { client_certificates = ['spiffe://lodge.test/orders', 'spiffe://lodge.test/jobs/*', '*.jobs.test'] }\n\
                        rate = { limit = '1/h', by = 'identity' }";

/// A host over HTTPS whose clients may have a certificate of this authority.
fn secured(directory: &Path, server: &Authority, clients: &Authority) -> Setup {
    server.issue(&["localhost"]).write(directory, "tls");
    std::fs::write(directory.join("clients.pem"), clients.pem()).unwrap();
    let at = |name: &str| directory.join(name).display().to_string();
    let setup = host(&["echo"]).set("tls.listen", "127.0.0.1:0").set("tls.certificates", &at("tls.crt"));
    setup.set("tls.client_ca", &at("clients.pem")).set("tls.client", "optional")
}

async fn ask(host: &TestHost, server: &Authority, own: Option<&Issued>, headers: &[(&str, &str)]) -> Response {
    let config = server.client(&["h2"], own);
    let mut client = Connection::https(host.https, &config).await.expect("a connection");
    let authority = [&[("host", "localhost")], headers].concat();
    client.ask(Method::GET, "/echo/head", &authority, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_credentials() {
    let (server, clients) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let host = secured(directory.path(), &server, &clients).manifest("echo", MANIFEST).start().await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    for (names, subject) in [
        (&["spiffe://lodge.test/orders", "orders.test"][..], "spiffe://lodge.test/orders"),
        (&["spiffe://lodge.test/jobs/nightly"], "spiffe://lodge.test/jobs/nightly"),
        // The first name that is allowed, whatever else the certificate is for.
        (&["other.test", "a.jobs.test", "spiffe://other.test/x"], "a.jobs.test"),
    ] {
        let own = clients.issue(names);
        let seen = ask(&host, &server, Some(&own), &[("x-lodge-auth-subject", "root")]).await;
        assert_eq!(seen.status, 200, "{names:?}: {seen:?}");
        let text = seen.text();
        assert!(text.contains("x-lodge-auth-method: client-certificate\n"), "{text}");
        assert!(text.contains(&format!("x-lodge-auth-subject: {subject}\n")) && !text.contains("root"), "{text}");
        // Each has a rate of its own, on all of its connections.
        assert_eq!(ask(&host, &server, Some(&own), &[]).await.status, 429);
    }
    let stranger = clients.issue(&["spiffe://lodge.test/users", "jobs.test", "a.b.jobs.test"]);
    let insufficient = ask(&host, &server, Some(&stranger), &[]).await;
    assert_eq!(refused(&insufficient), (403, "auth-insufficient".into()));
    let missing = ask(&host, &server, None, &[]).await;
    assert_eq!(refused(&missing), (401, "auth-missing".into()));
    assert_eq!(missing.header("www-authenticate"), "ClientCertificate realm=\"echo\"");
    // Over plain HTTP nobody has one, whatever a client writes.
    let forged = [("x-forwarded-client-cert", "URI=spiffe://lodge.test/orders"), ("x-forwarded-proto", "https")];
    let plain = host.connect().await.ask(Method::GET, "/echo/head", &forged, "").await;
    assert_eq!(refused(&plain), (401, "auth-missing".into()));
    assert_eq!(refused(&ask(&host, &server, None, &forged).await), (401, "auth-missing".into()));
}

/// The certificate of a trusted proxy is its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_does_not_lend_its_certificate() {
    let (server, clients) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let setup = secured(directory.path(), &server, &clients).set("trusted_proxies", "127.0.0.0/8");
    let host = setup.manifest("echo", MANIFEST).start().await;
    let own = clients.issue(&["spiffe://lodge.test/orders"]);
    for headers in [&[("x-forwarded-for", "192.0.2.1")][..], &[]] {
        assert_eq!(refused(&ask(&host, &server, Some(&own), headers).await), (401, "auth-missing".into()));
    }
}

/// A host that verifies no certificates serves no service that needs one.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_need_an_authority() {
    let host = host(&["echo"]).manifest("echo", MANIFEST).start().await;
    let [refusal] = &*host.refusals() else { panic!("{:?}", host.refusals()) };
    assert!(refusal.contains("verifies no certificates of clients; set `tls.listen` and `tls.client_ca`"), "{refusal}");
    assert_eq!(host.get("/echo").await.status, 503);
}
