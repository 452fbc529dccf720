//! Messages that hosts share, and what of them only this backend has.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use lodge_conformance::soon;
use lodge_nats::{Nats, NatsSettings};
use lodge_remote::Tls;
use lodge_remote::testing::TestServer;
use lodge_state::limits::MAX_ABSENCE;
use lodge_state::messages::{Backlog, Headers, MessageBody, Received, Settlement, SettlementOutcome};
use lodge_state::{Backend, Error, Lease, Message, MessageQueue, Namespace, Pattern, Subject, Subscription};
use tokio::runtime::Handle;

use crate::server;

fn start() -> Option<TestServer> {
    server::start("")
}

fn connect(port: u16) -> Arc<dyn Backend> {
    Arc::new(server::connect_at(port))
}

lodge_remote::queues!(queues: start, connect);

fn message(body: &str) -> Message {
    let (subject, body) = (Subject::new("work").unwrap(), MessageBody::new(body.to_owned()).unwrap());
    Message { subject, reply_to: None, headers: Headers::default(), body }
}

async fn subscribe(queue: &dyn MessageQueue, name: &str) -> Result<Namespace, Error> {
    let consumer = Namespace::new(name).unwrap();
    let quota = Backlog { messages: 100, bytes: 1 << 20 };
    let subscription = Subscription::new(vec![Pattern::new("work").unwrap()], 3, None, quota).unwrap();
    queue.subscribe(&consumer, subscription, soon()).await.map(|()| consumer)
}

async fn receive(queue: &dyn MessageQueue, consumer: &Namespace) -> Result<Received, Error> {
    // A consumer that was just created may not know of its messages at once.
    queue.receive(consumer, 64, Lease::new(Duration::from_secs(60)).unwrap(), soon()).await
}

