//! A type of content that a request may not have.

use std::borrow::Cow;
use std::fmt;

use http::header::{self, HeaderMap};

/// The `Content-Type` of a request that is none of those that it may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherType {
    /// What it may have, in the form of the `Accept` header.
    accepted: Cow<'static, str>,
    /// What it has, in words.
    found: String,
}

impl OtherType {
    /// The most bytes of a type that are repeated.
    const MOST: usize = 100;

    pub(super) fn of(headers: &HeaderMap, accepted: impl Into<Cow<'static, str>>) -> Self {
        let mut types = headers.get_all(header::CONTENT_TYPE).iter();
        let found = match (types.next(), types.next()) {
            (None, _) => "is missing".to_owned(),
            (Some(_), Some(_)) => "is there twice".to_owned(),
            (Some(one), None) => {
                let text = String::from_utf8_lossy(one.as_bytes());
                let cut = text.get(..text.floor_char_boundary(Self::MOST)).unwrap_or_default();
                format!("is {}{}", cut.escape_debug(), if cut.len() < text.len() { "…" } else { "" })
            }
        };
        Self { accepted: accepted.into(), found }
    }

    /// Returns what a request may have, in the form of the `Accept` header.
    pub fn accepted(&self) -> &str {
        &self.accepted
    }
}

impl fmt::Display for OtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content-Type {}; send {}", self.found, self.accepted)
    }
}
