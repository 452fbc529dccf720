//! Promise: a page of another origin may use a service exactly if its manifest names the origin, and the host says so in
//! every response: to preflights, of the service, from the cache, and its own.

use http::Method;

use crate::harness::{Connection, Response, TestHost, host};

const APP: &str = "https://app.test";

async fn ask(host: &TestHost, method: Method, path: &str, fields: &[(&str, &str)]) -> Response {
    host.connect().await.ask(method, path, fields, "").await
}

async fn preflight(host: &TestHost, path: &str, origin: &str, method: &str) -> Response {
    let fields = [("origin", origin), ("access-control-request-method", method)];
    ask(host, Method::OPTIONS, path, &fields).await
}

/// What the response allows: an origin, with or without credentials, and a method.
fn allowed(response: &Response) -> [String; 3] {
    ["origin", "credentials", "methods"].map(|name| response.header(&format!("access-control-allow-{name}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_decides_which_pages_may_use_a_service() {
    let keys = format!("[[key]]\nname = 'a'\nsha256 = '{}'", "0".repeat(64));
    let host = host(&["cacheable", "echo", "hello"])
        .file("keys.list", keys.as_bytes())
        .manifest(
            "cacheable",
            "cache = true\ncors = { origins = 'https://app.test', credentials = true, expose = 'cache-status' }",
        )
        .manifest(
            "echo",
            "auth.api_keys = 'keys.list'\nroutes = ['/echo', { path = '/echo/post', methods = ['POST'] },\n\
             { path = '/echo/closed', cors = false }, { path = '/echo/all', auth = false, cors.origins = '*' }]\n\
             [cors]\norigins = ['https://app.test']\nheaders = ['x-api-key', 'content-type']\nmax_age = '1h'",
        )
        .start()
        .await;
    // A preflight is answered without credentials and without the service.
    let yes = preflight(&host, "/echo/head", APP, "PUT").await;
    assert_eq!((yes.status, allowed(&yes)), (204, [APP, "", "PUT"].map(str::to_owned)));
    assert_eq!(yes.header("access-control-allow-headers"), "x-api-key, content-type");
    assert_eq!((yes.header("access-control-max-age"), yes.header("vary")), ("3600".into(), "origin".into()));
    for (path, origin, method) in [
        ("/echo", "https://evil.test", "PUT"),
        ("/echo", "null", "PUT"),
        ("/echo", "http://app.test", "PUT"),
        ("/echo/closed", APP, "PUT"),
        ("/echo/post", APP, "PUT"),
        ("/hello", APP, "PUT"),
        ("/nothing", APP, "PUT"),
    ] {
        let no = preflight(&host, path, origin, method).await;
        assert_eq!(allowed(&no), ["", "", ""].map(str::to_owned), "{path} {origin}: {no:?}");
    }
    assert_eq!(allowed(&preflight(&host, "/echo/post", APP, "POST").await)[2], "POST");
    // Scripts can read why a request is refused.
    let denied = ask(&host, Method::GET, "/echo", &[("origin", APP)]).await;
    assert_eq!((denied.status, allowed(&denied)[0].as_str()), (401, APP));
    let stranger = ask(&host, Method::GET, "/echo", &[("origin", "https://evil.test")]).await;
    assert_eq!(
        (stranger.status, allowed(&stranger)[0].as_str(), stranger.header("vary").as_str()),
        (401, "", "origin")
    );
    let all = ask(&host, Method::GET, "/echo/all/head", &[("origin", "https://any.test")]).await;
    assert_eq!((all.status, allowed(&all)), (200, ["*", "", ""].map(str::to_owned)));
    // A stored response is for each origin what the manifest says of that one.
    let path = "/cacheable?cache-control=public,max-age%3D60";
    let first = ask(&host, Method::GET, path, &[("origin", APP)]).await;
    let other = ask(&host, Method::GET, path, &[("origin", "https://evil.test")]).await;
    let again = ask(&host, Method::GET, path, &[("origin", APP)]).await;
    assert_eq!((first.text(), other.text()), (again.text(), again.text()), "stored");
    for (response, expected) in [(&first, [APP, "true", ""]), (&other, ["", "", ""]), (&again, [APP, "true", ""])] {
        assert_eq!(allowed(response), expected.map(str::to_owned), "{response:?}");
    }
    assert_eq!(again.header("access-control-expose-headers"), "cache-status");
    // Over HTTP/2 as well.
    let mut client = Connection::http2(host.address).await;
    let fields = [("origin", APP), ("access-control-request-method", "PUT")];
    let yes = client.ask(Method::OPTIONS, "/echo", &fields, "").await;
    assert_eq!((yes.status, allowed(&yes)[0].as_str()), (204, APP));
    // An `OPTIONS` that is no preflight is a request like any other.
    assert_eq!(ask(&host, Method::OPTIONS, "/echo", &[("origin", APP)]).await.status, 401);
}
