//! Dead messages: what is known of them, and what becomes of those that are retried or dropped.

use lodge_state::Error;
use lodge_state::messages::{
    Afterlife, Backlog, DeadMessage, DeadSelection, Fault, FaultReason, Headers, Message, Settlement, SettlementOutcome,
};

use crate::messages::{Consumer, LONG, NO_PAUSE, ROOMY, message, subject, unique};
use crate::{Fixture, soon};

impl Consumer {
    async fn dead(&self) -> Vec<DeadMessage> {
        self.queue.dead(&self.name, None, 100, soon()).await.unwrap()
    }

    async fn end(&self, which: DeadSelection<'_>, afterlife: Afterlife) -> Result<u64, Error> {
        self.queue.end_dead(&self.name, which, afterlife, soon()).await
    }

    /// Publishes messages that die at once.
    async fn kill(&self, to: &str, bodies: &[&str]) {
        for body in bodies {
            self.publish(to, body).await;
            let delivery = self.one(LONG).await;
            let settled = self.settle(&delivery, Settlement::Reject(Fault::Status(422))).await;
            assert_eq!(settled, SettlementOutcome::Dead);
        }
    }
}

fn bodies(dead: &[DeadMessage]) -> Vec<String> {
    dead.iter().map(|dead| String::from_utf8(dead.message.body.bytes().to_vec()).unwrap()).collect()
}

/// A dead message is kept with all of its parts, and with the reason.
pub async fn dead_messages_are_known(fixture: &Fixture) {
    let of = unique(fixture);
    let consumer = Consumer::new(fixture, &[&of], 2, None).await;
    assert_eq!(consumer.dead().await, []);
    let headers = Headers::new([("content-type", "text/plain")]).unwrap();
    let sent = Message { reply_to: Some(subject("re.ply")), headers, ..message(&of, "first") };
    let published = consumer.queue.publish(sent.clone(), soon()).await.unwrap();
    let broken_off = Fault::BrokenOff(FaultReason::new("cpu-time"));
    for fault in [Fault::Failed(502, FaultReason::new("trapped")), broken_off] {
        let delivery = consumer.one(LONG).await;
        consumer.settle(&delivery, Settlement::Retry(NO_PAUSE, fault)).await;
    }
    consumer.kill(&of, &["second"]).await;
    // The lease of one ends without a settlement.
    consumer.publish(&of, "third").await;
    for _ in 0..2 {
        consumer.one(fixture.short()).await;
        fixture.pass(fixture.short()).await;
    }
    assert_eq!(consumer.receive(LONG).await.dead, 1);
    let dead = consumer.dead().await;
    assert_eq!(bodies(&dead), ["first", "second", "third"]);
    assert_eq!((&dead[0].message, &dead[0].id, &dead[0].origin), (&sent, &published.id, &None));
    let known: Vec<_> = dead.iter().map(|dead| (dead.attempts, dead.fault)).collect();
    let expected = [(2, broken_off), (1, Fault::Status(422)), (2, Fault::Unsettled)];
    assert_eq!(known, expected.map(|(attempts, fault)| (Some(attempts), Some(fault))));
    assert!(dead.iter().all(|dead| dead.died.is_some()) && dead.is_sorted_by_key(|dead| dead.died), "{dead:?}");

    // Page by page, and one by its place.
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = consumer.queue.dead(&consumer.name, after.as_deref(), 1, soon()).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.place.to_string());
        all.extend(page);
    }
    assert_eq!(all, dead);
    let of_place = async |place: &str| consumer.queue.dead_message(&consumer.name, place, soon()).await.unwrap();
    assert_eq!(of_place(&dead[1].place).await.as_ref(), Some(&dead[1]));
    for nowhere in ["", "x", "999999999"] {
        assert_eq!(of_place(nowhere).await, None, "{nowhere}");
    }
    let stranger = fixture.namespace();
    assert_eq!(consumer.queue.dead(&stranger, None, 9, soon()).await, Ok(Vec::new()));
    assert_eq!(consumer.queue.dead_message(&stranger, &dead[1].place, soon()).await, Ok(None));
    let end = consumer.queue.end_dead(&stranger, DeadSelection::All, Afterlife::Drop, soon());
    assert_eq!((end.await, consumer.dead().await.len()), (Ok(0), 3));
}

/// A dead message that is retried waits again as if it were new; one that is dropped is gone.
pub async fn dead_messages_are_retried(fixture: &Fixture) {
    let of = unique(fixture);
    let consumer = Consumer::new(fixture, &[&of], 2, None).await;
    consumer.kill(&of, &["a", "b", "c", "d"]).await;
    let dead = consumer.dead().await;
    let one = |index: usize| DeadSelection::One(&dead[index].place);
    assert_eq!(consumer.end(one(1), Afterlife::Drop).await, Ok(1));
    assert_eq!(consumer.end(one(1), Afterlife::Drop).await, Ok(0), "it is gone");
    assert_eq!(consumer.end(DeadSelection::One("x"), Afterlife::Retry).await, Ok(0));
    assert_eq!(bodies(&consumer.dead().await), ["a", "c", "d"]);

    // It dies again after as many deliveries, and is kept again: also within a minute.
    assert_eq!(consumer.end(one(0), Afterlife::Retry).await, Ok(1));
    assert_eq!((consumer.status().await.backlog.messages, consumer.status().await.dead), (1, 2));
    for attempt in [1, 2] {
        let delivery = consumer.one(LONG).await;
        assert_eq!((delivery.attempt, &delivery.id, &delivery.message), (attempt, &dead[0].id, &dead[0].message));
        consumer.settle(&delivery, Settlement::Retry(NO_PAUSE, Fault::Status(503))).await;
    }
    let again = consumer.dead().await;
    assert_eq!((bodies(&again), again[2].fault), (vec!["c".into(), "d".into(), "a".into()], Some(Fault::Status(503))));

    // All, as far as there is room.
    consumer.subscribe(&[&of], 2, None, Backlog { messages: 2, ..ROOMY }).await;
    assert_eq!(consumer.end(DeadSelection::All, Afterlife::Retry).await, Ok(2));
    let full = consumer.end(DeadSelection::All, Afterlife::Retry).await;
    assert!(matches!(full, Err(Error::QuotaExceeded { .. })), "{full:?}");
    assert_eq!(bodies(&consumer.dead().await), ["a"]);
    assert_eq!(consumer.bodies().await, ["c", "d"]);
    assert_eq!(consumer.end(DeadSelection::All, Afterlife::Drop).await, Ok(1));
    assert_eq!((consumer.dead().await, consumer.status().await.dead), (Vec::new(), 0));
    // Room that they had is free again.
    consumer.kill(&of, &["e"]).await;
    assert_eq!(bodies(&consumer.dead().await), ["e"]);
}
