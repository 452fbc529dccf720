//! The secret that a provider gave to a service.

use std::fmt;

use lodge_base::ids::hash_of;
use lodge_base::key_changes::KeyMarks;

/// The most bytes of a file with one.
pub(in crate::auth) const MOST_BYTES: u64 = 4 << 10;

/// The secret of a client.
pub(in crate::auth) struct ClientSecret(String);

impl ClientSecret {
    /// Reads a file: one line.
    ///
    /// # Errors
    /// One line, without what the file contains.
    pub(in crate::auth) fn read(text: &str) -> Result<Self, String> {
        let text = text.trim_matches(['\r', '\n']);
        let fits = !text.is_empty() && !text.chars().any(char::is_control);
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err("it must have the secret in one line, and nothing else".into())
        }
    }

    /// Returns it.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// Returns a name that does not reveal it.
    pub(in crate::auth) fn marks(&self) -> KeyMarks {
        [("secret".to_owned(), hash_of(self.0.as_bytes()))].into()
    }
}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSecret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_one_line() {
        assert_eq!(ClientSecret::read("s3 cret\r\n").unwrap().text(), "s3 cret");
        for wrong in ["", "\n", "a\nb", "a\tb"] {
            assert!(
                ClientSecret::read(wrong).is_err_and(|why| !why.contains('a') || why.starts_with("it must")),
                "{wrong:?}"
            );
        }
        assert!(!format!("{:?}", ClientSecret::read("s3cret")).contains("s3cret"));
    }
}
