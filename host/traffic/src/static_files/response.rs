//! What a request for a file gets: the file or a part of it, that it has not changed, another file, or the way to it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode, request, response};

use super::body::FileBody;
use super::path::FilePath;
use super::range::RequestedRange;
use super::root::{OpenFile, ReadFrom, RootDirectory, Unopened};
use super::{FilesError, StaticFiles, content_type};
use crate::cache::conditions::{Conditions, not_modified};
use crate::cache::freshness::date;
use crate::proxy::coding::AcceptedCodings;
use crate::proxy::headers::PREFIX;
use crate::proxy::lists::{self, Quoting};
use lodge_manifest::compress::Coding;

/// For how long after a change a second one may leave the same time and size, on any file system in use.
const RACY: Duration = Duration::from_secs(2);

/// The `Cache-Control` of what is sent in place of a file: another response may be right at any time.
fn revalidated() -> HeaderValue {
    HeaderValue::from_static("no-cache")
}

/// A response; `None` if it would wait for the disk.
type FileResponse = Option<(response::Parts, FileBody)>;

/// The file that is sent.
struct Chosen {
    /// Its name, by which its type is known.
    name: PathBuf,
    opened: OpenFile,
    status: StatusCode,
    cache_control: HeaderValue,
    /// It is sent in place of one that is not there.
    stands_in: bool,
}

impl StaticFiles {
    /// Looks for the file of a request, and reads its first bytes.
    pub(super) fn look_up(
        &self,
        head: &request::Parts,
        path: Option<&FilePath>,
        access: ReadFrom,
    ) -> Result<FileResponse, FilesError> {
        if access == ReadFrom::Memory
            && let Some(root) = self.root.recent()
            && let Ok(Ok(chosen)) = self.choose(&root, head, path, access)
            && !chosen.stands_in
        {
            return self.send(&root, head, chosen, access);
        }
        let found =
            self.root.current(access).and_then(|root| self.choose(&root, head, path, access).map(|it| (root, it)));
        match found {
            Ok((root, Ok(chosen))) => self.send(&root, head, chosen, access),
            Ok((_, Err(redirect))) => Ok(Some((redirect, FileBody::empty()))),
            Err(Unopened::WouldWait) => Ok(None),
            Err(Unopened::Absent | Unopened::Forbidden(_)) => Err(FilesError::NotFound),
            Err(Unopened::NoRoot(why)) => Err(FilesError::NoRoot(why)),
            Err(Unopened::Unreadable(why)) => Err(FilesError::Unreadable(why)),
        }
    }

    /// Opens a file or a directory; `None` if there is none, or none that the host may read.
    fn open(&self, root: &RootDirectory, path: &Path, access: ReadFrom) -> Result<Option<OpenFile>, Unopened> {
        match root.open(path, access) {
            Ok(opened) => Ok(Some(opened)),
            Err(Unopened::Absent) => Ok(None),
            Err(Unopened::Forbidden(why)) => {
                self.warn(&format!("{}: {why}", path.display()));
                Ok(None)
            }
            Err(Unopened::Unreadable(why)) => Err(Unopened::Unreadable(format!("{}: {why}", path.display()))),
            Err(error) => Err(error),
        }
    }

