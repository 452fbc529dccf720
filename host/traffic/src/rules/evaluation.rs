//! Evaluates expressions. Every step takes from a budget that all rules share for a request, so that no expression costs more than
//! about two milliseconds, whatever its values are.

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;

use http::HeaderMap;

use super::failure::RuleFailure;
use super::input::{RuleInput, has_header, is_seen};
use super::operations::{any, calculate, call, compare, negated, timestamp};
use super::value::{Evaluated, Value};
use lodge_base::canonical;
use lodge_manifest::expression::Expression;
use lodge_manifest::expression::node::{CelNode, Loop, Search, Variable};

/// The bytes of text that one step reads.
const BYTES: usize = 16;

/// The product of the bytes of a text and those of a pattern's states that one step pays for. A state takes about 32 bytes, and the
/// slowest search looks at each of them for each byte.
const MATCH: usize = 512;

/// The evaluation of the rules for one request.
pub(super) struct Evaluation<'a> {
    input: &'a RuleInput<'a>,
    client: IpAddr,
    steps: usize,
    /// The variables of the loops around the current part.
    locals: Vec<Value<'a>>,
}

impl<'a> Evaluation<'a> {
    /// Begins an evaluation with this address of the client and so many steps.
    pub(super) fn new(input: &'a RuleInput<'a>, client: IpAddr, steps: usize) -> Self {
        Self { input, client, steps, locals: Vec::new() }
    }

    /// Returns the steps that are left.
    pub(super) fn left(&self) -> usize {
        self.steps
    }

    /// Whether a condition is met.
    ///
    /// # Errors
    /// If it cannot be evaluated.
    pub(super) fn condition(&mut self, of: &'a Expression) -> Result<bool, RuleFailure> {
        self.truth(of.root())
    }

