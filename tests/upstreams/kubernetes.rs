//! Promise: `k8s://` replicas are the endpoints of a Service, a rolling change of them loses no request, and the token goes
//! to the API server only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use serde_json::{Value, json};

use crate::harness::authority::Authority;
use crate::harness::far::{count, distribution};
use crate::harness::kubernetes::ApiServer;
use crate::harness::{
    Connection, Habit, Replica, TestHost, eventually, get, host, lodge, output, until, until_metric, within,
};

const MANIFEST: &str = "[upstream]\nreplicas = ['k8s://users:http']\n";

/// What `lodge inspect` gets of the only source: why it fails.
async fn fails(host: &TestHost) -> String {
    let service: Value = serde_json::from_str(&get(host.admin, "/v1/services/far").await.text()).unwrap();
    let source = &service["upstream"]["sources"][0];
    assert_eq!(source["source"], "k8s://users:http");
    source["fails"].as_str().unwrap_or_default().to_owned()
}

async fn fails_with(host: &TestHost, words: &str) {
    let is_so = async || {
        let why = fails(host).await;
        if words.is_empty() { why.is_empty() } else { why.contains(words) }
    };
    eventually(&format!("the source fails with {words:?}"), is_so).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_change_loses_no_request() {
    let api = ApiServer::start().await;
    let names = ["a", "b", "c", "d", "e"];
    let mut replicas = Vec::new();
    for name in names {
        replicas.push(Replica::start(name).await);
    }
    (0..2).for_each(|n| api.ready(names[n], &replicas[n]));
    // A server with another certificate gets no token, and `lodge check` says what is wrong.
    api.trusted(&Authority::new());
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("far.toml"), MANIFEST).unwrap();
    let mut check = lodge(&["check", directory.path().to_str().unwrap()]);
    let check = check.env("LODGE_KUBERNETES_URL", &api.url).env("LODGE_KUBERNETES_ACCOUNT", api.account());
    let (code, stdout, stderr) = output(check);
    assert!(stdout.contains("k8s://users:http: ") && stdout.contains("certificate"), "{code:?} {stdout} {stderr}");
    assert_eq!(api.requests(), 0);
    api.trusted(api.authority());

    let host = api.of(host(&[])).manifest("far", MANIFEST).start().await;
    assert_eq!(distribution(&host, 20).await.into_keys().collect::<Vec<_>>(), names[..2]);
    let (stop, failed) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (stop, failed, address) = (Arc::clone(&stop), Arc::clone(&failed), host.address);
            tokio::spawn(async move {
                let mut client = Connection::http1(address).await;
                let mut sent = 0;
                while !stop.load(Relaxed) {
                    let response = within(client.get("/far")).await;
                    failed.fetch_add(usize::from(response.status != 200), Relaxed);
                    sent += 1;
                }
                sent
            })
        })
        .collect();
    // Each pod is replaced: a new one is ready, the old one ends, closes its connections, and is gone.
    for old in 0..3 {
        let (new, before) = (old + 2, replicas[old].hits());
        until("it has requests", || replicas[old].hits() > before).await;
        api.ready(names[new], &replicas[new]);
        until("the new one is used", || count(&host) == 3 && replicas[new].hits() > 0).await;
        api.put(names[old], replicas[old].address, &json!({ "ready": false, "serving": true, "terminating": true }));
        until("the old one is left out", || count(&host) == 2).await;
        replicas[old].set(Habit::Refuse);
        api.remove(names[old]);
        // The kubelet replaces the token, and the API server takes only the new one.
        api.rotate(names[old]);
    }
    stop.store(true, Relaxed);
    let mut sent = 0;
    for client in clients {
        sent += within(client).await.unwrap();
    }
    assert!(failed.load(Relaxed) == 0 && sent > 100, "{failed:?} of {sent} failed");
    assert_eq!(distribution(&host, 20).await.into_keys().collect::<Vec<_>>(), names[3..]);

    // Without the right to watch, the last endpoints stay in use, and the reason names the right.
    api.forbid(true);
    fails_with(&host, "lacks the right to get, list and watch endpointslices (discovery.k8s.io) in the namespace shop")
        .await;
    until_metric(host.admin, "lodge_upstream_sources_failing{service=\"far\"}", 1).await;
    assert_eq!(distribution(&host, 20).await.into_keys().collect::<Vec<_>>(), names[3..]);
    api.remove(names[3]);
    api.forbid(false);
    until("the change is known", || count(&host) == 1).await;
    fails_with(&host, "").await;
    // That nothing is left is believed at once.
    api.remove(names[4]);
    fails_with(&host, "there is no EndpointSlice of shop/users").await;
    assert_eq!(host.get("/far").await.status, 503);
}
