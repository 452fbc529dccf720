//! Reads a document of OpenAPI 3.1. What the host cannot check is refused, so that nobody takes it for checked.

mod bodies;
mod paths;
mod responses;
mod types;

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;
use http::header::{COOKIE, HeaderName};
use percent_encoding::percent_decode_str;

use self::paths::{place_in_path, segments, shape};
use super::parameters::{ApiParameter, ListForm, ParameterPlace, ValueForm, is_removed, is_unchecked};
use super::{Api, ApiOperation, ApiPath, OperationBody};
use crate::validation::json::{Json, JsonBounds, shown};
use crate::validation::schema::{SchemaCompiler, SchemaMistake, check_places, escaped};
use crate::validation::yaml;

/// The bounds of a document.
const BOUNDS: JsonBounds = JsonBounds { depth: 100, values: 400_000 };

/// The most paths of a document.
const MOST_PATHS: usize = 1_000;

/// The most keys of a path. Several may refer to the same ones.
const MOST_KEYS: usize = 100;

/// The most parameters of an operation, and those of all operations together.
const MOST_PARAMETERS: usize = 100;
const MOST_PARAMETERS_OF_ALL: usize = 20_000;

/// The most bytes of the name of a parameter, of which each of its operations has a copy or shares one.
const MOST_NAME_BYTES: usize = 256;

/// The most segments of a path.
const MOST_SEGMENTS: usize = 100;

/// The most references that lead to one another.
const MOST_REFERENCES: usize = 10;

/// The methods that a path may have.
const METHODS: [(&str, Method); 8] = [
    ("delete", Method::DELETE),
    ("get", Method::GET),
    ("head", Method::HEAD),
    ("options", Method::OPTIONS),
    ("patch", Method::PATCH),
    ("post", Method::POST),
    ("put", Method::PUT),
    ("trace", Method::TRACE),
];

/// The dialects of schemas that a document may name.
const DIALECTS: [&str; 2] =
    ["https://spec.openapis.org/oas/3.1/dialect/base", "https://json-schema.org/draft/2020-12/schema"];

type Result<T> = std::result::Result<T, SchemaMistake>;

/// A part of a document, and its place.
#[derive(Clone)]
struct DocumentPart<'d, 't> {
    place: String,
    value: &'d Json<'t>,
}

struct DocumentReader<'d, 't> {
    document: &'d Json<'t>,
    compiler: SchemaCompiler<'d, 't>,
    /// The parameters of all operations so far, also those that are not checked.
    parameters: usize,
    /// The schemas of parameters that were visited so far.
    visits: usize,
    /// Parameters and bodies by where they are in the document. Operations that refer to the same one share it.
    known_parameters: HashMap<*const Json<'t>, Option<ApiParameter>>,
    known_bodies: HashMap<*const Json<'t>, Arc<OperationBody>>,
    /// Whether responses are read.
    responses: bool,
}

/// Reads the text of a document, in YAML or JSON, with what it says of responses or without.
///
/// # Errors
/// One line: what is wrong, and where.
pub(super) fn read(text: &str, responses: bool) -> std::result::Result<Api, String> {
    let document = parsed(text)?;
    check_places(&document).map_err(|mistake| mistake.located(text))?;
    let compiler = SchemaCompiler::of_document(&document);
    let (known_parameters, known_bodies) = (HashMap::new(), HashMap::new());
    let (document, parameters, visits) = (&document, 0, 0);
    let reader = DocumentReader { document, compiler, parameters, visits, known_parameters, known_bodies, responses };
    reader.read().map_err(|mistake| mistake.located(text))
}

/// Returns the text of a document as a value.
pub(super) fn parsed(text: &str) -> std::result::Result<Json<'_>, String> {
    // YAML begins with a brace or bracket only if it is JSON, or hardly differs from it.
    let is_json = text.trim_ascii_start().starts_with(['{', '[']);
    if is_json { yaml::read_json(text, BOUNDS) } else { yaml::read(text, BOUNDS) }
}

