//! Validation of requests by JSON Schema and OpenAPI, before a sandbox is made.
//!
//! * `api`: the operations of a service, and what their parameters and bodies have to be.
//! * `changes`: which headers of a request its service gets from the manifest.
//! * [`schema`]: a schema, read and compiled once.
//! * [`json`]: a body, read within bounds; [`number`]: its numbers.
//! * `yaml`: documents, read as JSON.
//! * [`evaluation`]: whether a body meets a schema, within a number of steps.
//! * [`room`]: what it uses of the host.
//! * `routes`: whether documents have operations for the routes of their services.
//! * `fault`: why a request is not passed on.
//! * [`sources`]: the files of schemas, which are read again when they change.
//!
//! Everything that does not meet what is expected is refused: other types of content, a key that an object has twice, and what would
//! take too long to check.

mod api;
mod changes;
pub mod evaluation;
mod fault;
#[doc(hidden)]
pub mod fuzz;
pub mod json;
pub mod number;
mod other_type;
pub mod room;
mod routes;
pub mod schema;
pub mod sources;
mod yaml;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, Uri};

use self::api::ApiCheck;
pub use self::changes::ManifestChanges;
use self::evaluation::Invalid;
pub use self::fault::ValidationFault;
use self::json::{Json, JsonBounds};
pub use self::other_type::OtherType;
use self::schema::Schema;
use crate::live_files::{LiveValue, OF_SERVICE};
use lodge_base::headers::is_same;
use lodge_manifest::policies::Policies;
use lodge_manifest::validate::{BodySchema, Validation};

/// The bounds of a body, besides its bytes.
const BOUNDS: JsonBounds = JsonBounds { depth: 64, values: 100_000 };

/// The most steps for a body: some tens of milliseconds.
const STEPS: usize = 2_000_000;

/// The most steps for a body on a thread of requests: some tenths of a millisecond.
const QUICK_STEPS: usize = 20_000;

/// The most bytes of a body that is read on a thread of requests.
const QUICK_BYTES: usize = 32 << 10;

/// What the requests to a service have to be.
#[derive(Debug)]
pub struct RequestChecks {
    /// For requests on routes without a check of their own.
    service: RequestCheck,
    /// By the number of the route. `None` where the service's applies.
    routes: Vec<Option<RequestCheck>>,
    /// The service, which the log names beside its files for as long as this lives.
    _user: Option<Arc<str>>,
}

/// What a request has to be.
#[derive(Debug)]
enum RequestCheck {
    Any,
    Body(BodyCheck),
    Api(ApiCheck),
}

/// What the body of a request has to be.
#[derive(Debug)]
struct BodyCheck {
    settings: BodySchema,
    /// `None` until the file is read; nothing is valid until then.
    schema: Option<Arc<LiveValue<Schema>>>,
}

/// The head of a request, as far as it is checked.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The URI as the service sees it, with a normal path.
    pub uri: &'a Uri,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// What the manifest makes of the headers.
    pub changes: ManifestChanges<'a>,
    /// Whether a body follows.
    pub body: BodyPresence,
}

/// Whether a request has a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyPresence {
    /// It has none.
    Absent,
    /// It has at least one byte.
    Present,
    /// The first bytes tell, or the end.
    Unknown,
}

/// What the body of one request has to be.
#[derive(Clone, Debug)]
pub struct ExpectedBody {
    content: BodyContent,
    required: bool,
    size: usize,
}

/// What a body has to be, if there is one.
#[derive(Clone, Debug)]
enum BodyContent {
    /// Anything.
    Any,
    /// JSON that meets a schema.
    Json(Schema),
    /// There must be none.
    Refused(ValidationFault),
}

impl RequestChecks {
    /// Returns the checks of a service; `None` if it takes any requests.
    pub fn new(policies: &Policies) -> Option<Self> {
        let service = policies.service.validation.as_ref().map_or(RequestCheck::Any, RequestCheck::new);
        let routes = policies.routes.iter().map(|(_, policies)| policies.validation.as_ref().map(RequestCheck::new));
        let checks = Self { service, routes: routes.collect(), _user: None };
        let any = checks.routes.iter().flatten().chain([&checks.service]).all(|it| matches!(it, RequestCheck::Any));
        (!any).then_some(checks)
    }

