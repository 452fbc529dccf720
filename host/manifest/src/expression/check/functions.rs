//! The functions that expressions can call.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue};
use ipnet::IpNet;
use regex::RegexBuilder;

use super::{CelProblem, Checked, Checker, fail, literals};
use crate::expression::PATTERNS;
use crate::expression::cel_type::CelType;
use crate::expression::node::{CelNode, Function, Literal, Pattern, Search};
use crate::expression::time::{self, TimePart};
use lodge_base::config::key::{nearest, network};

/// The most bytes of memory for a compiled pattern, and for what it remembers while it is used.
const PATTERN: usize = 64 << 10;

/// The first size that is tried: most patterns are smaller.
const SMALL_PATTERN: usize = 1 << 10;

/// The call of a function.
pub(super) struct Callee<'a> {
    pub(super) id: u64,
    pub(super) name: &'a str,
}

/// The functions of one value: their names, whether they follow it after a dot, the types that they take, and that which they return.
const ONE: &[(&str, bool, Function, &[CelType], CelType)] = &[
    ("lowerAscii", true, Function::Lower, &[CelType::Text], CelType::Text),
    ("upperAscii", true, Function::Upper, &[CelType::Text], CelType::Text),
    ("trim", true, Function::Trim, &[CelType::Text], CelType::Text),
    ("int", false, Function::Int, &[CelType::Text, CelType::Int, CelType::Double], CelType::Int),
    ("double", false, Function::Double, &[CelType::Text, CelType::Int, CelType::Double], CelType::Double),
    ("string", false, Function::Text, &[CelType::Text, CelType::Int, CelType::Double, CelType::Bool], CelType::Text),
];

const SEARCHES: [(&str, Search); 3] =
    [("contains", Search::Contains), ("startsWith", Search::StartsWith), ("endsWith", Search::EndsWith)];

const PARTS: [(&str, TimePart); 10] = [
    ("getFullYear", TimePart::Year),
    ("getMonth", TimePart::Month),
    ("getDate", TimePart::Date),
    ("getDayOfMonth", TimePart::DayOfMonth),
    ("getDayOfWeek", TimePart::DayOfWeek),
    ("getDayOfYear", TimePart::DayOfYear),
    ("getHours", TimePart::Hours),
    ("getMinutes", TimePart::Minutes),
    ("getSeconds", TimePart::Seconds),
    ("getMilliseconds", TimePart::Milliseconds),
];

/// Names that are known and not in a table above.
const OTHERS: [&str; 13] = [
    "size",
    "matches",
    "cidr",
    "containsIP",
    "timestamp",
    "duration",
    "has",
    "all",
    "exists",
    "exists_one",
    "map",
    "filter",
    "in",
];

/// Checks the call of a function, with what is before its dot.
pub(super) fn check(
    checker: &mut Checker,
    callee: Callee<'_>,
    target: Option<&IdedExpr>,
    args: &[IdedExpr],
) -> Checked {
    let Callee { id, name } = callee;
    if let Some((_, member, function, takes, gives)) = ONE.iter().find(|(known, ..)| *known == name) {
        let operand = match (member, target, args) {
            (true, Some(operand), []) | (false, None, [operand]) => operand,
            (true, ..) => return fail(id, format!("write it like request.host.{name}()")),
            (false, ..) => return fail(id, format!("write it like {name}(value)")),
        };
        let (node, kind) = checker.check(operand)?;
        if !takes.iter().any(|takes| kind.fits(takes)) {
            return fail(operand.id, format!("{name} takes no {kind}"));
        }
        return Ok((CelNode::Call(*function, Box::new(node)), gives.clone()));
    }
    if let Some((_, search)) = SEARCHES.iter().find(|(known, _)| *known == name) {
        let (Some(text), [part]) = (target, args) else {
            return fail(id, format!("write it like request.path.{name}(\"/a\")"));
        };
        let (of, kind) = checker.check(text)?;
        if matches!(kind, CelType::List(_)) {
            return fail(text.id, format!("{kind} has no {name}(); write `a in list`"));
        }
        if !kind.fits(&CelType::Text) {
            return fail(text.id, format!("the type is {kind}, and must be {}", CelType::Text));
        }
        let (text, part) = (Box::new(of), checker.expect(part, &CelType::Text)?);
        literals::check_part(id, *search, &text, &part)?;
        return Ok((CelNode::Search(*search, text, part), CelType::Bool));
    }
    if let Some((_, part)) = PARTS.iter().find(|(known, _)| *known == name) {
        return time_part(checker, &callee, *part, target, args);
    }
    match (name, target, args) {
        ("size", None, [of]) | ("size", Some(of), []) => {
            let (node, kind) = checker.check(of)?;
            let sized = matches!(kind, CelType::Text | CelType::List(_) | CelType::Map(_) | CelType::Any);
            if sized {
                Ok((CelNode::Call(Function::Size, Box::new(node)), CelType::Int))
            } else {
                fail(of.id, format!("{kind} has no size"))
            }
        }
        ("matches", Some(text), [pattern]) | ("matches", None, [text, pattern]) => matches(checker, text, pattern),
        ("containsIP", Some(networks), [address]) => within(checker, networks, address),
        ("timestamp", None, [at]) => {
            let at = quoted(at, "timestamp(\"2030-01-31T08:00:00Z\")", time::timestamp)?;
            Ok((CelNode::Literal(Literal::Timestamp(at)), CelType::Timestamp))
        }
        ("duration", None, [span]) => {
            let span = quoted(span, "duration(\"1h30m\"), in hours, minutes and seconds", time::span)?;
            Ok((CelNode::Literal(Literal::Duration(span)), CelType::Duration))
        }
        ("matches", ..) => fail(id, "write it like request.path.matches(\"^/a/[0-9]+$\")"),
        ("cidr" | "containsIP", ..) => fail(id, "write it like cidr(\"10.0.0.0/8\").containsIP(client.address)"),
        _ if OTHERS.contains(&name) => fail(id, format!("`{name}` has other arguments")),
        _ => {
            let known = ONE.iter().map(|(known, ..)| *known).chain(SEARCHES.map(|(known, _)| known));
            let known = known.chain(PARTS.map(|(known, _)| known)).chain(OTHERS);
            let hint = nearest(name, known).map_or_else(
                || "docs/rules.md has the functions that there are".into(),
                |near| format!("did you mean `{near}`?"),
            );
            fail(id, format!("unknown function `{name}`; {hint}"))
        }
    }
}

