//! Promise: no name leads from one service to the data, objects, configuration, secrets, variables or locks of another.

use http_body_util::{BodyExt, Empty};

use crate::harness::host;

/// What only the service `victim` has.
const DATA: &str = "canary-data-19f3";
const CONFIG: &str = "canary-config-5c07";
const SECRET: &str = "canary-secret-e8d2";
const VARIABLE: &str = "canary-variable-a640";

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_a_service_stays_there() {
    // Names that begin with each other, and one that a server's pattern could match.
    let others = ["vic", "victim-2", "victim_", "victims", "v"];
    let manifest = |values: &str| {
        format!(
            "keyvalue = true\nblobstore = true\nlock = {{ lease = '10m' }}\nlimits = {{ wall = '10m', cpu = '2m', memory = '64MiB' }}\n{values}"
        )
    };
    let victim = format!(
        "[config]\nplain = '{CONFIG}'\npassword = {{ file = 'password', secret = true }}\n\
         [env]\npassword = '{VARIABLE}'\nTOKEN = {{ file = 'password', secret = true }}"
    );
    let mut setup = host(&[]).named("intruder", "victim").manifest("victim", &manifest(&victim));
    setup = setup.file("password", SECRET.as_bytes());
    for other in others {
        setup =
            setup.named("intruder", other).manifest(other, &manifest("[config]\nown = 'mine'\n[env]\nOWN = 'mine'"));
    }
    let host = setup.start().await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    assert_eq!(host.get(&format!("/victim/plant?{DATA}")).await.text(), "planted");
    let planted = format!("{DATA} 7, {DATA} 7, {DATA}");
    assert_eq!(host.get("/victim/read").await.text(), planted);
    // It has a lock all the time.
    let mut holder = host.connect().await;
    let request = http::Request::get("/victim/hold").body(Empty::new().boxed_unsync()).unwrap();
    let mut held = holder.send(request).await.unwrap();
    let begin = held.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(begin.into_data().unwrap(), "it has the lock");
    for other in others {
        let found = host.get(&format!("/{other}/search?victim")).await;
        let text = found.text();
        assert!(found.status == 200 && text.ends_with("end"), "{other}: {} {text}", found.status);
        // What is its own is found, so the search can find something.
        assert!(text.contains("own=mine") && text.contains("OWN=mine"), "{other}");
        for canary in [DATA, CONFIG, SECRET, VARIABLE, "BUSY", "DIRECTORY", "root:"] {
            assert!(!text.contains(canary), "{other} has found {canary}");
        }
    }
    // The victim itself would be noticed.
    let own = host.get("/victim/search?victim").await.text();
    for canary in [DATA, CONFIG, SECRET, VARIABLE, "BUSY \"door\""] {
        assert!(own.contains(canary), "the search does not find {canary}");
    }
    assert_eq!(host.get("/vic/read").await.text(), " ,  , ");
    drop(held);
}

/// Nobody changes what another service keeps.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_deletes_is_its_own() {
    let manifest = "keyvalue = true\nblobstore = true\nlock = true\nlimits = { wall = '10m', cpu = '2m' }";
    let setup = host(&[]).named("intruder", "victim").manifest("victim", manifest);
    let host = setup.named("intruder", "other").manifest("other", manifest).start().await;
    host.get(&format!("/victim/plant?{DATA}")).await;
    host.get("/other/plant?other").await;
    // It deletes all keys that it finds.
    assert!(host.get("/other/search?victim").await.text().contains("other"));
    assert_eq!(host.get("/other/read").await.text(), " ,  , ");
    assert_eq!(host.get("/victim/read").await.text(), format!("{DATA} 7, {DATA} 7, {DATA}"));
}
