//! What credentials must have: scopes and claims.

use crate::written::Written;

/// The most scopes or claims that a service or a route requires, and the most values of a claim.
const MOST: usize = 64;

/// The most bytes of a scope, and of the name and a value of a claim.
const MOST_BYTES: usize = 256;

/// Reads a list of texts, each of which must be `fit`.
pub(super) fn texts(key: &Written<'_>, form: &str, fit: fn(&str) -> bool) -> Result<Vec<String>, String> {
    let wrong = || key.error(format!("write a list, like {form}: at most {MOST}, each of 1 to {MOST_BYTES} bytes"));
    let items = key.items(form)?;
    let read = |item: &Written<'_>| {
        let text = item.string(&format!("write texts, like {form}"))?;
        let fits = (1..=MOST_BYTES).contains(&text.len()) && fit(text);
        if fits { Ok(text.to_owned()) } else { Err(wrong()) }
    };
    let read: Vec<_> = items.iter().map(read).collect::<Result<_, _>>()?;
    if read.is_empty() || read.len() > MOST { Err(wrong()) } else { Ok(read) }
}

/// Whether this is one scope (RFC 6749 3.3): visible ASCII without quotes and backslashes.
pub fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
}

pub(super) fn claims(written: &Written<'_>) -> Result<Vec<(String, Vec<String>)>, String> {
    const FORM: &str = "write them like { tenant = \"acme\", roles = [\"admin\", \"owner\"] }";
    let keys = written.table().ok_or_else(|| written.error(FORM))?;
    if keys.is_empty() || keys.len() > MOST || keys.iter().any(|key| key.inside(written).len() > MOST_BYTES) {
        return Err(written.error(FORM));
    }
    let read = |key: &Written<'_>| Ok((key.inside(written).to_owned(), texts(key, "[\"admin\"]", |_| true)?));
    keys.iter().map(read).collect()
}
