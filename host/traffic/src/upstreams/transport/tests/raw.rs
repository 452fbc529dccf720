//! Replicas that speak HTTP/1.1 by hand.

use super::*;

/// Starts a replica that runs `serve` for each connection, with the connection's number.
pub(super) async fn replica<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(usize, TcpStream) -> F + Send + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, accepted) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(count.fetch_add(1, Ordering::SeqCst), stream));
        }
    });
    (address, accepted)
}

/// Starts a replica that sends these responses one after another on each connection, and then closes it.
pub(super) async fn says(responses: &'static [&'static str]) -> (SocketAddr, Arc<AtomicUsize>) {
    replica(move |_, mut stream| async move {
        for response in responses {
            head(&mut stream).await;
            stream.write_all(response.as_bytes()).await.unwrap();
        }
    })
    .await
}

/// Reads the next head; empty if the connection was closed.
pub(super) async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// Reads until the peer closes or resets the connection.
pub(super) async fn closed(stream: &mut TcpStream) {
    let mut buffer = vec![0; 1 << 16];
    let reads = async { while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(LONG, reads).await.unwrap();
}

pub(super) async fn error(pool: &Pool<Boxed>, request: Request<Boxed>) -> SendError<Boxed> {
    match tokio::time::timeout(LONG, pool.send(request)).await.unwrap() {
        Ok(response) => panic!("{:?}", response.status()),
        Err(error) => error,
    }
}

pub(super) const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
