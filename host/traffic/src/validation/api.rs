//! The operations of an API, as a document of OpenAPI 3.1 describes them: which there are, and what their parameters and bodies have to
//! be.
//!
//! * `document` reads the document; `hints`: what is valid in it, and may be a slip.
//! * `parameters`: values in paths, queries, headers and cookies.
//! * `responses`: what services may respond, which `lodge dev` checks.

mod document;
mod hints;
mod parameters;
mod response_status;
pub(super) mod responses;

use std::sync::Arc;

use http::header::HeaderName;
use http::{HeaderMap, Method};

use self::parameters::ApiParameter;
use self::response_status::ResponseStatus;
use self::responses::ApiWithResponses;
use super::schema::Schema;
use super::schema::node::{NodeId, SchemaNode};
use super::{
    BodyContent, ExpectedBody, OtherType, RequestHead, ValidationFault, content_type, is_identity, is_json, is_token,
};
use crate::live_files::LiveValue;
use lodge_base::canonical;
use lodge_base::headers::is_same;
use lodge_manifest::route::Segment;
use lodge_manifest::validate::api::ApiDocument;

/// The document that requests have to agree with.
#[derive(Debug)]
pub(super) struct ApiCheck {
    pub(super) settings: ApiDocument,
    /// `None` until the file is read; there are no operations until then.
    pub(super) api: Option<Arc<LiveValue<Api>>>,
    /// The same with what it says of responses; `None` where these are not checked.
    pub(super) responses: Option<Arc<LiveValue<ApiWithResponses>>>,
}

/// The operations of an API.
#[derive(Debug)]
pub(super) struct Api {
    nodes: Arc<[SchemaNode]>,
    /// In the order in which they are tried: names come before parameters.
    paths: Vec<ApiPath>,
}

/// A path and its operations.
#[derive(Debug)]
struct ApiPath {
    segments: Vec<Segment>,
    operations: Vec<(Method, ApiOperation)>,
}

/// An operation.
#[derive(Debug)]
struct ApiOperation {
    /// In the order of their places and names.
    parameters: Vec<ApiParameter>,
    /// Shared by the operations that refer to it.
    body: Option<Arc<OperationBody>>,
    /// None where they are not checked.
    responses: Vec<OperationResponse>,
}

/// A response of an operation.
#[derive(Debug)]
struct OperationResponse {
    status: ResponseStatus,
    /// `None` if nothing is said of it.
    body: Option<Arc<OperationBody>>,
}

/// The body of an operation.
#[derive(Debug)]
struct OperationBody {
    required: bool,
    types: Vec<OperationType>,
}

/// A type of content that a body may have.
#[derive(Debug)]
struct OperationType {
    /// A media type or a range of them such as `text/*`, in lower case.
    kind: String,
    /// What it has to be if it is JSON.
    schema: Option<NodeId>,
}

impl ApiCheck {
    pub(super) fn new(settings: ApiDocument) -> Self {
        Self { settings, api: None, responses: None }
    }

    /// As [`super::RequestChecks::expected`].
    pub(super) fn expected(&self, head: &RequestHead<'_>) -> Result<Option<ExpectedBody>, ValidationFault> {
        let path = canonical::only_reading(head.uri.path()).ok_or(ValidationFault::Ambiguous)?;
        let api = self.api.as_ref().ok_or(ValidationFault::Unavailable)?.load();
        let below = path.strip_prefix(&*self.settings.base).filter(|path| path.starts_with('/'));
        api.expected(below.ok_or(ValidationFault::Path)?, head, self.settings.size)
    }
}

impl ApiCheck {
    /// Whether a header is a parameter of any operation.
    pub(super) fn has_header(&self, name: &HeaderName) -> bool {
        self.api.as_ref().is_some_and(|api| api.load().has_header(name))
    }
}

impl Api {
    fn has_header(&self, name: &HeaderName) -> bool {
        let operations = self.paths.iter().flat_map(|path| &path.operations);
        let mut headers =
            operations.flat_map(|(_, operation)| &operation.parameters).filter_map(|it| it.header.as_ref());
        headers.any(|header| is_same(header.as_str(), name.as_str()))
    }

    /// The most bytes of a document.
    pub(super) const MOST_BYTES: u64 = 4 << 20;

