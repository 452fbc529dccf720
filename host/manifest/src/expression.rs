//! Expressions in manifests, in the Common Expression Language (CEL): parsed and checked once, when the manifest is read.
//!
//! The grammar is that of the crate `cel`. What an expression can name, its types and what it costs are checked here, so that a
//! mistake is refused with its place before any request meets it.

mod cel_type;
mod check;
pub mod node;
pub mod time;

use std::fmt;
use std::sync::Arc;

use cel::Env;

use self::cel_type::CelType;
use self::check::Checker;
use self::node::CelNode;

/// The most bytes of an expression.
const BYTES: usize = 2_000;

/// The most brackets inside of one another. The parser is recursive.
const BRACKETS: usize = 20;

/// The most operators, dots and brackets of an expression: what makes the recursion of the parser and of the tree deep.
const OPERATORS: usize = 250;

/// An expression that is parsed and checked.
#[derive(Clone)]
pub struct Expression {
    text: Arc<str>,
    root: Arc<CelNode>,
    uses: Uses,
}

/// What an expression needs and not every request has at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// The path of the request.
    pub path: bool,
    /// The address of the client.
    pub address: bool,
    /// The time.
    pub clock: bool,
    /// How many of its patterns are compiled.
    pub patterns: usize,
}

impl Uses {
    /// Returns what either of two expressions uses.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            path: self.path | other.path,
            address: self.address | other.address,
            clock: self.clock | other.clock,
            patterns: self.patterns.saturating_add(other.patterns),
        }
    }
}

/// What an expression is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It is true or false.
    Condition,
    /// It is the value of a header.
    Text,
}

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// What is wrong, where, and what to write instead.
    pub fn read(text: &str, purpose: Purpose) -> Result<Self, String> {
        if text.len() > BYTES {
            let bytes = text.len();
            return Err(format!("{bytes} bytes are more than {BYTES}; write several rules in place of one"));
        }
        check_shape(text)?;
        let parser = Env::default().with_optional_support(false).parser().max_recursion_depth(96);
        let (tree, source) = parser.parse_with_source_info(text).map_err(|errors| {
            let first = errors.errors.into_iter().next();
            first.map_or_else(
                || "it is not an expression".into(),
                |error| {
                    let (line, column) = error.pos;
                    let place = place(text, line.max(1).unsigned_abs(), column.max(1).unsigned_abs());
                    format!("{place}: {}", error.msg.trim().replace(['\n', '\r'], " "))
                },
            )
        })?;
        let located = |id: u64, message: String| {
            let at = source.offset_for(id).map_or(0, |(start, _)| start as usize);
            let before: String = text.chars().take(at).collect();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            format!("{}: {message}", place(text, line, column))
        };
        let mut checker = Checker::default();
        let checked = checker.check(&tree);
        let (root, kind) = checked.map_err(|problem| located(problem.id, problem.message))?;
        let fits = match purpose {
            Purpose::Condition => kind.fits(&CelType::Bool),
            Purpose::Text => {
                [CelType::Text, CelType::Int, CelType::Bool, CelType::Double].iter().any(|of| kind.fits(of))
            }
        };
        if !fits {
            let expected = if purpose == Purpose::Condition { "bool" } else { "string, int, double or bool" };
            return Err(format!("its type is {kind}, and must be {expected}"));
        }
        Ok(Self { text: text.into(), root: Arc::new(root), uses: checker.uses })
    }

    /// Returns its text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the checked tree.
    pub fn root(&self) -> &CelNode {
        &self.root
    }

    /// Returns what it needs.
    pub fn uses(&self) -> Uses {
        self.uses
    }
}

/// Expressions with the same text are equal.
impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

/// Returns a place in the text, in words. Lines and columns count from 1.
fn place(text: &str, line: usize, column: usize) -> String {
    if text.contains('\n') { format!("line {line}, column {column}") } else { format!("column {column}") }
}

/// Refuses what would make the parser recurse deeply, before it is called. Quoted text does not count.
fn check_shape(text: &str) -> Result<(), String> {
    let (mut open, mut operators, mut quote, mut escaped) = (0_usize, 0_usize, None, false);
    let mut before = ' ';
    for character in text.chars() {
        if let Some(end) = quote {
            match character {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if character == end => quote = None,
                _ => {}
            }
            continue;
        }
        match character {
            '"' | '\'' => quote = Some(character),
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' => open = open.saturating_sub(1),
            _ => {}
        }
        let is_in = character == 'n' && before == 'i';
        operators += usize::from(is_in || "([{.+-*/%<>=!?".contains(character));
        before = character;
        if open > BRACKETS {
            return Err(format!("it has more than {BRACKETS} brackets inside of one another; write several rules"));
        }
        if operators > OPERATORS {
            return Err(format!("it has more than {OPERATORS} operators; write several rules"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
