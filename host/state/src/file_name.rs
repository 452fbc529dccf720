//! Names of files for names that guests and manifests choose.

/// Returns the name of a file for a name: two names never have one file, also where the file system ignores case, and none is
/// `.`, `..` or hidden.
pub(crate) fn file_name(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") }).collect()
}

/// Returns the name whose file this is; `None` for a file that belongs to no name.
pub(crate) fn name_of(file: &str) -> Option<String> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    let (mut bytes, mut rest) = (Vec::with_capacity(file.len()), file.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).ok()?,
            plain => plain,
        });
    }
    String::from_utf8(bytes).ok().filter(|name| file_name(name) == file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_file_of_its_own() {
        for name in ["a", "A", "..", ".", "a/b", "a\\b", "\0", "a%2fb", "%", "é", "e\u{301}", "+", " ", ""] {
            let file = file_name(name);
            assert!(
                file.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"%-_".contains(&byte))
            );
            assert_eq!(name_of(&file).as_deref(), Some(name));
        }
        for foreign in ["A", "lost+found", ".hidden", "%4", "%4A", "%61", "%zz", "%ff"] {
            assert_eq!(name_of(foreign), None, "{foreign}");
        }
    }
}