    /// Reads the text of a document.
    ///
    /// # Errors
    /// One line: what is wrong, and where.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        document::read(text, false)
    }

    /// Returns what may be mistaken in the text of a document, a line each.
    pub(super) fn hints(text: &str) -> Vec<String> {
        hints::hints(text)
    }

    /// Whether an operation is below a path that the service sees: with `base` before the paths of the document.
    pub(super) fn reaches(&self, base: &str, seen: &[Segment]) -> bool {
        let fits = |(one, other): (&Segment, &Segment)| match (one, other) {
            (Segment::Name(one), Segment::Name(other)) => one == other,
            _ => true,
        };
        let base: Vec<_> = segments(base).into_iter().map(|name| Segment::Name(name.to_owned())).collect();
        let mut paths = self.paths.iter().filter(|path| !path.operations.is_empty());
        paths.any(|path| {
            let whole = || base.iter().chain(&path.segments);
            whole().count() >= seen.len() && whole().zip(seen).all(fits)
        })
    }

    /// Returns the number of operations.
    pub(super) fn count(&self) -> usize {
        self.paths.iter().map(|path| path.operations.len()).sum()
    }

    /// Checks the head of a request with this path, which has no other spelling. `size` is the most bytes of a body of JSON.
    pub(super) fn expected(
        &self,
        path: &str,
        head: &RequestHead<'_>,
        size: usize,
    ) -> Result<Option<ExpectedBody>, ValidationFault> {
        let segments = segments(path);
        let path = self.paths.iter().find(|path| path.matches(&segments)).ok_or(ValidationFault::Path)?;
        let operation = path.operation(head.method).ok_or_else(|| ValidationFault::Method(path.allow()))?;
        let errors = parameters::check(&operation.parameters, &segments, head, &self.nodes);
        if !errors.is_empty() {
            return Err(ValidationFault::Parameters(errors));
        }
        let required = operation.body.as_ref().is_some_and(|body| body.required);
        ExpectedBody::of(head.body, required, size, || {
            let body = operation.body.as_ref().ok_or(ValidationFault::Unexpected)?;
            let schema = body.schema(head.headers)?;
            Ok(schema.map_or(BodyContent::Any, |root| BodyContent::Json(self.schema(root))))
        })
    }

    fn schema(&self, root: NodeId) -> Schema {
        Schema { nodes: Arc::clone(&self.nodes), root }
    }
}

/// Returns the segments of a path: none for `/`, and an empty last one for a path that ends with a slash.
fn segments(path: &str) -> Vec<&str> {
    match path.strip_prefix('/').unwrap_or(path) {
        "" => Vec::new(),
        path => path.split('/').collect(),
    }
}

impl ApiPath {
    fn matches(&self, path: &[&str]) -> bool {
        let fits = |(segment, part): (&Segment, &&str)| match segment {
            Segment::Name(name) => name == part,
            Segment::Parameter(_) => !part.is_empty(),
        };
        self.segments.len() == path.len() && self.segments.iter().zip(path).all(fits)
    }

    /// Returns the operation of a method. `HEAD` is the `GET` of a path that has none of its own.
    fn operation(&self, method: &Method) -> Option<&ApiOperation> {
        let of = |method: &Method| self.operations.iter().find(|(known, _)| known == method).map(|(_, found)| found);
        of(method).or_else(|| of(&Method::GET).filter(|_| *method == Method::HEAD))
    }

    /// Returns the value of `Allow`.
    fn allow(&self) -> String {
        let mut methods: Vec<_> = self.operations.iter().map(|(method, _)| method.as_str()).collect();
        if methods.contains(&"GET") {
            methods.push("HEAD");
        }
        methods.sort_unstable();
        methods.dedup();
        methods.join(", ")
    }
}

impl OperationBody {
    /// Returns the schema that a body with these headers has to meet; `None` if there is none for it.
    fn schema(&self, headers: &HeaderMap) -> Result<Option<NodeId>, ValidationFault> {
        let other = || {
            let kinds: Vec<_> = self.types.iter().map(|known| &*known.kind).collect();
            ValidationFault::Type(OtherType::of(headers, kinds.join(", ")))
        };
        let whole = content_type(headers).ok_or_else(other)?;
        let kind = whole.split(';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
        // A service may take anything else, such as `application/json,`, for JSON.
        if !kind.split_once('/').is_some_and(|(kind, sub)| is_token(kind) && is_token(sub)) {
            return Err(other());
        }
        let fits = |known: &&OperationType| match known.kind.strip_suffix('*') {
            Some("*/") => true,
            Some(start) => kind.starts_with(start),
            None => known.kind == kind,
        };
        // The most specific one.
        let found = self.types.iter().filter(fits).max_by_key(|known| (!known.kind.ends_with('*'), known.kind.len()));
        let schema = found.ok_or_else(other)?.schema.filter(|_| is_json(&kind));
        if schema.is_some() && !is_json(whole) {
            return Err(other());
        }
        if schema.is_some() && !is_identity(headers) {
            return Err(ValidationFault::Coding);
        }
        Ok(schema)
    }
}

#[cfg(test)]
mod tests;
