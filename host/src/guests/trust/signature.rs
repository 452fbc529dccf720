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

/// The signature of a component, as the file beside it has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// There is no file.
    Absent,
    /// The file has no signature, and why.
    Invalid(String),
    /// The bytes of a signature, which may be anything.
    Bytes(Vec<u8>),
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
            Err(error) => Self::Invalid(error.to_string()),
        }
    }

    /// Reads the content of the file: base64, as `cosign sign-blob --key` prints it, or the bundle that it writes.
    pub fn read(content: &[u8]) -> Self {
        let invalid = |why: &str| Self::Invalid(why.into());
        let text: String = match content {
            [b'{', ..] => {
                let Ok(bundle) = serde_json::from_slice::<Value>(content) else {
                    return invalid("it is not valid JSON");
                };
                match PLACES.iter().find_map(|place| bundle.pointer(place)?.as_str()) {
                    Some(text) => text.into(),
                    None => return invalid("it is a bundle without a signature over a file"),
                }
            }
            // Tools wrap long lines.
            _ => content.iter().filter(|byte| !byte.is_ascii_whitespace()).map(|byte| char::from(*byte)).collect(),
        };
        match STANDARD.decode(&text) {
            Ok(bytes) if bytes.is_empty() => invalid("it is empty"),
            Ok(bytes) => Self::Bytes(bytes),
            Err(_) => invalid("it is not base64"),
        }
    }
}
