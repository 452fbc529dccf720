//! Checks a parsed expression, and makes the tree that is evaluated.

mod functions;
mod literals;
mod names;

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};

use self::functions::Callee;
use self::names::{ROOTS, VARIABLES, comparison, kind_of, loop_of, operation};
use super::Uses;
use super::cel_type::CelType;
use super::node::{Arithmetic, CelNode, Comparison, Literal, Loop, Variable};
use lodge_base::config::key::nearest;

/// The most levels of a tree. Its evaluation is recursive.
pub(super) const DEPTH: usize = 40;

/// The most loops inside of one another. Each multiplies the cost, which has a bound of its own when it is evaluated.
const LOOPS: usize = 2;

/// The most items of a list.
const ITEMS: usize = 200;

/// What is wrong with an expression.
pub(super) struct CelProblem {
    /// The part of the expression.
    pub(super) id: u64,
    pub(super) message: String,
}

/// A checked part of an expression with its type.
pub(super) type Checked = Result<(CelNode, CelType), CelProblem>;

/// The check of one expression.
#[derive(Default)]
pub(super) struct Checker {
    pub(super) uses: Uses,
    /// The patterns that were compiled, with those of the expressions before.
    pub(super) patterns: usize,
    /// The variables of the loops around the current part, from the outside.
    locals: Vec<(String, CelType)>,
    depth: usize,
}

impl Checker {
    /// Begins a check, with so many patterns in the expressions before.
    pub(super) fn new(patterns: usize) -> Self {
        Self { patterns, ..Self::default() }
    }

    /// Checks a part of the expression.
    pub(super) fn check(&mut self, part: &IdedExpr) -> Checked {
        if self.depth == DEPTH {
            return fail(part.id, format!("it is nested more than {DEPTH} levels deep; write several rules"));
        }
        self.depth += 1;
        let checked = match &part.expr {
            Expr::Literal(literal) => constant(part.id, literal),
            Expr::Ident(name) => self.name(part.id, name),
            Expr::Select(select) => self.select(part.id, select),
            Expr::Call(call) => self.call(part.id, call),
            Expr::List(list) => {
                if list.elements.len() > ITEMS {
                    return fail(part.id, format!("{} items are more than {ITEMS}", list.elements.len()));
                }
                let (mut items, mut of) = (Vec::new(), None);
                for element in &list.elements {
                    let (item, kind) = self.check(element)?;
                    of = Some(if of.as_ref().is_none_or(|of| *of == kind) { kind } else { CelType::Any });
                    items.push(item);
                }
                Ok((CelNode::List(items), CelType::List(Box::new(of.unwrap_or(CelType::Any)))))
            }
            Expr::Map(_) | Expr::Struct(_) => {
                fail(part.id, "rules have no maps of their own; compare with `==`, or `in` a list")
            }
            Expr::Comprehension(_) | Expr::Unspecified => fail(part.id, "it is not an expression"),
        };
        self.depth -= 1;
        checked
    }

    /// Checks a part that must have this type.
    pub(super) fn expect(&mut self, part: &IdedExpr, wanted: &CelType) -> Result<Box<CelNode>, CelProblem> {
        let (node, kind) = self.check(part)?;
        if kind.fits(wanted) {
            Ok(Box::new(node))
        } else {
            fail(part.id, format!("the type is {kind}, and must be {wanted}"))
        }
    }

    fn name(&mut self, id: u64, name: &str) -> Checked {
        if let Some(number) = self.locals.iter().rposition(|(local, _)| local == name) {
            let kind = self.locals.get(number).map_or(CelType::Any, |(_, kind)| kind.clone());
            return Ok((CelNode::Local(number), kind));
        }
        if name == "now" {
            self.uses.clock = true;
            return Ok((CelNode::Variable(Variable::Now), CelType::Timestamp));
        }
        let parts: Vec<_> = VARIABLES.iter().filter(|(root, ..)| *root == name).map(|(_, part, _)| *part).collect();
        if !parts.is_empty() {
            return fail(
                id,
                format!("`{name}` is not a value; write one of `{name}.{}`", parts.join(&format!("`, `{name}."))),
            );
        }
        let known = ROOTS.iter().copied().chain(self.locals.iter().map(|(local, _)| local.as_str()));
        let hint = nearest(name, known.clone()).map_or_else(
            || format!("there are `{}`, and text is quoted", ROOTS.join("`, `")),
            |near| format!("did you mean `{near}`?"),
        );
        fail(id, format!("unknown variable `{name}`; {hint}"))
    }

