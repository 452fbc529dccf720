//! Promise: client networks, rates, load shedding and adaptive limits apply as the manifest says, and through every
//! edit of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;

use crate::harness::{Connection, Response, TestHost, eventually, get, host, until, until_metric, wasm};

/// A GET on a connection from this address of the loopback network.
async fn get_from(client: &str, address: SocketAddr, path: &str) -> Response {
    Connection::from(client.parse().unwrap(), address).await.get(path).await
}

pub(crate) async fn policies(host: &TestHost, name: &str) -> Vec<Value> {
    let response = Connection::http1(host.admin).await.get(&format!("/v1/services/{name}")).await;
    let service: Value = serde_json::from_slice(&response.body).unwrap();
    service["policies"].as_array().unwrap().clone()
}

pub(crate) fn refused(response: &Response) -> (u16, String) {
    (response.status, response.problem())
}

/// Networks are allowed and denied, per service and per route, by the address of the connection and not by headers.
#[tokio::test(flavor = "multi_thread")]
async fn networks_are_allowed_and_denied() {
    let host = host(&["echo", "hello"])
        .manifest("hello", "allow = ['127.0.1.0/24']\ndeny = ['127.0.1.9']")
        .manifest("echo", "routes = ['/echo', { path = '/echo/admin', allow = ['127.0.2.0/24'] }]")
        .start()
        .await;
    let denied = get_from("127.0.0.1", host.address, "/hello").await;
    assert_eq!(refused(&denied), (403, "client-denied".into()));
    assert!(denied.header("retry-after").is_empty());
    assert_eq!(get_from("127.0.1.1", host.address, "/hello").await.status, 200);
    assert_eq!(get_from("127.0.1.9", host.address, "/hello").await.status, 403);
    let forged = [("x-forwarded-for", "127.0.1.1")];
    let mut client = Connection::from("127.0.0.1".parse().unwrap(), host.address).await;
    assert_eq!(client.ask(Method::GET, "/hello", &forged, "").await.status, 403, "headers are not believed");
    assert_eq!(get_from("127.0.0.1", host.address, "/echo/head").await.status, 200);
    assert_eq!(get_from("127.0.0.1", host.address, "/echo/admin/head").await.status, 403);
    assert_eq!(get_from("127.0.2.1", host.address, "/echo/admin/head").await.status, 200);
    // The host name of a service does not bypass the policies of its routes; a service without such routes has the
    // host.
    let own = |name: &'static str| [("host", name)];
    let around = client.ask(Method::GET, "/admin/head", &own("echo.localhost"), "").await;
    assert_eq!(refused(&around), (404, "no-route".into()));
    assert_eq!(
        client.ask(Method::GET, "/", &own("hello.localhost"), "").await.status,
        403,
        "it has a route, and a policy"
    );
    host.edit("hello", "deny = ['127.0.1.0/24']").await;
    assert_eq!(get_from("127.0.0.1", host.address, "/hello").await.status, 200);
    assert_eq!(get_from("127.0.1.1", host.address, "/hello").await.status, 403);
    until_metric(host.admin, r#"lodge_refusals_total{service="hello",reason="client-denied"}"#, 5).await;
}

/// A manifest that is saved in place is empty for a moment, or longer by a slow copy. The previous one applies until there is
/// another text.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_being_saved_still_applies() {
    let manifest = "deny = ['127.0.0.1']\nrate = '3/h'";
    let host = host(&["hello"]).manifest("hello", manifest).start().await;
    assert_eq!(get_from("127.0.0.2", host.address, "/hello").await.status, 200);
    let path = host.directory().join("hello.toml");
    for round in 0..5 {
        let emptied = Instant::now();
        std::fs::File::create(&path).unwrap();
        loop {
            let status = host.get("/hello").await.status;
            // Long enough for an editor.
            if emptied.elapsed() >= lodge::guests::scan::SETTLE / 2 {
                break;
            }
            assert_eq!(status, 403, "it was let in {:?} after", emptied.elapsed());
        }
        host.edit("hello", &format!("{manifest}\nenv.ROUND = '{round}'")).await;
    }
    let response = get_from("127.0.0.2", host.address, "/hello").await;
    assert!(response.header("ratelimit").contains(";r=1;"), "the used tokens are forgotten: {response:?}");
    std::fs::File::create(&path).unwrap();
    until("it is refused", || host.refusals().concat().contains("it is gone or empty")).await;
    assert_eq!(host.get("/hello").await.status, 403);
    host.edit("hello", "# everybody").await;
    assert_eq!(host.get("/hello").await.status, 200);
}

