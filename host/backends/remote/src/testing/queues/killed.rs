//! Hosts that are killed while they work.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lodge_state::messages::{QueueStatus, Settlement, SettlementOutcome};
use tokio::time::{Instant, sleep};

use super::{Connect, Host, lease, namespace, soon, subscribe};
use crate::testing::TestServer;

/// The port of the server, for a host that is killed.
const PORT: &str = "LODGE_QUEUES_PORT";
/// Times that a host is killed.
const KILLS: usize = 12;

/// Receives and acknowledges until the process is killed, and says what was confirmed.
pub async fn receive_until_killed(connect: Connect) {
    let Some(port) = std::env::var(PORT).ok().and_then(|port| port.parse().ok()) else { return };
    let queue = connect(port).messages().unwrap();
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes()).and_then(|()| out.flush()).unwrap();
    };
    subscribe(&*queue, "worker", "work.*", None).await.unwrap();
    say("subscribed\n".to_owned());
    let consumer = namespace("worker");
    loop {
        let received = queue.receive(&consumer, 8, lease(3), soon()).await.unwrap();
        for delivery in received.deliveries {
            say(format!("b {}\n", delivery.id));
            sleep(Duration::from_millis(2)).await;
            let settled = queue.settle(&consumer, &delivery.receipt, Settlement::Acknowledge, soon()).await;
            // A machine that is too busy to be in time delivers it again.
            if settled.unwrap() == SettlementOutcome::Done {
                say(format!("a {}\n", delivery.id));
            }
        }
    }
}

/// Runs the test `child` in a process of its own, which calls [`receive_until_killed`], and kills it after a while.
async fn kill(child: &str, port: u16, pause: Duration) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([child, "--exact", "--ignored", "--nocapture"])
        .env(PORT, port.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let reader = tokio::task::spawn_blocking(move || {
        let mut said = String::new();
        while !said.contains("\na ") {
            assert!(out.read_line(&mut said).unwrap() > 0, "the child has ended: {said}");
        }
        (out, said)
    });
    let (mut out, mut said) = reader.await.unwrap();
    let reader = tokio::task::spawn_blocking(move || {
        out.read_to_string(&mut said).unwrap();
        said
    });
    sleep(pause).await;
    child.kill().unwrap();
    child.wait().unwrap();
    reader.await.unwrap()
}

/// Hosts that are killed while they work lose no message: when its lease has ended, another host has it. What they have
/// acknowledged is not delivered again.
pub async fn killed_hosts(server: TestServer, connect: Connect, child: &str) {
    let host = Host::new(connect, &server);
    host.subscribe("worker", "work.*", None).await;
    let published = Arc::new(Mutex::new(BTreeSet::new()));
    let publishing = tokio::spawn({
        let (host, published) = (Host(host.0.clone()), published.clone());
        async move {
            for number in 0.. {
                let (id, consumers) = host.publish("work.x", &number.to_string()).await;
                assert_eq!(consumers, 1);
                published.lock().unwrap().insert(id);
                sleep(Duration::from_millis(2)).await;
            }
        }
    });
    let (mut begun, mut acknowledged) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..KILLS {
        let pause = Duration::from_millis((round as u64 * 41) % 200);
        let said = kill(child, server.port(), pause).await;
        // The last line may be cut off.
        for line in said.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            match line.trim().split_once(' ') {
                Some(("b", id)) => assert!(!acknowledged.contains(id), "{id} again"),
                Some(("a", id)) => _ = acknowledged.insert(id.to_owned()),
                _ => {}
            }
            if let Some(("b", id)) = line.trim().split_once(' ') {
                begun.insert(id.to_owned());
            }
        }
    }
    publishing.abort();
    let _ = publishing.await;
    // One that was published at the end, without a confirmation, may be there or not.
    let published = published.lock().unwrap().clone();
    let mut left: BTreeSet<_> = published.difference(&acknowledged).cloned().collect();
    assert!(published.len() > KILLS && !left.is_empty() && !acknowledged.is_empty(), "{}", acknowledged.len());
    let end = soon();
    while !left.is_empty() {
        let received = host.receive("worker", 64, Instant::now() + Duration::from_secs(1)).await;
        for delivery in &received.deliveries {
            let id = delivery.id.to_string();
            assert!(!acknowledged.contains(&id), "{id} was acknowledged, and is delivered again");
            host.settle("worker", delivery, Settlement::Acknowledge).await;
            left.remove(&id);
        }
        // An acknowledgement that was done, and not confirmed, leaves nothing.
        let gone = host.0.status(&namespace("worker"), soon()).await.unwrap() == QueueStatus::default();
        if gone && left.is_subset(&begun) {
            return;
        }
        assert!(Instant::now() < end, "lost: {left:?}");
    }
}
