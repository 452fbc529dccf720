//! What a command says: text on stdout, and how it ends.
//!
//! A reader that has seen enough (`lodge ps | head -1`) ends a command quietly. What guests and hosts made up is
//! [`clean`]ed before a terminal sees it.

use std::borrow::Cow;
use std::io::{self, Write};
use std::process::ExitCode;

/// Why a command does not do what was asked.
#[derive(Debug)]
pub(super) enum CliError {
    /// Nobody reads its output any more, which is no failure.
    Closed,
    /// It was understood and could not be done: one line that says why.
    Problem(String),
    /// It could not be done, and its output says so.
    Reported,
    /// It was not understood: one line that says why.
    Usage(String),
}

impl CliError {
    /// What could not be done, in words that may come from anywhere.
    pub(super) fn new(problem: impl AsRef<str>) -> Self {
        Self::Problem(clean(problem.as_ref()).into_owned())
    }
}

/// Only writing to stdout fails with these.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Problem(format!("what was asked for cannot be written: {error}")),
        }
    }
}

/// The exit code of a command, with its last words on stderr.
pub(super) fn exit_code(done: Result<(), CliError>) -> ExitCode {
    match done {
        Ok(()) | Err(CliError::Closed) => ExitCode::SUCCESS,
        Err(CliError::Problem(problem)) => {
            notice(&problem);
            ExitCode::FAILURE
        }
        Err(CliError::Reported) => ExitCode::FAILURE,
        Err(CliError::Usage(problem)) => {
            notice(&problem);
            ExitCode::from(super::EX_USAGE)
        }
    }
}

/// Writes `text` to stdout, now.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// The same, and ends the line.
pub(super) fn line(text: &str) -> Result<(), CliError> {
    print(&format!("{text}\n"))
}

/// One line for people on stderr, which may be closed.
pub(super) fn notice(problem: &str) {
    let _ = writeln!(io::stderr(), "lodge: {problem}");
}

/// `text` without what could move the cursor, change the terminal or turn the reading direction: such characters are
/// spelt out.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    let unfit = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(unfit) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\t' => clean.push(' '),
            c if unfit(c) => clean.extend(c.escape_default()),
            c => clean.push(c),
        }
    }
    Cow::Owned(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_safe_from_guests() {
        assert_eq!(clean("plain ünïcode 日本"), "plain ünïcode 日本");
        assert_eq!(clean("a\tb\r\n\x1b[2J\u{9b}1m\u{202e}x\0"), r"a b\r\n\u{1b}[2J\u{9b}1m\u{202e}x\u{0}");
        assert!(matches!(clean("borrowed"), Cow::Borrowed(_)));
    }
}
