//! Subjects of messages, and patterns of them, as in NATS.

use std::fmt;

use crate::error::Error;
use crate::limits::{MAX_SUBJECT, MAX_SUBJECT_TOKENS};

/// The subject of a message: tokens of letters, digits, `-` and `_`, with dots between them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(Box<str>);

/// A subject in which the token `*` stands for one token, and `>` as the last one for one or more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(Box<str>);

impl Subject {
    /// The subject `text`.
    ///
    /// # Errors
    /// If it is no subject: see there.
    pub fn new(text: &str) -> Result<Subject, Error> {
        if well_formed(text, |_, _| false) {
            return Ok(Subject(text.into()));
        }
        let problem = "is not 1 to 16 tokens of letters, digits, `-` or `_` with dots between, in at most 255 bytes";
        Err(Error::Invalid { what: "the subject", problem })
    }

    /// Its text.
    pub const fn as_str(&self) -> &str {
        &self.0
    }
}

impl Pattern {
    /// The pattern `text`.
    ///
    /// # Errors
    /// If it is neither a subject nor one with wildcards.
    pub fn new(text: &str) -> Result<Pattern, Error> {
        if well_formed(text, |token, last| token == "*" || (last && token == ">")) {
            return Ok(Pattern(text.into()));
        }
        let problem = "is not 1 to 16 tokens with dots between: letters, digits, `-` or `_`, `*`, or `>` at the end";
        Err(Error::Invalid { what: "the pattern of subjects", problem })
    }

    /// Its text.
    pub const fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `subject` is one of this pattern.
    pub fn matches(&self, subject: &Subject) -> bool {
        let mut tokens = subject.0.split('.');
        for pattern in self.0.split('.') {
            match (pattern, tokens.next()) {
                (_, None) => return false,
                (">", _) => return true,
                ("*", _) => {}
                (pattern, Some(token)) if pattern != token => return false,
                _ => {}
            }
        }
        tokens.next().is_none()
    }
}

/// Whether `text` consists of tokens, where `wildcard` allows a token and knows whether it is the last one.
fn well_formed(text: &str, wildcard: impl Fn(&str, bool) -> bool) -> bool {
    let plain = |token: &str| {
        !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let count = text.split('.').count();
    let token = |(place, token): (usize, &str)| plain(token) || wildcard(token, place + 1 == count);
    text.len() <= MAX_SUBJECT && count <= MAX_SUBJECT_TOKENS && text.split('.').enumerate().all(token)
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_tokens() {
        for text in ["a", "orders.created", "a-b.C_d.0", &["a"; MAX_SUBJECT_TOKENS].join(".")] {
            assert!(Subject::new(text).is_ok(), "{text}");
        }
        let long = "a".repeat(MAX_SUBJECT + 1);
        let many = ["a"; MAX_SUBJECT_TOKENS + 1].join(".");
        for text in ["", ".", "a.", ".a", "a..b", "a b", "a/b", "ä", "a.*", ">", "a\n", &long, &many] {
            assert!(Subject::new(text).is_err(), "{text:?}");
        }
        for text in [">", "*", "a.*.b", "a.>", "*.>"] {
            assert!(Pattern::new(text).is_ok(), "{text}");
        }
        for text in ["", ">.a", "a*", "a.>b", "a..>", "**"] {
            assert!(Pattern::new(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn wildcards_match_as_in_nats() {
        let matches =
            |pattern: &str, subject: &str| Pattern::new(pattern).unwrap().matches(&Subject::new(subject).unwrap());
        for (pattern, subject) in [("a", "a"), ("*", "a"), (">", "a"), (">", "a.b"), ("a.*", "a.b"), ("a.>", "a.b.c")] {
            assert!(matches(pattern, subject), "{pattern} {subject}");
        }
        for (pattern, subject) in
            [("a", "b"), ("a", "a.b"), ("*", "a.b"), ("a.*", "a"), ("a.>", "a"), ("a.*", "a.b.c"), ("a.b", "a")]
        {
            assert!(!matches(pattern, subject), "{pattern} {subject}");
        }
    }
}