    /// Opens the file of a path, or one of those that stand for it. Returns a redirect for the path of a directory without `/`.
    /// Without a path, which no file can have, only the file for that is left.
    fn choose(
        &self,
        root: &RootDirectory,
        head: &request::Parts,
        path: Option<&FilePath>,
        access: ReadFrom,
    ) -> Result<Result<Chosen, response::Parts>, Unopened> {
        let own = |name: PathBuf, opened| {
            let cache_control = self.spec.cache_control.clone();
            Ok(Ok(Chosen { name, opened, status: StatusCode::OK, cache_control, stands_in: false }))
        };
        if let Some(path) = path {
            match self.open(root, &path.path, access)? {
                Some(opened) if opened.is_directory => {
                    let index = path.path.join(&self.spec.index);
                    match self.open(root, &index, access)?.filter(|opened| !opened.is_directory) {
                        Some(opened) if path.directory => return own(index, opened),
                        // Relative links in the file would lead elsewhere.
                        Some(_) => return redirect(head).map(Err).ok_or(Unopened::Absent),
                        None => {}
                    }
                }
                Some(opened) if !path.directory => return own(path.path.clone(), opened),
                _ => {}
            }
        }
        let fallback = self.spec.fallback.as_ref().filter(|_| path.is_some_and(|path| !path.has_extension()));
        let instead = [(fallback, StatusCode::OK), (self.spec.not_found.as_ref(), StatusCode::NOT_FOUND)];
        for (name, status) in instead.into_iter().filter_map(|(name, status)| Some((name?, status))) {
            if let Some(opened) = self.open(root, Path::new(name), access)?.filter(|opened| !opened.is_directory) {
                let (name, cache_control) = (name.into(), revalidated());
                return Ok(Ok(Chosen { name, opened, status, cache_control, stands_in: true }));
            }
        }
        Err(Unopened::Absent)
    }

    /// Returns the response with this file, or with a compressed one beside it.
    fn send(
        &self,
        root: &RootDirectory,
        head: &request::Parts,
        mut chosen: Chosen,
        access: ReadFrom,
    ) -> Result<FileResponse, FilesError> {
        let (mut sent, ()) = http::Response::new(()).into_parts();
        sent.status = chosen.status;
        sent.headers.insert(header::CONTENT_TYPE, content_type::of(&chosen.name));
        sent.headers.insert(header::CACHE_CONTROL, chosen.cache_control.clone());
        let mut tagged = "";
        if self.spec.precompressed {
            sent.headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
            for coding in AcceptedCodings::of(&head.headers).among(&Coding::ALL) {
                match beside(root, &chosen, coding, access) {
                    Ok(opened) => {
                        (chosen.opened, tagged) = (opened, coding.extension());
                        sent.headers.insert(header::CONTENT_ENCODING, coding.value());
                        break;
                    }
                    Err(Unopened::WouldWait) => return Ok(None),
                    Err(_) => {}
                }
            }
        }
        let size = chosen.opened.size;
        let mut range = 0..size;
        if chosen.status == StatusCode::OK {
            chosen.opened.write_validators(tagged, &mut sent.headers, (self.clock)());
            sent.headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
            check_preconditions(&head.headers, &sent.headers)?;
            if is_known(&head.headers, &sent.headers) {
                not_modified(&mut sent);
                sent.headers.remove(header::ACCEPT_RANGES);
                return Ok(Some((sent, FileBody::empty())));
            }
            match part(head, &sent.headers, size) {
                RequestedRange::All => {}
                RequestedRange::None => return Err(FilesError::Range(size)),
                RequestedRange::Bytes(bytes) => {
                    let text = format!("bytes {}-{}/{size}", bytes.start, bytes.end.saturating_sub(1));
                    sent.headers.extend(HeaderValue::try_from(text).ok().map(|value| (header::CONTENT_RANGE, value)));
                    sent.status = StatusCode::PARTIAL_CONTENT;
                    range = bytes;
                }
            }
        }
        sent.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end.saturating_sub(range.start)));
        if head.method == Method::HEAD {
            return Ok(Some((sent, FileBody::empty())));
        }
        let body = FileBody::open(chosen.opened, range, &self.disk, access)?;
        Ok(body.map(|body| (sent, body)))
    }
}

/// Opens the compressed file beside a file. One that is older than the file is not its own any more.
fn beside(root: &RootDirectory, chosen: &Chosen, coding: Coding, access: ReadFrom) -> Result<OpenFile, Unopened> {
    let mut name = chosen.name.clone().into_os_string();
    name.push(coding.extension());
    let opened = root.open(Path::new(&name), access)?;
    let is_current = !opened.is_directory && opened.modified >= chosen.opened.modified;
    if is_current { Ok(opened) } else { Err(Unopened::Absent) }
}

