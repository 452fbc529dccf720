//! HTTP clients: a function for one GET, a connection for more, raw bytes for requests that no client would send.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;

use super::within;

/// A complete response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The transfer broke off, and the client could detect it.
    pub(crate) broken: bool,
}

impl Response {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header as text; empty if it is absent.
    pub(crate) fn header(&self, name: &str) -> String {
        self.headers.get(name).map_or(String::new(), |value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    /// The body as problem details, after a check of the fields that all of them have.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem: serde_json::Value = serde_json::from_slice(&self.body).expect("JSON");
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()));
        problem["type"].as_str().and_then(|kind| kind.strip_prefix("urn:lodge:problem:")).expect("a type").to_owned()
    }

    /// Reads a response to its end.
    pub(crate) async fn read(response: http::Response<Incoming>) -> Self {
        let (head, mut body) = response.into_parts();
        let (mut bytes, mut broken) = (Vec::new(), false);
        while let Some(frame) = within(body.frame()).await {
            match frame {
                Ok(frame) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        Self { status: head.status.as_u16(), headers: head.headers, body: bytes.into(), broken }
    }
}

/// Sends one GET on a new connection.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Response {
    Connection::http1(address).await.get(path).await
}

/// A body of any kind.
pub(crate) type AnyBody = UnsyncBoxBody<Bytes, Infallible>;

/// A request body from the test, frame by frame. It ends when the sender is dropped.
pub(crate) struct Fed(mpsc::Receiver<Frame<Bytes>>);

/// Such a body, and its sender.
pub(crate) fn fed() -> (mpsc::Sender<Frame<Bytes>>, AnyBody) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Fed(receiver).boxed_unsync())
}

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// An open connection.
pub(crate) enum Connection {
    Http1(http1::SendRequest<AnyBody>),
    Http2(http2::SendRequest<AnyBody>),
}

impl Connection {
    pub(crate) async fn http1(address: SocketAddr) -> Self {
        Self::over(within(TcpStream::connect(address)).await.expect("the host accepts")).await
    }

    /// HTTP/1.1 from this address of the loopback network.
    pub(crate) async fn from(client: IpAddr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((client, 0).into()).expect("an address of the loopback network");
        Self::over(within(socket.connect(address)).await.expect("the host accepts")).await
    }

    async fn over(stream: TcpStream) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
        tokio::spawn(connection);
        Self::Http1(sender)
    }

    pub(crate) async fn http2(address: SocketAddr) -> Self {
        let stream = within(TcpStream::connect(address)).await.expect("the host accepts");
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("a handshake");
        tokio::spawn(connection);
        Self::Http2(sender)
    }

    pub(crate) async fn get(&mut self, path: &str) -> Response {
        self.ask(Method::GET, path, &[], "").await
    }

    /// Sends one request with a small body.
    pub(crate) async fn ask(&mut self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::copy_from_slice(body.as_bytes())).boxed_unsync();
        let response = self.send(request.body(body).expect("a request")).await.expect("a response");
        Response::read(response).await
    }

    /// Sends a request and waits for the head of its response. Adds `host` if it is missing.
    pub(crate) async fn send(&mut self, mut request: Request<AnyBody>) -> hyper::Result<http::Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                if !request.headers().contains_key("host") {
                    request.headers_mut().insert("host", http::HeaderValue::from_static("localhost"));
                }
                within(sender.ready()).await?;
                within(sender.send_request(request)).await
            }
            Self::Http2(sender) => {
                let path = request.uri().path_and_query().expect("a path").clone();
                let authority = match request.headers_mut().remove("host") {
                    Some(host) => host.to_str().expect("text").to_owned(),
                    None => "localhost".into(),
                };
                let uri = http::Uri::builder().scheme("http").authority(authority).path_and_query(path);
                *request.uri_mut() = uri.build().expect("a uri");
                within(sender.ready()).await?;
                within(sender.send_request(request)).await
            }
        }
    }
}

/// Sends these bytes and reads until the host closes the connection. Returns all that was received.
pub(crate) async fn raw(address: SocketAddr, bytes: &str) -> String {
    let mut stream = within(TcpStream::connect(address)).await.expect("the host accepts");
    stream.write_all(bytes.as_bytes()).await.expect("sent");
    let mut response = Vec::new();
    // A reset after the response is an end, too.
    let _ = within(stream.read_to_end(&mut response)).await;
    String::from_utf8_lossy(&response).into_owned()
}
