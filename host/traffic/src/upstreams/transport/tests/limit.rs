//! The bound on the connections to the replicas of all services.

use super::raw::{FINE, closed, error, head, replica};
use super::*;

/// A replica that responds while `go` is true.
async fn gated(go: &tokio::sync::watch::Sender<bool>) -> SocketAddr {
    let gone = go.subscribe();
    let (address, _) = replica(move |_, mut stream| {
        let mut gone = gone.clone();
        async move {
            while !head(&mut stream).await.is_empty() {
                gone.wait_for(|go| *go).await.unwrap();
                if stream.write_all(FINE.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    address
}

fn ask(pool: &Arc<Pool<Boxed>>) -> tokio::task::JoinHandle<String> {
    let pool = Arc::clone(pool);
    tokio::spawn(async move { read(pool.send(get("/")).await.unwrap()).await.0 })
}

fn taken(total: &ConnectionLimit) -> usize {
    (0..=total.limit()).find(|units| !total.is_full(total.limit() - units)).unwrap()
}

/// At the bound, an idle connection of another replica makes room. If none is idle, a request waits, and fails before
/// anything was sent.
#[tokio::test]
async fn idle_connections_do_not_block_new_ones() {
    let (go, _keep) = tokio::sync::watch::channel(true);
    let total = ConnectionLimit::new(4);
    let short = PoolSettings { wait: Duration::from_millis(200), total: Arc::clone(&total), ..settings() };
    let [one, other] = [gated(&go).await, gated(&go).await].map(|address| pool(address, &short));
    go.send(false).unwrap();
    let three: Vec<_> = (0..3).map(|_| ask(&one)).collect();
    until("three are in use", || one.open() == 3).await;
    go.send(true).unwrap();
    for asked in three {
        assert_eq!(asked.await.unwrap(), "ok");
    }
    assert_eq!((one.open(), one.idle(), taken(&total)), (3, 3, 3));
    go.send(false).unwrap();
    let four: Vec<_> = (0..4).map(|_| ask(&other)).collect();
    until("the idle ones are closed", || (one.open(), other.open()) == (0, 4)).await;
    assert_eq!(taken(&total), 4);
    let failed = error(&one, get("/")).await;
    assert_eq!((failed.kind, failed.never_sent.is_some()), (ErrorKind::Overloaded, true));
    assert!(
        failed.cause.ends_with("all 4 of upstreams.connections are in use, and none became free or idle within 200ms")
    );
    // Freed units go to any waiting request, whatever its replica.
    let patient = pool(gated(&go).await, &PoolSettings { total: Arc::clone(&total), ..settings() });
    let waiting = ask(&patient);
    until("it waits", || total.is_awaited()).await;
    go.send(true).unwrap();
    assert_eq!(tokio::time::timeout(LONG, waiting).await.unwrap().unwrap(), "ok");
    for asked in four {
        assert_eq!(asked.await.unwrap(), "ok");
    }
    drop((one, other, patient));
    until("all units are given back", || taken(&total) == 0).await;
}

/// With many requests to many replicas over few connections, the bound holds, each request gets its response, and
/// nothing leaks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests() {
    let (total, open) = (ConnectionLimit::new(5), Arc::new(AtomicUsize::new(0)));
    let (most, all) = (Arc::new(AtomicUsize::new(0)), PoolSettings { total: Arc::clone(&total), ..settings() });
    let mut pools = Vec::new();
    for _ in 0..8 {
        let (open, most) = (Arc::clone(&open), Arc::clone(&most));
        let (address, _) = replica(move |_, mut stream| {
            let (open, most) = (Arc::clone(&open), Arc::clone(&most));
            async move {
                while !head(&mut stream).await.is_empty() {
                    most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    open.fetch_sub(1, Ordering::SeqCst);
                    if stream.write_all(FINE.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        pools.push(pool(address, &all));
    }
    let crowd: Vec<_> = (0..64)
        .map(|one| {
            let pools = pools.clone();
            tokio::spawn(async move {
                for n in 0..20 {
                    match pools[(one + n) % 8].send(get("/")).await {
                        Ok(response) => assert_eq!(read(response).await.0, "ok"),
                        Err(error) => panic!("{error:?}"),
                    }
                }
            })
        })
        .collect();
    for one in crowd {
        tokio::time::timeout(LONG, one).await.unwrap().unwrap();
    }
    assert!(most.load(Ordering::SeqCst) <= 5, "{most:?} at once");
    assert!(taken(&total) <= 5);
    drop(pools);
    until("all units are given back", || taken(&total) == 0).await;
}

/// A connection that may become HTTP/2 takes the units of HTTP/2 until its version is known. One that switches
/// protocols takes none.
#[tokio::test]
async fn units_by_protocol() {
    let (address, _) = replica(|_, mut stream| async move {
        head(&mut stream).await;
        let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(switch.as_bytes()).await.unwrap();
        closed(&mut stream).await;
    })
    .await;
    let total = ConnectionLimit::new(6);
    let all = PoolSettings { total: Arc::clone(&total), ..settings() };
    let one = pool(address, &all);
    let mut request = get("/");
    request.headers_mut().insert("connection", http::HeaderValue::from_static("upgrade"));
    request.headers_mut().insert("upgrade", http::HeaderValue::from_static("websocket"));
    let response = one.send(request).await.unwrap();
    assert_eq!((response.status().as_u16(), taken(&total)), (101, 0));
    drop(response);
    // This replica never responds, so the connection stays as it was opened.
    let (address, _) = replica(|_, mut stream| async move { closed(&mut stream).await }).await;
    let two = pool(address, &PoolSettings { protocol: Protocol::Http2, ..all.clone() });
    let asked = tokio::spawn({
        let two = Arc::clone(&two);
        async move { two.send(get("/")).await.is_ok() }
    });
    until("it is opened", || two.open() == 1).await;
    assert_eq!(taken(&total), 4);
    let third = pool(address, &PoolSettings { protocol: Protocol::Http2, wait: Duration::from_millis(50), ..all });
    assert_eq!(error(&third, get("/")).await.kind, ErrorKind::Overloaded);
    asked.abort();
    drop(two);
    until("all units are given back", || taken(&total) == 0).await;
}
