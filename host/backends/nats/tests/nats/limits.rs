//! Messages that are almost as large as the server accepts, and consumers without room.

use std::time::Duration;

use async_nats::{Client, HeaderMap};
use lodge_conformance::soon;
use lodge_remote::testing::TestServer;
use lodge_state::messages::{
    Backlog, DeadMessage, Fault, FaultReason, Headers, MessageBody, Settlement, SettlementOutcome,
};
use lodge_state::{Backend, Lease, Message, MessageQueue, Namespace, Pattern, Subject, Subscription};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::queues::streams;
use crate::server;

/// Bytes that the server accepts.
const LIMIT: usize = 8192;

fn message(size: usize) -> Message {
    let (subject, body) = (Subject::new("work").unwrap(), MessageBody::new(vec![1; size]).unwrap());
    Message { subject, reply_to: None, headers: Headers::default(), body }
}

async fn subscribe(queue: &dyn MessageQueue, name: &str, subject: &str, dead: Option<&str>, bytes: u64) -> Namespace {
    let consumer = Namespace::new(name).unwrap();
    let (dead, quota) = (dead.map(|dead| Subject::new(dead).unwrap()), Backlog { messages: 100, bytes });
    let subscription = Subscription::new(vec![Pattern::new(subject).unwrap()], 1, dead, quota).unwrap();
    queue.subscribe(&consumer, subscription, soon()).await.unwrap();
    consumer
}

async fn client(server: &TestServer) -> Client {
    async_nats::connect(format!("127.0.0.1:{}", server.port())).await.unwrap()
}

