//! A registry for tests: it does what a real one does on no demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use lodge_base::config::pull::{LOOPBACK, Pull};
use lodge_base::lock::lock;
use lodge_manifest::digest::Digest;
use lodge_manifest::reference::Reference;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use super::artifact::WasmArtifact;

/// What a test does in place of the registry: the bytes of a response to the head of a request.
type Habit = Box<dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync>;

/// A registry in this process. Every connection has one request.
pub(super) struct FakeRegistry {
    pub(super) address: String,
    state: Arc<State>,
    task: AbortHandle,
}

#[derive(Default)]
struct State {
    /// Manifests by their path, and blobs by theirs.
    content: Mutex<BTreeMap<String, Vec<u8>>>,
    habit: Mutex<Option<Habit>>,
    /// The heads of all requests.
    asked: Mutex<Vec<String>>,
}

impl FakeRegistry {
    pub(super) async fn start() -> Self {
        Self::secure(None).await
    }

    pub(super) async fn secure(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::<State>::default();
        let serving = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, tls) = (Arc::clone(&serving), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => state.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                state.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, state, task: task.abort_handle() }
    }

    /// Ends it: nothing listens at its address any more.
    pub(super) fn stop(&self) {
        self.task.abort();
    }

    /// Has this component under a tag. Returns the digest of its manifest.
    pub(super) fn put(&self, tag: &str, component: &[u8]) -> Digest {
        let WasmArtifact { config, manifest } = WasmArtifact::of(component, None, (&[], &[]), "1970-01-01T00:00:00Z");
        for blob in [component, &*config] {
            self.content(&format!("blobs/sha256:{}", Digest::of(blob)), blob);
        }
        self.manifest(tag, &manifest)
    }

    /// Has this manifest under a tag and its digest.
    pub(super) fn manifest(&self, tag: &str, manifest: &[u8]) -> Digest {
        let digest = Digest::of(manifest);
        self.content(&format!("manifests/{tag}"), manifest);
        self.content(&format!("manifests/sha256:{digest}"), manifest);
        digest
    }

    pub(super) fn content(&self, path: &str, bytes: &[u8]) {
        lock(&self.state.content).insert(format!("/v2/team/users/{path}"), bytes.to_vec());
    }

    /// Responds like this from now on, where it returns something.
    pub(super) fn habit(&self, habit: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static) {
        *lock(&self.state.habit) = Some(Box::new(habit));
    }

    pub(super) fn reform(&self) {
        *lock(&self.state.habit) = None;
    }

    /// The requests so far, as method, path and the value of a header.
    pub(super) fn asked(&self, header: &str) -> Vec<String> {
        let shown = |head: &String| {
            let value = head.lines().find_map(|line| line.strip_prefix(&format!("{header}: ")));
            let line = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1");
            format!("{line} {}", value.unwrap_or("-"))
        };
        lock(&self.state.asked).iter().map(shown).collect()
    }

    pub(super) fn reference(&self, version: &str) -> Reference {
        Reference::read(&format!("oci://{}/team/users{version}", self.address)).unwrap()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let head = String::from_utf8(head).unwrap();
        lock(&self.asked).push(head.clone());
        let response = lock(&self.habit).as_ref().and_then(|habit| habit(&head));
        let response = response.unwrap_or_else(|| self.respond(&head));
        let _ = stream.write_all(&response).await;
        let _ = stream.shutdown().await;
    }

    fn respond(&self, head: &str) -> Vec<u8> {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let content = lock(&self.content);
        let Some(bytes) = content.get(path) else {
            let problem = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            return response("404 Not FoundComponent", "", problem);
        };
        match head.lines().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse::<usize>().ok())
        {
            Some(from) => {
                let range = format!("content-range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
                response("206 Partial Content", &range, &bytes[from..])
            }
            None => response("200 OK", "", bytes),
        }
    }
}

/// The bytes of a response. The headers end with a line break each.
pub(super) fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Settings for registries on this machine.
pub(super) fn settings() -> Pull {
    Pull {
        interval: std::time::Duration::from_secs(60),
        plain_http: vec![LOOPBACK.into()],
        credentials: lodge_base::config::pull::Credentials::Off,
        timeout: std::time::Duration::from_secs(60),
        concurrent: 4,
        size: 1 << 30,
        ..Pull::default()
    }
}

/// A component: the header and a section with these bytes.
pub(super) fn component(bytes: &[u8]) -> Vec<u8> {
    let mut component = vec![0, b'a', b's', b'm', 0x0d, 0, 1, 0, 0];
    let mut size = bytes.len() + 1;
    while size >= 0x80 {
        component.push((size & 0x7f) as u8 | 0x80);
        size >>= 7;
    }
    component.push(size as u8);
    component.push(0);
    component.extend_from_slice(bytes);
    component
}
