//! The transport against hand-written replicas (`raw.rs`), which can violate the protocol, and against hyper's server
//! (`http2.rs`), for HTTP/2 and TLS.

mod bounds;
mod cost;
mod exchanges;
mod failures;
mod h2_server;
mod http2;
mod interim;
mod limit;
mod raw;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;

type Boxed = UnsyncBoxBody<Bytes, BoxError>;

/// Far longer than any step of a test takes.
const LONG: Duration = Duration::from_secs(20);

fn settings() -> PoolSettings {
    let total = ConnectionLimit::new(1_000);
    let protocol = Protocol::Auto;
    PoolSettings { connect: LONG, wait: LONG, read: LONG, idle: LONG, connections: 8, total, protocol, tls: None }
}

fn plain(address: SocketAddr) -> Target {
    Target { scheme: Scheme::Http, host: address.ip().to_string().into(), address, other: None }
}

fn pool(address: SocketAddr, settings: &PoolSettings) -> Arc<Pool<Boxed>> {
    Arc::new(Pool::new(plain(address), settings).unwrap())
}

fn empty() -> Boxed {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn full(text: impl Into<Bytes>) -> Boxed {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

fn get(path: &str) -> Request<Boxed> {
    Request::get(path).header("host", "shop.example").body(empty()).unwrap()
}

fn post(body: Boxed) -> Request<Boxed> {
    Request::post("/").header("host", "shop.example").body(body).unwrap()
}

/// A body whose parts the test sends, of unknown length.
struct Piped(mpsc::Receiver<Result<Frame<Bytes>, BoxError>>);

impl Body for Piped {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(cx)
    }
}

fn piped() -> (mpsc::Sender<Result<Frame<Bytes>, BoxError>>, Boxed) {
    let (sender, parts) = mpsc::channel(1);
    (sender, Piped(parts).boxed_unsync())
}

fn part(text: &'static str) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(text.into()))
}

/// Reads the body and the trailers.
async fn read<B: Body<Data = Bytes, Error: std::fmt::Debug>>(response: Response<B>) -> (String, http::HeaderMap) {
    let read = tokio::time::timeout(LONG, response.into_body().collect()).await.unwrap().unwrap();
    let trailers = read.trailers().cloned().unwrap_or_default();
    (String::from_utf8(read.to_bytes().to_vec()).unwrap(), trailers)
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waits = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, waits).await.is_ok(), "{what}");
}
