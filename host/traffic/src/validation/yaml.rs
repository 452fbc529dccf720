//! YAML as far as JSON has it: what YAML 1.2 (core schema) reads in the same way. The rest is refused, since readers differ in it.

use std::borrow::Cow;

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::json::{Entry, Json, JsonBounds, JsonCause, shown};

/// A list or an object that is being read.
enum OpenValue {
    Array(Vec<Json<'static>>),
    /// With the key of the value that comes next.
    Object(Vec<Entry<'static>>, Option<Cow<'static, str>>),
}

/// A list or an object around the place that is looked for.
enum OpenPart {
    /// With the number of its next item.
    Array(usize),
    /// Whether its key was there, so that a value comes next.
    Object(bool),
}

/// Reads JSON that an operator has written. Messages name keys, which those to clients do not.
///
/// # Errors
/// One line, with the place.
pub(super) fn read_json(text: &str, bounds: JsonBounds) -> Result<Json<'_>, String> {
    Json::read(text.as_bytes(), bounds).map_err(|fault| {
        // JSON is YAML, but for surrogate pairs, for which the other reader may stop before it comes to the key.
        let named = (fault.cause == JsonCause::Duplicate).then(|| read(text, bounds).err()).flatten();
        let named = named.filter(|why| why.contains("twice"));
        named.unwrap_or_else(|| fault.to_string())
    })
}

/// Returns the line of a text at which the value at a place begins, or the next one around it that there is.
pub(super) fn line_of(text: &str, place: &str) -> Option<usize> {
    let target: Vec<_> = place.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect();
    // The lists and objects that are open, how many of them are on the way to the place, and the line that is nearest to it so far.
    let (mut open, mut on_way, mut line): (Vec<OpenPart>, usize, Option<usize>) = (Vec::new(), 0, None);
    for event in Parser::new_from_str(text) {
        // What comes before a text that YAML does not have, such as a surrogate pair of JSON, has lines all the same.
        let Ok((event, span)) = event else { break };
        let is_value = matches!(event, Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..));
        let part = match (&event, open.last_mut()) {
            (Event::SequenceEnd | Event::MappingEnd, _) => {
                open.pop();
                on_way = on_way.min(open.len());
                continue;
            }
            (Event::Scalar(key, ..), Some(OpenPart::Object(has_key @ false))) => {
                *has_key = true;
                Some(key.to_string())
            }
            (_, Some(OpenPart::Array(next))) if is_value => {
                *next += 1;
                Some((*next - 1).to_string())
            }
            (_, Some(OpenPart::Object(has_key))) if is_value => {
                *has_key = false;
                None
            }
            _ => None,
        };
        let level = open.len().saturating_sub(1);
        if let Some(part) = part.filter(|_| on_way >= level) {
            on_way = level;
            if target.get(level) == Some(&part) {
                (on_way, line) = (level + 1, Some(span.start.line()));
                if on_way == target.len() {
                    return line;
                }
            }
        }
        match event {
            Event::SequenceStart(..) => open.push(OpenPart::Array(0)),
            Event::MappingStart(..) => open.push(OpenPart::Object(false)),
            _ => {}
        }
    }
    line
}