/// The names of all streams.
pub(crate) async fn streams(client: &Client) -> Vec<String> {
    let response = client.request("$JS.API.STREAM.NAMES", "".into()).await.unwrap();
    let response: serde_json::Value = serde_json::from_slice(&response.payload).unwrap();
    let names = response["streams"].as_array().cloned().unwrap_or_default();
    names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// Streams have the name of their service, whatever that is, and go with its subscription.
#[tokio::test]
async fn streams_belong_to_services() {
    let Some(server) = start() else { return };
    let queue = server::connect(&server).messages().unwrap();
    let client = async_nats::connect(format!("127.0.0.1:{}", server.port())).await.unwrap();
    let names = ["mail", "a.b", "*", ">", "a b", "\u{e4}"];
    for name in names {
        subscribe(&*queue, name).await.unwrap();
    }
    let all = streams(&client).await;
    assert_eq!(all.iter().filter(|name| name.starts_with("lodge-queue-")).count(), names.len(), "{all:?}");
    assert!(all.iter().any(|name| name.starts_with("lodge-queue-mail-")), "{all:?}");
    assert_eq!(queue.publish(message("x"), soon()).await.unwrap().consumers, names.len());
    for name in names {
        let consumer = Namespace::new(name).unwrap();
        assert_eq!(receive(&*queue, &consumer).await.unwrap().deliveries.len(), 1, "{name}");
        assert_eq!(queue.unsubscribe(&consumer, soon()).await, Ok(true), "{name}");
    }
    assert_eq!(streams(&client).await, ["KV_lodge-messages-services"]);
}

/// What another program publishes to the subject of a stream is no message, and keeps none from being delivered.
#[tokio::test]
async fn messages_of_other_programs() {
    let Some(server) = start() else { return };
    let queue = server::connect(&server).messages().unwrap();
    let client = async_nats::connect(format!("127.0.0.1:{}", server.port())).await.unwrap();
    let consumer = subscribe(&*queue, "mail").await.unwrap();
    let stream = streams(&client).await.into_iter().find(|name| name.starts_with("lodge-queue-")).unwrap();
    client.request(format!("lodge.{stream}"), "foreign".into()).await.unwrap();
    queue.publish(message("own"), soon()).await.unwrap();
    let received = receive(&*queue, &consumer).await.unwrap();
    assert_eq!((received.deliveries.len(), received.dead), (1, 1));
    let done = queue.settle(&consumer, &received.deliveries[0].receipt, Settlement::Acknowledge, soon()).await;
    assert_eq!(done, Ok(SettlementOutcome::Done));
    assert_eq!(queue.status(&consumer, soon()).await.unwrap().backlog, Backlog::default());
}

/// Streams that an operator has deleted are created again; so is the list of subscriptions.
#[tokio::test]
async fn streams_may_vanish() {
    let Some(server) = start() else { return };
    let (queue, publisher) = (server::connect(&server).messages().unwrap(), server::connect(&server));
    let publisher = publisher.messages().unwrap();
    let client = async_nats::connect(format!("127.0.0.1:{}", server.port())).await.unwrap();
    let consumer = subscribe(&*queue, "mail").await.unwrap();
    assert_eq!(publisher.publish(message("lost"), soon()).await.unwrap().consumers, 1);
    for name in streams(&client).await.iter().filter(|name| name.starts_with("lodge-")) {
        client.request(format!("$JS.API.STREAM.DELETE.{name}"), "".into()).await.unwrap();
    }
    let error = publisher.publish(message("refused"), soon()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    let error = receive(&*queue, &consumer).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    subscribe(&*queue, "mail").await.unwrap();
    assert_eq!(publisher.publish(message("new"), soon()).await.unwrap().consumers, 1);
    // A consumer that was just created may not know of it at once.
    let received = queue.receive(&consumer, 64, Lease::new(Duration::from_secs(60)).unwrap(), soon()).await;
    assert_eq!(received.unwrap().deliveries.len(), 1);
}

/// A message that is larger than the server accepts is refused in words, and one whose subscription changes is not lost.
#[tokio::test]
async fn sizes_and_quotas() {
    let Some(server) = server::start("max_payload: 1MB") else { return };
    let queue = server::connect(&server).messages().unwrap();
    let consumer = subscribe(&*queue, "mail").await.unwrap();
    let large = Message { body: MessageBody::new(vec![0; 1 << 20]).unwrap(), ..message("") };
    let error = queue.publish(large, soon()).await.unwrap_err().to_string();
    assert!(error.contains("set its max_payload to 2MB"), "{error}");
    for body in ["a", "b", "c"] {
        queue.publish(message(body), soon()).await.unwrap();
    }
    // A lowered quota deletes nothing.
    let quota = Backlog { messages: 1, bytes: 1000 };
    let subscription = Subscription::new(vec![Pattern::new("work").unwrap()], 3, None, quota).unwrap();
    queue.subscribe(&consumer, subscription, soon()).await.unwrap();
    let full = queue.publish(message("d"), soon()).await;
    assert!(matches!(full, Err(Error::QuotaExceeded { used: 3, limit: 1, .. })), "{full:?}");
    assert_eq!(receive(&*queue, &consumer).await.unwrap().deliveries.len(), 3);
}

/// A user needs these rights and no others.
#[tokio::test]
async fn rights_of_users() {
    let user = "user: me, password: hunter2, permissions: { publish: [\"$JS.>\", \"$KV.>\", \"lodge.>\"], subscribe: \"_INBOX.>\" }";
    let Some(server) = server::start(&format!("authorization {{ {user} }}")) else { return };
    let url = format!("nats://me:hunter2@127.0.0.1:{}", server.port());
    let settings = NatsSettings::new(&url, &Tls::default(), None, 1).unwrap();
    let queue = Nats::new(settings, &Handle::current()).messages().unwrap();
    let consumer = subscribe(&*queue, "mail").await.unwrap();
    queue.publish(message("a"), soon()).await.unwrap();
    let received = receive(&*queue, &consumer).await.unwrap();
    let done = queue.settle(&consumer, &received.deliveries[0].receipt, Settlement::Acknowledge, soon()).await;
    assert_eq!(done, Ok(SettlementOutcome::Done));
    assert_eq!(queue.status(&consumer, soon()).await.unwrap().backlog, Backlog::default());
    assert_eq!(queue.unsubscribe(&consumer, soon()).await, Ok(true));
}

/// The sequence of the record of the subscription of `mail`.
async fn recorded(client: &Client) -> u64 {
    let last = serde_json::json!({ "last_by_subj": "$KV.lodge-messages-services.s.mail" }).to_string();
    let subject = "$JS.API.STREAM.MSG.GET.KV_lodge-messages-services";
    let response = client.request(subject, last.into()).await.unwrap();
    let response: serde_json::Value = serde_json::from_slice(&response.payload).unwrap();
    response["message"]["seq"].as_u64().unwrap_or_else(|| panic!("{response}"))
}

/// A host that begins to receive writes the subscription again: another host may have known it for almost a day, after which it
/// would end it. One that a host receives for is not ended even then.
#[tokio::test]
async fn a_subscription_in_use_does_not_end() {
    let Some(server) = server::start("") else { return };
    let (long, client) = (
        server::connect(&server).messages().unwrap(),
        async_nats::connect(format!("127.0.0.1:{}", server.port())).await.unwrap(),
    );
    subscribe(&*server::connect(&server).messages().unwrap(), "mail").await.unwrap();
    let first = recorded(&client).await;
    let queue = server::connect(&server).messages().unwrap();
    let consumer = subscribe(&*queue, "mail").await.unwrap();
    assert!(recorded(&client).await > first, "as another host that starts");
    assert_eq!(long.publish(message("kept"), soon()).await.unwrap().consumers, 1);
    tokio::time::pause();
    tokio::time::advance(MAX_ABSENCE + Duration::from_secs(60)).await;
    tokio::time::resume();
    subscribe(&*long, "other").await.unwrap();
    assert_eq!(long.publish(message("more"), soon()).await.unwrap().consumers, 2);
    subscribe(&*queue, "mail").await.unwrap();
    assert_eq!(receive(&*queue, &consumer).await.unwrap().deliveries.len(), 2);
}
