//! Promise: bodies to and from replicas are streamed completely, within limits, at the pace of the sender.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::BodyExt;

use crate::harness::far::{before, manifest, state};
use crate::harness::{Habit, Replica, Response, fed, raw, until, within};

/// A body is forwarded while it arrives, in both directions.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_streamed() {
    let one = Replica::start("one").await;
    one.set(Habit::Echo);
    let host = before(&[&one], "").start().await;
    let mut client = host.connect().await;
    let (sender, body) = fed();
    let response = client.send(Request::post("/far").body(body).unwrap()).await.unwrap();
    let mut body = response.into_body();
    for n in 0..5 {
        let said = Bytes::from(format!("part {n}"));
        sender.send(Frame::data(said.clone())).await.unwrap();
        let frame = within(body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), said);
    }
    drop(sender);
    assert!(within(body.frame()).await.is_none());
    // A body over the limit is refused for replicas as well.
    let limited = manifest(&[&one], "[limits]\nrequest_body = '1KiB'");
    fs::write(host.directory().join("far.toml"), limited).unwrap();
    until("the limit is in force", || {
        host.current.snapshot().target("far").unwrap().deployment().limits().request_body == 1024
    })
    .await;
    let (sender, body) = fed();
    one.set(Habit::Swallow);
    let sending = tokio::spawn(async move {
        for _ in 0..2 {
            sender.send(Frame::data(Bytes::from(vec![0; 600]))).await.unwrap();
        }
        sender
    });
    let response = client.send(Request::post("/far").body(body).unwrap()).await.unwrap();
    assert_eq!(Response::read(response).await.problem(), "body-too-large");
    drop(within(sending).await.unwrap());
}

/// A slow upload is the client's fault: the replica that waits for it is not ejected, and the breaker stays closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_is_the_clients_fault() {
    let one = Replica::start("one").await;
    one.set(Habit::Swallow);
    let text = "ejection = { failures = 2, share = '100%' }\n[breaker]\ncalls = 2\n[limits]\nwall = '1s'";
    let host = before(&[&one], text).start().await;
    for _ in 0..4 {
        let mut client = host.connect().await;
        let (sender, body) = fed();
        let sending = tokio::spawn(async move {
            sender.send(Frame::data(Bytes::from("half"))).await.unwrap();
            sender
        });
        let response = client.send(Request::post("/far").body(body).unwrap()).await.unwrap();
        assert_eq!(Response::read(response).await.problem(), "body-late");
        drop(within(sending).await);
    }
    assert_eq!(state(&host, &one), "available");
    one.set(Habit::Name);
    assert_eq!(within(host.get("/far")).await.text(), "one");
}

/// The share of the time decides, not which side was waited for at the end: here the body takes most of the time, and
/// ends before the timeout.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_ends_just_in_time() {
    let one = Replica::start("one").await;
    one.set(Habit::Digest(60_000));
    let text = "ejection = { failures = 1, share = '100%' }\n[breaker]\ncalls = 1\n[limits]\nwall = '3s'";
    let host = before(&[&one], text).start().await;
    for (pause, problem) in [(2000, "body-late"), (0, "upstream-timeout")] {
        let mut client = host.connect().await;
        let (sender, body) = fed();
        let sending = tokio::spawn(async move {
            sender.send(Frame::data(Bytes::from("half"))).await.unwrap();
            // Only the pace of the client matters here.
            tokio::time::sleep(Duration::from_millis(pause)).await;
            sender.send(Frame::data(Bytes::from("half"))).await.unwrap();
        });
        let response = client.send(Request::post("/far").body(body).unwrap()).await.unwrap();
        assert_eq!(Response::read(response).await.problem(), problem);
        within(sending).await.unwrap();
        assert_eq!(state(&host, &one) == "available", pause > 0, "after a pause of {pause} ms");
    }
    assert_eq!(host.get("/far").await.problem(), "breaker-open", "a replica that takes the time fails");
}

/// A GET can have a body, which arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_get_keeps_its_body() {
    let one = Replica::start("one").await;
    one.set(Habit::Describe);
    let host = before(&[&one], "").start().await;
    let chunked = "GET /far HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let response = raw(host.address, chunked).await;
    assert!(response.contains("transfer-encoding: chunked\n") && response.ends_with("hello"), "{response}");
}
