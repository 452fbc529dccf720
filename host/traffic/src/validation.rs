//! Validation of request bodies by JSON Schema, before a sandbox is made.
//!
//! * [`schema`]: a schema, read and compiled once.
//! * [`json`]: a body, read within bounds; [`number`]: its numbers.
//! * [`evaluation`]: whether a body meets a schema, within a number of steps.
//! * [`room`]: what it uses of the host.
//! * [`sources`]: the files of schemas, which are read again when they change.
//!
//! Everything that does not meet what is expected is refused: other types of content, a key that an object has twice, and what would
//! take too long to check.

pub mod evaluation;
#[doc(hidden)]
pub mod fuzz;
pub mod json;
pub mod number;
pub mod room;
pub mod schema;
pub mod sources;

use std::sync::Arc;

use http::Method;
use http::header::{self, HeaderMap, HeaderValue};

use self::evaluation::{Invalid, SchemaError};
use self::json::{Json, JsonBounds, JsonFault};
use self::schema::Schema;
use crate::live_files::LiveValue;
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

/// What the bodies of requests to a service have to be.
#[derive(Debug)]
pub struct BodyChecks {
    /// For requests on routes without checks of their own.
    service: Option<Arc<BodyCheck>>,
    /// By the number of the route. `None` where the service's applies.
    routes: Vec<Option<RouteBodies>>,
}

/// What a route has in place of its service's check.
#[derive(Debug)]
enum RouteBodies {
    Any,
    Checked(Arc<BodyCheck>),
}

/// What a body has to be.
#[derive(Debug)]
pub struct BodyCheck {
    settings: BodySchema,
    /// `None` until the file is read; nothing is valid until then.
    schema: Option<Arc<LiveValue<Schema>>>,
}

/// Why the body of a request is not passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// Its `Content-Type` is not JSON.
    #[error("the request body must be JSON, in UTF-8")]
    Type,
    /// It is compressed, so that it cannot be read.
    #[error("the request body must not be compressed")]
    Coding,
    /// There is none.
    #[error("the request has no body")]
    Missing,
    /// It is not JSON, or not within the bounds.
    #[error("the request body is not JSON that this service takes")]
    Json(JsonFault),
    /// It does not meet the schema.
    #[error("the request body does not meet the schema of this service")]
    Schema(Vec<SchemaError>),
    /// It takes too long to check.
    #[error("the request body is too complex to be checked")]
    Complex,
    /// There is no memory to hold it, or its schema was not read yet.
    #[error("the host cannot check the request body now")]
    Unavailable,
}

impl BodyFault {
    /// Returns the errors by their places in the body.
    pub fn errors(&self) -> &[SchemaError] {
        if let Self::Schema(errors) = self { errors } else { &[] }
    }

    /// Returns what else is known, for clients as well as operators. It has nothing of the body.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Json(fault) => Some(fault.to_string()),
            _ => None,
        }
    }

    /// Returns the first error, for the log. It has no value of the body, but keys.
    pub fn first(&self) -> Option<String> {
        let first = self.errors().first()?;
        let more = self.errors().len().saturating_sub(1);
        let more = if more == 0 { String::new() } else { format!("; {more} more") };
        Some(format!("{}: {}{more}", if first.pointer.is_empty() { "the body" } else { &first.pointer }, first.message))
    }

    /// Returns the field that says what would be accepted.
    pub fn accepts(&self) -> Option<(header::HeaderName, HeaderValue)> {
        match self {
            Self::Type => Some((header::ACCEPT, HeaderValue::from_static("application/json"))),
            Self::Coding => Some((header::ACCEPT_ENCODING, HeaderValue::from_static("identity"))),
            _ => None,
        }
    }
}

impl BodyChecks {
    /// Returns the checks of a service; `None` if it takes any bodies.
    pub fn new(policies: &Policies) -> Option<Self> {
        let check = |settings: &BodySchema| Arc::new(BodyCheck { settings: settings.clone(), schema: None });
        let service = match &policies.service.validation {
            Some(Validation::Body(settings)) => Some(check(settings)),
            Some(Validation::Off) | None => None,
        };
        let routes = policies.routes.iter().map(|(_, policies)| match &policies.validation {
            Some(Validation::Body(settings)) => Some(RouteBodies::Checked(check(settings))),
            Some(Validation::Off) => Some(RouteBodies::Any),
            None => None,
        });
        let routes: Vec<_> = routes.collect();
        let any = service.is_some() || routes.iter().flatten().any(|route| matches!(route, RouteBodies::Checked(_)));
        any.then_some(Self { service, routes })
    }

    /// Returns the checks that have no schema yet.
    fn unread(&mut self) -> impl Iterator<Item = &mut BodyCheck> {
        let routes = self.routes.iter_mut().flatten().filter_map(|route| match route {
            RouteBodies::Checked(check) => Some(check),
            RouteBodies::Any => None,
        });
        self.service.iter_mut().chain(routes).filter_map(Arc::get_mut)
    }

    /// Returns the check of requests on the route with this number; `None` if it takes any bodies.
    pub fn of_route(&self, route: usize) -> Option<&Arc<BodyCheck>> {
        match self.routes.get(route) {
            Some(Some(RouteBodies::Any)) => None,
            Some(Some(RouteBodies::Checked(check))) => Some(check),
            Some(None) | None => self.service.as_ref(),
        }
    }
}

impl BodyCheck {
    /// Whether a request with this head needs its body checked.
    ///
    /// # Errors
    /// If it can have no valid body: it has none where one is expected, or another type of content.
    pub fn applies(&self, method: &Method, headers: &HeaderMap, has_body: bool) -> Result<bool, BodyFault> {
        if !has_body {
            return if needs_body(method) { Err(BodyFault::Missing) } else { Ok(false) };
        }
        let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
        if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(BodyFault::Coding);
        }
        let mut types = headers.get_all(header::CONTENT_TYPE).iter();
        match (types.next(), types.next()) {
            (Some(one), None) if one.to_str().is_ok_and(is_json) => Ok(true),
            _ => Err(BodyFault::Type),
        }
    }

    /// Returns the most bytes of a body.
    pub fn most_bytes(&self) -> usize {
        self.settings.size
    }

    /// Checks a body of JSON, unless that would take long: then `None`, and [`Self::check`] has the result.
    pub fn check_quickly(&self, body: &[u8]) -> Option<Result<(), BodyFault>> {
        if body.len() > QUICK_BYTES {
            return None;
        }
        Some(self.within(body, QUICK_STEPS)).filter(|result| *result != Err(BodyFault::Complex))
    }

    /// Checks a body of JSON. Takes some tens of milliseconds at most.
    ///
    /// # Errors
    /// If it is not valid.
    pub fn check(&self, body: &[u8]) -> Result<(), BodyFault> {
        self.within(body, STEPS)
    }

    fn within(&self, body: &[u8], steps: usize) -> Result<(), BodyFault> {
        let schema = self.schema.as_ref().ok_or(BodyFault::Unavailable)?.load();
        if body.is_empty() {
            return Err(BodyFault::Missing);
        }
        let value = Json::read(body, BOUNDS).map_err(BodyFault::Json)?;
        schema.check(&value, steps).map_err(|invalid| match invalid {
            Invalid::Errors(errors) => BodyFault::Schema(errors),
            Invalid::Steps => BodyFault::Complex,
        })
    }
}

/// Whether requests with this method have no meaning without a body.
pub fn needs_body(method: &Method) -> bool {
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
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests;
