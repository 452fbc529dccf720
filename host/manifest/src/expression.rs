//! Expressions in manifests, in the Common Expression Language (CEL): parsed and checked once, when the manifest is read.
//!
//! The grammar is that of the crate `cel`. What an expression can name, its types and what it costs are checked here, so that a
//! mistake is refused with its place before any request meets it.

mod cel_type;
mod check;
pub mod node;
mod shape;
pub mod time;

use std::fmt;
use std::sync::Arc;

use cel::Env;

use self::cel_type::CelType;
use self::check::Checker;
use self::node::CelNode;

/// The most bytes of an expression.
const BYTES: usize = 2_000;

/// The most patterns of a manifest. Each may use some hundred kilobytes of memory.
const PATTERNS: usize = 50;

/// An expression that is parsed and checked.
#[derive(Clone)]
pub struct Expression {
    text: Arc<str>,
    root: Arc<CelNode>,
    uses: Uses,
}

/// What an expression needs that takes work to find out for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// The path of the request.
    pub path: bool,
    /// The address of the client.
    pub address: bool,
    /// The time.
    pub clock: bool,
}

impl Uses {
    /// Returns what either of two expressions uses.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { path: self.path | other.path, address: self.address | other.address, clock: self.clock | other.clock }
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
        Self::read_counted(text, purpose, &mut 0)
    }

    /// Reads an expression of a manifest whose earlier expressions have `patterns` patterns, and adds its own.
    ///
    /// # Errors
    /// As [`Self::read`], and if there are too many patterns.
    pub(crate) fn read_counted(text: &str, purpose: Purpose, patterns: &mut usize) -> Result<Self, String> {
        if text.len() > BYTES {
            let bytes = text.len();
            return Err(format!("{bytes} bytes are more than {BYTES}; write several rules in place of one"));
        }
        shape::check(text)?;
        let parser = Env::default().with_optional_support(false).parser().max_recursion_depth(96);
        let (tree, source) = parser.parse_with_source_info(text).map_err(|errors| {
            let (line, column) = errors.errors.first().map_or((1, 1), |first| first.pos);
            let place = place(text, line.max(1).unsigned_abs(), column.max(1).unsigned_abs());
            // The parser's own words are about its grammar.
            format!("{place}: it is not an expression from here on; {}", shape::hint(text))
        })?;
        let located = |id: u64, message: String| {
            let at = source.offset_for(id).map_or(0, |(start, _)| start as usize);
            let before: String = text.chars().take(at).collect();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            format!("{}: {message}", place(text, line, column))
        };
        let mut checker = Checker::new(*patterns);
        let checked = checker.check(&tree);
        *patterns = checker.patterns;
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
    if text.contains('\n') { format!("line {line} of the text, column {column}") } else { format!("column {column}") }
}

#[cfg(test)]
mod tests;