/// Behind a trusted proxy, the client is the one in the forwarding headers.
#[tokio::test(flavor = "multi_thread")]
async fn clients_behind_a_proxy() {
    let host = host(&["hello"])
        .set("trusted_proxies", "127.0.3.0/24")
        .manifest("hello", "rate = '1/h'\ndeny = ['192.0.2.66']")
        .start()
        .await;
    let mut proxy = Connection::from("127.0.3.1".parse().unwrap(), host.address).await;
    let mut ask =
        async |client: &str| proxy.ask(Method::GET, "/hello", &[("x-forwarded-for", client)], "").await.status;
    assert_eq!((ask("192.0.2.1").await, ask("192.0.2.1").await, ask("192.0.2.2").await), (200, 429, 200));
    assert_eq!(ask("192.0.2.66").await, 403);
    assert_eq!(ask("6.6.6.6, 192.0.2.1").await, 429, "addresses before the client's are forged");
}

/// A client that knows the name of the host can forge the mark of guests in `Via`. Policies then apply to both the
/// address in the forwarding headers and the proxy's.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_via_bypasses_no_policy() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let replica = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = format!("[upstream]\nreplicas = ['http://{}']", replica.local_addr().unwrap());
    let setup = host(&["hello"]);
    super::auth::create(&setup.directory.path().join("keys.list"), "ada", &[]);
    let host = setup
        .set("trusted_proxies", "127.0.3.0/24")
        .set("auth_failures", "2")
        .manifest("keys", &format!("auth = {{ api_keys = 'keys.list' }}\n{far}"))
        .manifest("hello", "allow = ['127.0.3.0/24', '192.0.2.0/25']\ndeny = ['192.0.2.66']\nrate = '2/h'")
        .manifest("far", &far)
        .start()
        .await;
    let name = async {
        let (mut stream, _) = replica.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0);
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        let head = String::from_utf8(head).unwrap();
        let (_, name) = head.split_once("1.1 lodge-").unwrap();
        name.get(..8).unwrap().to_owned()
    };
    let (response, name) = tokio::join!(host.get("/far"), name);
    assert_eq!(response.status, 204);
    let mark = format!("1.1 lodge-{name}-guest, 1.1 front");
    let mut proxy = Connection::from("127.0.3.1".parse().unwrap(), host.address).await;
    let mut ask = async |client: &str, via: &str| {
        proxy.ask(Method::GET, "/hello", &[("x-forwarded-for", client), ("via", via)], "").await.status
    };
    assert_eq!([ask("192.0.2.200", &mark).await, ask("192.0.2.66", &mark).await], [403, 403]);
    assert_eq!([ask("192.0.2.1", "1.1 front").await, ask("192.0.2.1", "1.1 front").await], [200, 200]);
    assert_eq!([ask("192.0.2.1", "1.1 front").await, ask("192.0.2.1", &mark).await], [429, 429]);
    // Failed attempts count for the address that is claimed as well.
    let mut guess = async |via: &str| {
        let headers = [("x-forwarded-for", "192.0.2.9"), ("via", via), ("x-api-key", "no")];
        proxy.ask(Method::GET, "/keys", &headers, "").await.status
    };
    assert_eq!([guess(&mark).await, guess(&mark).await, guess("1.1 front").await], [401, 401, 429]);
    let mut outside = Connection::from("127.0.3.2".parse().unwrap(), host.address).await;
    let mut ask = async |headers: &[(&str, &str)]| outside.ask(Method::GET, "/hello", headers, "").await.status;
    assert_eq!(ask(&[("via", &mark), ("x-forwarded-for", "192.0.2.2")]).await, 200, "both are allowed");
    // Both use their rates.
    assert_eq!(ask(&[("x-forwarded-for", "192.0.2.2")]).await, 200);
    assert_eq!(ask(&[("x-forwarded-for", "192.0.2.2")]).await, 429);
    assert_eq!([ask(&[("via", &mark)]).await, ask(&[("via", &mark)]).await], [200, 429]);
}