/// Checks that a document is of the version that is supported.
fn check_version(document: &Json<'_>) -> Result<()> {
    let found = match (document.get("openapi"), document.get("swagger")) {
        (Some(Json::Text(version)), _) if version.starts_with("3.1.") => return Ok(()),
        (Some(Json::Text(version)), _) => format!("this is \"{}\"", shown(version)),
        (Some(Json::Number(_)), _) => "this is a number; write it in quotes, with three parts".to_owned(),
        (Some(_), _) => "this is no text".to_owned(),
        (None, Some(_)) => "this is a document of Swagger 2.0".to_owned(),
        (None, None) if matches!(document, Json::Object(_)) => "it is missing".to_owned(),
        (None, None) => "the document is no object".to_owned(),
    };
    let old = "; docs/validation.md says how those of 3.0 are converted";
    let old = if found.contains("\"3.0") || found.contains("Swagger") { old } else { "" };
    mistake("/openapi", format!("write a document of OpenAPI 3.1, such as \"3.1.0\": {found}{old}"))
}

fn mistake<T>(place: &str, why: impl Into<String>) -> Result<T> {
    Err(SchemaMistake::new(place, why))
}

impl<'d, 't> DocumentPart<'d, 't> {
    /// Returns what this part has at a key.
    fn get(&self, key: &str) -> Option<Self> {
        Some(Self { place: format!("{}/{}", self.place, escaped(key)), value: self.value.get(key)? })
    }

    fn text(&self, key: &str) -> Option<&'d str> {
        self.value.get(key).and_then(Json::text)
    }

    /// Returns the value of a key that is true or false.
    fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.value.get(key) {
            None => Ok(None),
            Some(Json::Bool(value)) => Ok(Some(*value)),
            Some(_) => mistake(&format!("{}/{key}", self.place), "write true or false"),
        }
    }

    /// Returns the entries one by one: their places are much longer than they are.
    fn entries(self) -> Result<impl Iterator<Item = (&'d str, Self)>> {
        let Json::Object(entries) = self.value else { return mistake(&self.place, "write an object") };
        let inner = move |key: &str, value| Self { place: format!("{}/{}", self.place, escaped(key)), value };
        Ok(entries.iter().map(move |(key, value)| (&**key, inner(key, value))))
    }

    /// As [`Self::entries`], for a list.
    fn items(self) -> Result<impl Iterator<Item = Self>> {
        let Json::Array(items) = self.value else { return mistake(&self.place, "write a list") };
        Ok(items.iter().enumerate().map(move |(at, value)| Self { place: format!("{}/{at}", self.place), value }))
    }

    /// Returns the number of entries or items.
    fn len(&self) -> usize {
        match self.value {
            Json::Object(entries) => entries.len(),
            Json::Array(items) => items.len(),
            _ => 0,
        }
    }
}

impl<'d, 't> DocumentReader<'d, 't> {
    fn read(mut self) -> Result<Api> {
        let root = DocumentPart { place: String::new(), value: self.document };
        check_version(self.document)?;
        if let Some(dialect) = root.value.get("jsonSchemaDialect")
            && !dialect.text().is_some_and(|dialect| DIALECTS.contains(&dialect))
        {
            return mistake("/jsonSchemaDialect", format!("it is none of {}", DIALECTS.join(", ")));
        }
        let Some(paths) = root.get("paths") else {
            return mistake("/paths", "it is missing: there would be no operation");
        };
        let mut read = Vec::new();
        for (template, item) in paths.entries()?.filter(|(name, _)| !name.starts_with("x-")) {
            if read.len() == MOST_PATHS {
                return mistake("/paths", format!("there are more than {MOST_PATHS} paths"));
            }
            read.push((template, self.path(template, item)?));
        }
        read.sort_by(|(_, one), (_, other)| shape(one).cmp(shape(other)));
        let mut pairs = read.iter().zip(read.iter().skip(1));
        if let Some(((one, _), (other, _))) = pairs.find(|((_, one), (_, other))| shape(one).eq(shape(other))) {
            return mistake("/paths", format!("{} and {} are the same path", shown(one), shown(other)));
        }
        let paths = read.into_iter().map(|(_, path)| path).collect();
        Ok(Api { nodes: self.compiler.finish()?.into(), paths })
    }