/// Reads a text.
///
/// # Errors
/// One line, with the place: if it is not YAML, has what JSON has not, or is not within the bounds.
pub(super) fn read(text: &str, bounds: JsonBounds) -> Result<Json<'static>, String> {
    let (mut open, mut whole, mut values) = (Vec::new(), None, 0_usize);
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let why = format!("it is not YAML: {}", error.info().escape_debug());
            at(error.marker().line(), error.marker().col(), &why)
        })?;
        let wrong = |why: &str| Err(at(span.start.line(), span.start.col(), why));
        let is_key = matches!(open.last(), Some(OpenValue::Object(_, None)));
        let starts = match &event {
            Event::Scalar(_, _, _, tag) => tag.is_some(),
            Event::SequenceStart(_, tag) | Event::MappingStart(_, tag) => is_key || tag.is_some(),
            Event::Alias(_) => true,
            Event::DocumentStart(_) => whole.is_some(),
            _ => false,
        };
        if starts {
            return wrong("aliases, tags, keys that are no text, and several documents are not supported");
        }
        let value = match event {
            Event::Scalar(text, style, ..) if is_key => {
                if style == ScalarStyle::Plain && text == "<<" {
                    return wrong("merge keys are not supported");
                }
                if let Some(OpenValue::Object(_, key)) = open.last_mut() {
                    *key = Some(Cow::Owned(text.into_owned()));
                }
                continue;
            }
            Event::Scalar(text, ScalarStyle::Plain, ..) => match plain(&text) {
                Some(value) => value,
                None => return wrong("write a number as in JSON, or a text in quotes"),
            },
            Event::Scalar(text, ..) => Json::Text(Cow::Owned(text.into_owned())),
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() == bounds.depth => {
                return wrong(&format!("it has more than {} levels of lists and objects", bounds.depth));
            }
            Event::SequenceStart(..) => {
                open.push(OpenValue::Array(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(OpenValue::Object(Vec::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(OpenValue::Array(items)) => Json::Array(items),
                Some(OpenValue::Object(entries, _)) => match Json::object(entries) {
                    Ok(object) => object,
                    Err(key) => {
                        return wrong(&format!("the object that ends here has the key `{}` twice", shown(&key)));
                    }
                },
                None => continue,
            },
            _ => continue,
        };
        values += 1;
        if values > bounds.values {
            return wrong(&format!("it has more than {} values", bounds.values));
        }
        match open.last_mut() {
            Some(OpenValue::Array(items)) => items.push(value),
            Some(OpenValue::Object(entries, key)) => entries.extend(key.take().map(|key| (key, value))),
            None => whole = Some(value),
        }
    }
    whole.ok_or_else(|| "it is empty".into())
}

fn at(line: usize, column: usize, why: &str) -> String {
    format!("line {line}, column {}: {why}", column.saturating_add(1))
}

/// Returns the value of a text without quotes; `None` for numbers that JSON writes in another way, and that versions of YAML read
/// differently.
fn plain(text: &str) -> Option<Json<'static>> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Some(Json::Null),
        "true" | "True" | "TRUE" => return Some(Json::Bool(true)),
        "false" | "False" | "FALSE" => return Some(Json::Bool(false)),
        _ => {}
    }
    let is_number = text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first))
        && (text.parse::<f64>().is_ok() || is_prefixed(text));
    match Json::read(text.as_bytes(), JsonBounds { depth: 0, values: 1 }) {
        Ok(Json::Number(number)) => Some(Json::Number(number)),
        _ if is_number => None,
        _ => Some(Json::Text(Cow::Owned(text.to_owned()))),
    }
}