    /// Returns the variable that a selection names, if it names one.
    fn variable(&self, id: u64, select: &SelectExpr) -> Result<Option<Variable>, CelProblem> {
        let Expr::Ident(root) = &select.operand.expr else { return Ok(None) };
        if self.locals.iter().any(|(local, _)| local == root) {
            return Ok(None);
        }
        let mut parts = VARIABLES.iter().filter(|(of, ..)| of == root).peekable();
        if parts.peek().is_none() {
            return Ok(None);
        }
        if let Some((.., variable)) = parts.clone().find(|(_, part, _)| *part == select.field) {
            return Ok(Some(*variable));
        }
        let names: Vec<_> = parts.map(|(_, part, _)| *part).collect();
        let hint = nearest(&select.field, names.iter().copied()).map_or_else(
            || format!("there are `{root}.{}`", names.join(&format!("`, `{root}."))),
            |near| format!("did you mean `{root}.{near}`?"),
        );
        fail(id, format!("unknown variable `{root}.{}`; {hint}", select.field))
    }

    fn select(&mut self, id: u64, select: &SelectExpr) -> Checked {
        if let Some(variable) = self.variable(id, select)? {
            self.uses.path |= variable == Variable::Path;
            self.uses.address |= variable == Variable::Address;
            return Ok((CelNode::Variable(variable), kind_of(variable)));
        }
        let (map, of) = self.map(&select.operand)?;
        check_key(id, &map, &select.field)?;
        Ok((CelNode::Field(map, select.field.clone()), of))
    }

    /// Checks a part whose keys have values, and returns the type of these.
    fn map(&mut self, part: &IdedExpr) -> Result<(Box<CelNode>, CelType), CelProblem> {
        match self.check(part)? {
            (node, CelType::Map(of)) => Ok((Box::new(node), *of)),
            (node, CelType::Any) => Ok((Box::new(node), CelType::Any)),
            (_, kind) => fail(part.id, format!("the type is {kind}, which has no keys")),
        }
    }