    /// Returns the part that references lead to, or this one.
    fn followed(&self, mut part: DocumentPart<'d, 't>) -> Result<DocumentPart<'d, 't>> {
        for _ in 0..MOST_REFERENCES {
            let Some(reference) = part.value.get("$ref") else { return Ok(part) };
            part = self.target(&part.place, reference)?;
        }
        mistake(&part.place, format!("more than {MOST_REFERENCES} references lead to one another"))
    }

    /// Returns the part that a reference leads to.
    fn target(&self, place: &str, reference: &Json<'_>) -> Result<DocumentPart<'d, 't>> {
        let place = format!("{place}/$ref");
        let fragment = reference.text().and_then(|text| text.strip_prefix('#')).filter(|text| text.starts_with('/'));
        let Some(fragment) = fragment.and_then(|text| percent_decode_str(text).decode_utf8().ok()) else {
            return mistake(&place, "a reference leads to a place in the document, like #/components/parameters/id");
        };
        let Some(value) = self.compiler.at(&fragment) else {
            return mistake(&place, "it leads to nothing in the document");
        };
        Ok(DocumentPart { place: fragment.into_owned(), value })
    }

    fn path(&mut self, template: &str, item: DocumentPart<'d, 't>) -> Result<ApiPath> {
        let Some(segments) = segments(template) else {
            return mistake(
                &item.place,
                format!(
                    "write a path like /users/{{id}}, of at most {MOST_SEGMENTS} segments, with parameters that are whole segments, each once"
                ),
            );
        };
        let item = self.followed(item)?;
        if item.len() > MOST_KEYS {
            return mistake(&item.place, format!("it has more than {MOST_KEYS} keys"));
        }
        let shared = self.parameters(&item)?;
        let mut operations = Vec::new();
        for (key, part) in item.entries()? {
            let Some((_, method)) = METHODS.iter().find(|(known, _)| *known == key) else {
                if ["summary", "description", "servers", "parameters"].contains(&key) || key.starts_with("x-") {
                    continue;
                }
                return mistake(&part.place, "it is no method that a path may have");
            };
            let mut parameters = self.parameters(&part)?;
            let own = parameters.len();
            for of_path in &shared {
                if !parameters.iter().take(own).any(|known| known.key() == of_path.key()) {
                    parameters.push(of_path.clone());
                }
            }
            self.parameters += parameters.len();
            if parameters.len() > MOST_PARAMETERS || self.parameters > MOST_PARAMETERS_OF_ALL {
                let why =
                    format!("there are more than {MOST_PARAMETERS} parameters, or {MOST_PARAMETERS_OF_ALL} in all");
                return mistake(&part.place, why);
            }
            place_in_path(&part.place, &segments, &mut parameters)?;
            parameters.sort_by(|one, other| one.key().cmp(&other.key()));
            let body = part.get("requestBody").map(|body| self.body(body)).transpose()?;
            let responses = self.responses(&part)?;
            operations.push((method.clone(), ApiOperation { parameters, body, responses }));
        }
        Ok(ApiPath { segments, operations })
    }