    /// Returns the checks, to read their files.
    fn all(&mut self) -> impl Iterator<Item = &mut RequestCheck> {
        self.routes.iter_mut().flatten().chain([&mut self.service])
    }

    /// Returns why files that say what is valid cannot be used now, a line each. What they had before is in force.
    pub fn problems(&self) -> Vec<String> {
        self.lines(|key, _, (problem, _)| problem.map(|line| format!("{key}: {line}")).into_iter().collect())
    }

    /// Returns what may be mistaken in the files that say what is valid, a line each.
    pub fn hints(&self) -> Vec<String> {
        let said = |key: &str, file: &Path, hint: String| format!("{key}: {}: {hint}", file.display());
        self.lines(|key, file, (_, hints)| hints.into_iter().map(|hint| said(key, file, hint)).collect())
    }

    /// Returns lines about the files, of which each is given by its key, its path in the manifest, its problem and its hints.
    fn lines(&self, lines: impl Fn(&str, &Path, (Option<String>, Vec<String>)) -> Vec<String>) -> Vec<String> {
        let mut all = BTreeSet::new();
        for check in self.routes.iter().flatten().chain([&self.service]) {
            all.extend(match check {
                RequestCheck::Body(BodyCheck { settings, schema: Some(live) }) => {
                    lines("validate.body", &settings.schema, (live.problem_of(OF_SERVICE), live.hints()))
                }
                RequestCheck::Api(check) => {
                    let Some(live) = &check.api else { continue };
                    lines("api.openapi", &check.settings.file, (live.problem_of(OF_SERVICE), live.hints()))
                }
                RequestCheck::Any | RequestCheck::Body(_) => continue,
            });
        }
        all.into_iter().collect()
    }

    /// Returns the check of the route with this number.
    fn of_route(&self, route: usize) -> &RequestCheck {
        self.routes.get(route).and_then(Option::as_ref).unwrap_or(&self.service)
    }

    /// Checks the head of a request on the route with this number. Returns what its body has to be; `None` if it is passed on as it is.
    ///
    /// # Errors
    /// If the head is not what it has to be, or allows no body that the request could have.
    pub fn expected(&self, route: usize, head: &RequestHead<'_>) -> Result<Option<ExpectedBody>, ValidationFault> {
        match self.of_route(route) {
            RequestCheck::Any => Ok(None),
            RequestCheck::Body(check) => check.expected(head),
            RequestCheck::Api(check) => check.expected(head),
        }
    }
}

impl RequestChecks {
    /// Whether the head of a request on the route with this number may have this header only if it is valid, in any spelling.
    pub fn checks_header(&self, route: usize, name: &HeaderName) -> bool {
        matches!(self.of_route(route), RequestCheck::Api(check) if check.has_header(name))
    }
}

impl RequestCheck {
    fn new(of: &Validation) -> Self {
        match of {
            Validation::Off => Self::Any,
            Validation::Body(settings) => Self::Body(BodyCheck { settings: settings.clone(), schema: None }),
            Validation::Api(settings) => Self::Api(ApiCheck::new(settings.clone())),
        }
    }
}

impl BodyCheck {
    fn expected(&self, head: &RequestHead<'_>) -> Result<Option<ExpectedBody>, ValidationFault> {
        ExpectedBody::of(head.body, needs_body(head.method), self.settings.size, || {
            if !is_identity(head.headers) {
                return Err(ValidationFault::Coding);
            }
            if !content_type(head.headers).is_some_and(is_json) {
                return Err(ValidationFault::Type(OtherType::of(head.headers, "application/json")));
            }
            let schema = self.schema.as_ref().ok_or(ValidationFault::Unavailable)?.load();
            Ok(BodyContent::Json(Schema::clone(&schema)))
        })
    }
}

