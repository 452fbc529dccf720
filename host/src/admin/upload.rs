//! Receives a component: into a file beside those of the service, which no host serves.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use lodge_manifest::digest::Digest;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use crate::audit::hex;
use crate::guests::service_files::{FileError, ServiceFiles};
use crate::guests::trust;
use crate::guests::trust::signature::Signature;

/// The time for the whole component.
const UPLOAD: Duration = Duration::from_secs(600);

/// The time between two parts of it.
const STALL: Duration = Duration::from_secs(30);

/// How many bytes are written at a time.
const PART: usize = 256 << 10;

/// The header with the digest of the component (RFC 9530).
const CONTENT_DIGEST: &str = "content-digest";

/// The header with the file of its signature, in base64 between colons (RFC 9651).
pub(crate) const SIGNATURE: &str = "lodge-signature";

/// Why nothing was done: the status, the kind of the problem, and the reason.
#[derive(Debug)]
pub(super) struct NotDeployed(pub(super) StatusCode, pub(super) &'static str, pub(super) String);

impl From<FileError> for NotDeployed {
    fn from(error: FileError) -> Self {
        let kind = if error.unwritable { "not-writable" } else { "refused" };
        Self(StatusCode::CONFLICT, kind, error.to_string())
    }
}

/// A component that has arrived.
pub(super) struct StagedFile {
    file: Partial,
    /// Held, so that a host which starts in the same directory does not remove the file.
    _lock: File,
    pub(super) digest: Digest,
}

/// A file that is removed when this is dropped.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl StagedFile {
    pub(super) fn path(&self) -> &Path {
        &self.file.0
    }
}

/// What a component may have.
pub(super) struct UploadBounds {
    /// The most bytes.
    most: u64,
    /// The time for all of it.
    whole: Duration,
    /// The time between two parts.
    stall: Duration,
}

impl UploadBounds {
    /// Returns the bounds of a component of at most `most` bytes.
    pub(super) fn new(most: u64) -> Self {
        Self { most, whole: UPLOAD, stall: STALL }
    }
}

/// What is written, and the digest of it.
struct PartWriter {
    file: File,
    hash: Sha256,
}

/// Receives a component, and compares it with the digest that the headers name.
///
/// # Errors
/// Why it was not received. Nothing is left of it then.
pub(super) async fn receive(
    files: &ServiceFiles<'_>,
    bounds: UploadBounds,
    headers: &HeaderMap,
    mut body: impl Body<Data = Bytes> + Unpin,
) -> Result<StagedFile, NotDeployed> {
    let (expected, UploadBounds { most, whole, stall }) = (expected_digest(headers)?, bounds);
    let too_large = || {
        let most = bytesize::ByteSize(most).display().iec();
        let why = format!("the component has more than engine.max_file, which is {most}");
        NotDeployed(StatusCode::PAYLOAD_TOO_LARGE, "too-large", why)
    };
    if body.size_hint().lower() > most {
        return Err(too_large());
    }
    let unwritable = |error: &io::Error| unwritable(files, &error.to_string());
    let path = files.staging()?;
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let file = opened.map_err(|error| unwritable(&error))?;
    let partial = Partial(path);
    // Some file systems have no locks. A host that starts removes nothing there.
    let _ = file.try_lock();
    let bad = |why: &str| NotDeployed(StatusCode::BAD_REQUEST, "bad-body", why.to_owned());
    let late = || NotDeployed(StatusCode::REQUEST_TIMEOUT, "too-slow", "the component did not arrive in time".into());
    let (mut sink, mut part) = (PartWriter { file, hash: Sha256::new() }, Vec::with_capacity(PART));
    let (mut have, end) = (0_u64, Instant::now() + whole);
    loop {
        let next = timeout_at(end.min(Instant::now() + stall), body.frame()).await.map_err(|_| late())?;
        let Some(frame) = next else { break };
        let Ok(data) = frame.map_err(|_| bad("the component broke off"))?.into_data() else { continue };
        have = have.saturating_add(data.len() as u64);
        if have > most {
            return Err(too_large());
        }
        part.extend_from_slice(&data);
        if part.len() >= PART {
            sink = sink.append(std::mem::take(&mut part)).await.map_err(|error| unwritable(&error))?;
        }
    }
    let sink = sink.append(part).await.map_err(|error| unwritable(&error))?;
    let PartWriter { file: lock, hash } = sink;
    let digest = Digest::read(&hex(&hash.finalize())).ok_or_else(|| bad("it has no digest"))?;
    if let Some(expected) = expected.filter(|expected| *expected != digest) {
        let why = format!("what arrived is sha256:{digest}, and {CONTENT_DIGEST} says sha256:{expected}");
        return Err(NotDeployed(StatusCode::BAD_REQUEST, "digest", why));
    }
    Ok(StagedFile { file: partial, _lock: lock, digest })
}