/// Every response has the rate limit headers. Used tokens stay used when the manifest or the component changes.
#[tokio::test(flavor = "multi_thread")]
async fn rates_survive_edits() {
    let manifest = "rate = { limit = '5/h', by = 'client' }";
    let host = host(&["hello"]).manifest("hello", manifest).start().await;
    let first = host.get("/hello").await;
    assert_eq!((first.status, first.header("ratelimit-policy").as_str()), (200, "\"client\";q=5;w=3600"));
    assert_eq!(
        (first.header("ratelimit").as_str(), first.header("retry-after").as_str()),
        ("\"client\";r=4;t=720", "")
    );
    assert_eq!(host.get("/hello").await.header("ratelimit"), "\"client\";r=3;t=1440");
    assert_eq!(get_from("127.0.0.9", host.address, "/hello").await.header("ratelimit"), "\"client\";r=4;t=720");
    // A burst of six, of which two are used; each token takes ten minutes to return.
    host.edit("hello", "rate = { limit = '6/h', by = 'client' }").await;
    assert_eq!(host.get("/hello").await.header("ratelimit"), "\"client\";r=3;t=1800");
    host.replace("hello", &std::fs::read(wasm("deaf")).unwrap()).await;
    assert_eq!(host.get("/hello").await.header("ratelimit"), "\"client\";r=2;t=2400");
    for _ in 0..2 {
        assert_eq!(host.get("/hello").await.status, 200);
    }
    let over = host.get("/hello").await;
    assert_eq!(refused(&over), (429, "rate-limited".into()));
    assert_eq!(
        (over.header("retry-after").as_str(), over.header("ratelimit").as_str()),
        ("600", "\"client\";r=0;t=3600")
    );
    assert_eq!(over.header("ratelimit-policy"), "\"client\";q=6;w=3600");
    let rate = &policies(&host, "hello").await[0];
    assert_eq!(
        (&rate["policy"], &rate["settings"], &rate["state"]),
        (&"rate".into(), &"6/h, burst 6, by client".into(), &"2 in use".into())
    );
    until_metric(host.admin, r#"lodge_rate_limit_keys{service="hello"}"#, 2).await;
    until_metric(host.admin, r#"lodge_refusals_total{service="hello",reason="rate-limited"}"#, 1).await;
}

/// A route has its own rate besides its service's, and keeps it when another route is added before it.
#[tokio::test(flavor = "multi_thread")]
async fn routes_have_their_own_rates() {
    let route = "{ path = '/login', rate = { limit = '2/h', by = 'header:x-user' } }";
    let service = "rate = { limit = '4/h', by = 'service' }";
    let host = host(&["hello"]).manifest("hello", &format!("routes = ['/hello', {route}]\n{service}")).start().await;
    let mut client = host.connect().await;
    let mut ask = async |path: &str, user: &str| client.ask(Method::GET, path, &[("x-user", user)], "").await;
    let both = ask("/login", "ada").await;
    let fields: Vec<_> = both.headers.get_all("ratelimit").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(fields, ["\"route-x-user\";r=1;t=1800", "\"service\";r=3;t=900"]);
    assert_eq!(ask("/login", "ada").await.status, 200);
    host.edit("hello", &format!("routes = ['/', '/hello', {route}]\n{service}")).await;
    assert_eq!(refused(&ask("/login", "ada").await), (429, "rate-limited".into()));
    assert_eq!(ask("/login", "bob").await.status, 200);
    assert_eq!(ask("/hello", "ada").await.status, 200);
    assert_eq!(ask("/hello", "ada").await.status, 429, "four were admitted");
}

/// Clients that send requests continuously get what the rate allows, within two percent.
#[tokio::test(flavor = "multi_thread")]
async fn a_rate_holds_under_load() {
    let host = host(&["deaf"])
        // A machine that stands still for less than two seconds loses nothing.
        .manifest("deaf", "rate = { limit = '20/s', burst = 40, by = 'service' }")
        .start()
        .await;
    let (address, start) = (host.address, Instant::now());
    let end = start + Duration::from_secs(5);
    let clients: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Connection::http1(address).await;
                let (mut admitted, mut asked, mut refused) = (0, 0, start);
                while Instant::now() < end {
                    let now = Instant::now();
                    asked += 1;
                    match client.get("/deaf").await.status {
                        200 => admitted += 1,
                        status => {
                            assert_eq!(status, 429);
                            refused = now;
                        }
                    }
                }
                (admitted, asked, refused)
            })
        })
        .collect();
    let (mut admitted, mut asked, mut last) = (0, 0, start);
    for client in clients {
        let (more, asks, refused) = client.await.unwrap();
        (admitted, asked, last) = (admitted + more, asked + asks, last.max(refused));
    }
    let allowed = |at: Instant| 40.0 + 20.0 * at.duration_since(start).as_secs_f64();
    // When a request is refused, all tokens of the time before have been used.
    let (least, most) = (allowed(last) * 0.98, allowed(Instant::now()));
    let range = least..=most;
    assert!(range.contains(&f64::from(admitted)), "{admitted} of {asked} are admitted, which is not in {range:?}");
    assert!(asked > 3 * admitted, "too few requests for a comparison: {asked}");
}

