//! `[[rules]]`: conditions on requests, in CEL, and what follows from each: the request is allowed or denied, gets headers, or goes
//! to a version.

use std::fmt;
use std::sync::Arc;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::Manifest;
use crate::expression::{Expression, Purpose, Uses};
use crate::headers;
use crate::schema;
use crate::section::{Owner, Section, View, words};
use crate::written::{Problems, Written};

/// The most rules of a service or of a route.
const MOST: usize = 100;

/// The most rules of a manifest.
const MOST_IN_ALL: usize = 1_000;

/// The most bytes of all expressions of a manifest. Parsing one takes about a microsecond a byte.
const MOST_BYTES: usize = 64 << 10;

/// The most headers that a rule sets.
const MOST_HEADERS: usize = 20;

/// The most bytes of the message of a denial.
const MESSAGE: usize = 500;

/// The status of a denial that says `true`.
const DENIED: StatusCode = StatusCode::FORBIDDEN;

const KEYS: [&str; 6] = ["when", "allow", "deny", "message", "set", "version"];

/// `rules`.
pub(crate) const SECTION: Section = Section {
    name: "rules",
    page: "rules",
    schema: || {
        let text = |help: &str| json!({ "type": "string", "description": help });
        let value = json!({ "type": "object", "additionalProperties": false, "required": ["cel"], "properties": { "cel": { "type": "string" } } });
        let set = json!({ "type": "object", "additionalProperties": { "anyOf": [{ "type": "string" }, value] } });
        let properties = json!({
            "when": text("the condition, in CEL; the rule is for every request without it"),
            "allow": { "type": "boolean", "enum": [true], "description": "no later rule is evaluated" },
            "deny": {
                "anyOf": [{ "type": "boolean", "enum": [true] }, { "type": "integer", "minimum": 400, "maximum": 599 }],
                "description": "the status with which the request is denied; true is 403",
            },
            "message": text("what the client is told of a denial"),
            "set": schema::described(set, "headers that the request gets: text, or { cel = \"EXPRESSION\" }"),
            "version": text("the label of the version that handles the request"),
        });
        json!({
            "type": "array",
            "maxItems": MOST,
            "items": schema::table(&[], properties),
            "description": "conditions on requests, and what follows from them, in order",
        })
    },
    owner: Owner::Route(|settings, written, problems| settings.policies.rules = read(written, problems)),
    view: Some(View { label: "rules", value: view, text: words }),
    ..Section::DEFAULT
};

/// A condition, and what follows for the requests that meet it. A comparable value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRule {
    /// The condition; `None` if every request meets it.
    pub when: Option<Expression>,
    /// The headers that the request gets.
    pub set: Vec<(HeaderName, HeaderText)>,
    /// The label of the version that handles the request.
    pub version: Option<String>,
    /// Whether later rules are not evaluated, and why.
    pub end: Option<RuleEnd>,
}

/// The value of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderText {
    /// This text.
    Fixed(HeaderValue),
    /// The value of an expression.
    Computed(Expression),
}

/// Why the rules after one that a request meets are not evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleEnd {
    /// The request is allowed.
    Allow,
    /// The request is denied, with this status and message.
    Deny(StatusCode, Option<Arc<str>>),
}

impl RequestRule {
    /// Returns its expressions.
    fn expressions(&self) -> impl Iterator<Item = &Expression> {
        let computed = self.set.iter().filter_map(|(_, text)| match text {
            HeaderText::Computed(expression) => Some(expression),
            HeaderText::Fixed(_) => None,
        });
        self.when.iter().chain(computed)
    }

    /// Returns what its expressions use.
    pub fn uses(&self) -> Uses {
        self.expressions().fold(Uses::default(), |all, expression| all.and(expression.uses()))
    }
}

