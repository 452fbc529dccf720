//! Names of services and versions.

/// Splits the name of a version: `users@2` into `users` and `2`.
pub fn split(name: &str) -> (&str, Option<&str>) {
    name.split_once('@').map_or((name, None), |(service, label)| (service, Some(label)))
}

/// Whether this is a valid label of a version: a name that may also contain dots, such as `1.4.2`.
pub fn is_label(label: &str) -> bool {
    is_name(&label.replace('.', "-")) && !label.ends_with('.')
}

/// Whether this is a valid service name: 1 to 63 letters, digits, `-` and `_`, of which the first is a letter or digit.
pub fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=63).contains(&name.len())
        && name.bytes().all(plain)
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
}
