//! Promise: a request whose response is lost or breaks off is repeated, and what it has done is neither forgotten nor done twice.

use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use lodge_conformance::soon;
use lodge_remote::Tls;
use lodge_remote::testing::TestServer;
use lodge_s3::{S3, S3Settings};
use lodge_state::Namespace;
use lodge_state::blobs::{BlobBackend, BlobError, BlobUsage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::server::{self, QUOTA, get, put};

/// The response to lose: of the next request that has these words.
struct Loss {
    words: [&'static str; 2],
    /// Whether the head arrives.
    keeps_head: bool,
    /// The request is sent after this, and nothing is lost.
    held: Option<Arc<Notify>>,
}

/// The way to the server, on which responses are lost.
pub(crate) struct LossyProxy {
    port: u16,
    next: Arc<Mutex<Option<Loss>>>,
}

impl LossyProxy {
    pub(crate) async fn start(server: &TestServer) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (port, to, next) = (listener.local_addr().unwrap().port(), server.port(), Arc::default());
        let losses = Arc::clone(&next);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, to, Arc::clone(&losses)));
            }
        });
        Self { port, next }
    }

    pub(crate) fn backend(&self, server: &TestServer) -> S3 {
        let url = server::url(server).replace(&format!(":{}", server.port()), &format!(":{}", self.port));
        S3::new(&S3Settings::new(&url, &Tls::default(), server::key(), 8).unwrap())
    }

    fn lose(&self, words: [&'static str; 2], keeps_head: bool) {
        *self.next.lock().unwrap() = Some(Loss { words, keeps_head, held: None });
    }

    /// Holds the next request that has these words until it is told otherwise.
    pub(crate) fn hold(&self, words: [&'static str; 2]) -> Arc<Notify> {
        let held = Arc::default();
        *self.next.lock().unwrap() = Some(Loss { words, keeps_head: false, held: Some(Arc::clone(&held)) });
        held
    }

    pub(crate) fn has_lost(&self) -> bool {
        self.next.lock().unwrap().is_none()
    }
}

async fn relay(mut client: TcpStream, to: u16, next: Arc<Mutex<Option<Loss>>>) -> io::Result<()> {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await?;
    let (mut request, mut response) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut loss = None;
    loop {
        tokio::select! {
            read = client.read(&mut request) => {
                let part = &request[..read?];
                if part.is_empty() {
                    return Ok(());
                }
                let text = String::from_utf8_lossy(part);
                let armed = next.lock().unwrap().take_if(|loss| loss.words.iter().all(|word| text.contains(word)));
                if let Some(held) = armed.as_ref().and_then(|loss| loss.held.as_ref()) {
                    held.notified().await;
                } else {
                    loss = armed.or(loss);
                }
                server.write_all(part).await?;
            }
            read = server.read(&mut response) => {
                let part = &response[..read?];
                if let Some(loss) = loss.filter(|_| !part.is_empty()) {
                    let head = part.windows(4).position(|end| end == b"\r\n\r\n").filter(|_| loss.keeps_head);
                    return client.write_all(&part[..head.map_or(0, |at| at + 4)]).await;
                }
                loss = None;
                if part.is_empty() {
                    return Ok(());
                }
                client.write_all(part).await?;
            }
        }
    }
}

/// The server has emptied the container, and the objects that were in it are removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_emptied_although_the_response_is_lost() {
    let Some(server) = server::started().await else { return };
    let proxy = LossyProxy::start(&server).await;
    let backend = proxy.backend(&server);
    let space = server::space(&backend, "lost").await;
    put(&space, ("c", "o"), b"content").await.unwrap();
    proxy.lose(["PUT ", "if-match"], false);
    space.clear("c", soon()).await.unwrap();
    assert!(proxy.has_lost());
    assert_eq!(get(&space, ("c", "o")).await, Err(BlobError::NoObject));
    let end = Instant::now() + std::time::Duration::from_secs(60);
    while space.usage() != (BlobUsage { containers: 1, ..BlobUsage::default() }) {
        assert!(Instant::now() < end, "the objects stay: {:?}", space.usage());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// A listing breaks off after its head, and so does the response by which an object is made of its parts.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_breaks_off_is_requested_again() {
    let Some(server) = server::started().await else { return };
    let proxy = LossyProxy::start(&server).await;
    let backend = proxy.backend(&server);
    proxy.lose(["GET ", "list-type=2"], true);
    let space = backend.open(&Namespace::new("lost").unwrap(), QUOTA).await.unwrap();
    assert!(proxy.has_lost());
    space.create_container("c", soon()).await.unwrap();
    let large = vec![7; 6 << 20];
    for keeps_head in [true, false] {
        proxy.lose(["POST ", "uploadId="], keeps_head);
        match put(&space, ("c", "large"), &large).await {
            Ok(()) => {}
            // The server does not know the parts any more.
            Err(error) => assert!(error.to_string().contains("it may have been stored"), "{error}"),
        }
        assert!(proxy.has_lost());
        assert!(get(&space, ("c", "large")).await.unwrap() == large);
    }
    let end = Instant::now() + std::time::Duration::from_secs(240);
    let expected = BlobUsage { containers: 1, objects: 2, bytes: (6 << 20) + 1 };
    while space.usage() != expected {
        assert!(Instant::now() < end, "{:?}", space.usage());
        put(&space, ("c", "small"), b"x").await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
