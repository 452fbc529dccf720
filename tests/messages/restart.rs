//! Promise: a host that is killed loses no message whose publication it has confirmed.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::{Process, Worker, get, host, until};

const KILLS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_host_loses_no_message() {
    // Half of the messages fail at first, so that some wait for their pause when the host is killed.
    let worker = Worker::start(|delivered| {
        let fails = delivered.attempt() == 1 && delivered.body.ends_with(['1', '3', '5', '7', '9']);
        (if fails { 500 } else { 200 }, Duration::from_millis(5))
    })
    .await;
    let consume = "[consume]\nsubject = 'work.*'\nmax_deliver = 1000\npause = '10ms'\nmax_pause = '20ms'\n";
    let setup = host(&["publisher"])
        .manifest("publisher", "publish = 'work.*'")
        .manifest("worker", &format!("{consume}{}", worker.upstream()));
    let directory = setup.directory;
    let (mut confirmed, mut number) = (BTreeSet::new(), 0);
    for round in 0..KILLS {
        let mut process = Process::serve(directory.path(), &[]).await;
        let address = process.address;
        let publishing = tokio::spawn(async move {
            let mut confirmed = Vec::new();
            for number in number.. {
                let path = format!("/publisher/publish/work.x?{number}");
                // The connection breaks off when the host is killed.
                let Ok(answer) = tokio::spawn(async move { get(address, &path).await }).await else {
                    return (confirmed, number + 1);
                };
                if answer.status == 200 {
                    confirmed.push(number);
                }
            }
            (confirmed, number)
        });
        tokio::time::sleep(Duration::from_millis(100 + (round as u64 * 37) % 150)).await;
        process.signal(rustix::process::Signal::KILL);
        process.ended().await;
        let (published, next) = publishing.await.unwrap();
        confirmed.extend(published.into_iter().map(|number: usize| number.to_string()));
        number = next;
    }
    assert!(confirmed.len() > KILLS, "only {} messages", confirmed.len());
    let process = Process::serve(directory.path(), &[]).await;
    let acknowledged = || {
        let handled = worker
            .delivered()
            .into_iter()
            .filter(|one| one.attempt() > 1 || one.body.ends_with(['0', '2', '4', '6', '8']));
        handled.map(|one| one.body).collect::<BTreeSet<_>>()
    };
    until("every confirmed message is handled", || confirmed.is_subset(&acknowledged())).await;
    drop(process);
}
