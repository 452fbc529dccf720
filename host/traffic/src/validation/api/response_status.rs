//! The statuses for which a document has a response.

use std::fmt;

use http::StatusCode;

/// The statuses of a response in a document, the most specific ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::validation) enum ResponseStatus {
    /// One.
    One(u16),
    /// All with this first digit.
    Class(u16),
    /// All others.
    Default,
}

impl ResponseStatus {
    /// Reads the key of a response.
    pub(super) fn read(key: &str) -> Option<Self> {
        match key {
            "default" => Some(Self::Default),
            _ if key.len() == 3 && key.ends_with("XX") => {
                key.get(..1)?.parse().ok().filter(|class| (1..=5).contains(class)).map(Self::Class)
            }
            _ if key.len() == 3 => key.parse().ok().filter(|status| (100..600).contains(status)).map(Self::One),
            _ => None,
        }
    }

    pub(super) fn contains(self, status: StatusCode) -> bool {
        match self {
            Self::One(one) => one == status.as_u16(),
            Self::Class(class) => class == status.as_u16() / 100,
            Self::Default => true,
        }
    }
}

impl fmt::Display for ResponseStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(status) => write!(f, "{status}"),
            Self::Class(class) => write!(f, "{class}XX"),
            Self::Default => f.write_str("default"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_of_documents() {
        for (key, status) in [("200", Some(ResponseStatus::One(200))), ("5XX", Some(ResponseStatus::Class(5)))] {
            assert_eq!(ResponseStatus::read(key), status);
        }
        for key in ["", "6XX", "0XX", "2xx", "99", "1000", "+20", "é0", "éXX", "ok"] {
            assert_eq!(ResponseStatus::read(key), None, "{key}");
        }
    }
}
