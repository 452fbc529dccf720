//! Promise: a guest can send requests only to the hosts that its manifest lists, and only to public addresses; the log
//! says what to add for a denied one.

use std::sync::atomic::Ordering::Relaxed;

use crate::calls::outgoing::{SENDERS, World, ask, until_outcome};
use crate::harness::{Process, host, until, until_metric};

/// A request to an origin that is not listed is denied without a connection, and the log has the line that would allow
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn unlisted_origins_are_denied() {
    let world = World::start().await;
    let port = world.address.port();
    // Each differs in scheme, port or name; "caller3" has no manifest.
    let list = format!(
        "http = ['https://{0}', 'http://127.0.0.1:1', 'http://localhos:{port}', 'http://*.localhost:{port}']",
        world.address
    );
    let setup = host(&["caller", "caller3"]).manifest("caller", &list);
    let process = Process::serve(setup.directory.path(), &[]).await;
    for sender in SENDERS {
        for to in [world.url("/"), format!("http://LOCALHOST:{port}/"), format!("http://localhost.:{port}/")] {
            let denied = ask(process.address, sender, &to, &[]).await;
            assert!(denied.header("x-error").contains("HttpRequestDenied"), "{sender} to {to}: {denied:?}");
        }
        let line = format!(
            "`http = [\"http://{}\"]` in {sender}.toml, above its first [section], would allow it",
            world.address
        );
        until("the log says what would allow it", || process.log().contains(&line)).await;
        let user = ask(process.address, sender, &format!("http://127.0.0.1:1@{}/", world.address), &[]).await;
        assert!(!user.header("x-error").is_empty(), "{user:?}");
    }
    assert_eq!(world.connections.load(Relaxed), 0);
}

/// A listed name that resolves to this machine is refused, unless the address is listed, too.
#[tokio::test(flavor = "multi_thread")]
async fn listed_names_with_private_addresses_are_refused() {
    let world = World::start().await;
    let port = world.address.port();
    let setup = host(&["caller", "caller3"])
        .manifest("caller", &format!("http = ['http://localhost:{port}', 'http://*:*']"))
        .manifest("caller3", &format!("http = ['http://localhost:{port}', 'http://*:*']"))
        .named("caller", "trusted")
        .manifest("trusted", &format!("http = ['http://localhost:{port}', 'http://127.0.0.0:*/8', 'http://[::1]:*']"));
    let process = Process::serve(setup.directory.path(), &[]).await;
    // The last two are 127.0.0.1 in old notations or in IPv6.
    let names = ["localhost", "127.0.0.1", "127.1", "2130706433", "[::ffff:127.0.0.1]"];
    for sender in SENDERS {
        for name in names {
            let refused = ask(process.address, sender, &format!("http://{name}:{port}/"), &[]).await;
            let code = refused.header("x-error");
            assert!(
                code.contains("DestinationIpProhibited") || code.contains("DnsError"),
                "{sender} to {name}: {refused:?}"
            );
        }
        let refused = ask(process.address, sender, &format!("http://localhost:{port}/"), &[]).await;
        assert!(refused.header("x-error").contains("DestinationIpProhibited"), "{refused:?}");
    }
    assert_eq!(world.connections.load(Relaxed), 0, "a connection was made");
    until("the log says what would allow it", || {
        process.log().contains(&format!(
            "`http = [\"http://localhost:{port}\", \"http://127.0.0.1:{port}\"]` in caller.toml, above its first [section]"
        )) || process.log().contains(&format!("\"http://[::1]:{port}\"]` in caller.toml, above its first [section]"))
    })
    .await;
    let reached = ask(process.address, "trusted", &format!("http://localhost:{port}/"), &[]).await;
    assert_eq!((reached.status, reached.header("x-kept").as_str()), (200, "1"), "{reached:?}");
}

/// A guest that returns the denial of its own request is a failed service, not a mistake of its client.
#[tokio::test(flavor = "multi_thread")]
async fn a_returned_denial_is_a_failure() {
    let host = host(&["caller3"]).manifest("caller3", "[breaker]\ncalls = 4\nopen = '1m'").start().await;
    let passed_on = [("x-times", "1")];
    for to in ["http://127.0.0.1:1/", "http://users.internal/"].into_iter().cycle().take(4) {
        let denied = ask(host.address, "caller3", to, &passed_on).await;
        assert_eq!((denied.status, denied.problem().as_str()), (502, "outgoing-denied"), "{denied:?}");
    }
    let refused = ask(host.address, "caller3", "http://127.0.0.1:1/", &passed_on).await;
    assert_eq!((refused.status, refused.problem().as_str()), (503, "breaker-open"), "{refused:?}");
    until_metric(host.admin, "lodge_guest_failures_total{service=\"caller3\",reason=\"outgoing-denied\"}", 4).await;
    until_outcome(&host, "caller3", "denied", 4).await;
}

/// A guest that may send requests to the admin listener is not an operator, with or without a token.
#[tokio::test(flavor = "multi_thread")]
async fn guests_are_not_operators() {
    let list = "http = ['http://127.0.0.1:1', 'http://127.0.0.0:*/8']";
    let setup = host(&["caller", "caller3"]).manifest("caller", list).manifest("caller3", list);
    let open = Process::serve(setup.directory.path(), &[]).await;
    let closed = Process::serve(setup.directory.path(), &["--admin-token", "a-token-of-the-test"]).await;
    for process in [&open, &closed] {
        for caller in ["caller", "caller3"] {
            let reached = ask(process.address, caller, &format!("http://{}/healthz", process.admin), &[]).await;
            assert_eq!(reached.status, 200);
            let refused = ask(process.address, caller, &format!("http://{}/v1/host", process.admin), &[]).await;
            assert_eq!(refused.status, 401, "{caller}");
        }
    }
}
