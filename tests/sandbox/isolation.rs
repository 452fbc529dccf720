//! Promise: requests share no state unless the manifest asks for warm instances, and two requests never share an
//! instance at a time.

use crate::harness::{host, until};

/// A request cannot read what another one wrote in memory.
#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_a_fresh_instance() {
    let host = host(&["counter"]).start().await;
    let mut client = host.connect().await;
    for _ in 0..50 {
        assert_eq!(client.get("/counter").await.text(), "1");
    }
}

/// With `isolation = "service"` an instance is reused until it traps, has served its requests, or was idle for too
/// long.
#[tokio::test(flavor = "multi_thread")]
async fn warm_instances_are_reused() {
    let host = host(&["counter"])
        .manifest("counter", "isolation = 'service'\n[limits]\nwarm_uses = 5\nwarm_idle = '4s'")
        .start()
        .await;
    let mut client = host.connect().await;
    let uses: Vec<_> = [1, 2, 3, 4, 5, 1, 2].into_iter().map(|uses: u32| uses.to_string()).collect();
    for expected in &uses {
        assert_eq!(&client.get("/counter").await.text(), expected, "replaced after five requests");
    }
    assert_eq!(client.get("/counter/trap").await.status, 502);
    assert_eq!(client.get("/counter").await.text(), "1", "replaced after a trap");
    assert_eq!(client.get("/counter").await.text(), "2");
    let warm = || host.current.snapshot().target("counter").unwrap().backend.guest().unwrap().warm();
    until("it was idle for too long", || warm() == 0).await;
    assert_eq!(client.get("/counter").await.text(), "1", "idle for too long");
}

/// A warm 0.3 guest is reused as well, and never for two requests at a time.
#[tokio::test(flavor = "multi_thread")]
async fn warm_instances_are_not_shared_at_once() {
    let host = host(&["hello", "drip"])
        .manifest("hello", "isolation = 'service'")
        .manifest("drip", "isolation = 'service'")
        .start()
        .await;
    let asked: Vec<_> = (0..20)
        .map(|n| {
            let address = host.address;
            tokio::spawn(async move {
                let hello = crate::harness::get(address, &format!("/hello?name={n}")).await.text();
                (hello == format!("Hello, {n}!"), crate::harness::get(address, "/drip/2").await.text() == "0\n1\n")
            })
        })
        .collect();
    for asked in asked {
        assert_eq!(crate::harness::within(asked).await.unwrap(), (true, true));
    }
}
