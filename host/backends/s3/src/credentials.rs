//! Keys that requests are signed with: fixed, or in a file that is read again while the host runs.

use std::fmt;
use std::path::{Path, PathBuf};

use lodge_base::files;

/// The most bytes of a file.
pub(crate) const MAX_FILE: u64 = 64 << 10;

/// An access key. Its debug output contains nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey {
    id: String,
    secret: String,
    token: Option<String>,
}

impl AccessKey {
    /// A key by its id, its secret, and the token of a session if it belongs to one.
    pub fn new(id: &str, secret: &str, token: Option<&str>) -> AccessKey {
        AccessKey { id: id.to_owned(), secret: secret.to_owned(), token: token.map(str::to_owned) }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Reads the form of `~/.aws/credentials`: the section `[default]`, or lines before the first section.
    ///
    /// # Errors
    /// What is missing.
    pub fn parse(text: &str) -> Result<AccessKey, &'static str> {
        let (mut id, mut secret, mut token, mut applies) = (None, None, None, true);
        for line in text.lines().map(str::trim) {
            if let Some(section) = line.strip_prefix('[') {
                applies = section.trim_end_matches(']').trim() == "default";
            }
            let Some((name, value)) = line.split_once('=').filter(|_| applies && !line.starts_with(['#', ';'])) else {
                continue;
            };
            let value = Some(value.trim()).filter(|value| !value.is_empty());
            match name.trim() {
                "aws_access_key_id" => id = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
        let all = [id, secret, token].into_iter().flatten();
        if !all.flat_map(str::bytes).all(|byte| byte.is_ascii_graphic()) {
            return Err("a key has characters that keys do not have");
        }
        match (id, secret) {
            (Some(id), Some(secret)) => Ok(AccessKey::new(id, secret, token)),
            (None, _) => Err("it has no line `aws_access_key_id = …` in [default]"),
            (_, None) => Err("it has no line `aws_secret_access_key = …` in [default]"),
        }
    }

    /// Reads a file of that form.
    ///
    /// # Errors
    /// Why it cannot be read, or what is missing; without the path.
    pub fn read(path: &Path) -> Result<AccessKey, String> {
        let text = files::read_text(path, MAX_FILE).map_err(|error| format!("it cannot be read: {error}"))?;
        AccessKey::parse(&text).map_err(str::to_owned)
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessKey(…)")
    }
}

/// Where the key is.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// In the environment, which does not change.
    Fixed(AccessKey),
    /// In a file. Another content holds within 15 seconds.
    File(PathBuf),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read() {
        let key = |text: &str| AccessKey::parse(text);
        let plain = "aws_access_key_id = ID\n# aws_session_token = x\naws_secret_access_key=SE/CR=ET\n";
        assert_eq!(key(plain), Ok(AccessKey::new("ID", "SE/CR=ET", None)));
        let sections =
            format!("[other]\naws_access_key_id = no\n[default]\n{plain}aws_session_token = T\n[third]\n{plain}");
        assert_eq!(key(&sections), Ok(AccessKey::new("ID", "SE/CR=ET", Some("T"))));
        assert!(key("").unwrap_err().contains("aws_access_key_id"));
        assert!(key("aws_access_key_id = a").unwrap_err().contains("aws_secret_access_key"));
        assert!(key("aws_access_key_id = a\naws_secret_access_key = b\u{e9}").is_err());
        assert!(!format!("{:?}", key(plain)).contains("SE/CR"));
    }
}
