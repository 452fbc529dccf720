//! `[errors]`: the pages that browsers get where the host responds in place of a service.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::key::Key;
use super::keys::words;

/// The most pages of the host, and of a service or a route.
pub const MOST_PAGES: usize = 32;

/// The files of pages, by the statuses that they are for.
pub type PageFiles = BTreeMap<ErrorStatuses, PathBuf>;

/// The pages of the host, for services without their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors {
    /// The files.
    pub pages: PageFiles,
}

/// The statuses that a page is for. A single one comes before all of its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorStatuses {
    /// One status, from 400 to 599.
    One(u16),
    /// All that begin with this digit, 4 or 5.
    Class(u16),
}

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<Errors>] = &[Key {
    name: "pages",
    default: "",
    help: "HTML files that browsers get in place of problem details, such as `404=404.html, 5xx=down.html`; read again when they change",
    set: |c, text| {
        c.pages = PageFiles::new();
        for item in words(text) {
            let (statuses, path) =
                item.split_once('=').map(|(statuses, path)| (statuses.trim(), path.trim())).unwrap_or_default();
            let named = ErrorStatuses::read(statuses).filter(|_| !path.is_empty());
            let statuses =
                named.ok_or_else(|| format!("`{item}` is no page; write it like 404=404.html or 5xx=down.html"))?;
            if c.pages.insert(statuses, path.into()).is_some() {
                return Err(format!("{statuses} has two pages; remove one"));
            }
        }
        if c.pages.len() > MOST_PAGES { Err(format!("more than {MOST_PAGES} pages")) } else { Ok(()) }
    },
}];

impl ErrorStatuses {
    /// Reads `404`, `4xx` and the like; `None` if no error has such a status.
    pub fn read(text: &str) -> Option<Self> {
        match text.as_bytes() {
            [class @ (b'4' | b'5'), b'x', b'x'] => Some(Self::Class(u16::from(class - b'0'))),
            [b'4' | b'5', b'0'..=b'9', b'0'..=b'9'] => text.parse().ok().map(Self::One),
            _ => None,
        }
    }

    /// Whether this status is among them.
    pub fn contain(self, status: u16) -> bool {
        match self {
            Self::One(one) => one == status,
            Self::Class(class) => class == status / 100,
        }
    }
}

impl fmt::Display for ErrorStatuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(status) => write!(f, "{status}"),
            Self::Class(class) => write!(f, "{class}xx"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Origin, read_file, resolve};
    use super::*;

    #[test]
    fn pages_are_a_list_or_a_table() {
        let read = |text: &str| resolve(&[(Origin::File, read_file(text).unwrap())]).map(|found| found.config);
        let expected: PageFiles =
            [(ErrorStatuses::One(404), "a/404.html".into()), (ErrorStatuses::Class(5), "down.html".into())].into();
        for text in [
            "[errors.pages]\n404 = 'a/404.html'\n5xx = 'down.html'",
            "errors.pages = { 404 = 'a/404.html', 5xx = 'down.html' }",
            "[errors]\npages = ['404=a/404.html', '5xx = down.html']",
            "errors.pages = '404=a/404.html, 5xx=down.html'",
        ] {
            let config = read(text).unwrap();
            assert_eq!(config.errors.pages, expected, "{text}");
            assert!(config.files().any(|file| file == std::path::Path::new("down.html")));
        }
        assert_eq!(read("[errors.pages]").unwrap().errors.pages, PageFiles::new());
        for (wrong, expected) in [
            ("'404.html'", "`404.html` is no page"),
            ("'404='", "is no page"),
            ("'399=a.html'", "is no page"),
            ("'600=a.html'", "is no page"),
            ("'+44=a.html'", "is no page"),
            ("'3xx=a.html'", "is no page"),
            ("'404=a.html,404=b.html'", "404 has two pages"),
            ("{ 404 = { file = 'a.html' }, 5 = 'b.html' }", "is no page"),
        ] {
            let problems = read(&format!("errors.pages = {wrong}")).unwrap_err();
            assert!(problems.len() == 1 && problems[0].contains(expected), "{wrong}: {problems:?}");
        }
        let many: String = (400..=432).map(|status| format!("{status} = 'a.html'\n")).collect();
        assert!(read(&format!("[errors.pages]\n{many}")).unwrap_err()[0].contains("more than 32 pages"));
    }

    #[test]
    fn a_status_comes_before_its_class() {
        let all = ["404", "4xx", "5xx"].map(|text| ErrorStatuses::read(text).unwrap());
        assert!(all.is_sorted() && all.map(|statuses| statuses.to_string()) == ["404", "4xx", "5xx"]);
        for (status, found) in [(404, Some(0)), (405, Some(1)), (599, Some(2)), (302, None)] {
            assert_eq!(all.iter().position(|statuses| statuses.contain(status)), found, "{status}");
        }
    }
}
