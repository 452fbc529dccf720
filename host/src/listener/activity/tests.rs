use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn activity() -> Arc<Activity> {
    let bounds = config::resolve(&[]).unwrap().config.listener;
    Arc::new(Activity::new(&bounds, &Budget::new(1 << 20), &Arc::default()))
}

/// Whether a connection whose first bytes arrive in these pieces is recognised as HTTP/2.
async fn is_h2(pieces: &[&[u8]]) -> bool {
    let activity = activity();
    let (mut client, server) = tokio::io::duplex(1 << 10);
    let mut watched = Watched::new(server, Arc::clone(&activity));
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        client.write_all(piece).await.unwrap();
        watched.read_exact(&mut vec![0; piece.len()]).await.unwrap();
    }
    lock(&activity.state).h2
}

/// The preface of RFC 9113, 3.4, in any segmentation.
#[tokio::test]
async fn http2_preface_in_pieces() {
    const FIRST: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for at in 0..=FIRST.len() {
        let (one, two) = FIRST.split_at(at);
        assert!(is_h2(&[one, two]).await, "{at}");
    }
    assert!(is_h2(&FIRST.chunks(1).collect::<Vec<_>>()).await);
    for other in [&b"GET / HTTP/1.1\r\nhost: PRI * HTTP/2.0\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nsm\r\n\r\n", b"PR"] {
        assert!(!is_h2(&[other]).await && !is_h2(&other.chunks(1).collect::<Vec<_>>()).await);
    }
}

/// A client that reads a byte now and then is stalled; one that reads enough is not.
#[tokio::test]
async fn slow_reader_is_stalled() {
    for (bytes, stalls) in [(1, true), (1 << 10, false)] {
        let activity = activity();
        let (mut client, server) = tokio::io::duplex(1 << 10);
        let mut watched = Watched::new(server, Arc::clone(&activity));
        let writing = tokio::spawn(async move { watched.write_all(&[0; 256 << 10]).await });
        let stalled = || lock(&activity.state).stalled.map(|(since, _)| since);
        while stalled().is_none() {
            tokio::task::yield_now().await;
        }
        let before = stalled();
        for _ in 0..100 {
            client.read_exact(&mut vec![0; bytes]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(stalled() == before, stalls, "{bytes} bytes at a time");
        writing.abort();
    }
}

/// A flush means that the socket took everything, however little that was.
#[tokio::test]
async fn flush_ends_stall() {
    let activity = activity();
    let (mut client, server) = tokio::io::duplex(1 << 10);
    let mut watched = Watched::new(server, Arc::clone(&activity));
    let writing = tokio::spawn(async move {
        watched.write_all(&[0; 2 << 10]).await.unwrap();
        watched.flush().await.unwrap();
    });
    client.read_exact(&mut vec![0; 2 << 10]).await.unwrap();
    writing.await.unwrap();
    assert!(lock(&activity.state).stalled.is_none());
}
