//! The cost of a request through the pool, compared with a bare hyper connection.

use hyper::client::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::time::{ClockId, clock_gettime};

use super::*;

const REQUESTS: u32 = 20_000;

/// Starts a server on its own thread, for the rest of the process.
fn server() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::spawn(move || {
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let hello =
                    service_fn(async |_| Ok::<_, std::convert::Infallible>(Response::new(full("Hello, World!"))));
                let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), hello);
                tokio::spawn(serving);
            }
        });
    });
    address
}

/// Returns the CPU time of this thread, including the kernel's, in µs per request.
async fn cost(send: impl AsyncFn()) -> f64 {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
    };
    for _ in 0..1000 {
        send().await;
    }
    let begin = now();
    for _ in 0..REQUESTS {
        send().await;
    }
    (now() - begin) / f64::from(REQUESTS)
}

async fn drained(body: impl Body<Data = Bytes, Error = hyper::Error>) {
    assert_eq!(body.collect().await.unwrap().to_bytes().len(), 13);
}

/// Run with `cargo test -p lodge --lib --config profile.dev.opt-level=2 -- --ignored cost`.
#[tokio::test]
#[ignore = "takes a minute, and needs a quiet machine"]
#[expect(clippy::print_stderr, reason = "prints a measurement")]
async fn beside_a_bare_connection() {
    let address = server();
    let pool = pool(address, &settings());
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    io.inner().set_nodelay(true).unwrap();
    let (sender, connection) = http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let sender = tokio::sync::Mutex::new(sender);
    let (mut bare, mut pooled) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let send = async || {
            let mut sender = sender.lock().await;
            sender.ready().await.unwrap();
            drained(sender.send_request(get("/")).await.unwrap().into_body()).await;
        };
        bare.push(cost(send).await);
        pooled.push(cost(async || drained(pool.send(get("/")).await.unwrap().into_body()).await).await);
    }
    for costs in [&mut bare, &mut pooled] {
        costs.sort_by(f64::total_cmp);
    }
    eprintln!("bare {:.2} µs, pooled {:.2} µs", bare[2], pooled[2]);
    assert!(pooled[2] < bare[2] * 1.3, "{pooled:?} {bare:?}");
}
