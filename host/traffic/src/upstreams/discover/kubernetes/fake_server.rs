//! An API server on loopback for tests, which does on demand what a real one does rarely.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstreams) enum Asks {
    Versions,
    List,
    Watch,
}

/// An API server with slices of one Service.
pub(in crate::upstreams) struct FakeServer {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

struct Shared {
    version: &'static str,
    /// The slices of a page.
    page: usize,
    state: Mutex<State>,
    /// The requests so far: what for, and the head.
    requests: watch::Sender<Vec<(Asks, String)>>,
}

#[derive(Default)]
struct State {
    slices: BTreeMap<String, Value>,
    revision: u64,
    /// Every event by its revision.
    events: Vec<(u64, String)>,
    /// `None` cuts the connection.
    watches: Vec<Sender<Option<Vec<u8>>>>,
    /// Bytes that are sent instead of a response, until they are taken back.
    instead: HashMap<Asks, Vec<u8>>,
}

/// The beginning of a response that never ends.
pub(super) const STALLS: &[u8] = b"HTTP/1.1 200 OK\r\nx-stalls: 1\r\ncontent-length: 9\r\n\r\n";

/// A slice with these endpoints: address and conditions.
pub(in crate::upstreams) fn slice(name: &str, port: u16, endpoints: &[(&str, Value)]) -> Value {
    let endpoint = |(address, conditions): &(&str, Value)| json!({ "addresses": [address], "conditions": conditions });
    json!({
        "kind": "EndpointSlice",
        "metadata": { "name": name, "namespace": "shop" },
        "addressType": if endpoints.iter().any(|(address, _)| address.contains(':')) { "IPv6" } else { "IPv4" },
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{ "name": "http", "port": port, "protocol": "TCP" }],
    })
}

/// A response with this status and body.
pub(super) fn response(status: &str, more: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).into_bytes()
}

impl FakeServer {
    /// Starts a server with this version of the API, and lists in pages of this size.
    pub(in crate::upstreams) async fn start(version: &'static str, page: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared { version, page, state: Mutex::default(), requests: watch::Sender::default() };
        let server = Self { address, shared: Arc::new(shared), tasks: Mutex::default() };
        server.serve(listener);
        server
    }

    fn serve(&self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        self.tasks.lock().unwrap().spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(connection(stream, Arc::clone(&shared)));
            }
        });
    }

    /// Ends all connections, and accepts none.
    pub(super) async fn leave(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        tasks.shutdown().await;
        self.shared.state.lock().unwrap().watches.clear();
    }

    /// Accepts connections again.
    pub(super) async fn come_back(&self) {
        self.serve(TcpListener::bind(self.address).await.unwrap());
    }

    /// Adds a slice or replaces it.
    pub(in crate::upstreams) fn put(&self, mut slice: Value) {
        let name = slice["metadata"]["name"].as_str().unwrap().to_owned();
        let mut state = self.shared.state.lock().unwrap();
        let kind = if state.slices.contains_key(&name) { "MODIFIED" } else { "ADDED" };
        slice["metadata"]["resourceVersion"] = (state.revision + 1).to_string().into();
        slice["apiVersion"] = format!("discovery.k8s.io/{}", self.shared.version).into();
        state.slices.insert(name, slice.clone());
        state.tell(kind, &slice);
    }

    /// Removes a slice.
    pub(super) fn remove(&self, name: &str) {
        let mut state = self.shared.state.lock().unwrap();
        let mut slice = state.slices.remove(name).unwrap();
        slice["metadata"]["resourceVersion"] = (state.revision + 1).to_string().into();
        state.tell("DELETED", &slice);
    }

    /// Sends bytes to all watches; a line is the caller's.
    pub(super) fn says(&self, bytes: &[u8]) {
        self.shared.state.lock().unwrap().send(Some(bytes.to_vec()));
    }

    /// Sends a bookmark with a version that no object has.
    pub(super) fn bookmark(&self) -> u64 {
        let mut state = self.shared.state.lock().unwrap();
        state.revision += 1;
        let revision = state.revision;
        let (metadata, version) = (json!({ "resourceVersion": revision.to_string() }), self.shared.version);
        let version = format!("discovery.k8s.io/{version}");
        let object = json!({
            "kind": "EndpointSlice", "apiVersion": version, "metadata": metadata, "endpoints": null, "ports": null,
        });
        state.send(Some(format!("{}\n", json!({ "type": "BOOKMARK", "object": object })).into_bytes()));
        revision
    }

    /// Ends all watches as a server does after `timeoutSeconds`, or without the end of the response.
    pub(super) fn end_watches(&self, is_cut: bool) {
        let mut state = self.shared.state.lock().unwrap();
        if is_cut {
            state.send(None);
        }
        state.watches.clear();
    }

    /// Responds with these bytes from now on; `None` for as usual.
    pub(super) fn instead(&self, asks: Asks, bytes: Option<Vec<u8>>) {
        let mut state = self.shared.state.lock().unwrap();
        match bytes {
            Some(bytes) => drop(state.instead.insert(asks, bytes)),
            None => drop(state.instead.remove(&asks)),
        }
    }

    /// The heads of all requests of this kind.
    pub(super) fn asked(&self, asks: Asks) -> Vec<String> {
        let requests = self.shared.requests.borrow();
        requests.iter().filter(|(kind, _)| *kind == asks).map(|(_, head)| head.clone()).collect()
    }

    /// Waits for so many requests of this kind, and returns the head of the last one.
    pub(super) async fn asked_times(&self, asks: Asks, count: usize) -> String {
        let mut requests = self.shared.requests.subscribe();
        let enough = requests.wait_for(|all| all.iter().filter(|(kind, _)| *kind == asks).count() >= count);
        drop(tokio::time::timeout(Duration::from_secs(20), enough).await.expect("more requests").unwrap());
        self.asked(asks).pop().unwrap()
    }

    /// The number of open watches.
    pub(super) fn watches(&self) -> usize {
        self.shared.state.lock().unwrap().watches.iter().filter(|watch| !watch.is_closed()).count()
    }
}

