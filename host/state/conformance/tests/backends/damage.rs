//! Rows that damage or another program has made unreadable.

use std::sync::Arc;
use std::time::Duration;

use lodge_conformance::soon;
use lodge_state::messages::{
    Afterlife, Backlog, DeadSelection, Fault, Headers, Message, MessageBody, Pattern, Settlement, SettlementOutcome,
    Subject, Subscription,
};
use lodge_state::{Backend, Lease, Namespace, Sqlite, SystemClock};
use rusqlite::Connection;

use crate::sqlite::options;

/// A message that cannot be read is dead, and keeps none of the others from being delivered, listed or retried.
#[tokio::test]
async fn unreadable_messages_stop_no_others() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Sqlite::open(options(directory.path(), Arc::new(SystemClock::new()))).unwrap();
    let change = |sql: &str| {
        let file = Connection::open(directory.path().join("state.db")).unwrap();
        assert_eq!(file.execute(sql, []), Ok(1), "{sql}");
    };
    let consumer = Namespace::new("mail").unwrap();
    let subscription = || {
        let quota = Backlog { messages: 10, bytes: 1 << 20 };
        Subscription::new(vec![Pattern::new("work").unwrap()], 1, None, quota).unwrap()
    };
    let lease = Lease::new(Duration::from_secs(60)).unwrap();
    let sqlite = open();
    let queue = sqlite.messages().unwrap();
    queue.subscribe(&consumer, subscription(), soon()).await.unwrap();
    for body in ["a", "b", "c"] {
        let (subject, body) = (Subject::new("work").unwrap(), MessageBody::new(body).unwrap());
        let message = Message { subject, reply_to: None, headers: Headers::default(), body };
        queue.publish(message, soon()).await.unwrap();
    }
    sqlite.close().await;
    change("UPDATE message SET subject = 'no subject' WHERE body = CAST('b' AS BLOB)");
    let sqlite = open();
    let queue = sqlite.messages().unwrap();
    let received = queue.receive(&consumer, 64, lease, soon()).await.unwrap();
    assert_eq!((received.deliveries.len(), received.dead), (2, 1));
    for delivery in &received.deliveries {
        let rejected = Settlement::Reject(Fault::Status(422));
        let outcome = queue.settle(&consumer, &delivery.receipt, rejected, soon()).await;
        assert_eq!(outcome, Ok(SettlementOutcome::Dead));
    }
    let status = queue.status(&consumer, soon()).await.unwrap();
    assert_eq!((status.backlog, status.dead), (Backlog::default(), 3));
    let dead = queue.dead(&consumer, None, 10, soon()).await.unwrap();
    assert_eq!(dead.iter().map(|dead| dead.message.body.bytes().to_vec()).collect::<Vec<_>>(), [b"a", b"c"]);
    let retried = queue.end_dead(&consumer, DeadSelection::All, Afterlife::Retry, soon()).await;
    assert_eq!(retried, Ok(2));
    assert_eq!(queue.receive(&consumer, 64, lease, soon()).await.unwrap().deliveries.len(), 2);
    assert_eq!(queue.end_dead(&consumer, DeadSelection::All, Afterlife::Drop, soon()).await, Ok(1));
}