/// When every sandbox is busy, the requests of the lowest priority are refused first, and admitted again when there is
/// space.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_host_sheds_by_priority() {
    let host = host(&["sleeper", "hello"])
        .named("hello", "batch")
        .named("hello", "vital")
        .manifest("batch", "priority = 'low'")
        .manifest("vital", "routes = [{ path = '/vital', priority = 'high' }, '/usual']")
        .set("engine.instances", "2")
        .set("engine.queue", "4")
        .set("limits.queue_wait", "20s")
        .set("limits.wall", "5s")
        .set("limits.cpu", "5s")
        .start()
        .await;
    let address = host.address;
    // A machine that is busy with other tests may have a late scheduler, which is another reason to shed.
    let room = async || {
        eventually("there is space", async || host.get("/batch").await.status == 200).await;
    };
    room().await;
    let sleep = || tokio::spawn(async move { get(address, "/sleeper").await.status });
    let flying = |count: usize| {
        let snapshot = host.current.snapshot();
        snapshot.targets.iter().map(|target| target.admission.in_flight()).sum::<usize>() >= count
    };
    let mut sleeping = vec![sleep(), sleep()];
    until("both slots are taken", || flying(2)).await;
    assert_eq!(refused(&host.get("/batch").await), (503, "shed".into()));
    assert_eq!(host.get("/batch").await.header("retry-after"), "1");
    // Two of four places of the queue are taken, so normal requests leave space for those of high priority.
    sleeping.extend([sleep(), sleep()]);
    until("two wait in the host's queue", || flying(4)).await;
    until_metric(host.admin, "lodge_load_level", 2).await;
    for name in ["lodge_slots", "lodge_slots_taken", "lodge_slots_queue_length"] {
        until_metric(host.admin, name, 2).await;
    }
    assert_eq!(refused(&host.get("/hello").await), (503, "shed".into()));
    assert_eq!(
        refused(&host.get("/usual").await),
        (503, "shed".into()),
        "a route without a priority is as its service"
    );
    let vital = tokio::spawn(async move { get(address, "/vital").await.status });
    assert_eq!(vital.await.unwrap(), 200, "it waits and is admitted");
    for sleeping in sleeping {
        assert_eq!(sleeping.await.unwrap(), 504);
    }
    room().await;
    assert_eq!(host.get("/hello").await.status, 200);
}

/// The number of slots follows the response time, and continues from there after an edit.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_slots_adapts() {
    let manifest = |latency: &str| format!("adaptive = {{ latency = '{latency}', floor = 2 }}\nlimits.in_flight = 20");
    let host = host(&["counter"]).manifest("counter", &manifest("1ms")).start().await;
    let limit = || {
        let snapshot = host.current.snapshot();
        snapshot.targets[0].admission.slots()
    };
    assert_eq!(limit(), 20);
    host.edit("counter", &manifest("1h")).await;
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_millis(500) {
        assert_eq!(host.get("/counter").await.status, 200);
    }
    assert_eq!(limit(), 20);
    let shown = &policies(&host, "counter").await[0];
    assert_eq!((&shown["policy"], &shown["state"]), (&"adaptive".into(), &"20 of 20 slots".into()));
    until_metric(host.admin, r#"lodge_concurrency_limit{service="counter"}"#, 20).await;
    host.edit("counter", "limits.in_flight = 3").await;
    assert_eq!(limit(), 3);
}
