//! Where the subschemas of a document are: by their place, their identifiers and their anchors.

use std::collections::HashMap;
use std::rc::Rc;

use super::dialect::Dialect;
use super::{MOST_SUBSCHEMAS, SchemaMistake};
use crate::validation::json::{Json, shown};

/// The base of references in a document without an identifier. No document can have it.
const UNNAMED: &str = "file:///schema";

/// The most bytes of all keys that lead to a value, and of an identifier.
const MOST_KEY_BYTES: usize = 2 << 10;

/// The most bytes of the places of all subschemas. Several tables have each of them.
const MOST_PLACE_BYTES: usize = 8 << 20;

/// How a keyword has subschemas.
pub(super) enum Holds {
    /// One, or a list of them.
    Schema,
    /// A list.
    List,
    /// Some by names.
    Named,
}

/// The keywords with subschemas.
pub(super) const HOLDERS: &[(&str, Holds)] = &[
    ("$defs", Holds::Named),
    ("additionalItems", Holds::Schema),
    ("additionalProperties", Holds::Schema),
    ("allOf", Holds::List),
    ("anyOf", Holds::List),
    ("contains", Holds::Schema),
    ("definitions", Holds::Named),
    ("dependencies", Holds::Named),
    ("dependentSchemas", Holds::Named),
    ("else", Holds::Schema),
    ("if", Holds::Schema),
    ("items", Holds::Schema),
    ("not", Holds::Schema),
    ("oneOf", Holds::List),
    ("patternProperties", Holds::Named),
    ("prefixItems", Holds::List),
    ("properties", Holds::Named),
    ("propertyNames", Holds::Schema),
    ("then", Holds::Schema),
    ("unevaluatedItems", Holds::Schema),
    ("unevaluatedProperties", Holds::Schema),
];

/// The subschemas of a document. Places are JSON Pointers from its root.
pub(super) struct Locations<'d, 't> {
    document: &'d Json<'t>,
    dialect: Dialect,
    /// The base of references, by the place of each known subschema.
    bases: HashMap<String, Rc<str>>,
    /// The bytes of these places.
    place_bytes: usize,
    /// The place of each resource, by its identifier.
    resources: HashMap<Rc<str>, String>,
    /// The place of each anchor, by its resource.
    anchors: HashMap<(Rc<str>, String), String>,
    /// The names of anchors that a reference may find in an outer resource, as often as there are any.
    dynamic: Vec<String>,
}

impl<'d, 't> Locations<'d, 't> {
    /// Returns the locations of a document in which nothing is known to be a schema yet.
    pub(super) fn new(document: &'d Json<'t>, dialect: Dialect) -> Self {
        let (bases, resources) = (HashMap::new(), HashMap::from([(Rc::from(UNNAMED), String::new())]));
        let (anchors, dynamic) = (HashMap::new(), Vec::new());
        Self { document, dialect, bases, place_bytes: 0, resources, anchors, dynamic }
    }

    /// Adds the schema at this place, and all that it has inside.
    ///
    /// # Errors
    /// If there are too many, or their identifiers contradict each other.
    pub(super) fn add(&mut self, place: &str) -> Result<(), SchemaMistake> {
        if self.bases.contains_key(place) {
            return Ok(());
        }
        let schema = self.at(place).ok_or_else(|| SchemaMistake::new(place, "there is nothing at this place"))?;
        let base = self.base(place);
        self.walk(place.to_owned(), schema, base)
    }

