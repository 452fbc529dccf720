//! Output of commands, and their exit codes.
//!
//! A closed stdout (`lodge ps | head -1`) ends a command without an error. Text from guests and hosts is [`clean`]ed
//! before it is printed.

use std::borrow::Cow;
use std::io::{self, Write};
use std::process::ExitCode;

use lodge_base::telemetry::logs::is_hostile;

/// The exit code if a canary was not judged; 1 is that for one that was withdrawn.
const UNJUDGED: u8 = 2;

/// Why a command failed.
#[derive(Debug)]
pub(super) enum CliError {
    /// Stdout was closed, which is not an error.
    Closed,
    /// The command could not be carried out; one line that says why.
    Problem(String),
    /// The host could not be reached, and may be later; one line that says why.
    Unreachable(String),
    /// A canary was watched, and not judged; one line that says why.
    Unjudged(String),
    /// The command failed, and its output says so.
    Reported,
    /// The arguments are invalid; one line that says why.
    Usage(String),
}

impl CliError {
    /// Creates a `Problem`; its text may come from guests or hosts.
    pub(super) fn new(problem: impl AsRef<str>) -> Self {
        Self::Problem(clean(problem.as_ref()).into_owned())
    }

    /// Returns the line that says why.
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Problem(text) | Self::Unreachable(text) | Self::Unjudged(text) | Self::Usage(text) => text,
            Self::Closed | Self::Reported => String::new(),
        }
    }
}

/// Only writing to stdout returns these errors.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Problem(format!("cannot write to stdout: {error}")),
        }
    }
}

/// Returns the exit code of a command, after printing its error to stderr.
pub(super) fn exit_code(done: Result<(), CliError>) -> ExitCode {
    match done {
        Ok(()) | Err(CliError::Closed) => ExitCode::SUCCESS,
        Err(CliError::Problem(problem) | CliError::Unreachable(problem)) => {
            notice(&problem);
            ExitCode::FAILURE
        }
        Err(CliError::Unjudged(problem)) => {
            notice(&problem);
            ExitCode::from(UNJUDGED)
        }
        Err(CliError::Reported) => ExitCode::FAILURE,
        Err(CliError::Usage(problem)) => {
            notice(&problem);
            ExitCode::from(super::EX_USAGE)
        }
    }
}

/// Writes `text` to stdout and flushes it.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    bytes(text.as_bytes())
}

/// Writes bytes to stdout as they are, and flushes it.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}

/// Writes `text` and a line end to stdout.
pub(super) fn line(text: &str) -> Result<(), CliError> {
    print(&format!("{text}\n"))
}

/// Writes a message to stderr, which may be closed.
pub(super) fn notice(problem: &str) {
    let _ = writeln!(io::stderr(), "lodge: {problem}");
}

/// Writes JSON and a line end to stdout, with what would affect a terminal as escapes.
pub(super) fn json(json: &str) -> Result<(), CliError> {
    line(&json_text(json.trim_end()))
}

fn json_text(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        // JSON has no other control characters than these, and they are between values.
        match c {
            '\n' | '\r' | '\t' => text.push(c),
            c if unfit(c) => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

/// Whether a character affects a terminal: those of control, and those that change the direction of text.
fn unfit(c: char) -> bool {
    c.is_control() || is_hostile(c)
}

/// Escapes characters that would affect the terminal.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
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
    fn control_characters_are_escaped() {
        assert_eq!(clean("plain ünïcode 日本"), "plain ünïcode 日本");
        assert_eq!(clean("a\tb\r\n\x1b[2J\u{9b}1m\u{202e}x\0"), r"a b\r\n\u{1b}[2J\u{9b}1m\u{202e}x\u{0}");
        assert!(matches!(clean("borrowed"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_is_the_same_value() {
        let text = "{\n\t\"a\": \"x\u{9b}1m\u{202e}\u{7f} ünïcode\"\r\n}";
        let escaped = json_text(text);
        assert_eq!(escaped, "{\n\t\"a\": \"x\\u009b1m\\u202e\\u007f ünïcode\"\r\n}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&escaped), value(text));
    }
}