impl OpenFile {
    /// Writes `ETag` and `Last-Modified`, from the time at which the kernel saw the last change: programs set the time of the
    /// content, and tools that build reproducibly set the same one for every content. Writes neither while a further change might
    /// leave the same time. `coding` distinguishes the codings of one file.
    fn write_validators(&self, coding: &str, headers: &mut HeaderMap, now: SystemTime) {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if i128::try_from(now.as_nanos()).unwrap_or_default() - self.changed < RACY.as_nanos() as i128 {
            return;
        }
        let tag = HeaderValue::try_from(format!("\"{:x}-{:x}-{:x}{coding}\"", self.changed, self.modified, self.size));
        headers.extend(tag.ok().map(|tag| (header::ETAG, tag)));
        let date = self.changed().and_then(|time| HeaderValue::try_from(httpdate::fmt_http_date(time)).ok());
        headers.extend(date.map(|date| (header::LAST_MODIFIED, date)));
    }
}

/// Whether the client has the file. Of `If-Modified-Since`, only the date that was sent with the file says that it has not
/// changed: a later one remains when an older file returns.
fn is_known(request: &HeaderMap, response: &HeaderMap) -> bool {
    let dated = request.get(header::IF_MODIFIED_SINCE) == response.get(header::LAST_MODIFIED);
    (dated || request.contains_key(header::IF_NONE_MATCH))
        && Conditions::of(request).match_response(StatusCode::OK, response)
}

/// Checks `If-Match`, or else `If-Unmodified-Since` (RFC 9110, 13.2.2).
fn check_preconditions(request: &HeaderMap, response: &HeaderMap) -> Result<(), FilesError> {
    let holds = if request.contains_key(header::IF_MATCH) {
        let tag = response.get(header::ETAG).map(HeaderValue::as_bytes);
        let same = |one: &[u8]| one == b"*" || (tag == Some(one) && !one.starts_with(b"W/"));
        lists::elements(request, &header::IF_MATCH, Quoting::Literal).any(same)
    } else {
        let since = date(request.get(header::IF_UNMODIFIED_SINCE));
        since.zip(date(response.get(header::LAST_MODIFIED))).is_none_or(|(since, modified)| modified <= since)
    };
    if holds { Ok(()) } else { Err(FilesError::Precondition) }
}

/// Returns the part of the file that a request is for.
fn part(head: &request::Parts, response: &HeaderMap, size: u64) -> RequestedRange {
    let mut ranges = head.headers.get_all(header::RANGE).iter();
    let (Some(range), None, &Method::GET) = (ranges.next(), ranges.next(), &head.method) else {
        return RequestedRange::All;
    };
    let is_current = |condition: &HeaderValue| {
        let tag = response.get(header::ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
        tag == Some(condition) || tag.is_some() && response.get(header::LAST_MODIFIED) == Some(condition)
    };
    // The whole file, where the client has another one.
    if head.headers.get_all(header::IF_RANGE).iter().all(is_current) {
        RequestedRange::read(range, size)
    } else {
        RequestedRange::All
    }
}

/// Returns the redirect to a path with `/` at its end. Relative, because a proxy may have removed a part of the path.
fn redirect(head: &request::Parts) -> Option<response::Parts> {
    let last = |path: &str| Some(path.rsplit_once('/')?.1.to_owned()).filter(|last| !last.is_empty());
    let of_prefix = || last(head.headers.get(PREFIX)?.to_str().ok()?);
    let last = last(head.uri.path()).or_else(of_prefix)?;
    let query = head.uri.query().map_or(String::new(), |query| format!("?{query}"));
    let (mut sent, ()) = http::Response::new(()).into_parts();
    sent.status = StatusCode::MOVED_PERMANENTLY;
    sent.headers.insert(header::LOCATION, HeaderValue::try_from(format!("./{last}/{query}")).ok()?);
    sent.headers.insert(header::CACHE_CONTROL, revalidated());
    sent.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
    Some(sent)
}