/// The rule in words. Values of headers may be secrets, and are left out.
impl fmt::Display for RequestRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut and = "";
        for (name, _) in &self.set {
            write!(f, "{and}set {name}")?;
            and = ", ";
        }
        if let Some(version) = &self.version {
            write!(f, "{and}version {version}")?;
            and = ", ";
        }
        match &self.end {
            Some(RuleEnd::Allow) => write!(f, "{and}allow")?,
            Some(RuleEnd::Deny(status, _)) => write!(f, "{and}deny {}", status.as_u16())?,
            None => {}
        }
        self.when.as_ref().map_or(Ok(()), |when| write!(f, " when {}", when.text()))
    }
}

/// Checks the rules of all routes together.
pub(crate) fn settle(manifest: &mut Manifest) {
    let routes = &manifest.policies.routes;
    // A path that the service reads differently must not lead from a route where requests are allowed to another one.
    let allows = |rules: &[RequestRule]| rules.iter().any(|rule| rule.end == Some(RuleEnd::Allow));
    if routes.iter().any(|(_, policies)| allows(&policies.rules)) {
        for (route, (_, policies)) in manifest.routes.iter_mut().zip(&manifest.policies.routes) {
            route.guarded |= !allows(&policies.rules);
        }
    }
}

fn read(written: &Written<'_>, problems: &mut Problems) -> Vec<RequestRule> {
    const FORM: &str = "write rules as [[rules]], each with `when` and what follows";
    let Some(items) = problems.take(written.items(FORM).map_err(|_| written.error(FORM))) else { return Vec::new() };
    if items.len() > MOST {
        problems.push(written.error(format!("{} rules are more than {MOST}", items.len())));
        return Vec::new();
    }
    // One problem is enough for all rules beyond the bound, none of which is read.
    let known = problems.1.rules;
    problems.1.rules = known.saturating_add(items.len());
    if problems.1.rules > MOST_IN_ALL {
        if known <= MOST_IN_ALL {
            problems.push(written.error(format!("there are more than {MOST_IN_ALL} in all routes")));
        }
        return Vec::new();
    }
    let (mut rules, mut ended) = (Vec::new(), false);
    for item in &items {
        if ended {
            problems.push(item.at(
                "rules: this one is never evaluated, since the one before has no `when` and ends the list; remove it, or \
                 write it first",
            ));
            break;
        }
        let rule = rule(item, FORM, problems);
        ended = !item.has("when") && rule.as_ref().is_some_and(|rule| rule.end.is_some());
        rules.extend(rule);
    }
    rules
}

fn rule(item: &Written<'_>, form: &str, problems: &mut Problems) -> Option<RequestRule> {
    let Some(keys) = item.item() else {
        problems.push(item.error(form));
        return None;
    };
    let mut rule = RequestRule { when: None, set: Vec::new(), version: None, end: None };
    let (mut allow, mut deny, mut message) = (false, None, None);
    for key in &keys {
        match key.name.as_str() {
            "when" => rule.when = expression(key, Purpose::Condition, problems),
            "allow" => allow = problems.take(is_true(key)).is_some(),
            "deny" => deny = problems.take(status(key)),
            "message" => message = problems.take(read_message(key)),
            "set" => rule.set = set(key, problems),
            "version" => rule.version = problems.take(label(key)),
            _ => problems.push(key.unknown("", &KEYS)),
        }
    }
    let others = allow || item.has("set") || item.has("version");
    if item.has("deny") && others {
        problems.push(item.at("a rule with `deny` has no `allow`, `set` or `version`: the request ends there"));
    }
    if !item.has("deny") && !others && !item.has("allow") {
        problems.push(item.at("nothing follows from the rule; write `deny = 403`, `allow = true`, `set` or `version`"));
    }
    if message.is_some() && !item.has("deny") {
        problems.push(item.at("`message` has no effect without `deny` beside it"));
    }
    rule.end = match deny {
        Some(status) => Some(RuleEnd::Deny(status, message)),
        None => allow.then_some(RuleEnd::Allow),
    };
    Some(rule)
}

