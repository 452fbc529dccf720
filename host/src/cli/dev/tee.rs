//! Runs a build, shows its output as it comes, and returns the end of it.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

/// The most bytes of output that are returned.
const MAX_OUTPUT: usize = 16 << 10;

/// The most bytes of cargo's JSON messages.
const MESSAGES: u64 = 64 << 20;

/// The result of a build.
pub(super) struct BuildOutput {
    pub(super) status: ExitStatus,
    /// The content of stdout, if it has JSON messages.
    pub(super) messages: Vec<u8>,
    /// The end of the output, without colours.
    pub(super) output: String,
}

/// Runs a command. Its stdout has JSON messages, or else is shown like stderr.
///
/// # Errors
/// If the command cannot be started.
pub(super) async fn run(command: &mut Command, has_messages: bool) -> io::Result<BuildOutput> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    if io::stderr().is_terminal() && std::env::var_os("CARGO_TERM_COLOR").is_none() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let mut child = command.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let out = async {
        let mut messages = Vec::new();
        match stdout {
            Some(stdout) if has_messages => drop(stdout.take(MESSAGES).read_to_end(&mut messages).await),
            stdout => return (messages, tee(stdout).await),
        }
        (messages, Vec::new())
    };
    let ((messages, mut said), errors) = tokio::join!(out, tee(stderr));
    said.extend(errors);
    Ok(BuildOutput { status: child.wait().await?, messages, output: plain(&String::from_utf8_lossy(&said)) })
}

/// Copies the output to stderr, and returns the end of it.
async fn tee(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let (mut kept, mut bytes) = (Vec::new(), [0; 4096]);
    let Some(mut from) = from else { return kept };
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        let new = bytes.get(..length).unwrap_or_default();
        // A closed terminal does not end the build.
        let _ = io::stderr().write_all(new);
        kept.extend_from_slice(new);
        kept.drain(..kept.len().saturating_sub(MAX_OUTPUT));
    }
    kept
}

/// Removes escape sequences and control characters except line ends and tabs.
fn plain(text: &str) -> String {
    let (mut plain, mut chars) = (String::new(), text.chars());
    while let Some(next) = chars.next() {
        match next {
            '\x1b' => {
                // A control sequence ends with a byte from `@` to `~`.
                if chars.next() == Some('[') {
                    chars.by_ref().find(|next| ('@'..='~').contains(next));
                }
            }
            '\n' | '\t' => plain.push(next),
            next if next.is_control() => {}
            next => plain.push(next),
        }
    }
    plain.trim().to_owned()
}

/// Returns the cause of a failure in one line: the first error with its location, or else the last line.
pub(super) fn summary(said: &str) -> String {
    let mut lines = said.lines().map(str::trim).skip_while(|line| !line.starts_with("error"));
    match lines.next() {
        Some(error) => {
            let place = lines.next().and_then(|line| line.strip_prefix("--> "));
            place.map_or_else(|| error.to_owned(), |place| format!("{error} ({place})"))
        }
        None => {
            said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("the build has no output").trim().to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_of_errors() {
        let said = plain(
            "\x1b[1m\x1b[32m   Compiling\x1b[0m a v0.1.0\r\n\x1b[1m\x1b[31merror[E0425]\x1b[0m: cannot find value `x`\n\
             \x1b[34m --> \x1b[0msrc/lib.rs:3:5\n  |\n\x07",
        );
        assert_eq!(said, "Compiling a v0.1.0\nerror[E0425]: cannot find value `x`\n --> src/lib.rs:3:5\n  |");
        assert_eq!(summary(&said), "error[E0425]: cannot find value `x` (src/lib.rs:3:5)");
        assert_eq!(summary("npm ERR! one\nnpm ERR! two\n\n"), "npm ERR! two");
        assert_eq!(summary(""), "the build has no output");
    }

    #[tokio::test]
    async fn the_end_is_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "printf %020000d 1; echo said >&2; exit 3"]);
        let built = run(&mut command, false).await.unwrap();
        assert!(built.output.len() <= MAX_OUTPUT + 10 && built.output.ends_with("said"), "{}", built.output.len());
        assert_eq!((built.status.code(), built.messages.len()), (Some(3), 0));
        let built = run(&mut command, true).await.unwrap();
        assert_eq!((built.output.as_str(), built.messages.len()), ("said", 20_000));
    }
}