/// Whether a text is a number with another base, or one of the names of numbers.
fn is_prefixed(text: &str) -> bool {
    let unsigned = text.trim_start_matches(['+', '-']);
    let digits = ["0x", "0o", "0b"].iter().find_map(|prefix| unsigned.strip_prefix(prefix));
    let based = digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    based || [".inf", ".nan"].contains(&&*unsigned.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: JsonBounds = JsonBounds { depth: 8, values: 20 };

    #[test]
    fn the_same_values_are_read_as_in_json() {
        for (yaml, json) in [
            ("a: 1\nb: [x, 'y', \"z\\n\"]\n", r#"{"a":1,"b":["x","y","z\n"]}"#),
            ("---\n200: ~\ntrue: no\n", r#"{"200":null,"true":"no"}"#),
            ("a: &here {b: -1.5e3}\n", r#"{"a":{"b":-1500}}"#),
            ("- |\n  a\n  b\n- >-\n  a\n  b\n", r#"["a\nb\n","a b"]"#),
            (
                "a:\n- 3.1.0\n- 2026-11-30\n- 1_000\n- True\n- 'true'\n-\n",
                r#"{"a":["3.1.0","2026-11-30","1_000",true,"true",null]}"#,
            ),
            ("# no\na: {}\n", r#"{"a":{}}"#),
            ("'<<': 1", r#"{"<<":1}"#),
        ] {
            let expected = Json::read(json.as_bytes(), BOUNDS).unwrap().owned();
            assert_eq!(read(yaml, BOUNDS), Ok(expected), "{yaml}");
        }
    }

    #[test]
    fn what_readers_differ_in_is_refused() {
        for (yaml, expected) in [
            ("", "it is empty"),
            ("a: 1\na: 2\n", "has the key `a` twice"),
            ("a: &x 1\nb: *x\n", "line 2, column 4: aliases"),
            ("a: &x [*x]\n", "line 1, column 8: aliases"),
            ("a: !!str 1\n", "line 1, column 4: aliases, tags"),
            ("a: !own\n  b: 1\n", "aliases, tags"),
            ("? [a]\n: 1\n", "keys that are no text"),
            ("<<: {a: 1}\n", "line 1, column 1: merge keys"),
            ("a: 1\n---\nb: 1\n", "several documents"),
            ("a: 012\n", "line 1, column 4: write a number as in JSON"),
            ("a: +1\n", "write a number as in JSON"),
            ("a: .5\n", "write a number as in JSON"),
            ("a: 0x1F\n", "write a number as in JSON"),
            ("a: -.inf\n", "write a number as in JSON"),
            ("a: 1e999\n", "write a number as in JSON"),
            ("a: [1\n", "it is not YAML"),
            ("a: \"\\x\"\n", "it is not YAML"),
            ("[[[[[[[[[]]]]]]]]]", "more than 8 levels"),
            ("[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "more than 20 values"),
        ] {
            let mistake = read(yaml, BOUNDS).unwrap_err();
            assert!(mistake.contains(expected) && !mistake.contains('\n'), "{yaml}: {mistake}");
        }
        // No text takes long, or much of the stack.
        for text in ["[".repeat(1 << 20), "- ".repeat(1 << 20), "? ".repeat(1 << 16), "{a: ".repeat(1 << 16)] {
            assert!(read(&text, BOUNDS).is_err());
        }
    }

    #[test]
    fn places_have_lines() {
        let yaml = "openapi: 3.1.0\npaths:\n  /a/b: {}\n  /a:\n    get:\n      parameters:\n      - name: x\n      - name: y\n        in: query\n";
        let json = "{\n\"paths\": {\n\"/a\":\n{\"get\": {\"parameters\": [{},\n{\"in\": 1}]}}}}";
        for (text, place, expected) in [
            (yaml, "/openapi", Some(1)),
            (yaml, "/paths/~1a~1b", Some(3)),
            (yaml, "/paths/~1a/get/parameters/1/in", Some(9)),
            (yaml, "/paths/~1a/get/parameters/0/schema", Some(7)),
            (yaml, "/paths/~1a/put", Some(4)),
            (yaml, "/info", None),
            (yaml, "", None),
            (json, "/paths/~1a/get/parameters/1", Some(5)),
            (json, "/paths/~1a/get/parameters/1/schema", Some(5)),
        ] {
            assert_eq!(line_of(text, place), expected, "{place}");
        }
    }

    proptest! {
        /// JSON is YAML.
        #[test]
        fn json_is_read_as_json(texts in proptest::collection::vec("\\PC{0,8}", 0..4), number in any::<i32>(), flag: bool) {
            let value = serde_json::json!({ "a": texts, "b": [number, flag, null, { "c d": 1.5 }], "e": {} });
            let text = value.to_string();
            prop_assert_eq!(read(&text, BOUNDS), Ok(Json::read(text.as_bytes(), BOUNDS).unwrap().owned()));
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(read(&pretty, BOUNDS), Ok(Json::read(text.as_bytes(), BOUNDS).unwrap().owned()));
        }
    }
}
