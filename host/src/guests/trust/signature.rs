//! The file with the signature of a component, beside it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lodge_base::files;
use serde_json::Value;

/// What the name of the file has after that of the component.
pub const ENDING: &str = ".sig";

/// The most bytes of the file. A bundle has the proofs of a log as well.
const MAX_FILE: u64 = 64 << 10;

/// Where a bundle has the signature: that of version 0.3, and that of `cosign` before 3.
const PLACES: [&str; 2] = ["/messageSignature/signature", "/base64Signature"];

/// The most signatures in a file.
const MOST: usize = 4;

/// The signature of a component, as the file beside it has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// There is no file.
    Absent,
    /// The file has no signature, and why.
    Invalid(String),
    /// The file cannot be read, and why.
    Unreadable(String),
    /// The bytes of signatures, which may be anything. There is one or, while a component is replaced, those of both.
    Bytes(Vec<Vec<u8>>),
}

/// Returns the path of a component's signature.
pub fn path(component: &Path) -> PathBuf {
    let mut name = component.as_os_str().to_owned();
    name.push(ENDING);
    name.into()
}

impl Signature {
    /// Reads the signature of a component. Blocking.
    pub fn of(component: &Path) -> Self {
        match files::read(&path(component), MAX_FILE) {
            Ok(content) => Self::read(&content),
            Err(error) if error.kind() == ErrorKind::NotFound => Self::Absent,
            Err(error) => Self::Unreadable(error.to_string()),
        }
    }

    /// Reads the content of the file: base64, as `cosign sign-blob --key` prints it, or the bundle that it writes. Blank lines are
    /// between several signatures.
    pub fn read(content: &[u8]) -> Self {
        let invalid = |why: &str| Self::Invalid(why.into());
        let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content).trim_ascii();
        let texts: Vec<String> = match content {
            [] => return invalid("it is empty"),
            [b'{', ..] => {
                let Ok(bundle) = serde_json::from_slice::<Value>(content) else {
                    return invalid("it is not valid JSON");
                };
                match PLACES.iter().find_map(|place| bundle.pointer(place)?.as_str()) {
                    Some(text) => vec![text.into()],
                    None => return invalid("it is a bundle without a signature over a file"),
                }
            }
            _ => match str::from_utf8(content) {
                Ok(text) => paragraphs(text),
                Err(_) => return invalid("it is not base64"),
            },
        };
        if texts.len() > MOST {
            return Self::Invalid(format!("it has more than {MOST} signatures"));
        }
        match texts.iter().map(|text| STANDARD.decode(text)).collect::<Result<Vec<_>, _>>() {
            Ok(signatures) if signatures.iter().any(Vec::is_empty) => invalid("it is empty"),
            Ok(signatures) => Self::Bytes(signatures),
            Err(_) => invalid("it is not base64"),
        }
    }
}

/// The paragraphs of a text, without the white space in them: tools wrap long lines.
fn paragraphs(text: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    for line in text.lines() {
        let line: String = line.split_ascii_whitespace().collect();
        match all.last_mut() {
            Some(last) if !line.is_empty() => last.push_str(&line),
            Some(last) if last.is_empty() => {}
            _ => all.push(line),
        }
    }
    all
}

/// Returns the content of a file with the signatures of both files, so that either component is valid beside it.
pub fn joined(before: &[u8], now: &[u8]) -> Vec<u8> {
    let of = |content| match Signature::read(content) {
        Signature::Bytes(signatures) => signatures,
        _ => Vec::new(),
    };
    let (mut all, new) = (of(before), of(now));
    all.retain(|signature| !new.contains(signature));
    if all.is_empty() {
        return now.to_owned();
    }
    all.truncate(MOST.saturating_sub(new.len()));
    let texts: Vec<_> = all.iter().chain(&new).map(|signature| STANDARD.encode(signature)).collect();
    texts.join("\n\n").into_bytes()
}
