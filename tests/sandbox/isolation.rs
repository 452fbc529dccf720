//! Promise: requests share no state unless the manifest asks for warm instances, and two requests never share an
//! instance at a time.

use crate::harness::host;

/// Nothing that one request wrote in memory is seen by the next.
#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_alone() {
    let host = host(&["counter"]).start().await;
    let mut client = host.connect().await;
    for _ in 0..50 {
        assert_eq!(client.get("/counter").await.text(), "1");
    }
}

/// With `isolation = "service"` an instance is used again, until it traps, is used up, or was idle for too long.
#[tokio::test(flavor = "multi_thread")]
async fn warm_instances() {
    let host = host(&["counter"])
        .manifest("counter", "isolation = 'service'\n[limits]\nwarm_uses = 5\nwarm_idle = '700ms'")
        .start()
        .await;
    let mut client = host.connect().await;
    let uses: Vec<_> = [1, 2, 3, 4, 5, 1, 2].into_iter().map(|uses: u32| uses.to_string()).collect();
    for expected in &uses {
        assert_eq!(&client.get("/counter").await.text(), expected, "used up after five");
    }
    assert_eq!(client.get("/counter/trap").await.status, 502);
    assert_eq!(client.get("/counter").await.text(), "1", "never again after a trap");
    assert_eq!(client.get("/counter").await.text(), "2");
    tokio::time::sleep(std::time::Duration::from_millis(800)).await;
    assert_eq!(client.get("/counter").await.text(), "1", "idle for too long");
}

/// A warm 0.3 guest is used again as well, and two at once never share.
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