    fn call(&mut self, id: u64, call: &CallExpr) -> Checked {
        let name = call.func_name.as_str();
        match (name, call.target.as_deref(), call.args.as_slice()) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, None, [left, right]) => {
                let (left, right) = (self.expect(left, &CelType::Bool)?, self.expect(right, &CelType::Bool)?);
                let node =
                    if name == operators::LOGICAL_AND { CelNode::And(left, right) } else { CelNode::Or(left, right) };
                Ok((node, CelType::Bool))
            }
            (operators::LOGICAL_NOT, None, [operand]) => {
                Ok((CelNode::Not(self.expect(operand, &CelType::Bool)?), CelType::Bool))
            }
            (operators::NEGATE, None, [operand]) => {
                let (node, kind) = self.check(operand)?;
                if !kind.is_number() && kind != CelType::Duration {
                    return fail(operand.id, format!("the type is {kind}, which has no sign"));
                }
                Ok((CelNode::Negate(Box::new(node)), kind))
            }
            (operators::CONDITIONAL, None, [condition, then, other]) => {
                let condition = self.expect(condition, &CelType::Bool)?;
                let ((then, kind), (otherwise, other_kind)) = (self.check(then)?, self.check(other)?);
                let kind = if kind == other_kind { kind } else { CelType::Any };
                Ok((CelNode::If(Box::new([*condition, then, otherwise])), kind))
            }
            (operators::INDEX, None, [of, key]) => self.index(of, key),
            (operators::IN, None, [item, of]) => self.membership(id, item, of),
            (operators::HAS, None, [part]) => self.has(part),
            (_, None, [left, right]) if let Some(comparison) = comparison(name) => {
                self.compare(id, comparison, left, right)
            }
            (_, None, [left, right]) if let Some(operation) = operation(name) => {
                self.calculate(id, operation, left, right)
            }
            (_, Some(range), args) if let Some(kind) = loop_of(name) => self.repeat(id, kind, range, args),
            (_, target, args) => functions::check(self, Callee { id, name }, target, args),
        }
    }

    fn index(&mut self, of: &IdedExpr, key: &IdedExpr) -> Checked {
        let ((node, kind), (key_node, key_kind)) = (self.check(of)?, self.check(key)?);
        let (wanted, inner) = match kind {
            CelType::List(of) => (CelType::Int, *of),
            CelType::Map(of) => (CelType::Text, *of),
            CelType::Any => (CelType::Any, CelType::Any),
            kind => return fail(of.id, format!("the type is {kind}, which has neither keys nor items")),
        };
        if !key_kind.fits(&wanted) {
            return fail(key.id, format!("the type is {key_kind}, and must be {wanted}"));
        }
        let node = Box::new(node);
        Ok(match key_node {
            CelNode::Literal(Literal::Text(text)) => {
                check_key(key.id, &node, &text)?;
                (CelNode::Field(node, text), inner)
            }
            key => (CelNode::Index(node, Box::new(key)), inner),
        })
    }

    fn membership(&mut self, id: u64, item: &IdedExpr, of: &IdedExpr) -> Checked {
        let ((node, kind), (of_node, of_kind)) = (self.check(item)?, self.check(of)?);
        let fits = match &of_kind {
            CelType::List(inner) => kind.may_equal(inner),
            CelType::Map(_) => kind.fits(&CelType::Text),
            CelType::Any => true,
            CelType::Text if matches!(node, CelNode::Variable(Variable::Address)) => {
                return fail(id, "a network is no list; write cidr(\"10.0.0.0/8\").containsIP(client.address)");
            }
            CelType::Text => return fail(id, "a text has no items; write a.contains(b)"),
            other => return fail(of.id, format!("the type is {other}, which has neither items nor keys")),
        };
        if !fits {
            return fail(item.id, format!("{kind} is never in {of_kind}"));
        }
        if kind.is_compound() {
            return fail(item.id, format!("{kind} is not compared with items; write a loop, like a.exists(x, x in b)"));
        }
        if let CelNode::List(items) = &of_node {
            items.iter().try_for_each(|one| literals::check(id, &node, one))?;
        }
        if let CelNode::Literal(Literal::Text(key)) = &node {
            check_key(item.id, &of_node, key)?;
        }
        Ok((CelNode::In(Box::new(node), Box::new(of_node)), CelType::Bool))
    }

    fn has(&mut self, part: &IdedExpr) -> Checked {
        let Expr::Select(select) = &part.expr else {
            return fail(
                part.id,
                "has() takes a key after a dot, like has(identity.claims.tenant); else write \"x-a\" in request.headers",
            );
        };
        match self.variable(part.id, select)? {
            Some(Variable::Size) => Ok((CelNode::HasSize, CelType::Bool)),
            Some(_) => fail(part.id, "every request has this"),
            None => {
                let (map, _) = self.map(&select.operand)?;
                check_key(part.id, &map, &select.field)?;
                Ok((CelNode::Has(map, select.field.clone()), CelType::Bool))
            }
        }
    }

    fn compare(&mut self, id: u64, by: Comparison, left: &IdedExpr, right: &IdedExpr) -> Checked {
        let ((left, kind), (right, other)) = (self.check(left)?, self.check(right)?);
        let ordered = matches!(by, Comparison::Equal | Comparison::Unequal) || kind.is_ordered() && other.is_ordered();
        if !ordered || !kind.may_equal(&other) {
            return fail(id, format!("{kind} cannot be compared with {other}"));
        }
        if kind.is_compound() || other.is_compound() {
            return fail(id, "lists and maps are not compared; write \"admin\" in identity.scopes, or a loop");
        }
        if matches!(by, Comparison::Equal | Comparison::Unequal) {
            literals::check(id, &left, &right)?;
            literals::check(id, &right, &left)?;
        }
        Ok((CelNode::Compare(by, Box::new(left), Box::new(right)), CelType::Bool))
    }

    fn calculate(&mut self, id: u64, by: Arithmetic, left: &IdedExpr, right: &IdedExpr) -> Checked {
        literals::check_name(id, by, left, right)?;
        let ((left, kind), (right, other)) = (self.check(left)?, self.check(right)?);
        let result = match (by, &kind, &other) {
            (_, CelType::Any, _) | (_, _, CelType::Any) => Some(CelType::Any),
            (_, CelType::Int, CelType::Int) => Some(CelType::Int),
            (Arithmetic::Remainder, ..) => None,
            (_, CelType::Double, CelType::Double) => Some(CelType::Double),
            (Arithmetic::Add, CelType::Text, CelType::Text) => Some(CelType::Text),
            (Arithmetic::Add | Arithmetic::Subtract, CelType::Timestamp, CelType::Duration) => Some(CelType::Timestamp),
            (Arithmetic::Add, CelType::Duration, CelType::Timestamp) => Some(CelType::Timestamp),
            (Arithmetic::Subtract, CelType::Timestamp, CelType::Timestamp) => Some(CelType::Duration),
            (Arithmetic::Add | Arithmetic::Subtract, CelType::Duration, CelType::Duration) => Some(CelType::Duration),
            _ => None,
        };
        let Some(result) = result else {
            return fail(
                id,
                format!("there is no such operator for {kind} and {other}; convert one by int(), double() or string()"),
            );
        };
        Ok((CelNode::Calculate(by, Box::new(left), Box::new(right)), result))
    }

    fn repeat(&mut self, id: u64, kind: Loop, range: &IdedExpr, args: &[IdedExpr]) -> Checked {
        let (name, condition, body) = match args {
            [name, body] => (name, None, body),
            [name, condition, body] if kind == Loop::Map => (name, Some(condition), body),
            _ => return fail(id, "write it like identity.scopes.exists(scope, scope == \"admin\")"),
        };
        let Expr::Ident(local) = &name.expr else { return fail(name.id, "write the name of a variable here") };
        if ROOTS.contains(&local.as_str()) || self.locals.iter().any(|(known, _)| known == local) {
            return fail(name.id, format!("`{local}` has a meaning already; choose another name"));
        }
        let (mut range_node, range_kind) = self.check(range)?;
        let item = match range_kind {
            CelType::List(of) => *of,
            CelType::Map(_) => CelType::Text,
            CelType::Any => CelType::Any,
            other => return fail(range.id, format!("the type is {other}, which has neither items nor keys")),
        };
        if self.locals.len() == LOOPS {
            return fail(id, format!("more than {LOOPS} loops are inside of one another; write several rules"));
        }
        self.locals.push((local.clone(), item.clone()));
        if let Some(condition) = condition {
            range_node = CelNode::Loop(Loop::Filter, Box::new(range_node), self.expect(condition, &CelType::Bool)?);
        }
        let (body, of) = if kind == Loop::Map {
            let (body, of) = self.check(body)?;
            (Box::new(body), of)
        } else {
            (self.expect(body, &CelType::Bool)?, item)
        };
        self.locals.pop();
        let result = if matches!(kind, Loop::Filter | Loop::Map) { CelType::List(Box::new(of)) } else { CelType::Bool };
        Ok((CelNode::Loop(kind, Box::new(range_node), body), result))
    }
}