fn time_part(
    checker: &mut Checker,
    callee: &Callee<'_>,
    part: TimePart,
    target: Option<&IdedExpr>,
    args: &[IdedExpr],
) -> Checked {
    let (Some(of), [] | [_]) = (target, args) else {
        return fail(callee.id, format!("write it like now.{}()", callee.name));
    };
    let zone = args.first().map_or(Ok(0), |zone| {
        quoted(zone, "a time zone like \"+02:00\" or \"UTC\"; names of zones are not supported", time::zone)
    })?;
    let (node, kind) = checker.check(of)?;
    let of_span = kind == CelType::Duration && args.is_empty() && part.of_span(0).is_some();
    if !kind.fits(&CelType::Timestamp) && !of_span {
        return fail(of.id, format!("{kind} has no {}()", callee.name));
    }
    Ok((CelNode::Part(part, zone, Box::new(node)), CelType::Int))
}

fn matches(checker: &mut Checker, text: &IdedExpr, pattern: &IdedExpr) -> Checked {
    let Some(written) = text_of(pattern) else {
        return fail(pattern.id, "a pattern must be quoted here: it is compiled once, and not for each request");
    };
    if checker.patterns >= PATTERNS {
        let most = format!("a manifest has at most {PATTERNS} calls of matches(); use startsWith() or ==");
        return fail(pattern.id, most);
    }
    checker.patterns += 1;
    let pattern = compile(written).map_err(|error| CelProblem { id: pattern.id, message: in_words(&error) })?;
    Ok((CelNode::Matches(checker.expect(text, &CelType::Text)?, pattern), CelType::Bool))
}

/// Compiles a pattern. The engine does not say how large one is, so that larger limits are tried until it fits.
fn compile(written: &str) -> Result<Pattern, regex::Error> {
    let mut size = SMALL_PATTERN;
    loop {
        match RegexBuilder::new(written).size_limit(size).dfa_size_limit(PATTERN).build() {
            Ok(regex) => return Ok(Pattern { regex, size }),
            Err(regex::Error::CompiledTooBig(_)) if size < PATTERN => size *= 2,
            Err(error) => return Err(error),
        }
    }
}

/// Returns what is wrong with a pattern, in one line.
fn in_words(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(most) => format!("the compiled pattern is over {most} bytes; write a smaller one"),
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            format!("it is not a pattern (RE2): {}", last.trim_start_matches("error: "))
        }
    }
}

fn within(checker: &mut Checker, networks: &IdedExpr, address: &IdedExpr) -> Checked {
    const FORM: &str = "cidr(\"10.0.0.0/8\").containsIP(client.address)";
    let Expr::Call(CallExpr { func_name, target: None, args }) = &networks.expr else {
        return fail(networks.id, format!("write it like {FORM}"));
    };
    let (true, [written]) = (func_name == "cidr", args.as_slice()) else {
        return fail(networks.id, format!("write it like {FORM}"));
    };
    let net: IpNet = quoted(written, FORM, |text| network(text).ok())?;
    Ok((CelNode::Within(checker.expect(address, &CelType::Text)?, net), CelType::Bool))
}

/// Reads a quoted text that is known when the manifest is read.
fn quoted<T>(part: &IdedExpr, form: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, CelProblem> {
    text_of(part).and_then(read).map_or_else(|| fail(part.id, format!("write it quoted, like {form}")), Ok)
}

fn text_of(part: &IdedExpr) -> Option<&str> {
    if let Expr::Literal(LiteralValue::String(text)) = &part.expr { Some(text.inner()) } else { None }
}
