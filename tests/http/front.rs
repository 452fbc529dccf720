//! Promise: the host changes heads and redirects paths as a manifest says, for whatever writes the response.

use http::Method;

use crate::harness::{Connection, host};

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_paths_are_what_the_manifest_says() {
    let host = host(&["echo", "cacheable", "hello"])
        .set("trusted_proxies", "127.0.0.1")
        .manifest(
            "echo",
            "routes = ['/echo', { path = '/echo/closed', deny = '127.0.0.0/8' }, { path = '/echo/plain', headers = {} }]\n\
             redirects = [{ from = '/echo/old/{id}', to = '/echo/new/{id}', status = 301 },\n\
             { from = '/echo/site/*', to = 'https://site.test/*' }]\n\
             [headers]\nsecurity = true\n[headers.request]\nset = { x-env = 'test', x-b = 'set' }\nremove = 'x-secret'\n\
             [headers.response]\nset = { x-a = '1' }\nremove = 'x-echo'\nadd = { link = ['</a>', '</b>'] }",
        )
        .manifest("cacheable", "cache = true\nheaders.request.remove = 'x-part'\nheaders.response.set.x-a = '2'")
        .start()
        .await;
    for mut client in [host.connect().await, Connection::http2(host.address).await] {
        // The service sees the head of the manifest, and the client its response.
        let fields = [("x-secret", "s"), ("x-b", "client"), ("x-b", "twice"), ("x-c", "kept")];
        let seen = client.ask(Method::GET, "/echo/head", &fields, "").await;
        let text = seen.text().to_lowercase();
        assert!(text.contains("x-env: test") && text.contains("x-b: set") && text.contains("x-c: kept"), "{text}");
        assert!(!text.contains("x-secret") && !text.contains("client\n") && !text.contains("twice"), "{text}");
        assert_eq!((seen.header("x-a").as_str(), seen.header("x-frame-options").as_str()), ("1", "SAMEORIGIN"));
        let links: Vec<_> = seen.headers.get_all("link").iter().collect();
        assert_eq!(links, ["</a>", "</b>"]);
        assert_eq!(seen.header("strict-transport-security"), "");
        let secure = client.ask(Method::GET, "/echo/head", &[("x-forwarded-proto", "https")], "").await;
        assert_eq!(secure.header("strict-transport-security"), "max-age=31536000");
        // A refusal of the host is a response like any other.
        let refused = client.get("/echo/closed").await;
        assert_eq!((refused.status, refused.header("x-a").as_str()), (403, "1"));
        assert_eq!(refused.header("x-content-type-options"), "nosniff");
        let plain = client.ask(Method::GET, "/echo/plain/head", &[("x-secret", "s")], "").await;
        assert!(plain.text().contains("x-secret") && plain.header("x-a").is_empty(), "{plain:?}");
        // Redirects need no service, and keep the rules of their service.
        for (method, path, status, location) in [
            (Method::GET, "/echo/old/7?a=b", 301, "/echo/new/7?a=b"),
            (Method::POST, "/echo/site/a/b", 308, "https://site.test/a/b"),
            (Method::GET, "/echo/site/\\evil.test", 308, "https://site.test/%5Cevil.test"),
        ] {
            let moved = client.ask(method, path, &[], "").await;
            assert_eq!((moved.status, moved.header("location").as_str()), (status, location), "{path}");
            assert_eq!((moved.header("x-a").as_str(), moved.text().as_str()), ("1", ""));
        }
        for path in ["/echo/site//evil.test", "/echo/old/", "/echo/old/7/x", "/echo/site"] {
            assert_ne!(client.get(path).await.status / 100, 3, "{path}");
        }
    }
    // Stored responses are changed as those of the service are.
    let path = "/cacheable?cache-control=public,max-age%3D60";
    let (first, again) = (host.get(path).await, host.get(path).await);
    assert_eq!((first.text(), first.header("x-a")), (again.text(), "2".into()));
    assert_eq!(again.header("x-a"), "2");
}
