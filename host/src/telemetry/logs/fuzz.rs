//! A fuzz target for what a log shows of text that others wrote.

use super::clean;
use super::mask::Mask;

/// A masked parameter's name on the first line, a URL with a secret in it below: what is shown has neither the secret of
/// that parameter nor a character that ends a line or moves the cursor.
pub(crate) fn line(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (name, url) = text.split_once('\n').unwrap_or(("token", &text));
    let mask = Mask::new(&[name.to_owned()]);
    let shown = mask.url(url);
    assert_eq!(shown, mask.url(&shown), "masking twice is masking once");
    assert!(!clean(&shown).chars().any(|c| c.is_control() && c != '\t'));
    let chosen = !name.is_empty() && !url.contains("@SECRET@");
    if chosen && name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        let spelled: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for name in [name, &spelled] {
            assert!(!mask.url(&format!("/?{name}=@SECRET@&{url}")).contains("@SECRET@"), "{name}");
        }
    }
}