impl State {
    fn tell(&mut self, kind: &str, slice: &Value) {
        self.revision += 1;
        let line = format!("{}\n", json!({ "type": kind, "object": slice }));
        self.events.push((self.revision, line.clone()));
        self.send(Some(line.into_bytes()));
    }

    fn send(&mut self, bytes: Option<Vec<u8>>) {
        self.watches.retain(|watch| watch.try_send(bytes.clone()).is_ok());
    }
}

async fn connection(mut stream: TcpStream, shared: Arc<Shared>) {
    stream.set_nodelay(true).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let (place, query) = path.split_once('?').unwrap_or((&path, ""));
    let query: HashMap<_, _> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let asks = match (place, query.contains_key("watch")) {
        ("/apis/discovery.k8s.io", _) => Asks::Versions,
        (_, true) => Asks::Watch,
        (_, false) => Asks::List,
    };
    if asks != Asks::Versions {
        let wanted = format!("/apis/discovery.k8s.io/{}/namespaces/shop/endpointslices", shared.version);
        assert_eq!(place, wanted);
        assert!(query["labelSelector"].starts_with("kubernetes.io%2Fservice-name%3Dusers"), "{head}");
    }
    let instead = shared.state.lock().unwrap().instead.get(&asks).cloned();
    // The watch is open before a test hears of the request.
    let watch = (asks == Asks::Watch && instead.is_none()).then(|| shared.open(query["resourceVersion"]));
    shared.requests.send_modify(|all| all.push((asks, head.clone())));
    let bytes = match (instead, asks) {
        (Some(bytes), _) => bytes,
        (None, Asks::Versions) => {
            let versions =
                json!({ "kind": "APIGroup", "versions": [{ "version": "v9" }, { "version": shared.version }] });
            response("200 OK", "", &versions.to_string())
        }
        (None, _) => response("200 OK", "", &shared.page(query.get("continue").copied())),
    };
    let Some((mut events, missed)) = watch else {
        let _ = stream.write_all(&bytes).await;
        if bytes.starts_with(STALLS) {
            std::future::pending::<()>().await;
        }
        let _ = stream.shutdown().await;
        return;
    };
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let mut next = Some(missed.into_bytes());
    loop {
        match next {
            Some(bytes) if bytes.is_empty() => {}
            Some(bytes) => {
                let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\n"].concat();
                if stream.write_all(&chunk).await.is_err() {
                    return;
                }
            }
            None => return,
        }
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => next = event,
                None => {
                    let _ = stream.write_all(b"0\r\n\r\n").await;
                    return;
                }
            },
            // The client sends nothing more; this is its end.
            _ = stream.readable() => return,
        }
    }
}

impl Shared {
    /// Opens a watch, with the events after this version.
    fn open(&self, revision: &str) -> (Receiver<Option<Vec<u8>>>, String) {
        let (sender, receiver) = channel(1000);
        let (mut state, revision) = (self.state.lock().unwrap(), revision.parse::<u64>().unwrap());
        state.watches.push(sender);
        let missed = state.events.iter().filter(|(at, _)| *at > revision).map(|(_, line)| line.as_str()).collect();
        (receiver, missed)
    }

    fn page(&self, from: Option<&str>) -> String {
        let (state, from) = (self.state.lock().unwrap(), from.map_or(0, |from| from.parse().unwrap()));
        let items: Vec<_> = state.slices.values().skip(from).take(self.page).collect();
        let next = if from + self.page < state.slices.len() { (from + self.page).to_string() } else { String::new() };
        let metadata = json!({ "resourceVersion": state.revision.max(1).to_string(), "continue": next });
        let version = format!("discovery.k8s.io/{}", self.version);
        let list = json!({ "kind": "EndpointSliceList", "apiVersion": version, "metadata": metadata, "items": items });
        list.to_string()
    }
}