    fn parameters(&mut self, of: &DocumentPart<'d, 't>) -> Result<Vec<ApiParameter>> {
        let Some(list) = of.get("parameters") else { return Ok(Vec::new()) };
        if list.len() > MOST_PARAMETERS {
            return mistake(&list.place, format!("there are more than {MOST_PARAMETERS} parameters"));
        }
        let mut read: Vec<ApiParameter> = Vec::new();
        for item in list.items()? {
            let place = item.place.clone();
            let Some(parameter) = self.parameter(&self.followed(item)?)? else {
                self.parameters += 1;
                continue;
            };
            if read.iter().any(|known| known.key() == parameter.key()) {
                return mistake(&place, "the parameter is there twice");
            }
            read.push(parameter);
        }
        Ok(read)
    }

    /// Returns a parameter, which is read once; `None` for one that is not checked.
    fn parameter(&mut self, of: &DocumentPart<'d, 't>) -> Result<Option<ApiParameter>> {
        let here = std::ptr::from_ref(of.value);
        if let Some(known) = self.known_parameters.get(&here) {
            return Ok(known.clone());
        }
        let parameter = self.read_parameter(of)?;
        self.known_parameters.insert(here, parameter.clone());
        Ok(parameter)
    }

    fn read_parameter(&mut self, of: &DocumentPart<'d, 't>) -> Result<Option<ApiParameter>> {
        let Some(name) = of.text("name") else { return mistake(&of.place, "it has no `name`") };
        let place = ParameterPlace::ALL.iter().find(|(word, _)| of.text("in") == Some(word)).map(|(_, place)| *place);
        let Some(place) = place else { return mistake(&of.place, "write `in`: path, query, header or cookie") };
        if name.len() > MOST_NAME_BYTES {
            return mistake(&of.place, format!("its `name` has more than {MOST_NAME_BYTES} bytes"));
        }
        let mut name = name.to_owned();
        if place == ParameterPlace::Header {
            name.make_ascii_lowercase();
        }
        if is_unchecked(place, &name) {
            return Ok(None);
        }
        let header = match place {
            ParameterPlace::Header => match HeaderName::try_from(&name) {
                Ok(header) => Some(header),
                Err(_) => return mistake(&of.place, "its `name` is not one of a header"),
            },
            ParameterPlace::Cookie => Some(COOKIE),
            ParameterPlace::Path | ParameterPlace::Query => None,
        };
        if of.flag("allowEmptyValue")? == Some(true) {
            return mistake(
                &of.place,
                "`allowEmptyValue` is not supported; write a `schema` that the empty text meets",
            );
        }
        if of.value.get("schema").is_none() && of.value.get("content").is_none() {
            return mistake(&of.place, "it has no `schema`");
        }
        let usual = if matches!(place, ParameterPlace::Query | ParameterPlace::Cookie) { "form" } else { "simple" };
        let style = of.value.get("style").is_none_or(|style| style.text() == Some(usual));
        let Some(schema) = of.get("schema").filter(|_| style && of.value.get("content").is_none()) else {
            return mistake(&of.place, format!("only a `schema` with `style: {usual}` is supported here"));
        };
        let explode = of.flag("explode")?.unwrap_or(usual == "form");
        let repeated = explode && usual == "form";
        let types = self.types_of(&schema)?;
        let form = match types.items {
            Some(_) if repeated && place == ParameterPlace::Cookie => {
                return mistake(&of.place, "write `explode: false` for a list in a cookie");
            }
            Some(items) => {
                let list = if repeated { ListForm::Repeated } else { ListForm::Commas };
                ValueForm { types: items, list }
            }
            None if types.own.is_empty() => {
                return mistake(&schema.place, "say which `type` the parameter has: it is text that is read as that");
            }
            None => ValueForm { types: types.own, list: ListForm::None },
        };
        let required = of.flag("required")?.unwrap_or(false);
        if place == ParameterPlace::Path && !required {
            return mistake(&of.place, "a parameter in a path has `required: true`");
        }
        let required = required && !is_removed(place, &name);
        let schema = self.compiler.add(&schema.place)?;
        Ok(Some(ApiParameter { place, name: name.into(), header, segment: 0, required, form, schema }))
    }
}
