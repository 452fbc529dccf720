//! An API server of Kubernetes over TLS, which knows the endpoints of one Service and one token.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::authority::Authority;
use super::{Replica, Setup};

/// An API server, and the files of the service account for it.
pub(crate) struct ApiServer {
    pub(crate) url: String,
    account: tempfile::TempDir,
    authority: Authority,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

struct Shared {
    state: Mutex<State>,
    /// Told of every change of the state.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    token: String,
    /// Whether the account has no rights.
    forbids: bool,
    slices: BTreeMap<String, Value>,
    events: Vec<String>,
    requests: usize,
    /// Watches of an earlier number end.
    watches: usize,
}

impl ApiServer {
    /// Starts a server for the Service `users` in the namespace `shop`.
    pub(crate) async fn start() -> Self {
        let (authority, account) = (Authority::new(), tempfile::tempdir().unwrap());
        let issued = authority.issue(&["localhost"]);
        let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(ring).with_safe_default_protocol_versions().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let shared = Arc::new(Shared { state: Mutex::default(), changed: watch::Sender::default() });
        let mut serving = JoinSet::new();
        let of_server = Arc::clone(&shared);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(connection(stream, acceptor.clone(), Arc::clone(&of_server)));
            }
        });
        let server = Self { url, account, authority, shared, _serving: serving };
        std::fs::write(server.account().join("namespace"), "shop").unwrap();
        server.trusted(&server.authority);
        server.rotate("first");
        server
    }

    /// The directory of the service account.
    pub(crate) fn account(&self) -> &Path {
        self.account.path()
    }

    /// Lets a host find the server.
    pub(crate) fn of(&self, setup: Setup) -> Setup {
        setup.set("kubernetes.url", &self.url).set("kubernetes.account", self.account().to_str().unwrap())
    }

    /// Replaces the authorities that the account trusts.
    pub(crate) fn trusted(&self, authority: &Authority) {
        std::fs::write(self.account().join("ca.crt"), authority.pem()).unwrap();
    }

    /// The authority of the server.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Replaces the token, and ends all watches.
    pub(crate) fn rotate(&self, token: &str) {
        std::fs::write(self.account().join("token"), format!("{token}\n")).unwrap();
        self.change(|state| {
            state.token = token.into();
            state.watches += 1;
        });
    }

    /// Takes all rights from the account, and ends all watches; or gives them back.
    pub(crate) fn forbid(&self, forbids: bool) {
        self.change(|state| {
            state.forbids = forbids;
            state.watches += 1;
        });
    }

    /// Sets the conditions of an endpoint.
    pub(crate) fn put(&self, name: &str, address: SocketAddr, conditions: &Value) {
        self.change(|state| {
            let slice = json!({
                "kind": "EndpointSlice",
                "apiVersion": "discovery.k8s.io/v1",
                "metadata": { "name": name, "resourceVersion": (state.events.len() + 1).to_string() },
                "addressType": "IPv4",
                "endpoints": [{ "addresses": [address.ip().to_string()], "conditions": conditions }],
                "ports": [{ "name": "http", "port": address.port() }],
            });
            state.slices.insert(name.to_owned(), slice.clone());
            state.events.push(json!({ "type": "MODIFIED", "object": slice }).to_string());
        });
    }

    /// Adds a replica that is ready.
    pub(crate) fn ready(&self, name: &str, replica: &Replica) {
        self.put(name, replica.address, &json!({ "ready": true }));
    }

    /// Removes an endpoint.
    pub(crate) fn remove(&self, name: &str) {
        self.change(|state| {
            state.slices.remove(name).unwrap();
            let metadata = json!({ "name": name, "resourceVersion": (state.events.len() + 1).to_string() });
            let object = json!({ "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": metadata });
            state.events.push(json!({ "type": "DELETED", "object": object }).to_string());
        });
    }

    /// The requests so far, with any token.
    pub(crate) fn requests(&self) -> usize {
        self.shared.state.lock().unwrap().requests
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state.lock().unwrap());
        self.shared.changed.send_replace(());
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) -> Option<()> {
    let mut stream = acceptor.accept(stream).await.ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let mut changed = shared.changed.subscribe();
    let (response, mut sent, watches) = {
        let mut state = shared.state.lock().unwrap();
        state.requests += 1;
        (state.response(&head, path), state.events.len(), state.watches)
    };
    let Some((status, body)) = response else {
        let from = path.split("resourceVersion=").nth(1).unwrap();
        sent = from.parse().unwrap_or(sent);
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await.ok()?;
        loop {
            let (lines, ends) = {
                let state = shared.state.lock().unwrap();
                let lines: String = state.events.iter().skip(sent).map(|event| format!("{event}\n")).collect();
                sent = state.events.len();
                (lines, state.watches != watches)
            };
            stream.write_all(lines.as_bytes()).await.ok()?;
            if ends {
                return stream.shutdown().await.ok();
            }
            changed.changed().await.ok()?;
        }
    };
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

impl State {
    /// The status and the body; `None` for a watch.
    fn response(&self, head: &str, path: &str) -> Option<(u16, String)> {
        let message = |text: &str| json!({ "kind": "Status", "message": text }).to_string();
        if !head.contains(&format!("authorization: Bearer {}\r\n", self.token)) {
            return Some((401, message("Unauthorized")));
        }
        if path == "/apis/discovery.k8s.io" {
            return Some((200, json!({ "versions": [{ "version": "v1" }, { "version": "v1beta1" }] }).to_string()));
        }
        let wanted = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices?labelSelector=";
        assert!(path.starts_with(&format!("{wanted}kubernetes.io%2Fservice-name%3Dusers&")), "{path}");
        if self.forbids {
            return Some((403, message("endpointslices.discovery.k8s.io is forbidden")));
        }
        if path.contains("&watch=1&") {
            return None;
        }
        let items: Vec<_> = self.slices.values().collect();
        let metadata = json!({ "resourceVersion": self.events.len().to_string() });
        let (kind, version) = ("EndpointSliceList", "discovery.k8s.io/v1");
        let list = json!({ "kind": kind, "apiVersion": version, "metadata": metadata, "items": items });
        Some((200, list.to_string()))
    }
}
