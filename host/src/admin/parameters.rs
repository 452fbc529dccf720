//! The query of a request of the API. What would be ignored is refused: a misspelt parameter, or one of two, may be what the sender
//! relies on, as `digest` of a promotion is.

use std::collections::BTreeMap;

use lodge_base::telemetry::logs::clean;

/// The kind of the problem that a parameter is.
pub(super) const BAD_QUERY: &str = "bad-query";

/// The most characters of a name in a message.
const SHOWN: usize = 64;

/// The parameters of a request, by their names.
#[derive(Debug, Default)]
pub(super) struct QueryParameters(BTreeMap<&'static str, String>);

impl QueryParameters {
    /// Reads a query with parameters of these names, each once at most.
    ///
    /// # Errors
    /// Which parameter is not known, or there twice, and which ones there are.
    pub(super) fn read(query: &str, known: &[&'static str]) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let Some(known) = known.iter().find(|known| **known == name) else {
                let name: String = name.chars().take(SHOWN).collect();
                let there = match known {
                    [] => "none".to_owned(),
                    names => format!("`{}`", names.join("`, `")),
                };
                return Err(format!("unknown parameter `{}`: this request can have {there}", clean(&name)));
            };
            if all.insert(*known, value.into_owned()).is_some() {
                return Err(format!("`{known}` is there more than once"));
            }
        }
        Ok(Self(all))
    }

    /// Returns the value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns whether a parameter is `true`.
    ///
    /// # Errors
    /// If it is neither that nor `false`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, String> {
        let value = self.get(name).map_or(Ok(false), str::parse);
        value.map_err(|_| format!("`{name}` must be `true` or `false`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_ignored() {
        let read = |query: &str| QueryParameters::read(query, &["digest", "force"]);
        let full = read("force=true&digest=a%20b").unwrap();
        assert_eq!((full.get("digest"), full.flag("force")), (Some("a b"), Ok(true)));
        let empty = read("").unwrap();
        assert_eq!((empty.get("digest"), empty.flag("force")), (None, Ok(false)));
        for (query, why) in [
            ("Digest=a", "unknown parameter `Digest`: this request can have `digest`, `force`"),
            ("digest=a&digest=a", "`digest` is there more than once"),
            ("digest=a&x", "unknown parameter `x`"),
            ("=a", "unknown parameter ``"),
            ("digest%20=a", "unknown parameter `digest `"),
            ("a%0Ab=1", "unknown parameter `a\u{fffd}b`"),
        ] {
            let refused = read(query).unwrap_err();
            assert!(refused.starts_with(why) && !refused.contains('\n'), "{query}: {refused}");
        }
        assert!(read("force=True").unwrap().flag("force").unwrap_err().contains("`force` must be"));
        assert!(read("force").unwrap().flag("force").is_err());
        assert!(QueryParameters::read("x=1", &[]).unwrap_err().ends_with("can have none"));
    }
}
