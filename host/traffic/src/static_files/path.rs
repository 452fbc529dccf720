//! From the path of a request to that of a file. Pure.
//!
//! Every file has one path: a spelling that a file system might read as another one is not found. The operating system
//! enforces that nothing outside of the directory is opened ([`super::root`]), whatever is decided here.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;

/// The directory of RFC 8615, which has a dot and is public all the same.
const WELL_KNOWN: &[u8] = b".well-known";

/// The path of a file or directory below the root.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FilePath {
    /// The path, without `/` before it. Empty for the root.
    pub(super) path: PathBuf,
    /// Whether the request is for a directory: its path ends with `/`.
    pub(super) directory: bool,
}

impl FilePath {
    /// Reads the path of a request in its normal form; `None` if no file has it.
    pub(super) fn read(path: &str) -> Option<Self> {
        let mut file = Self { path: PathBuf::new(), directory: false };
        let mut segments = path.strip_prefix('/')?.split('/').enumerate().peekable();
        while let Some((depth, segment)) = segments.next() {
            if segment.is_empty() && segments.peek().is_none() {
                file.directory = true;
                return Some(file);
            }
            let name: Vec<u8> = percent_decode_str(segment).collect();
            let hidden = name.starts_with(b".") && !(depth == 0 && name == WELL_KNOWN);
            let plain = |byte: &u8| !matches!(byte, b'/' | b'\\' | 0..0x20 | 0x7f);
            if name.is_empty() || hidden || !name.iter().all(plain) {
                return None;
            }
            file.path.push(OsString::from_vec(name));
        }
        Some(file)
    }

    /// Whether the last part has a dot, as the name of a file has.
    pub(super) fn has_extension(&self) -> bool {
        !self.directory && self.path.file_name().is_some_and(|name| name.as_encoded_bytes().contains(&b'.'))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::path::Component;

    use lodge_base::canonical;
    use proptest::prelude::*;

    use super::*;

    fn read(path: &str) -> Option<(String, bool)> {
        FilePath::read(path).map(|file| (file.path.to_string_lossy().into_owned(), file.directory))
    }

    #[test]
    fn paths_of_files() {
        for (path, expected, directory) in [
            ("/", "", true),
            ("/a.txt", "a.txt", false),
            ("/a/b.txt", "a/b.txt", false),
            ("/a/", "a", true),
            ("/a%20b/%C3%A4.txt", "a b/ä.txt", false),
            ("/a..b/c...", "a..b/c...", false),
            ("/a;v=1/b@2x.png", "a;v=1/b@2x.png", false),
            ("/%25/%2525", "%/%25", false),
            ("/.well-known/security.txt", ".well-known/security.txt", false),
            ("/~ann/:/C:", "~ann/:/C:", false),
        ] {
            assert_eq!(read(path), Some((expected.to_owned(), directory)), "{path}");
        }
        // A name need not be UTF-8.
        assert_eq!(FilePath::read("/%ff").unwrap().path.as_os_str().as_bytes(), b"\xff");
        let extension = |path: &str| FilePath::read(path).unwrap().has_extension();
        assert!(extension("/a.js") && extension("/a/b.c") && extension("/a."));
        assert!(!extension("/") && !extension("/a") && !extension("/a.b/") && !extension("/a.b/c"));
    }

    #[test]
    fn hidden_files_and_doubtful_spellings_have_no_path() {
        for path in [
            "",
            "a",
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/.",
            "/..",
            "/../a",
            "/./a",
            "/.env",
            "/.git/config",
            "/a/.htaccess",
            "/%2e",
            "/%2E%2e/a",
            "/.%2e/a",
            "/%2eenv",
            "/a%2fb",
            "/a%2Fb",
            "/..%2fa",
            "/%2e%2e%2fa",
            "/a%5cb",
            "/a\\b",
            "/..%5ca",
            "/a%00",
            "/a%00.txt",
            "/a%0a",
            "/a%0D",
            "/a%7f",
            "/a%1b",
            "/a/.well-known/b",
            "/.well-known/.env",
            "/.well-known%2f..%2fa",
        ] {
            assert_eq!(read(path), None, "{path}");
        }
    }

    proptest! {
        /// Whatever the path of a request is, that of the file leads down from the root.
        #[test]
        fn no_path_leads_up(path in "/([./%\\\\a]|%2[eEfF]|%5[cC]|\\.\\.|%[0-9a-f]{2}){0,12}") {
            let normal = canonical::normal(&path).unwrap_or_default();
            for path in [&path, &normal] {
                let Some(file) = FilePath::read(path) else { continue };
                prop_assert!(file.path.components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert!(file.path.components().skip(1).all(|part| !part.as_os_str().as_bytes().starts_with(b".")));
            }
        }
    }
}