impl ExpectedBody {
    /// Returns what the body of a request has to be; `None` if it is passed on as it is. `content` is what it has to be if there is one.
    fn of(
        presence: BodyPresence,
        required: bool,
        size: usize,
        content: impl FnOnce() -> Result<BodyContent, ValidationFault>,
    ) -> Result<Option<Self>, ValidationFault> {
        if presence == BodyPresence::Absent {
            return if required { Err(ValidationFault::Missing) } else { Ok(None) };
        }
        let content = match content() {
            Err(fault) if required || presence == BodyPresence::Present => return Err(fault),
            // If the body ends without a byte, the request has none.
            Err(fault) => BodyContent::Refused(fault),
            Ok(BodyContent::Any) => return Ok(None),
            Ok(content) => content,
        };
        Ok(Some(Self { content, required, size }))
    }

    /// Returns the most bytes of the body.
    pub fn most_bytes(&self) -> usize {
        self.size
    }

    /// Checks that the request may have a body, of which the first bytes are there.
    ///
    /// # Errors
    /// If it may have none of its type.
    pub fn begin(&self) -> Result<(), ValidationFault> {
        if let BodyContent::Refused(fault) = &self.content { Err(fault.clone()) } else { Ok(()) }
    }

    /// Checks a body, unless that would take long: then `None`, and [`Self::check`] has the result.
    pub fn check_quickly(&self, body: &[u8]) -> Option<Result<(), ValidationFault>> {
        if body.len() > QUICK_BYTES {
            return None;
        }
        Some(self.within(body, QUICK_STEPS)).filter(|result| *result != Err(ValidationFault::Complex))
    }

    /// Checks a body. Takes some tens of milliseconds at most.
    ///
    /// # Errors
    /// If it is not valid.
    pub fn check(&self, body: &[u8]) -> Result<(), ValidationFault> {
        self.within(body, STEPS)
    }

    fn within(&self, body: &[u8], steps: usize) -> Result<(), ValidationFault> {
        if body.is_empty() {
            return if self.required { Err(ValidationFault::Missing) } else { Ok(()) };
        }
        self.begin()?;
        let BodyContent::Json(schema) = &self.content else { return Ok(()) };
        let value = Json::read(body, BOUNDS).map_err(ValidationFault::Json)?;
        schema.check(&value, steps).map_err(|invalid| match invalid {
            Invalid::Errors(errors) => ValidationFault::Schema(errors),
            Invalid::Steps => ValidationFault::Complex,
        })
    }
}

/// Returns the type of a body; `None` if it has none, or several: also one with `_` or `.` in place of `-`, which some interfaces
/// cannot distinguish.
fn content_type(headers: &HeaderMap) -> Option<&str> {
    if has_other_spelling(headers, &header::CONTENT_TYPE) {
        return None;
    }
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    types.next().filter(|_| types.next().is_none())?.to_str().ok()
}

/// Whether a body has no content coding.
fn is_identity(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
        && !has_other_spelling(headers, &header::CONTENT_ENCODING)
}

/// Whether there is a header that differs from `name` by `_` or `.` in place of `-`, or the other way around.
fn has_other_spelling(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|other| other != name && is_same(other.as_str(), name.as_str()))
}

/// Whether requests with this method have no meaning without a body.
fn needs_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Whether a `Content-Type` is JSON in UTF-8: `application/json`, or another type that ends with `+json` (RFC 6839).
fn is_json(text: &str) -> bool {
    let mut parts = text.split(';').map(str::trim_ascii);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let of_application = kind
        .strip_prefix("application/")
        .is_some_and(|kind| kind == "json" || kind.ends_with("+json") && is_token(kind));
    let utf8 = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) if name.trim_ascii().eq_ignore_ascii_case("charset") => {
            value.trim_ascii().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    };
    of_application && parts.all(utf8)
}

/// Whether a text is a token (RFC 9110 5.6.2). What is none, such as a list of types, may have another meaning to a service.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests;
