//! The operations of S3 that objects are made of.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Incoming;
use lodge_state::blobs::{BlobError, MAX_NAMES};
use tokio::time::Instant;

use crate::failure::{MAX_ERROR, S3Failure, named_failure, unavailable};
use crate::transport::{ATTEMPT, LONG_ATTEMPT, S3Lane, S3Request};
use crate::xml;

/// The most bytes of a page of a listing, and of a record.
const MAX_PAGE: usize = 8 << 20;
const MAX_RECORD: usize = 1 << 10;

/// On what a write depends.
#[derive(Clone, Debug)]
pub(crate) enum WriteCondition {
    /// Nothing.
    Always,
    /// There is nothing with the key.
    Absent,
    /// What is there has this tag.
    Unchanged(String),
}

/// What is known of an object.
#[derive(Clone, Debug)]
pub(crate) struct ObjectHead {
    pub(crate) bytes: u64,
    pub(crate) tag: String,
    pub(crate) modified: SystemTime,
}

/// An object in a listing.
#[derive(Debug)]
pub(crate) struct ListedObject {
    pub(crate) key: String,
    pub(crate) bytes: u64,
    /// As `2013-05-24T00:00:00…`.
    pub(crate) modified: String,
    /// Another one after every change.
    pub(crate) tag: String,
}

/// A page of a listing.
#[derive(Debug)]
pub(crate) struct ListedPage {
    pub(crate) objects: Vec<ListedObject>,
    /// Where the next page begins; `None` after the last.
    pub(crate) next: Option<String>,
}

/// An upload in parts.
#[derive(Clone, Debug)]
pub(crate) struct PartsOf {
    pub(crate) key: String,
    pub(crate) id: String,
}

