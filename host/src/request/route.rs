//! (host, path) → target. A pure value: no clock, no lock, no I/O.
//!
//! Precedence is total: a route of the request's host before one of any host, then an exact path before a prefix,
//! then the longest prefix. Paths are compared as the client sent them: nothing is decoded or collapsed, so
//! `/a%2Fb` and `/a//b` are below `/a` and nothing else.

use std::collections::HashMap;
use std::fmt;

/// A path of a manifest: `/x` is `/x` and all below it; `/` alone is exactly that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// It must start with `/`, not end with one, and hold no empty segment, query, fragment or space.
    pub fn read(text: &str) -> Result<Self, String> {
        let sound = text.starts_with('/') && !text.contains("//") && (text == "/" || !text.ends_with('/'));
        let plain =
            text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'*' | b'{' | b'}'));
        if sound && plain {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("route `{text}`: write it like \"/\" or \"/users\" (that path and all below it)"))
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where requests can go. Two targets never own one route.
#[derive(Debug)]
pub struct Router<T> {
    hosts: HashMap<String, T>,
    paths: HashMap<String, T>,
}

impl<T> Default for Router<T> {
    fn default() -> Self {
        Self { hosts: HashMap::new(), paths: HashMap::new() }
    }
}

impl<T> Router<T> {
    /// Gives every path of `host` (in lower case), and `paths` at any host, to `target`: all of them or none.
    ///
    /// # Errors
    /// The first route that somebody has already, and who that is.
    pub fn own(&mut self, host: &str, paths: &[Pattern], target: &T) -> Result<(), (String, T)>
    where
        T: Clone,
    {
        if let Some(owner) = self.hosts.get(host) {
            return Err((host.to_owned(), owner.clone()));
        }
        if let Some((path, owner)) = paths.iter().find_map(|path| Some((path, self.paths.get(&path.0)?))) {
            return Err((path.to_string(), owner.clone()));
        }
        self.hosts.insert(host.to_owned(), target.clone());
        self.paths.extend(paths.iter().map(|path| (path.0.clone(), target.clone())));
        Ok(())
    }

    /// The target of a request. `authority` is a host with or without a port; its case does not matter.
    ///
    /// Costs one look-up for the host and one per segment of the path, however many routes there are.
    pub fn find(&self, authority: &str, path: &str) -> Option<&T> {
        self.by_host(authority).or_else(|| self.by_path(path))
    }

    fn by_host(&self, authority: &str) -> Option<&T> {
        let host = host_of(authority);
        let found = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            self.hosts.get(&host.to_ascii_lowercase())
        } else {
            self.hosts.get(host)
        };
        found.filter(|_| !host.is_empty())
    }

    fn by_path(&self, path: &str) -> Option<&T> {
        if path == "/" {
            return self.paths.get(path);
        }
        let mut prefix = path;
        while prefix.starts_with('/') && prefix.len() > 1 {
            if let Some(target) = self.paths.get(prefix) {
                return Some(target);
            }
            prefix = prefix.rsplit_once('/').map_or("", |(above, _)| above);
        }
        None
    }
}

/// The host of an authority: `[::1]:80` → `[::1]`, `a.b:80` → `a.b`.
fn host_of(authority: &str) -> &str {
    let port = authority.rfind(':').filter(|colon| !authority.get(*colon..).unwrap_or_default().contains(']'));
    port.and_then(|colon| authority.get(..colon)).unwrap_or(authority)
}

#[cfg(test)]
mod tests;
