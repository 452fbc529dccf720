//! Parameters of operations: values in the path, the query, headers and cookies of a request.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{self, HeaderName};
use percent_encoding::percent_decode_str;

use crate::auth::login::cookies::is_host_cookie;
use crate::validation::RequestHead;
use crate::validation::evaluation::{Invalid, MOST_ERRORS, ParameterName, SchemaError};
use crate::validation::json::{Json, JsonBounds};
use crate::validation::schema::Schema;
use crate::validation::schema::node::{NodeId, SchemaNode, TypeSet};
use lodge_base::headers::{HeaderFate, is_same};

/// The most steps for all parameters of a request: some tenths of a millisecond.
const STEPS: usize = 20_000;

/// The most items of a parameter that is a list.
const MOST_ITEMS: usize = 1_000;

/// The bounds of a number.
const NUMBER: JsonBounds = JsonBounds { depth: 0, values: 1 };

/// A parameter of an operation.
#[derive(Clone, Debug)]
pub(super) struct ApiParameter {
    pub(super) place: ParameterPlace,
    /// Shared by the operations that have it.
    pub(super) name: Arc<str>,
    /// The header that it is in; `None` in the path and the query.
    pub(super) header: Option<HeaderName>,
    /// The number of its segment, if it is in the path.
    pub(super) segment: usize,
    pub(super) required: bool,
    pub(super) form: ValueForm,
    pub(super) schema: NodeId,
}

/// Where a request has a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ParameterPlace {
    Path,
    Query,
    Header,
    Cookie,
}

/// How text becomes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ValueForm {
    /// The types that the value, or each item of a list, may have. What cannot be one of the others is text.
    pub(super) types: TypeSet,
    pub(super) list: ListForm,
}

/// Whether a parameter is a list, and how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListForm {
    /// It is one value.
    None,
    /// Its items have commas between them.
    Commas,
    /// Each item is there with the name of the parameter.
    Repeated,
}

/// What a request has of one parameter, decoded. `None` is not UTF-8.
type SentValues<'a> = Vec<Option<Cow<'a, str>>>;

impl ParameterPlace {
    /// All of them, with their words in documents.
    pub(super) const ALL: [(&str, Self); 4] =
        [("path", Self::Path), ("query", Self::Query), ("header", Self::Header), ("cookie", Self::Cookie)];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, place)| *place == self).map_or("", |(word, _)| word)
    }
}

impl ApiParameter {
    /// What parameters are ordered by, and what only one of an operation has.
    pub(super) fn key(&self) -> (ParameterPlace, &str) {
        (self.place, &self.name)
    }

    /// Returns the value that a request has; `None` if it has none.
    ///
    /// # Errors
    /// What it has to be.
    fn value(&self, sent: SentValues<'_>) -> Result<Option<Json<'static>>, Cow<'static, str>> {
        let Some(texts) = sent.into_iter().collect::<Option<Vec<_>>>() else { return Err("must be UTF-8".into()) };
        // Two programs may see different ones. Lines of a header are one list.
        let once = self.form.list == ListForm::None
            || self.form.list == ListForm::Commas && self.place != ParameterPlace::Header;
        if once && texts.len() > 1 {
            return Err("must be there once".into());
        }
        let Some(first) = texts.first() else { return Ok(None) };
        let items: Vec<&str> = match self.form.list {
            ListForm::None => return Ok(Some(self.form.read(first))),
            ListForm::Commas => texts.iter().flat_map(|text| text.split(',')).take(MOST_ITEMS + 1).collect(),
            ListForm::Repeated => texts.iter().map(|text| &**text).take(MOST_ITEMS + 1).collect(),
        };
        if items.len() > MOST_ITEMS {
            return Err(format!("must have at most {MOST_ITEMS} items").into());
        }
        let space = self.place == ParameterPlace::Header;
        let items = items.into_iter().map(|item| self.form.read(if space { item.trim_ascii() } else { item }));
        Ok(Some(Json::Array(items.collect())))
    }
}

impl ValueForm {
    /// Returns a text as a value. Numbers are written as in JSON.
    fn read(self, text: &str) -> Json<'static> {
        let number = text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
            && text.ends_with(|last: char| last.is_ascii_digit());
        let value = match (text, number.then(|| Json::read(text.as_bytes(), NUMBER))) {
            ("true", _) => Some(Json::Bool(true)),
            ("false", _) => Some(Json::Bool(false)),
            (_, Some(Ok(Json::Number(number)))) => Some(Json::Number(number)),
            _ => None,
        };
        value.filter(|value| self.types.has(value)).unwrap_or_else(|| Json::Text(text.to_owned().into()))
    }
}

/// Headers that other parts of a document are about.
const DESCRIBED_ELSEWHERE: [&str; 3] = ["accept", "authorization", "content-type"];

/// Whether a parameter is not checked, since its service never gets what a client has sent for it, or since other parts of a document are
/// about it. The name of a header is in lower case.
pub(super) fn is_unchecked(place: ParameterPlace, name: &str) -> bool {
    match place {
        ParameterPlace::Header => DESCRIBED_ELSEWHERE.contains(&name) || HeaderFate::of(name) == HeaderFate::Written,
        ParameterPlace::Cookie => is_host_cookie(name),
        ParameterPlace::Path | ParameterPlace::Query => false,
    }
}