fn request(method: Method, key: &str) -> S3Request {
    S3Request {
        method,
        key: key.to_owned(),
        query: Vec::new(),
        headers: Vec::new(),
        body: Bytes::new(),
        hash: None,
        attempt: ATTEMPT,
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The tag in a response. It is sent again in headers and in XML.
fn tag(headers: &HeaderMap) -> Result<String, BlobError> {
    let valid = |byte: u8| byte.is_ascii_graphic() && !b"<>&".contains(&byte);
    header(headers, "etag")
        .filter(|tag| tag.len() <= 256 && tag.bytes().all(valid))
        .map(str::to_owned)
        .ok_or_else(|| unavailable("a response has no valid ETag"))
}

impl S3Lane {
    /// Begins to read an object: the bytes of `range`, both included, or all.
    pub(crate) async fn get(
        &self,
        key: &str,
        range: Option<(u64, u64)>,
        tag: Option<&str>,
        deadline: Instant,
    ) -> Result<(Response<Incoming>, String), S3Failure> {
        let mut request = request(Method::GET, key);
        request.headers.extend(range.map(|(start, end)| ("range", format!("bytes={start}-{end}"))));
        request.headers.extend(tag.map(|tag| ("if-match", tag.to_owned())));
        let response = self.send(&request, deadline).await?;
        let expected = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        if response.status() != expected {
            return Err(unavailable(format!("status {} for a part of an object", response.status().as_u16())).into());
        }
        let tag = self::tag(response.headers())?;
        Ok((response, tag))
    }

    /// Reads a record, and its tag.
    pub(crate) async fn record(&self, key: &str, deadline: Instant) -> Result<(String, String), S3Failure> {
        let (headers, content) = self.send_and_read(&request(Method::GET, key), MAX_RECORD, deadline).await?;
        Ok((String::from_utf8_lossy(&content).into_owned(), tag(&headers)?))
    }

    pub(crate) async fn head(&self, key: &str, deadline: Instant) -> Result<Option<ObjectHead>, BlobError> {
        let response = match self.send(&request(Method::HEAD, key), deadline).await {
            Ok(response) => response,
            Err(S3Failure::Missing) => return Ok(None),
            Err(other) => return Err(other.or(BlobError::NoObject)),
        };
        let headers = response.headers();
        let bytes = header(headers, "content-length").and_then(|text| text.parse().ok());
        let modified = header(headers, "last-modified").and_then(|text| httpdate::parse_http_date(text).ok());
        let bytes = bytes.ok_or_else(|| unavailable("a response has no Content-Length"))?;
        Ok(Some(ObjectHead { bytes, tag: tag(headers)?, modified: modified.unwrap_or(SystemTime::UNIX_EPOCH) }))
    }

    pub(crate) async fn put(
        &self,
        key: &str,
        (body, hash): (Bytes, Option<String>),
        condition: WriteCondition,
        deadline: Instant,
    ) -> Result<(), S3Failure> {
        let mut request = S3Request { body, hash, ..request(Method::PUT, key) };
        match condition {
            WriteCondition::Always => {}
            WriteCondition::Absent => request.headers.push(("if-none-match", "*".into())),
            WriteCondition::Unchanged(tag) => request.headers.push(("if-match", tag)),
        }
        self.finish(&request, deadline).await.map(drop)
    }

    /// Deletes what has a key, if anything does.
    pub(crate) async fn remove(&self, key: &str, deadline: Instant) -> Result<(), BlobError> {
        match self.finish(&request(Method::DELETE, key), deadline).await {
            Ok(_) | Err(S3Failure::Missing) => Ok(()),
            Err(other) => Err(other.or(BlobError::NoObject)),
        }
    }

    /// Deletes what has a key if it still has a tag, as far as the server can tell; false if it does not.
    pub(crate) async fn remove_unchanged(&self, key: &str, tag: &str, deadline: Instant) -> Result<bool, BlobError> {
        let mut request = request(Method::DELETE, key);
        request.headers.push(("if-match", tag.to_owned()));
        match self.finish(&request, deadline).await {
            Ok(_) => Ok(true),
            Err(S3Failure::Missing | S3Failure::Changed) => Ok(false),
            Err(other) => Err(other.or(BlobError::NoObject)),
        }
    }

    /// Copies an object that has a tag.
    pub(crate) async fn duplicate(&self, from: (&str, &str), to: &str, deadline: Instant) -> Result<(), S3Failure> {
        let (key, tag) = from;
        let mut request = S3Request { attempt: LONG_ATTEMPT, ..request(Method::PUT, to) };
        request.headers.push(("x-amz-copy-source", format!("/{}/{key}", self.bucket())));
        request.headers.push(("x-amz-copy-source-if-match", tag.to_owned()));
        let document = self.finish(&request, deadline).await?;
        completed(&document, "CopyObjectResult")
    }

    /// Begins an upload in parts.
    pub(crate) async fn begin_parts(&self, key: &str, deadline: Instant) -> Result<PartsOf, S3Failure> {
        let mut request = request(Method::POST, key);
        request.query.push(("uploads", String::new()));
        let document = self.finish(&request, deadline).await?;
        let id = xml::text(&document, "UploadId").map(xml::unescape).filter(|id| !id.is_empty() && id.len() <= 1024);
        let id = id.ok_or_else(|| unavailable("a response has no UploadId"))?;
        Ok(PartsOf { key: key.to_owned(), id })
    }

    /// Sends a part, and returns its tag.
    pub(crate) async fn put_part(
        &self,
        of: &PartsOf,
        number: usize,
        (body, hash): (Bytes, String),
        deadline: Instant,
    ) -> Result<String, S3Failure> {
        let mut request = S3Request { body, hash: Some(hash), ..request(Method::PUT, &of.key) };
        request.query = vec![("partNumber", number.to_string()), ("uploadId", of.id.clone())];
        let response = self.send(&request, deadline).await?;
        Ok(tag(response.headers())?)
    }

    /// Makes an object of parts.
    pub(crate) async fn join_parts(&self, of: &PartsOf, tags: &[String], deadline: Instant) -> Result<(), S3Failure> {
        let parts = tags.iter().enumerate().map(|(at, tag)| {
            format!("<Part><PartNumber>{}</PartNumber><ETag>{tag}</ETag></Part>", at.saturating_add(1))
        });
        let document = parts.collect::<String>();
        let document = format!("<CompleteMultipartUpload>{document}</CompleteMultipartUpload>");
        let mut request = S3Request { body: document.into(), attempt: LONG_ATTEMPT, ..request(Method::POST, &of.key) };
        request.query.push(("uploadId", of.id.clone()));
        let document = self.finish(&request, deadline).await?;
        completed(&document, "CompleteMultipartUploadResult")
    }

    /// Removes the parts of an upload.
    pub(crate) async fn abort_parts(&self, of: &PartsOf, deadline: Instant) -> Result<(), BlobError> {
        let mut request = request(Method::DELETE, &of.key);
        request.query.push(("uploadId", of.id.clone()));
        match self.finish(&request, deadline).await {
            Ok(_) | Err(S3Failure::Missing) => Ok(()),
            Err(other) => Err(other.or(BlobError::NoObject)),
        }
    }

    /// Lists keys that begin with `prefix`, from a page's end on.
    pub(crate) async fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        most: usize,
        deadline: Instant,
    ) -> Result<ListedPage, BlobError> {
        let mut request = request(Method::GET, "");
        request.query.extend(after.map(|token| ("continuation-token", token.to_owned())));
        request.query.push(("list-type", "2".into()));
        request.query.push(("max-keys", most.clamp(1, MAX_NAMES).to_string()));
        request.query.push(("prefix", prefix.to_owned()));
        let read = self.send_and_read(&request, MAX_PAGE, deadline).await;
        let (_, document) = read.map_err(|failure| failure.or(no_bucket()))?;
        let page = read_page(&String::from_utf8_lossy(&document), prefix)?;
        if page.next.is_some() && page.next.as_deref() == after {
            return Err(unavailable("a listing has the same page again"));
        }
        Ok(page)
    }

    /// Returns uploads in parts, of keys that begin with `prefix`, that began before a time; some of them, if there are many.
    pub(crate) async fn old_parts(
        &self,
        prefix: &str,
        before: &str,
        deadline: Instant,
    ) -> Result<Vec<PartsOf>, BlobError> {
        let mut request = request(Method::GET, "");
        request.query = vec![("prefix", prefix.to_owned()), ("uploads", String::new())];
        let read = self.send_and_read(&request, MAX_PAGE, deadline).await;
        let (_, document) = read.map_err(|failure| failure.or(no_bucket()))?;
        let document = String::from_utf8_lossy(&document);
        let old = xml::elements(&document, "Upload").filter_map(|upload| {
            let (key, id) = (xml::text(upload, "Key")?, xml::text(upload, "UploadId")?);
            let is_old = xml::text(upload, "Initiated")? < before && key.starts_with(prefix);
            is_old.then(|| PartsOf { key: key.to_owned(), id: xml::unescape(id) })
        });
        Ok(old.take(MAX_NAMES).collect())
    }

    /// Sends a request whose response has little content, and reads that.
    async fn finish(&self, request: &S3Request, deadline: Instant) -> Result<String, S3Failure> {
        let (_, content) = self.send_and_read(request, MAX_ERROR, deadline).await?;
        Ok(String::from_utf8_lossy(&content).into_owned())
    }
}

fn no_bucket() -> BlobError {
    unavailable("there is no such bucket: create it, or correct `state.blobs`")
}

/// Whether a response with status 200 says that the request was done. The server begins it before it knows.
fn completed(document: &str, result: &str) -> Result<(), S3Failure> {
    match xml::text(document, result) {
        Some(_) => Ok(()),
        None => Err(named_failure(StatusCode::OK, document)),
    }
}

fn read_page(document: &str, prefix: &str) -> Result<ListedPage, BlobError> {
    let truncated = xml::text(document, "IsTruncated").ok_or_else(|| unavailable("a listing is not complete"))?;
    let objects = xml::elements(document, "Contents").filter_map(|object| {
        let key = xml::text(object, "Key").filter(|key| key.starts_with(prefix))?;
        // An object must not disappear from listings, counts and clean-up for want of its size.
        let Some(bytes) = xml::text(object, "Size").and_then(|size| size.trim().parse().ok()) else {
            return Some(Err(unavailable("a listing names an object without its size")));
        };
        let modified = xml::text(object, "LastModified").unwrap_or_default();
        let tag = xml::text(object, "ETag").unwrap_or_default();
        Some(Ok(ListedObject { key: key.to_owned(), bytes, modified: modified.to_owned(), tag: tag.to_owned() }))
    });
    let objects = objects.collect::<Result<_, _>>()?;
    let next = xml::text(document, "NextContinuationToken").map(xml::unescape).filter(|_| truncated == "true");
    if truncated == "true" && next.is_none() {
        return Err(unavailable("a listing has more, and does not say where"));
    }
    Ok(ListedPage { objects, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read() {
        let page = read_page(
            "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>a&amp;b=</NextContinuationToken>\
             <Contents><Key>p/a</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>7</Size></Contents>\
             <Contents><Key>foreign</Key><Size>7</Size></Contents></ListBucketResult>",
            "p/",
        )
        .unwrap();
        assert_eq!((page.next.as_deref(), page.objects.len()), (Some("a&b="), 1));
        assert_eq!((page.objects[0].key.as_str(), page.objects[0].bytes), ("p/a", 7));
        for size in ["", "<Size></Size>", "<Size>many</Size>"] {
            let object = format!("<Contents><Key>p/a</Key>{size}</Contents>");
            let error = read_page(&format!("<IsTruncated>false</IsTruncated>{object}"), "p/").err().unwrap();
            assert!(error.to_string().contains("without its size"), "{error}");
        }
        assert!(read_page("<html>", "").is_err());
        assert!(read_page("<IsTruncated>true</IsTruncated>", "").is_err());
    }

    /// The server says 200 before it knows how the request ends.
    #[test]
    fn a_failure_after_the_head_is_one() {
        assert_eq!(completed("<CopyObjectResult xmlns='x'></CopyObjectResult>", "CopyObjectResult"), Ok(()));
        let failure = completed("<Error><Code>InternalError</Code></Error>", "CopyObjectResult").unwrap_err();
        assert!(failure.or(BlobError::NoObject).to_string().contains("InternalError"));
        assert!(completed("", "CopyObjectResult").is_err());
        assert_eq!(completed("<Error><Code>NoSuchUpload</Code></Error>", "CopyObjectResult"), Err(S3Failure::Missing));
    }
}