/// Returns a problem of the part with this id.
pub(super) fn fail<T>(id: u64, message: impl Into<String>) -> Result<T, CelProblem> {
    Err(CelProblem { id, message: message.into() })
}

/// Refuses a key that no header has.
fn check_key(id: u64, map: &CelNode, key: &str) -> Result<(), CelProblem> {
    let is_name = http::HeaderName::from_bytes(key.as_bytes()).is_ok_and(|name| name.as_str() == key);
    if matches!(map, CelNode::Variable(Variable::Headers)) && !is_name {
        return fail(id, format!("no header is named `{key}`: names are in small letters"));
    }
    if matches!(map, CelNode::Variable(Variable::Headers)) && key == "host" {
        return fail(id, "HTTP/2 has no such header; write request.host, which every request has");
    }
    Ok(())
}

fn constant(id: u64, literal: &LiteralValue) -> Checked {
    Ok(match literal {
        LiteralValue::Null => (CelNode::Literal(Literal::Null), CelType::Null),
        LiteralValue::Boolean(value) => (CelNode::Literal(Literal::Bool(*value.inner())), CelType::Bool),
        LiteralValue::Int(value) => (CelNode::Literal(Literal::Int(*value.inner())), CelType::Int),
        LiteralValue::Double(value) if !value.inner().is_finite() => return fail(id, "the number is out of range"),
        LiteralValue::Double(value) => (CelNode::Literal(Literal::Double(*value.inner())), CelType::Double),
        LiteralValue::String(value) => (CelNode::Literal(Literal::Text(value.inner().to_owned())), CelType::Text),
        LiteralValue::UInt(_) => return fail(id, "write a number without `u`"),
        LiteralValue::Bytes(_) => return fail(id, "write text without `b`"),
    })
}