/// Whether the host may remove a parameter, so that a request may be without it.
pub(super) fn is_removed(place: ParameterPlace, name: &str) -> bool {
    place == ParameterPlace::Header && HeaderFate::of(name) == HeaderFate::Removed
}

/// Returns what is wrong with the parameters of a request with these segments in its path.
pub(super) fn check(
    parameters: &[ApiParameter],
    segments: &[&str],
    head: &RequestHead<'_>,
    nodes: &Arc<[SchemaNode]>,
) -> Vec<SchemaError> {
    let (mut errors, mut steps) = (Vec::new(), STEPS);
    for (parameter, sent) in parameters.iter().zip(sent(parameters, segments, head)) {
        let name = || Some(ParameterName { place: parameter.place.word(), name: Arc::clone(&parameter.name) });
        let mut fail = |message: Cow<'static, str>| {
            errors.push(SchemaError { parameter: name(), pointer: String::new(), message: message.into_owned() });
        };
        let header = parameter.header.as_ref();
        if header.is_some_and(|header| head.changes.replace(header)) {
            continue;
        }
        if header.is_some_and(|header| has_other_spelling(parameters, header, head)) {
            fail("must be there with `-`, `_` and `.` as in its name".into());
            continue;
        }
        let required = parameter.required && !header.is_some_and(|header| head.changes.may_remove(header));
        let value = match parameter.value(sent) {
            Ok(Some(value)) => value,
            Ok(None) if required => {
                fail("must be there".into());
                continue;
            }
            Ok(None) => continue,
            Err(message) => {
                fail(message);
                continue;
            }
        };
        if let Json::Array(items) = &value {
            steps = steps.saturating_sub(items.len());
        }
        let schema = Schema { nodes: Arc::clone(nodes), root: parameter.schema };
        match schema.check_within(&value, &mut steps) {
            Ok(()) => {}
            Err(Invalid::Steps) => fail("must be simpler: the parameters take too long to check".into()),
            Err(Invalid::Errors(found)) => {
                errors.extend(found.into_iter().map(|error| SchemaError { parameter: name(), ..error }));
            }
        }
        if errors.len() >= MOST_ERRORS {
            break;
        }
    }
    errors.truncate(MOST_ERRORS);
    errors
}

/// Whether a request has a header under a name that some interfaces cannot distinguish from that of a parameter, and that is none itself.
fn has_other_spelling(parameters: &[ApiParameter], header: &HeaderName, head: &RequestHead<'_>) -> bool {
    let is_other = |name: &HeaderName| {
        name != header
            && HeaderFate::of(name.as_str()) != HeaderFate::Written
            && is_same(name.as_str(), header.as_str())
            && !parameters.iter().any(|parameter| parameter.header.as_ref() == Some(name))
    };
    head.headers.keys().any(is_other)
}

/// Returns what a request has of each parameter.
fn sent<'a>(parameters: &[ApiParameter], segments: &[&'a str], head: &RequestHead<'a>) -> Vec<SentValues<'a>> {
    let mut all: Vec<SentValues<'a>> = vec![Vec::new(); parameters.len()];
    let has = |place| parameters.iter().any(|parameter| parameter.place == place);
    for (parameter, values) in parameters.iter().zip(&mut all) {
        match parameter.place {
            ParameterPlace::Path => values.extend(segments.get(parameter.segment).map(|text| decoded(text))),
            ParameterPlace::Header => {
                let lines = head.headers.get_all(&*parameter.name).iter();
                values.extend(lines.map(|line| std::str::from_utf8(line.as_bytes()).ok().map(Cow::from)));
            }
            ParameterPlace::Query | ParameterPlace::Cookie => {}
        }
    }
    let mut add = |place, name: &str, value| {
        let at = parameters.binary_search_by(|known| known.key().cmp(&(place, name)));
        if let Some(values) = at.ok().and_then(|at| all.get_mut(at)) {
            values.push(value);
        }
    };
    if let Some(query) = head.uri.query().filter(|_| has(ParameterPlace::Query)) {
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let Some(name) = decoded_form(name) {
                add(ParameterPlace::Query, &name, decoded_form(value));
            }
        }
    }
    if has(ParameterPlace::Cookie) {
        let lines = head.headers.get_all(header::COOKIE).iter().map(|line| line.as_bytes());
        for pair in lines.flat_map(|line| line.split(|byte| *byte == b';')) {
            let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let (name, value) = pair.split_at_checked(at).unwrap_or_default();
            if let Ok(name) = std::str::from_utf8(name.trim_ascii()) {
                let value = std::str::from_utf8(value.get(1..).unwrap_or_default()).ok();
                add(ParameterPlace::Cookie, name, value.map(|value| value.trim_ascii().into()));
            }
        }
    }
    all
}

/// Returns a text without percent-encoding; `None` if that is not UTF-8.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(text).decode_utf8().ok()
}

/// As [`decoded`], for queries, in which `+` is a space.
fn decoded_form(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('+') {
        return decoded(text);
    }
    decoded(&text.replace('+', " ")).map(|text| text.into_owned().into())
}
