//! Promise: a stored response is removed by an unsafe request to its URI, by `lodge purge` and when its version is
//! replaced.

use std::time::Duration;

use http::Method;

use crate::caching::reuse::{ENTRIES, KEPT, ask, cacheable, command, get_owned};
use crate::harness::{Connection, eventually, host, metric, until, wasm, within};

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_can_purge() {
    let host = cacheable().start().await;
    let paths =
        ["/cacheable/a?", "/cacheable/a/b?", "/cacheable/ab?"].map(|path| format!("{path}cache-control=max-age%3D60"));
    let all = async || {
        let mut texts = Vec::new();
        for path in &paths {
            texts.push(host.get(path).await.text());
        }
        texts
    };
    let purge = async |query: &str| {
        let path = format!("/v1/services/cacheable/purge{query}");
        Connection::http1(host.admin).await.ask(Method::POST, &path, &[("host", "localhost")], "").await
    };
    let before = all().await;
    assert_eq!(all().await, before);
    let purged = purge("?path=%2Fcacheable%2Fa").await.text();
    assert_eq!(purged, r#"{"service":"cacheable","path":"/cacheable/a","purged":2}"#);
    let after = all().await;
    let same: Vec<_> = before.iter().zip(&after).map(|(before, after)| before == after).collect();
    assert_eq!(same, [false, false, true]);
    assert_eq!(purge("?path=cacheable").await.status, 400);
    let told = command(&host, &["purge", "cacheable", "/cacheable/ab"]).await;
    assert_eq!(told, "cacheable: removed 1 stored responses at /cacheable/ab and below\n");
    assert!(purge("").await.text().ends_with("\"purged\":2}"));
    // A response that was requested before the purge is not stored after it.
    let slow = format!("{KEPT}&wait=500");
    let asked = tokio::spawn(get_owned(host.address, slow.clone()));
    let begun = || host.current.snapshot().target("cacheable").unwrap().admission.in_flight() == 1;
    until("the request runs", begun).await;
    purge("").await;
    let late = within(asked).await.unwrap();
    assert_ne!(host.get(&slow).await.text(), late.text());
}

/// A new version has responses of its own; a change of its limits invalidates nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_has_its_own_responses() {
    let host = cacheable().named("cacheable", "cacheable@2").start().await;
    let manifest = async |name: &str, text: &str| host.edit(name, text).await;
    let first = host.get(KEPT).await.text();
    manifest("cacheable", "cache = true\nlimits.wall = '20s'").await;
    assert_eq!(host.get(KEPT).await.text(), first);
    let wall = || host.current.snapshot().target("cacheable@2").unwrap().deployment().limits().wall;
    until("the version has the limit of its service", || wall() == Duration::from_secs(20)).await;
    // Versions share no responses, but an unsafe request to one invalidates those of all.
    manifest("cacheable@2", "match = ['header:x-version=2']").await;
    let of = async |headers: &[(&str, &str)]| ask(&host, "GET", KEPT, headers).await.text();
    let beta = [("x-version", "2")];
    let second = of(&beta).await;
    assert_ne!(second, first);
    assert_eq!((of(&[]).await, of(&beta).await), (first.clone(), second.clone()));
    ask(&host, "POST", KEPT, &beta).await;
    let (third, fourth) = (of(&[]).await, of(&beta).await);
    assert!(third != first && fourth != second);
    manifest("cacheable", "cache = true\nenv.GREETING = 'Hi'").await;
    assert_ne!(of(&[]).await, third, "its responses may depend on its environment");
    // Another component under the same name.
    host.replace("cacheable", &std::fs::read(wasm("hello")).unwrap()).await;
    assert!(host.get(KEPT).await.text().starts_with("Hello"));
    // Responses of versions that are not served any more are removed from memory.
    eventually("they are gone", async || metric(host.admin, ENTRIES).await == 0.0).await;
}

