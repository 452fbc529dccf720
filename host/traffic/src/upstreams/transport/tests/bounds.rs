//! The number and the lifetime of connections.

use super::raw::{FINE, closed, error, head, replica};
use super::*;

/// Dropping a response or a pending request closes the connection, which would otherwise deliver the rest.
#[tokio::test]
async fn dropped_responses_close_connections() {
    let (sees, mut seen) = mpsc::channel(4);
    let (address, _) = replica(move |_, mut stream| {
        let sees = sees.clone();
        async move {
            head(&mut stream).await;
            sees.send("asked").await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\nbegin").await;
            closed(&mut stream).await;
            sees.send("closed").await.unwrap();
        }
    })
    .await;
    let pool = pool(address, &settings());
    let mut response = pool.send(get("/")).await.unwrap();
    response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!((pool.open(), pool.idle(), seen.recv().await), (1, 0, Some("asked")));
    drop(response);
    assert_eq!(seen.recv().await, Some("closed"));
    until("given back", || pool.open() == 0).await;

    let (address, _) = replica(|_, mut stream| async move { closed(&mut stream).await }).await;
    let pool = super::pool(address, &settings());
    tokio::time::timeout(Duration::from_millis(100), pool.send(get("/"))).await.unwrap_err();
    until("given back", || pool.open() == 0).await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let (go, gone) = tokio::sync::watch::channel(false);
    let (address, accepted) = replica(move |_, mut stream| {
        let mut gone = gone.clone();
        async move {
            while !head(&mut stream).await.is_empty() {
                gone.wait_for(|go| *go).await.unwrap();
                stream.write_all(FINE.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let pool = pool(address, &PoolSettings { connections: 2, wait: Duration::from_millis(100), ..settings() });
    let two = [0, 1].map(|_| {
        tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.send(get("/")).await }
        })
    });
    until("both are in use", || accepted.load(Ordering::SeqCst) == 2).await;
    let failed = error(&pool, get("/")).await;
    assert_eq!((failed.kind, failed.never_sent.is_some()), (ErrorKind::Overloaded, true));
    assert_eq!(failed.cause, format!("http://{address}: none of 2 connections was free within 100ms"));
    // Requests that wait long enough are sent, over the same two connections.
    let patient = super::pool(address, &PoolSettings { connections: 2, ..settings() });
    let many: Vec<_> = (0..40)
        .map(|_| {
            tokio::spawn({
                let pool = Arc::clone(&patient);
                async move { read(pool.send(get("/")).await.unwrap()).await.0 }
            })
        })
        .collect();
    until("all slots are taken", || patient.open() == 2).await;
    go.send(true).unwrap();
    for one in many {
        assert_eq!(tokio::time::timeout(LONG, one).await.unwrap().unwrap(), "ok");
    }
    for one in two {
        assert_eq!(read(one.await.unwrap().unwrap()).await.0, "ok");
    }
    assert_eq!((accepted.load(Ordering::SeqCst), patient.open(), patient.idle()), (4, 2, 2));
}

/// With many threads at once, the bound holds, each request gets its response, and nothing leaks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests() {
    let (now, most, open) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let (peak, opened) = (Arc::clone(&most), Arc::clone(&open));
    let (address, _) = replica(move |n, mut stream| {
        let (now, most, open) = (Arc::clone(&now), Arc::clone(&peak), Arc::clone(&opened));
        async move {
            open.fetch_add(1, Ordering::SeqCst);
            // Some connections live long, others end as soon as they are idle.
            for _ in 0..n % 7 + 1 {
                if head(&mut stream).await.is_empty() {
                    break;
                }
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                // Decremented before the client can see the response.
                now.fetch_sub(1, Ordering::SeqCst);
                if stream.write_all(FINE.as_bytes()).await.is_err() {
                    break;
                }
            }
            open.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    let pool = pool(address, &PoolSettings { connections: 4, ..settings() });
    let crowd: Vec<_> = (0..32)
        .map(|one| {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move {
                let mut responded = 0;
                for n in 0..50 {
                    // One in ten is dropped without reading.
                    match pool.send(get("/")).await {
                        Ok(response) if (one + n) % 10 == 0 => drop(response),
                        Ok(response) => {
                            assert_eq!(read(response).await.0, "ok");
                            responded += 1;
                        }
                        Err(error) => assert!(error.kind == ErrorKind::Reset && error.reused, "{error:?}"),
                    }
                }
                responded
            })
        })
        .collect();
    for one in crowd {
        assert!(tokio::time::timeout(LONG, one).await.unwrap().unwrap() > 0);
    }
    assert!(most.load(Ordering::SeqCst) <= 4, "{most:?} at once");
    drop(pool);
    until("all are closed", || open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let (sees, mut seen) = mpsc::channel(4);
    let (address, _) = replica(move |_, mut stream| {
        let sees = sees.clone();
        async move {
            head(&mut stream).await;
            stream.write_all(FINE.as_bytes()).await.unwrap();
            let begin = std::time::Instant::now();
            closed(&mut stream).await;
            sees.send(begin.elapsed()).await.unwrap();
        }
    })
    .await;
    let pool = pool(address, &PoolSettings { idle: Duration::from_millis(400), ..settings() });
    read(pool.send(get("/")).await.unwrap()).await;
    assert_eq!(pool.idle(), 1);
    let lived = tokio::time::timeout(LONG, seen.recv()).await.unwrap().unwrap();
    assert!(lived >= Duration::from_millis(250), "{lived:?}");
    until("given back", || pool.open() == 0).await;
}

#[tokio::test]
async fn a_replica_that_is_removed() {
    let (sees, mut seen) = mpsc::channel(4);
    let (address, _) = replica(move |n, mut stream| {
        let sees = sees.clone();
        async move {
            head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").await.unwrap();
            stream.write_all(b"k").await.unwrap();
            closed(&mut stream).await;
            sees.send(n).await.unwrap();
        }
    })
    .await;
    let pool = pool(address, &settings());
    let slow = pool.send(get("/")).await.unwrap();
    let quick = pool.send(get("/")).await.unwrap();
    read(pool.send(get("/")).await.unwrap()).await;
    assert_eq!((pool.open(), pool.idle()), (3, 1));
    // Idle connections are closed now, each other one after its response was read.
    drop(pool);
    assert_eq!(tokio::time::timeout(LONG, seen.recv()).await.unwrap(), Some(2));
    assert_eq!(read(quick).await.0, "ok");
    assert_eq!(tokio::time::timeout(LONG, seen.recv()).await.unwrap(), Some(1));
    assert_eq!(read(slow).await.0, "ok");
    assert_eq!(tokio::time::timeout(LONG, seen.recv()).await.unwrap(), Some(0));
}
