//! A fuzz target for masking and cleaning of log lines.

use super::clean;
use super::mask::Mask;

/// The first line is the name of a masked parameter, the rest a URL with a secret. The output must contain neither that
/// secret nor a character that ends a line or controls a terminal.
pub fn line(bytes: &[u8]) {
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