/// An unsafe call of a guest invalidates the responses for clients, on every host and route, and no others.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_invalidates() {
    let routes = "routes = ['/cacheable', { path = '/shop', strip_prefix = true }]\ncache = true";
    let host = host(&["cacheable", "caller", "caller3"])
        .manifest("cacheable", routes)
        .manifest("caller", "calls = '*'")
        .manifest("caller3", "calls = '*'")
        .start()
        .await;
    let fresh = "cache-control=max-age%3D60";
    // The first three are one resource of the service.
    let one = format!("/cacheable/1?{fresh}");
    let same = [(one.clone(), "a.example"), (one.clone(), "b.example"), (format!("/shop{one}"), "a.example")];
    let others = (2..6).map(|n| (format!("/cacheable/{n}?{fresh}"), "a.example"));
    let pages = (2..6).map(|n| (format!("{one}&page={n}"), "a.example"));
    let seen: Vec<_> = same.into_iter().chain(others).chain(pages).collect();
    let all = async || {
        let mut texts = Vec::new();
        for (path, name) in &seen {
            texts.push(ask(&host, "GET", path, &[("host", name)]).await.text());
        }
        texts
    };
    let call_at = async |path: &str, caller: &str, method: &str, more: &[(&str, &str)]| {
        let to = format!("http://cacheable.internal{path}");
        let headers: Vec<_> = [("x-to", &*to)].into_iter().chain(more.iter().copied()).collect();
        ask(&host, method, &format!("/{caller}"), &headers).await.status
    };
    let call = async |caller: &str, method: &str, more: &[(&str, &str)]| call_at(&one, caller, method, more).await;
    let missing = format!("{one}&status=404");
    for caller in ["caller", "caller3"] {
        let before = all().await;
        assert_eq!((all().await, call(caller, "GET", &[]).await), (before.clone(), 200));
        // A call that the service rejects invalidates nothing.
        let kept = host.get(&missing).await.text();
        assert_eq!(call_at(&missing, caller, "POST", &[]).await, 404);
        assert_eq!(host.get(&missing).await.text(), kept, "{caller} has invalidated nothing");
        assert_eq!(all().await, before, "{caller} has invalidated nothing");
        assert_eq!(call(caller, "POST", &[]).await, 200);
        let after = all().await;
        let stayed: Vec<_> = before.iter().zip(&after).map(|(before, after)| before == after).collect();
        let (same, others) = stayed.split_at(3);
        // With a probability of one in some hundreds, one of these shares its counter.
        let lost = others.iter().filter(|stayed| !**stayed).count();
        assert!(same == [false; 3] && lost <= 1, "{caller}: {stayed:?}");
        assert_eq!(all().await, after, "the new responses are stored");
    }
}

/// A request whose result is not known may have taken effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_result_invalidates() {
    let host = host(&["cacheable", "caller", "caller3"])
        .manifest("cacheable", "cache = true\nlimits.wall = '2s'\nlimits.cpu = '1s'")
        .manifest("caller", "calls = '*'")
        .manifest("caller3", "calls = '*'")
        .start()
        .await;
    let path = "/cacheable/1?cache-control=max-age%3D60&wait=300";
    for caller in ["caller", "caller3"] {
        let to = format!("http://cacheable.internal{path}");
        for how in [("x-fail", "1"), ("x-first", "100")] {
            let kept = host.get(path).await.text();
            assert_eq!(host.get(path).await.text(), kept);
            let asked = ask(&host, "POST", &format!("/{caller}"), &[("x-to", &to), how]).await;
            assert!(asked.status == 502 || asked.header("x-error").contains("Timeout"), "{caller} {how:?}: {asked:?}");
            until("the service has finished", || {
                host.current.snapshot().target("cacheable").unwrap().admission.in_flight() == 0
            })
            .await;
            assert_ne!(host.get(path).await.text(), kept, "{caller} {how:?}");
        }
    }
    // A client that leaves while the service is at work.
    let path = "/cacheable/1?cache-control=max-age%3D60&wait=1500";
    let kept = host.get(path).await.text();
    let address = host.address;
    let leaving =
        tokio::spawn(async move { Connection::http1(address).await.ask(Method::POST, path, &[], "").await.status });
    let in_flight = || host.current.snapshot().target("cacheable").unwrap().admission.in_flight();
    until("the service is at work", || in_flight() == 1).await;
    leaving.abort();
    until("the service has finished", || in_flight() == 0).await;
    let new = host.get(path).await.text();
    assert_ne!(new, kept, "a client that leaves");
    assert_eq!(host.get(path).await.text(), new);
}