/// Stores a message as large as the server accepts, as hosts did that left no room for what is added when it dies.
async fn store(client: &Client, number: u32) {
    let stream = streams(client).await.into_iter().find(|name| name.starts_with("lodge-queue-mail-")).unwrap();
    let (id, mut headers) = (format!("{number:032x}"), HeaderMap::new());
    let fields = format!(r#"{{"id":"{id}","subject":"work","published":1796054613958}}"#);
    headers.insert("Nats-Msg-Id", id.as_str());
    headers.insert("Lodge-Message", fields.as_str());
    let head = format!("NATS/1.0\r\nNats-Msg-Id: {id}\r\nLodge-Message: {fields}\r\n\r\n");
    let body = vec![1; LIMIT - head.len()];
    let stored = client.request_with_headers(format!("lodge.{stream}"), headers, body.into()).await.unwrap();
    assert!(String::from_utf8_lossy(&stored.payload).contains("seq"), "{stored:?}");
}

/// A message that is too large to be published as a dead one, or with how it died, is kept nevertheless. Those that nobody settles
/// die while others are received.
#[tokio::test]
async fn large_messages_die() {
    let Some(server) = server::start(&format!("max_payload: {LIMIT}")) else { return };
    let queue = server::connect(&server).messages().unwrap();
    let client = client(&server).await;
    let consumer = subscribe(&*queue, "mail", "work", Some("letters"), 1 << 20).await;
    subscribe(&*queue, "late", "letters", None, 1 << 20).await;
    store(&client, 1).await;
    let lease = |milliseconds| Lease::new(Duration::from_millis(milliseconds)).unwrap();
    let received = queue.receive(&consumer, 64, lease(60_000), soon()).await.unwrap();
    let rejected = Settlement::Reject(Fault::Status(422));
    let settled = queue.settle(&consumer, &received.deliveries[0].receipt, rejected, soon()).await;
    assert_eq!(settled, Ok(SettlementOutcome::Dead));
    store(&client, 2).await;
    assert_eq!(queue.receive(&consumer, 64, lease(1), soon()).await.unwrap().deliveries.len(), 1);
    queue.publish(message(100), soon()).await.unwrap();
    let (mut dead, mut others, end) = (0, 0, soon());
    while (dead, others) != (1, 1) {
        assert!(Instant::now() < end, "{dead} died, {others} were received");
        let received = queue.receive(&consumer, 64, lease(60_000), Instant::now() + Duration::from_millis(100)).await;
        let received = received.unwrap();
        (dead, others) = (dead + received.dead, others + received.deliveries.len());
    }
    let dead = queue.dead(&consumer, None, 10, soon()).await.unwrap();
    let sizes: Vec<_> = dead.iter().map(|dead: &DeadMessage| dead.message.body.bytes().len()).collect();
    assert!(sizes.len() == 2 && sizes.iter().all(|size| *size > LIMIT - 300), "{sizes:?}");
    assert_eq!(queue.status(&consumer, soon()).await.unwrap().backlog.messages, 1);
}

/// A dead message is kept also if the stream for it was deleted, or the queue had just room for it.
#[tokio::test]
async fn dead_messages_find_room() {
    let Some(server) = server::start("") else { return };
    let queue = server::connect(&server).messages().unwrap();
    let client = client(&server).await;
    let consumer = subscribe(&*queue, "mail", "work", None, 1 << 20).await;
    let lease = Lease::new(Duration::from_secs(60)).unwrap();
    let die = async |size: usize| {
        let received = queue.receive(&consumer, 64, lease, soon()).await.unwrap();
        for stream in streams(&client).await.iter().filter(|name| name.starts_with("lodge-dead-") && size < 100) {
            client.request(format!("$JS.API.STREAM.DELETE.{stream}"), "".into()).await.unwrap();
        }
        let rejected = Settlement::Reject(Fault::Status(422));
        let settled = queue.settle(&consumer, &received.deliveries[0].receipt, rejected, soon()).await;
        assert_eq!(settled, Ok(SettlementOutcome::Dead));
        let dead = queue.dead(&consumer, None, 10, soon()).await.unwrap();
        assert!(dead.iter().any(|dead| dead.message.body.bytes().len() == size && dead.attempts == Some(1)), "{size}");
    };
    for size in [10, 20] {
        queue.publish(message(size), soon()).await.unwrap();
        die(size).await;
    }
    let (size, mut bytes) = (50_000, 50_000);
    loop {
        subscribe(&*queue, "mail", "work", None, bytes).await;
        if queue.publish(message(size), soon()).await.is_ok() {
            break;
        }
        bytes += 8;
        assert!(bytes < 51_000);
    }
    die(size).await;
    assert_eq!(queue.status(&consumer, soon()).await.unwrap().backlog.messages, 0);
}

/// A message that NATS would not accept any more when it dies is refused at once; all others can die in any way.
#[tokio::test]
async fn messages_leave_room_for_their_death() {
    let Some(server) = server::start(&format!("max_payload: {LIMIT}")) else { return };
    let queue = server::connect(&server).messages().unwrap();
    let letters = "l".repeat(255);
    let consumer = subscribe(&*queue, &"a b".repeat(42), "work", Some(&letters), 1 << 20).await;
    let late = subscribe(&*queue, "late", &letters, None, 1 << 20).await;
    let error = queue.publish(message(8020), soon()).await.unwrap_err().to_string();
    assert!(error.contains("NATS accepts 8192, of which 1024 are"), "{error}");
    let mut size = LIMIT - 1024;
    while queue.publish(message(size), soon()).await.is_err() {
        size -= 1;
    }
    assert!(size > LIMIT - 1024 - 200, "{size}");
    for (consumer, dead) in [(&consumer, 0), (&late, 1)] {
        let lease = Lease::new(Duration::from_secs(60)).unwrap();
        let received = queue.receive(consumer, 64, lease, soon()).await.unwrap();
        let rejected = Settlement::Reject(Fault::BrokenOff(FaultReason::new("trapped")));
        let settled = queue.settle(consumer, &received.deliveries[0].receipt, rejected, soon()).await;
        assert_eq!(settled, Ok(SettlementOutcome::Dead));
        let kept = queue.dead(consumer, None, 10, soon()).await.unwrap();
        assert_eq!(kept.len(), dead);
        assert!(kept.iter().all(|kept| kept.attempts == Some(1)), "with how it died");
    }
}

/// Forwards one connection after the other, and cuts the one that removes a message of a stream when it is removed and the stream
/// `full` is empty.
async fn cut(listener: TcpListener, port: u16, client: Client, full: String, other: String) {
    loop {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut requests, mut responses) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        loop {
            tokio::select! {
                read = near.read(&mut requests) => {
                    let read = read.unwrap_or(0);
                    if read == 0 || far.write_all(&requests[..read]).await.is_err() { break }
                    if String::from_utf8_lossy(&requests[..read]).contains(&format!("$JS.API.STREAM.MSG.DELETE.{other}")) {
                        while messages(&client, &other).await > 0 {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        client.request(format!("$JS.API.STREAM.PURGE.{full}"), "".into()).await.unwrap();
                        break;
                    }
                }
                read = far.read(&mut responses) => {
                    let read = read.unwrap_or(0);
                    if read == 0 || near.write_all(&responses[..read]).await.is_err() { break }
                }
            }
        }
    }
}

async fn messages(client: &Client, stream: &str) -> u64 {
    let response = client.request(format!("$JS.API.STREAM.INFO.{stream}"), "".into()).await.unwrap();
    let response: serde_json::Value = serde_json::from_slice(&response.payload).unwrap();
    response["state"]["messages"].as_u64().unwrap()
}

/// A message that was removed from one consumer, because another one had no room, is stored again when the connection is lost then:
/// what is confirmed reaches both.
#[tokio::test]
async fn a_lost_removal_loses_no_message() {
    let Some(server) = server::start("") else { return };
    let (queue, client) = (server::connect(&server).messages().unwrap(), client(&server).await);
    // NATS counts some more bytes than are looked for before.
    let roomy = subscribe(&*queue, "roomy", "work", None, 1 << 20).await;
    let full = subscribe(&*queue, "full", "*", None, 2600).await;
    let filling = Message { subject: Subject::new("other").unwrap(), ..message(1000) };
    queue.publish(filling, soon()).await.unwrap();
    let all = streams(&client).await;
    let stream = |name: &str| all.iter().find(|stream| stream.starts_with(name)).unwrap().clone();
    let (of_full, of_roomy) = (stream("lodge-queue-full"), stream("lodge-queue-roomy"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let publisher = server::connect_at(listener.local_addr().unwrap().port()).messages().unwrap();
    tokio::spawn(cut(listener, server.port(), client.clone(), of_full.clone(), of_roomy.clone()));
    let published = publisher.publish(message(1200), soon()).await;
    assert_eq!(published.map(|published| published.consumers), Ok(2), "there is room then");
    assert_eq!((messages(&client, &of_full).await, messages(&client, &of_roomy).await), (1, 1));
    for consumer in [&roomy, &full] {
        let received = queue.receive(consumer, 64, Lease::new(Duration::from_secs(60)).unwrap(), soon()).await;
        assert_eq!(received.unwrap().deliveries[0].message.body.bytes().len(), 1200);
    }
}
