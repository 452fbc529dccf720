//! Streams of attempts to subscribe that fail, and of hosts that are killed while they subscribe.

use std::time::Duration;

use async_nats::{Client, ConnectOptions};
use lodge_conformance::soon;
use lodge_nats::{Nats, NatsSettings};
use lodge_remote::Tls;
use lodge_remote::testing::TestServer;
use lodge_state::limits::MAX_ABSENCE;
use lodge_state::messages::Backlog;
use lodge_state::{Backend, Error, Lease, MessageQueue, Namespace, Pattern, Subscription};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::queues::streams;
use crate::server;

async fn subscribe(queue: &dyn MessageQueue, name: &str, deadline: Instant) -> Result<Namespace, Error> {
    let consumer = Namespace::new(name).unwrap();
    let quota = Backlog { messages: 100, bytes: 1 << 20 };
    let subscription = Subscription::new(vec![Pattern::new("work").unwrap()], 3, None, quota).unwrap();
    queue.subscribe(&consumer, subscription, deadline).await.map(|()| consumer)
}

/// The streams for messages after some attempts of a user who may not publish to the subjects `deny`.
async fn left(deny: &str) -> Option<Vec<String>> {
    let user = format!("{{ user: me, password: a, permissions: {{ publish: {{ deny: [{deny}] }} }} }}");
    let server = server::start(&format!("authorization {{ users: [{user}, {{ user: all, password: a }}] }}"))?;
    let settings = NatsSettings::new(&format!("nats://me:a@127.0.0.1:{}", server.port()), &Tls::default(), None, 1);
    let queue = Nats::new(settings.unwrap(), &Handle::current()).messages().unwrap();
    let options = ConnectOptions::with_user_and_password("all".into(), "a".into());
    let client = options.connect(format!("127.0.0.1:{}", server.port())).await.unwrap();
    for _ in 0..3 {
        subscribe(&*queue, "mail", Instant::now() + Duration::from_secs(1)).await.unwrap_err();
    }
    Some(of_messages(&client).await)
}

async fn of_messages(client: &Client) -> Vec<String> {
    let mut all = streams(client).await;
    all.retain(|name| name.starts_with("lodge-"));
    all.sort();
    all
}

/// Attempts that fail leave no streams, which would reserve their storage for ever; or those of one attempt, if they cannot be
/// deleted.
#[tokio::test]
async fn failed_attempts_leave_no_streams() {
    let none: &[String] = &[];
    let Some(unwritten) = left("\"$KV.>\"").await else { return };
    assert_eq!(unwritten, none, "without rights to write the subscription");
    assert_eq!(left("\"$JS.API.CONSUMER.CREATE.>\"").await.unwrap(), none, "without rights to create the consumer");
    let kept = left("\"$JS.API.CONSUMER.CREATE.>\", \"$JS.API.STREAM.DELETE.>\"").await.unwrap();
    assert_eq!(kept.len(), 2, "{kept:?}");
}

async fn create(server: &TestServer, client: &Client, name: &str) {
    let config = serde_json::json!({ "name": name, "subjects": [format!("lodge.{name}")] }).to_string();
    let created = client.request(format!("$JS.API.STREAM.CREATE.{name}"), config.into()).await.unwrap();
    assert!(String::from_utf8_lossy(&created.payload).contains("created"), "{} {created:?}", server.port());
}

/// Streams of messages that had no subscription for a day are removed, and no others.
#[tokio::test]
async fn streams_without_a_subscription_are_removed() {
    let Some(server) = server::start("") else { return };
    let queue = server::connect(&server).messages().unwrap();
    let client = async_nats::connect(format!("127.0.0.1:{}", server.port())).await.unwrap();
    for name in ["lodge-queue-gone-0123abcd", "lodge-dead-gone-0123abcd", "lodge-others"] {
        create(&server, &client, name).await;
    }
    let consumer = subscribe(&*queue, "mail", soon()).await.unwrap();
    let receive = async |after: Duration| {
        tokio::time::pause();
        tokio::time::advance(after).await;
        tokio::time::resume();
        let lease = Lease::new(Duration::from_secs(60)).unwrap();
        queue.receive(&consumer, 64, lease, Instant::now()).await.unwrap();
        of_messages(&client).await
    };
    let hour = Duration::from_secs(60 * 60);
    assert_eq!(receive(hour).await.len(), 5, "it is seen for the first time");
    create(&server, &client, "lodge-queue-begun-0123abcd").await;
    assert_eq!(receive(MAX_ABSENCE - hour).await.len(), 6, "not yet a day");
    let left = receive(hour).await;
    assert_eq!(left.len(), 4, "{left:?}");
    for kept in ["lodge-others", "lodge-queue-begun-0123abcd", "lodge-queue-mail-", "lodge-dead-mail-"] {
        assert!(left.iter().any(|name| name.starts_with(kept)), "{kept}: {left:?}");
    }
}
