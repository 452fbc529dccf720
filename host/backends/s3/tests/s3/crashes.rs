//! Crashes of the server under load: what was confirmed is there afterwards, and what is there is complete.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lodge_state::blobs::BlobError;
use tokio::time::Instant;

use crate::server::{self, get, put};

const ROUNDS: usize = 3;
const WRITERS: usize = 6;

/// The content of a version of an object: small ones, and some of several parts.
fn content(writer: usize, version: usize) -> Vec<u8> {
    let length = if version.is_multiple_of(5) { (6 << 20) + version } else { 2_000 + version };
    let word = format!("{writer}:{version};");
    word.bytes().cycle().take(length).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_confirmed_is_lost() {
    let Some(mut server) = server::started().await else { return };
    let backend = server::connect(&server);
    let space = server::space(&backend, "crash").await;
    // Of each writer, the last version that was confirmed, and the one after it, which may be there.
    let confirmed: Arc<Mutex<HashMap<usize, (usize, usize)>>> = Arc::default();
    let mut version = 0;
    for round in 0..ROUNDS {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let write = |writer: usize| {
            let (space, confirmed, stop) = (Arc::clone(&space), Arc::clone(&confirmed), Arc::clone(&stop));
            tokio::spawn(async move {
                let (name, mut at) = (format!("o{writer}"), version);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    at += 1;
                    confirmed.lock().unwrap().entry(writer).or_default().1 = at;
                    // The server may do later what it has not confirmed, so nothing is written after that.
                    if put(&space, ("c", &name), &content(writer, at)).await.is_err() {
                        return at;
                    }
                    confirmed.lock().unwrap().entry(writer).or_default().0 = at;
                }
                at
            })
        };
        let writers: Vec<_> = (0..WRITERS).map(write).collect();
        let written = |more: usize| {
            let confirmed = confirmed.lock().unwrap();
            confirmed.len() == WRITERS && confirmed.values().all(|(done, _)| *done >= version + more)
        };
        let end = Instant::now() + Duration::from_secs(120);
        while !written(3) {
            assert!(Instant::now() < end, "round {round}: nothing is written");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        server.kill();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for writer in writers {
            version = version.max(writer.await.unwrap());
        }
        server.restart();
        server::ready(&server).await;
        for writer in 0..WRITERS {
            let (done, begun) = confirmed.lock().unwrap()[&writer];
            let found = loop {
                match get(&space, ("c", &format!("o{writer}"))).await {
                    Err(BlobError::Unavailable(_) | BlobError::Timeout) if Instant::now() < end => {}
                    other => break other.unwrap(),
                }
            };
            let is_whole = (done..=begun).any(|version| found == content(writer, version));
            let shown = String::from_utf8_lossy(&found[..found.len().min(20)]).into_owned();
            assert!(
                is_whole,
                "round {round}, writer {writer}: {shown} of {} bytes, not {done} to {begun}",
                found.len()
            );
        }
    }
}
