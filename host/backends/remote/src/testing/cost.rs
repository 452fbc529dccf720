//! What operations of a backend cost.

use std::sync::Arc;
use std::time::Duration;

use lodge_state::messages::{Backlog, Headers, MessageBody, Settlement};
use lodge_state::{
    Backend, Error, Key, Lease, Message, Namespace, Pattern, Quota, Set, Store, Subject, Subscription, Value,
};
use tokio::time::Instant;

/// How long each kind is measured.
const TIME: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug)]
enum FigureKind {
    Get,
    Set,
    Increment,
    Same,
}

/// Prints the time per operation, for one task and for 64: how long one waits, and how many are done.
pub async fn cost(server: &str, backend: &dyn Backend) {
    let until = Instant::now() + Duration::from_secs(30);
    let store = backend.open(&Namespace::new("cost").unwrap(), Quota::default(), until).await.unwrap();
    for task in 0..64 {
        one(&*store, FigureKind::Set, task).await.unwrap();
    }
    for (kind, text) in [
        (FigureKind::Get, "get"),
        (FigureKind::Set, "set"),
        (FigureKind::Increment, "increment of own counters"),
        (FigureKind::Same, "increment of one counter"),
    ] {
        for tasks in [1, 64] {
            let (began, mut running) = (Instant::now(), Vec::new());
            for task in 0..tasks {
                let store = store.clone();
                running.push(tokio::spawn(run(store, kind, task, began + TIME)));
            }
            let mut done = 0u64;
            for task in running {
                done += task.await.unwrap();
            }
            let wait = TIME.as_micros() as u64 * tasks as u64 / done;
            let rate = done / TIME.as_secs();
            eprintln!("{server}: {text}, {tasks} tasks: {wait} µs each, {rate} a second");
        }
    }
}

/// The same for messages, if the backend keeps some: those that 1 and 64 tasks publish, and one host acknowledges.
pub async fn queue_cost(server: &str, backend: &dyn Backend) {
    const MESSAGES: u64 = 5000;
    let soon = || Instant::now() + Duration::from_secs(60);
    let (queue, consumer) = (backend.messages().unwrap(), Namespace::new("cost").unwrap());
    let quota = Backlog { messages: 1 << 20, bytes: 1 << 30 };
    let subscription = Subscription::new(vec![Pattern::new("cost").unwrap()], 5, None, quota).unwrap();
    queue.subscribe(&consumer, subscription, soon()).await.unwrap();
    for tasks in [1, 64] {
        let (began, mut running) = (Instant::now(), Vec::new());
        for _ in 0..tasks {
            let queue = queue.clone();
            running.push(tokio::spawn(async move {
                for _ in 0..MESSAGES / tasks {
                    let body = MessageBody::new(vec![7; 100]).unwrap();
                    let (subject, headers) = (Subject::new("cost").unwrap(), Headers::default());
                    queue.publish(Message { subject, reply_to: None, headers, body }, soon()).await.unwrap();
                }
            }));
        }
        for task in running {
            task.await.unwrap();
        }
        let rate = MESSAGES as f64 / began.elapsed().as_secs_f64();
        eprintln!("{server}: publish, {tasks} tasks: {rate:.0} a second");
        let (began, mut done) = (Instant::now(), 0u64);
        let lease = Lease::new(Duration::from_secs(60)).unwrap();
        while done < MESSAGES / tasks * tasks {
            let received = queue.receive(&consumer, 64, lease, soon()).await.unwrap();
            let mut settling = tokio::task::JoinSet::new();
            for delivery in received.deliveries {
                let (queue, consumer) = (queue.clone(), consumer.clone());
                settling.spawn(async move {
                    queue.settle(&consumer, &delivery.receipt, Settlement::Acknowledge, soon()).await.unwrap();
                });
                done += 1;
            }
            settling.join_all().await;
        }
        let rate = done as f64 / began.elapsed().as_secs_f64();
        eprintln!("{server}: receive and acknowledge, 64 at a time: {rate:.0} a second");
    }
}

async fn run(store: Arc<dyn Store>, kind: FigureKind, task: usize, until: Instant) -> u64 {
    let mut done = 0;
    while Instant::now() < until {
        one(&*store, kind, task).await.unwrap();
        done += 1;
    }
    done
}

async fn one(store: &dyn Store, kind: FigureKind, task: usize) -> Result<(), Error> {
    let until = Instant::now() + Duration::from_secs(30);
    let (value, count) = (format!("value-{task}"), format!("count-{task}"));
    let key = |name| Key::new("b", name).unwrap();
    match kind {
        FigureKind::Get => store.get(key(&value), until).await.map(drop),
        FigureKind::Set => {
            store.set(key(&value), Value::new(vec![7; 100]).unwrap(), Set::default(), until).await.map(drop)
        }
        FigureKind::Increment => store.increment(key(&count), 1, until).await.map(drop),
        FigureKind::Same => store.increment(key("count"), 1, until).await.map(drop),
    }
}
