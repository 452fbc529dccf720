//! A host whose service `far` is an upstream.

use std::collections::BTreeMap;

use super::{Replica, Setup, TestHost, host, within};

/// A host with the service `far` at these replicas, with additional lines in its manifest.
pub(crate) fn before(replicas: &[&Replica], more: &str) -> Setup {
    host(&[]).manifest("far", &manifest(replicas, more))
}

/// The manifest of a service at these replicas.
pub(crate) fn manifest(replicas: &[&Replica], more: &str) -> String {
    let replicas: Vec<_> = replicas.iter().map(|replica| format!("'http://{}'", replica.address)).collect();
    format!("[upstream]\nreplicas = [{}]\n{more}", replicas.join(", "))
}

/// How many of these requests each replica handled; all must succeed.
pub(crate) async fn distribution(host: &TestHost, requests: usize) -> BTreeMap<String, usize> {
    let (mut client, mut counts) = (host.connect().await, BTreeMap::new());
    for _ in 0..requests {
        let response = within(client.get("/far")).await;
        assert_eq!(response.status, 200, "{response:?}");
        *counts.entry(response.text()).or_default() += 1;
    }
    counts
}

/// The state of one replica, as the host reports it.
pub(crate) fn state(host: &TestHost, replica: &Replica) -> std::borrow::Cow<'static, str> {
    let snapshot = host.current.snapshot();
    let upstream = snapshot.target("far").unwrap().backend.upstream().expect("far is elsewhere");
    let url = format!("http://{}", replica.address);
    upstream.replicas().into_iter().find(|seen| seen.url == url).expect("it is one").state
}

/// The number of replicas; none for a component.
pub(crate) fn count(host: &TestHost) -> usize {
    let snapshot = host.current.snapshot();
    snapshot.target("far").unwrap().backend.upstream().map_or(0, |upstream| upstream.replicas().len())
}