    /// Returns the value of an expression.
    ///
    /// # Errors
    /// If it cannot be evaluated.
    pub(super) fn value(&mut self, of: &'a Expression) -> Evaluated<'a> {
        self.eval(of.root())
    }

    /// Takes one step, and those for so many bytes.
    fn charge(&mut self, bytes: usize) -> Result<(), RuleFailure> {
        let steps = (bytes / BYTES).saturating_add(1);
        let left = self.steps.checked_sub(steps);
        // What is left must not be enough for the other side of `||`.
        self.steps = left.unwrap_or(0);
        left.map(drop).ok_or(RuleFailure::Cost)
    }

    fn eval(&mut self, node: &'a CelNode) -> Evaluated<'a> {
        self.charge(0)?;
        match node {
            CelNode::Literal(literal) => Ok(Value::of_literal(literal)),
            CelNode::Variable(variable) => self.variable(*variable),
            CelNode::Local(number) => {
                let value = self.locals.get(*number).cloned().ok_or(RuleFailure::Type)?;
                // Text that an expression has made is copied.
                self.charge(value.weight()).map(|()| value)
            }
            CelNode::List(items) => {
                Ok(Value::List(items.iter().map(|item| self.eval(item)).collect::<Result<_, _>>()?))
            }
            CelNode::Field(of, key) => {
                let of = self.eval(of)?;
                self.find(&of, key)?.ok_or(RuleFailure::MissingKey)
            }
            CelNode::Index(of, key) => {
                let (of, key) = (self.eval(of)?, self.eval(key)?);
                self.index(&of, &key)
            }
            CelNode::Has(of, key) => {
                let found = match self.eval(of)? {
                    Value::Headers(headers) => has_header(headers, key)?,
                    of => self.find(&of, key)?.is_some(),
                };
                Ok(Value::Bool(found))
            }
            CelNode::HasSize => Ok(Value::Bool(self.input.size.is_some())),
            CelNode::Not(of) => self.truth(of).map(|value| Value::Bool(!value)),
            CelNode::Negate(of) => self.eval(of).and_then(negated),
            CelNode::And(left, right) => self.either(false, left, right),
            CelNode::Or(left, right) => self.either(true, left, right),
            CelNode::If(parts) => {
                let [condition, then, otherwise] = &**parts;
                if self.truth(condition)? { self.eval(then) } else { self.eval(otherwise) }
            }
            CelNode::Compare(by, left, right) => {
                let (left, right) = (self.eval(left)?, self.eval(right)?);
                self.charge(left.weight().min(right.weight()))?;
                compare(*by, &left, &right).map(Value::Bool)
            }
            CelNode::In(item, of) => {
                let (item, of) = (self.eval(item)?, self.eval(of)?);
                self.contains(&item, &of).map(Value::Bool)
            }
            CelNode::Calculate(by, left, right) => {
                let (left, right) = (self.eval(left)?, self.eval(right)?);
                self.charge(left.weight().saturating_add(right.weight()))?;
                calculate(*by, left, right)
            }
            CelNode::Matches(of, pattern) => {
                let text = self.searched(of)?;
                self.charge(text.len().saturating_mul(pattern.size) / MATCH * BYTES)?;
                Ok(Value::Bool(pattern.regex.is_match(&text)))
            }
            CelNode::Within(address, network) => {
                let address = match &**address {
                    CelNode::Variable(Variable::Address) => self.client,
                    other => self.text(other)?.parse().map_err(|_| RuleFailure::Form)?,
                };
                Ok(Value::Bool(network.contains(&address.to_canonical())))
            }
            CelNode::Part(part, zone, of) => match self.eval(of)? {
                Value::Timestamp(at) => part.of(at, *zone).map(Value::Int).ok_or(RuleFailure::Overflow),
                Value::Duration(span) => part.of_span(span).map(Value::Int).ok_or(RuleFailure::Type),
                _ => Err(RuleFailure::Type),
            },
            CelNode::Call(function, of) => {
                let value = self.eval(of)?;
                self.charge(value.weight())?;
                call(*function, value)
            }
            CelNode::Search(search, text, part) => self.search(*search, text, part).map(Value::Bool),
            CelNode::Loop(kind, range, body) => self.repeat(*kind, range, body),
        }
    }

    fn search(&mut self, search: Search, text: &'a CelNode, part: &'a CelNode) -> Result<bool, RuleFailure> {
        let (text, part) = (self.searched(text)?, self.text(part)?);
        self.charge(text.len().saturating_add(part.len()))?;
        Ok(match search {
            Search::Contains => text.contains(&*part),
            Search::StartsWith => text.starts_with(&*part),
            Search::EndsWith => text.ends_with(&*part),
        })
    }

    fn truth(&mut self, node: &'a CelNode) -> Result<bool, RuleFailure> {
        if let Value::Bool(value) = self.eval(node)? { Ok(value) } else { Err(RuleFailure::Type) }
    }

    fn text(&mut self, node: &'a CelNode) -> Result<Cow<'a, str>, RuleFailure> {
        if let Value::Text(text) = self.eval(node)? { Ok(text) } else { Err(RuleFailure::Type) }
    }

    /// Evaluates `a || b`, for which `true` decides, or `a && b`, for which `false` does. As in CEL, the side that decides does so
    /// also if the other one has no value.
    fn either(&mut self, decides: bool, left: &'a CelNode, right: &'a CelNode) -> Evaluated<'a> {
        let left = self.truth(left);
        if left == Ok(decides) || left == Err(RuleFailure::Cost) {
            return left.map(Value::Bool);
        }
        let right = self.truth(right)?;
        if right == decides { Ok(Value::Bool(right)) } else { left.map(Value::Bool) }
    }

    fn variable(&mut self, variable: Variable) -> Evaluated<'a> {
        let RuleInput { method, uri, path, headers, size, identity, now, .. } = *self.input;
        Ok(match variable {
            Variable::Method => Value::text(method.as_str()),
            Variable::Path => Value::text(path),
            Variable::Query => Value::Query(uri.query().unwrap_or_default()),
            Variable::Host => Value::text(uri.authority().map_or("", |authority| canonical::host(authority.as_str()))),
            Variable::Scheme => Value::text(uri.scheme_str().unwrap_or_default()),
            Variable::Headers => Value::Headers(headers),
            Variable::Size => {
                let size = size.ok_or(RuleFailure::UnknownSize)?;
                Value::Int(i64::try_from(size).map_err(|_| RuleFailure::Overflow)?)
            }
            Variable::Kind => Value::text(self.input.kind()),
            Variable::Subject => Value::text(self.input.subject()),
            Variable::Issuer => Value::text(identity.map_or("", |identity| identity.issuer())),
            Variable::Scopes => Value::Scopes(identity.map_or(&[], |identity| identity.scopes())),
            Variable::Claims => {
                identity.map_or_else(|| Value::List(Rc::new([])), |identity| Value::Object(identity.claims()))
            }
            Variable::Address => Value::Text(self.client.to_canonical().to_string().into()),
            Variable::Now => Value::Timestamp(timestamp(now)?),
        })
    }

    /// Returns the value of a key; `None` if there is no such key.
    fn find(&mut self, of: &Value<'a>, key: &str) -> Result<Option<Value<'a>>, RuleFailure> {
        match of {
            Value::Object(keys) => Ok(keys.get(key).map(Value::of_json)),
            // The claims of an identity that has none.
            Value::List(items) if items.is_empty() => Ok(None),
            Value::Headers(headers) => self.header(headers, key),
            Value::Query(query) => {
                self.charge(of.weight())?;
                let mut found = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == key);
                match (found.next(), found.next()) {
                    (_, Some(_)) => Err(RuleFailure::Several),
                    (found, None) => Ok(found.map(|(_, value)| Value::Text(value))),
                }
            }
            _ => Err(RuleFailure::Type),
        }
    }

    /// Returns the value of a header that has one line. Which one of several a service reads is not known here.
    fn header(&mut self, headers: &'a HeaderMap, name: &str) -> Result<Option<Value<'a>>, RuleFailure> {
        match headers.get_all(name).iter().nth(1) {
            Some(_) if is_seen(name) => Err(RuleFailure::Several),
            _ => self.joined(headers, name),
        }
    }

    /// Returns all lines of a header as one, with commas (RFC 9110 5.3), or as cookies are joined (RFC 6265 4.2.1).
    fn joined(&mut self, headers: &'a HeaderMap, name: &str) -> Result<Option<Value<'a>>, RuleFailure> {
        if !has_header(headers, name)? {
            return Ok(None);
        }
        let mut lines = headers.get_all(name).iter();
        let Some(first) = lines.next() else { return Ok(None) };
        self.charge(first.len())?;
        let first = first.to_str().map_err(|_| RuleFailure::Encoding)?;
        let mut joined = Cow::Borrowed(first);
        for line in lines {
            self.charge(line.len())?;
            let line = line.to_str().map_err(|_| RuleFailure::Encoding)?;
            let text = joined.to_mut();
            text.push_str(if name == "cookie" { "; " } else { ", " });
            text.push_str(line);
        }
        Ok(Some(Value::Text(joined)))
    }

    /// Evaluates the text in which another one is sought: of a header, all its lines.
    fn searched(&mut self, node: &'a CelNode) -> Result<Cow<'a, str>, RuleFailure> {
        let headers = self.input.headers;
        match node {
            CelNode::Field(of, name) if matches!(**of, CelNode::Variable(Variable::Headers)) => {
                match self.joined(headers, name)? {
                    Some(Value::Text(text)) => Ok(text),
                    _ => Err(RuleFailure::MissingKey),
                }
            }
            node => self.text(node),
        }
    }

    fn index(&mut self, of: &Value<'a>, key: &Value<'a>) -> Evaluated<'a> {
        match (of, key) {
            (of, Value::Text(key)) => self.find(of, key)?.ok_or(RuleFailure::MissingKey),
            (of, Value::Int(number)) => {
                let at = usize::try_from(*number).map_err(|_| RuleFailure::MissingItem)?;
                let item = match of {
                    Value::List(items) => {
                        // Text that an expression has made is copied.
                        self.charge(items.get(at).map_or(0, Value::weight))?;
                        items.get(at).cloned()
                    }
                    Value::Scopes(items) => items.get(at).map(|item| Value::text(item)),
                    Value::Array(items) => items.get(at).map(Value::of_json),
                    _ => return Err(RuleFailure::Type),
                };
                item.ok_or(RuleFailure::MissingItem)
            }
            _ => Err(RuleFailure::Type),
        }
    }

    fn contains(&mut self, item: &Value<'a>, of: &Value<'a>) -> Result<bool, RuleFailure> {
        self.charge(of.weight())?;
        match (of, item) {
            (Value::Scopes(items), Value::Text(text)) => Ok(items.iter().any(|item| item == text)),
            (Value::List(items), item) => any(items.iter().map(|one| one.equals(item))),
            (Value::Array(items), item) => any(items.iter().map(|one| Value::of_json(one).equals(item))),
            (of, Value::Text(key)) => match of {
                // That there are several is no reason to say that there is none.
                Value::Query(query) => Ok(form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == *key)),
                Value::Headers(headers) => has_header(headers, key),
                of => self.find(of, key).map(|found| found.is_some()),
            },
            _ => Err(RuleFailure::Type),
        }
    }

    /// Returns the items of a list, or the keys of a map.
    fn items(&mut self, of: Value<'a>) -> Result<Rc<[Value<'a>]>, RuleFailure> {
        self.charge(of.weight())?;
        Ok(match of {
            Value::List(items) => items,
            Value::Scopes(items) => items.iter().map(|item| Value::text(item)).collect(),
            Value::Array(items) => items.iter().map(Value::of_json).collect(),
            Value::Object(keys) => keys.keys().map(|key| Value::text(key)).collect(),
            Value::Headers(headers) => {
                headers.keys().filter(|name| is_seen(name.as_str())).map(|name| Value::text(name.as_str())).collect()
            }
            Value::Query(query) => {
                form_urlencoded::parse(query.as_bytes()).map(|(name, _)| Value::Text(name)).collect()
            }
            _ => return Err(RuleFailure::Type),
        })
    }

    fn repeat(&mut self, kind: Loop, range: &'a CelNode, body: &'a CelNode) -> Evaluated<'a> {
        let range = self.eval(range)?;
        let items = self.items(range)?;
        let (mut made, mut held, mut failed) = (Vec::new(), 0_usize, None);
        for item in &*items {
            self.charge(item.weight())?;
            self.locals.push(item.clone());
            let result = self.eval(body);
            self.locals.pop();
            match (kind, result) {
                (_, Err(RuleFailure::Cost)) => return Err(RuleFailure::Cost),
                (Loop::Map, value) => made.push(value?),
                (Loop::All, Ok(Value::Bool(false))) => return Ok(Value::Bool(false)),
                (Loop::Exists, Ok(Value::Bool(true))) => return Ok(Value::Bool(true)),
                (Loop::Filter, Ok(Value::Bool(true))) => {
                    self.charge(item.weight())?;
                    made.push(item.clone());
                }
                (_, Ok(Value::Bool(holds))) => held += usize::from(holds),
                // As in CEL, an item that decides does so also if another one has no value.
                (Loop::All | Loop::Exists, Err(failure)) => failed = Some(failure),
                (Loop::All | Loop::Exists, Ok(_)) => failed = Some(RuleFailure::Type),
                (_, Err(failure)) => return Err(failure),
                (_, Ok(_)) => return Err(RuleFailure::Type),
            }
        }
        failed.map_or(Ok(()), Err)?;
        Ok(match kind {
            Loop::All => Value::Bool(true),
            Loop::Exists => Value::Bool(false),
            Loop::ExistsOne => Value::Bool(held == 1),
            Loop::Filter | Loop::Map => Value::List(made.into()),
        })
    }
}