/// Returns the refusal of a directory that the host cannot write.
pub(super) fn unwritable(files: &ServiceFiles<'_>, error: &str) -> NotDeployed {
    let why = format!(
        "the host cannot write {}: {error}; deploy where the files of that directory come from",
        files.directory.display()
    );
    NotDeployed(StatusCode::CONFLICT, "not-writable", why)
}

impl PartWriter {
    async fn append(mut self, data: Vec<u8>) -> io::Result<Self> {
        let written = spawn_blocking(move || {
            self.hash.update(&data);
            self.file.write_all(&data).map(|()| self)
        });
        written.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

/// Returns the SHA-256 that `Content-Digest` names; `None` without the header. The header may be there several times, and all that
/// it says must be the same.
fn expected_digest(headers: &HeaderMap) -> Result<Option<Digest>, NotDeployed> {
    let mut expected = None;
    for value in headers.get_all(CONTENT_DIGEST) {
        let text = value.to_str().unwrap_or_default();
        for digest in text.split(',').filter_map(|part| part.trim().strip_prefix("sha-256=")) {
            let read = byte_sequence(digest).and_then(|digest| Digest::read(&hex(&digest)));
            if read.is_none() || expected.is_some_and(|expected| Some(expected) != read) {
                let why = format!("{CONTENT_DIGEST} has no SHA-256, or two; write it once, like `sha-256=:BASE64:`");
                return Err(NotDeployed(StatusCode::BAD_REQUEST, "bad-digest", why));
            }
            expected = read;
        }
    }
    if expected.is_none() && headers.contains_key(CONTENT_DIGEST) {
        let why = format!("{CONTENT_DIGEST} has no SHA-256; write it like `sha-256=:BASE64:`");
        return Err(NotDeployed(StatusCode::BAD_REQUEST, "bad-digest", why));
    }
    Ok(expected)
}

/// Returns the signature that came with a component.
///
/// # Errors
/// If it is not valid base64, too long, or not in the form of the file beside a component.
pub(super) fn signature(headers: &HeaderMap) -> Result<Option<Vec<u8>>, NotDeployed> {
    let Some(value) = headers.get(SIGNATURE) else { return Ok(None) };
    let bad = |why: String| NotDeployed(StatusCode::BAD_REQUEST, "bad-signature", why);
    let text = value.to_str().ok().and_then(byte_sequence).filter(|text| text.len() as u64 <= trust::MAX_FILE);
    let text =
        text.ok_or_else(|| bad(format!("{SIGNATURE} has the file of a signature in base64, between two colons")))?;
    match Signature::read(&text) {
        Signature::Bytes(_) => Ok(Some(text)),
        Signature::Invalid(why) | Signature::Unreadable(why) => {
            Err(bad(format!("{SIGNATURE} has no signature: {why}")))
        }
        Signature::Absent => Err(bad(format!("{SIGNATURE} has no signature"))),
    }
}

/// Reads a byte sequence of a structured field.
fn byte_sequence(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text.trim().strip_prefix(':')?.strip_suffix(':')?).ok()
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::Frame;

    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        [(http::HeaderName::from_static(name), value.parse().unwrap())].into_iter().collect()
    }

    /// A body that sends this many bytes, one at a time, and then nothing more.
    struct Stalled(usize);

    impl Body for Stalled {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            let Some(left) = self.0.checked_sub(1) else { return Poll::Pending };
            self.0 = left;
            // Others may run in between.
            cx.waker().wake_by_ref();
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    async fn received(
        files: &ServiceFiles<'_>,
        (whole, stall): (u64, u64),
        body: impl Body<Data = Bytes> + Unpin,
    ) -> Result<StagedFile, (u16, &'static str)> {
        let time = Duration::from_millis;
        let bounds = UploadBounds { most: 1000, whole: time(whole), stall: time(stall) };
        receive(files, bounds, &HeaderMap::new(), body).await.map_err(|why| (why.0.as_u16(), why.1))
    }

