//! What a guest says of its own panic on stderr, for the line of its failure.

/// The most bytes of the text.
const TEXT_BYTES: usize = 500;

/// The most lines of stderr that belong to one panic.
const MESSAGE_LINES: usize = 8;

/// Returns the place and the message of the last panic in these lines of stderr, as guests in Rust or Go write them.
pub(crate) fn panic_text(stderr: &[String]) -> Option<String> {
    let (at, first) = stderr.iter().enumerate().rev().find_map(|(at, line)| Some((at, beginning(line)?)))?;
    let ends = |line: &str| line.is_empty() || line.starts_with("note: ") || line.starts_with("goroutine ");
    let rest = stderr.iter().skip(at + 1).take(MESSAGE_LINES).map(|line| line.trim());
    let mut text = first.to_owned();
    for line in rest.take_while(|line| !ends(line)) {
        text.push(' ');
        text.push_str(line);
    }
    text.truncate(text.floor_char_boundary(TEXT_BYTES));
    Some(text)
}

/// Returns what the first line of a panic says, without the name of the thread.
fn beginning(line: &str) -> Option<&str> {
    let line = line.trim();
    let of_thread = line.strip_prefix("thread ").and_then(|line| line.find("panicked at ").map(|at| (line, at)));
    match of_thread {
        Some((line, at)) => line.get(at..),
        None => line.starts_with("panic: ").then_some(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_panic_is_found() {
        let text = |stderr: &str| panic_text(&stderr.lines().map(str::to_owned).collect::<Vec<_>>());
        for (stderr, expected) in [
            (
                "ready\n\nthread '<unnamed>' panicked at src/lib.rs:11:9:\nno user 7\nnote: run with `RUST_BACKTRACE=1`",
                Some("panicked at src/lib.rs:11:9: no user 7"),
            ),
            ("thread 'main' (1) panicked at a.rs:1:1:\na\n  b\n\nlater", Some("panicked at a.rs:1:1: a b")),
            (
                "thread 'a' panicked at a.rs:1:1:\na\nthread 'b' panicked at b.rs:2:2:\nb",
                Some("panicked at b.rs:2:2: b"),
            ),
            (
                "panic: runtime error: index out of range [7]\n\ngoroutine 1 [running]:\nmain.main()",
                Some("panic: runtime error: index out of range [7]"),
            ),
            ("it panicked at noon\ndon't panic: it is well", None),
            ("", None),
        ] {
            assert_eq!(text(stderr).as_deref(), expected, "{stderr}");
        }
        let long = format!("thread 'a' panicked at a.rs:1:1:\n{}", "é\n".repeat(2) + &"é".repeat(4000));
        assert!(text(&long).unwrap().len() <= TEXT_BYTES);
        let many = format!("thread 'a' panicked at a.rs:1:1:\n{}", "x\n".repeat(40));
        assert_eq!(text(&many).unwrap(), format!("panicked at a.rs:1:1:{}", " x".repeat(MESSAGE_LINES)));
    }
}