    /// Returns what is at a place. A value has one place, since `~` is only written as `~0` (RFC 6901, 3).
    pub(super) fn at(&self, place: &str) -> Option<&'d Json<'t>> {
        if place.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1'])) {
            return None;
        }
        place.split('/').skip(1).try_fold(self.document, |value, part| {
            let part = part.replace("~1", "/").replace("~0", "~");
            match value {
                Json::Object(_) => value.get(&part),
                Json::Array(items) => {
                    let plain = part == "0" || !part.starts_with('0') && part.bytes().all(|byte| byte.is_ascii_digit());
                    part.parse::<usize>().ok().filter(|_| plain).and_then(|at| items.get(at))
                }
                _ => None,
            }
        })
    }

    /// Returns the base of the schema at this place, or of the next one around it.
    fn base(&self, place: &str) -> Rc<str> {
        let mut around = place;
        loop {
            if let Some(base) = self.bases.get(around) {
                return Rc::clone(base);
            }
            match around.rfind('/') {
                Some(at) => around = around.get(..at).unwrap_or_default(),
                None => return Rc::from(UNNAMED),
            }
        }
    }

    fn walk(&mut self, place: String, schema: &'d Json<'t>, mut base: Rc<str>) -> Result<(), SchemaMistake> {
        if self.bases.len() >= MOST_SUBSCHEMAS {
            return Err(SchemaMistake::new(&place, format!("there are more than {MOST_SUBSCHEMAS} subschemas")));
        }
        let bytes = self.place_bytes.checked_add(place.len()).filter(|bytes| *bytes <= MOST_PLACE_BYTES);
        let Some(bytes) = bytes else {
            let why = "there are too many subschemas below long keys; write them below shorter ones, as in `$defs`";
            return Err(SchemaMistake::new(&place, why));
        };
        self.place_bytes = bytes;
        let Json::Object(keywords) = schema else {
            self.bases.insert(place, base);
            return Ok(());
        };
        // In draft 7, a reference stands alone.
        let alone = self.dialect == Dialect::Draft7 && schema.get("$ref").is_some();
        if !alone {
            base = self.identify(&place, schema, base)?;
        }
        self.bases.insert(place.clone(), Rc::clone(&base));
        for (keyword, value) in keywords {
            let Some((_, holds)) = HOLDERS.iter().find(|(known, _)| known == keyword) else { continue };
            let inside = format!("{place}/{keyword}");
            match (value, holds) {
                (Json::Array(items), Holds::List | Holds::Schema) => {
                    for (at, item) in items.iter().enumerate() {
                        self.walk(format!("{inside}/{at}"), item, Rc::clone(&base))?;
                    }
                }
                (Json::Object(entries), Holds::Named) => {
                    for (name, item) in entries {
                        // A list of property names in `dependencies` is no schema.
                        if !matches!(item, Json::Array(_)) {
                            self.walk(format!("{inside}/{}", escaped(name)), item, Rc::clone(&base))?;
                        }
                    }
                }
                (_, Holds::Schema) => self.walk(inside, value, Rc::clone(&base))?,
                // The reader of the keyword says what is wrong.
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds the identifier and the anchors of a schema. Returns the base of the references inside.
    fn identify(&mut self, place: &str, schema: &Json<'_>, mut base: Rc<str>) -> Result<Rc<str>, SchemaMistake> {
        let text = |keyword: &str| schema.get(keyword).and_then(Json::text);
        let mut anchors: Vec<_> =
            ["$anchor", "$dynamicAnchor"].into_iter().filter_map(text).map(str::to_owned).collect();
        if let Some(id) = text("$id") {
            let (id, fragment) = id.split_once('#').unwrap_or((id, ""));
            match (fragment, self.dialect) {
                ("", _) => {}
                (anchor, Dialect::Draft7) => anchors.push(anchor.to_owned()),
                _ => {
                    return Err(SchemaMistake::new(
                        &format!("{place}/$id"),
                        "it has a fragment; write `$anchor` for that",
                    ));
                }
            }
            if !id.is_empty() {
                base = resolve(&base, id).into();
                if base.len() > MOST_KEY_BYTES {
                    let why = format!("with what it is relative to, it has more than {MOST_KEY_BYTES} bytes");
                    return Err(SchemaMistake::new(&format!("{place}/$id"), why));
                }
                let known = self.resources.insert(Rc::clone(&base), place.to_owned());
                if known.is_some_and(|known| known != place) {
                    return Err(SchemaMistake::new(&format!("{place}/$id"), "another schema has the same identifier"));
                }
            }
        }
        for anchor in anchors {
            let known = self.anchors.insert((Rc::clone(&base), anchor), place.to_owned());
            if known.is_some_and(|known| known != place) {
                return Err(SchemaMistake::new(place, "another schema has the same anchor"));
            }
        }
        self.dynamic.extend(text("$dynamicAnchor").map(str::to_owned));
        if schema.get("$recursiveAnchor") == Some(&Json::Bool(true)) {
            self.dynamic.push(String::new());
        }
        Ok(base)
    }

    /// Returns the place that a reference in the schema at `place` leads to.
    ///
    /// # Errors
    /// If it is not in this document.
    pub(super) fn resolve(&mut self, place: &str, reference: &str) -> Result<String, SchemaMistake> {
        let (uri, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let resource: Rc<str> = resolve(&self.base(place), uri).into();
        let Some(root) = self.resources.get(&resource).cloned() else {
            let why = format!(
                "`{}` is not in this file, and the host fetches no schemas; copy it into `$defs`, with its `$id`",
                shown(reference)
            );
            return Err(SchemaMistake::new(place, why));
        };
        let absent = || SchemaMistake::new(place, format!("`{}` leads to nothing in this file", shown(reference)));
        let fragment = percent_encoding::percent_decode_str(fragment).decode_utf8().map_err(|_| absent())?;
        let target = match &*fragment {
            "" => root,
            pointer if pointer.starts_with('/') => format!("{root}{pointer}"),
            anchor => self.anchors.get(&(resource, anchor.to_owned())).cloned().ok_or_else(absent)?,
        };
        self.at(&target).ok_or_else(absent)?;
        self.add(&target)?;
        Ok(target)
    }

    /// Whether a reference to this dynamic anchor always leads to the same schema; with an empty name, one to a recursive anchor.
    pub(super) fn is_static(&self, anchor: &str) -> bool {
        self.dynamic.iter().filter(|known| *known == anchor).count() <= 1
    }

    /// Returns the number of known subschemas.
    pub(super) fn count(&self) -> usize {
        self.bases.len()
    }
}

/// Checks that the places in a document are short: each of its subschemas has one.
///
/// # Errors
/// If one is not.
pub(in crate::validation) fn check_places(document: &Json<'_>) -> Result<(), SchemaMistake> {
    let why = || format!("the keys that lead to a value inside of it have more than {MOST_KEY_BYTES} bytes");
    long_place(document, MOST_KEY_BYTES).map_or(Ok(()), |place| Err(SchemaMistake::new(&place, why())))
}

/// Returns the place of an object with a value to which longer keys lead than `left` bytes together.
fn long_place(value: &Json<'_>, left: usize) -> Option<String> {
    match value {
        Json::Array(items) => {
            items.iter().enumerate().find_map(|(at, item)| Some(format!("/{at}{}", long_place(item, left)?)))
        }
        Json::Object(entries) => entries.iter().find_map(|(key, inner)| match left.checked_sub(key.len()) {
            Some(left) => Some(format!("/{}{}", escaped(key), long_place(inner, left)?)),
            None => Some(String::new()),
        }),
        _ => None,
    }
}

/// Returns a name as a part of a JSON Pointer.
pub(in crate::validation) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Resolves a reference without a fragment (RFC 3986, 5.2).
fn resolve(base: &str, reference: &str) -> String {
    let has_scheme = reference.split_once(':').is_some_and(|(scheme, _)| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(plain)
    });
    if has_scheme {
        return reference.to_owned();
    }
    if reference.is_empty() {
        return base.to_owned();
    }
    let (scheme, rest) = base.split_once(':').unwrap_or(("file", base));
    if reference.starts_with("//") {
        return format!("{scheme}:{reference}");
    }
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at_checked(rest.find('/').unwrap_or(rest.len())).unwrap_or((rest, "")),
        None => ("", rest),
    };
    let slashes = if rest.starts_with("//") { "//" } else { "" };
    let path = path.split('?').next().unwrap_or_default();
    let joined = match reference.strip_prefix('/') {
        Some(_) => reference.to_owned(),
        None if reference.starts_with('?') => format!("{path}{reference}"),
        None => format!("{}/{reference}", path.rsplit_once('/').map_or("", |(directory, _)| directory)),
    };
    let (joined, query) =
        joined.split_once('?').map_or((&*joined, String::new()), |(path, query)| (path, format!("?{query}")));
    let mut parts = Vec::new();
    for part in joined.split('/').skip(1) {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("{scheme}:{slashes}{authority}/{}{query}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_resolved() {
        for (base, reference, expected) in [
            (UNNAMED, "", UNNAMED),
            (UNNAMED, "other.json", "file:///other.json"),
            ("https://a.example/x/y", "z", "https://a.example/x/z"),
            ("https://a.example/x/y", "/z", "https://a.example/z"),
            ("https://a.example/x/y", "../z", "https://a.example/z"),
            ("https://a.example", "z", "https://a.example/z"),
            ("https://a.example/x/y?q", "//b.example/z", "https://b.example/z"),
            ("https://a.example/x/y?q", "urn:z", "urn:z"),
            ("https://a.example/x/y?q", "z?r", "https://a.example/x/z?r"),
        ] {
            assert_eq!(resolve(base, reference), expected, "{base} {reference}");
        }
    }
}