    /// Whatever arrives too late, too long or not at all leaves nothing.
    #[tokio::test]
    async fn uploads_are_bounded() {
        const LONG: u64 = 600_000;
        let directory = tempfile::tempdir().unwrap();
        let files = ServiceFiles::new(directory.path(), "users", 1000).unwrap();
        assert_eq!(received(&files, (LONG, 20), Stalled(3)).await.err(), Some((408, "too-slow")));
        assert_eq!(received(&files, (20, LONG), Stalled(3)).await.err(), Some((408, "too-slow")));
        assert_eq!(received(&files, (LONG, LONG), Stalled(1001)).await.err(), Some((413, "too-large")));
        let whole = http_body_util::Full::new(Bytes::from(vec![0; 1001]));
        assert_eq!(received(&files, (LONG, LONG), whole).await.err(), Some((413, "too-large")));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let whole = http_body_util::Full::new(Bytes::from_static(b"abc"));
        let staged = received(&files, (LONG, LONG), whole).await.ok().unwrap();
        assert_eq!((fs::read(staged.path()).unwrap(), staged.digest), (b"abc".to_vec(), Digest::of(b"abc")));
        drop(staged);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_written() {
        let files = ServiceFiles::new(Path::new("/nowhere"), "users", 1000).unwrap();
        let refused = receive(&files, UploadBounds::new(1000), &HeaderMap::new(), http_body_util::Empty::new())
            .await
            .err()
            .unwrap();
        assert_eq!((refused.0.as_u16(), refused.1), (409, "not-writable"));
        assert!(
            refused.2.contains("the host cannot write /nowhere: ") && refused.2.contains("come from"),
            "{}",
            refused.2
        );
    }

    #[test]
    fn digests_of_headers() {
        let abc = Digest::of(b"abc");
        let base64 = STANDARD.encode(Sha256::digest(b"abc"));
        let read = |value: &str| expected_digest(&headers(CONTENT_DIGEST, value)).map_err(|why| why.1);
        assert_eq!(read(&format!("sha-256=:{base64}:")), Ok(Some(abc)));
        assert_eq!(read(&format!("sha-512=:AAAA:, sha-256=:{base64}:")), Ok(Some(abc)));
        assert_eq!(read(&format!("sha-256=:{base64}:, sha-256=:{base64}:")), Ok(Some(abc)));
        let zeros = STANDARD.encode([0; 32]);
        assert_eq!(read(&format!("sha-256=:{base64}:, sha-256=:{zeros}:")), Err("bad-digest"));
        let mut two = headers(CONTENT_DIGEST, &format!("sha-256=:{base64}:"));
        two.append(CONTENT_DIGEST, format!("sha-256=:{zeros}:").parse().unwrap());
        assert_eq!(expected_digest(&two).err().map(|why| why.1), Some("bad-digest"));
        for wrong in ["", "sha-256", "sha-256=:AAAA:", "sha-512=:AAAA:", &format!("sha-256={base64}"), "sha-256=:*:"] {
            assert_eq!(read(wrong), Err("bad-digest"), "{wrong}");
        }
        assert!(expected_digest(&HeaderMap::new()).is_ok_and(|digest| digest.is_none()));
    }

    #[test]
    fn signatures_of_headers() {
        let read = |value: &str| signature(&headers(SIGNATURE, value)).map_err(|why| why.1);
        assert_eq!(read(":QUJDRA==:"), Ok(Some(b"ABCD".to_vec())));
        let long = format!(":{}:", STANDARD.encode(vec![0; 65 << 10]));
        let form = format!(":{}:", STANDARD.encode(vec![b'*'; 45 << 10]));
        for wrong in ["QUJDRA==", ":QUJDRA==", "::x", ":*:", "::", &long, &form] {
            assert_eq!(read(wrong), Err("bad-signature"));
        }
        assert!(signature(&HeaderMap::new()).is_ok_and(|text| text.is_none()));
    }
}