/// Reads an expression, unless those before it have used up what a manifest may have.
fn expression(key: &Written<'_>, purpose: Purpose, problems: &mut Problems) -> Option<Expression> {
    const FORM: &str = "write an expression in quotes, like 'request.method == \"GET\"'";
    let text = problems.take(key.string(FORM))?;
    let before = problems.1.bytes;
    problems.1.bytes = before.saturating_add(text.len());
    if problems.1.bytes > MOST_BYTES {
        if before <= MOST_BYTES {
            problems.push(key.error(format!("all expressions together have more than {MOST_BYTES} bytes")));
        }
        return None;
    }
    // The patterns of a refused expression count as well.
    let read = Expression::read_counted(text, purpose, &mut problems.1.patterns);
    problems.take(read.map_err(|wrong| key.error(wrong)))
}

fn is_true(key: &Written<'_>) -> Result<(), String> {
    let value = key.boolean()?;
    if value { Ok(()) } else { Err(key.error("write true; a rule that is not wanted is removed")) }
}

/// Reads the status of a denial.
fn status(key: &Written<'_>) -> Result<StatusCode, String> {
    if key.boolean().is_ok() {
        return is_true(key).map(|()| DENIED);
    }
    let wrong = |why: &str| key.error(format!("write a status from 400 to 599, or true for 403{why}"));
    let number = key.number(400..=599).map_err(|_| wrong(""))?;
    match number {
        401 | 407 => Err(wrong("; [auth] refuses requests without credentials")),
        405 => Err(wrong("; `methods` of a route are those that it takes")),
        number => {
            u16::try_from(number).ok().and_then(|number| StatusCode::from_u16(number).ok()).ok_or_else(|| wrong(""))
        }
    }
}

fn read_message(key: &Written<'_>) -> Result<Arc<str>, String> {
    let text = key.string("write what the client is told")?;
    let fits = text.len() <= MESSAGE && !text.contains(char::is_control);
    if fits { Ok(text.into()) } else { Err(key.error(format!("it is one line of at most {MESSAGE} bytes"))) }
}

fn label(key: &Written<'_>) -> Result<String, String> {
    const FORM: &str = "write the label of a version, like \"canary\" for the file NAME@canary.wasm";
    let text = key.string(FORM)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let fits = !text.is_empty() && text.len() <= 64 && text.bytes().all(plain);
    if fits { Ok(text.to_owned()) } else { Err(key.error(FORM)) }
}

fn set(key: &Written<'_>, problems: &mut Problems) -> Vec<(HeaderName, HeaderText)> {
    const FORM: &str = "write a table, like { x-tier = \"gold\", x-tenant = { cel = \"identity.claims.tenant\" } }";
    let Some(fields) = key.table().filter(|fields| !fields.is_empty() && fields.len() <= MOST_HEADERS) else {
        problems.push(key.error(format!("{FORM}; at most {MOST_HEADERS} headers")));
        return Vec::new();
    };
    let mut set: Vec<(HeaderName, HeaderText)> = Vec::new();
    for field in &fields {
        let Some(name) = problems.take(headers::request_name(field, field.inside(key))) else { continue };
        if set.iter().any(|(known, _)| *known == name) {
            problems.push(field.error("the header is there twice"));
        }
        set.extend(text(field, FORM, problems).map(|text| (name, text)));
    }
    set
}

fn text(field: &Written<'_>, form: &str, problems: &mut Problems) -> Option<HeaderText> {
    let Some(keys) = field.table() else {
        let value = field.string(form).and_then(|_| headers::value(field));
        return problems.take(value).map(HeaderText::Fixed);
    };
    match keys.as_slice() {
        [key] if key.inside(field) == "cel" => expression(key, Purpose::Text, problems).map(HeaderText::Computed),
        _ => problems.take(Err(field.error(form))),
    }
}

/// Returns the rules in words, those of routes with their route.
fn view(manifest: &Manifest) -> Option<Value> {
    let (service, routes) = (&manifest.policies.service, &manifest.policies.routes);
    let own = service.rules.iter().map(ToString::to_string);
    let of_routes =
        routes.iter().flat_map(|(route, policies)| policies.rules.iter().map(move |rule| format!("{route}: {rule}")));
    let all: Vec<_> = own.chain(of_routes).collect();
    if all.is_empty() { None } else { Some(all.into()) }
}

#[cfg(test)]
mod tests;
