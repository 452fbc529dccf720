//! Routes: a host, a path pattern and methods.

use std::fmt;
use std::sync::Arc;

use http::Method;

use super::cache::Rules;
use super::compress::CompressionRules;
use super::cors::Cors;
use super::headers::HeaderRules;
use lodge_base::canonical;
use lodge_base::config::errors::PageFiles;

/// A route to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The host that requests must have, in lower case and without a port; `None` for any.
    pub host: Option<String>,
    /// The pattern of paths.
    pub path: Pattern,
    /// The methods that requests may have (`HEAD` wherever `GET`); if empty, all.
    pub methods: Vec<Method>,
    /// Whether the service gets the path without the part that `path` matched.
    pub strip_prefix: bool,
    /// The path that the service gets in place of that part; plain.
    pub rewrite: Option<Arc<str>>,
    /// The cache rules; `None` if no route of the service is cached.
    pub cache: Option<Rules>,
    /// The pages of other origins that may use the route.
    pub cors: Option<Arc<Cors>>,
    /// The changes to heads.
    pub headers: Option<Arc<HeaderRules>>,
    /// Which responses are compressed.
    pub compress: Option<Arc<CompressionRules>>,
    /// The pages for errors; those of the host if it is `None`, and none at all if it is empty.
    pub errors: Option<Arc<PageFiles>>,
    /// Whether the route has its own policies, which no other spelling of a path may bypass.
    pub guarded: bool,
    /// Whether this is the host `<name>.localhost`, and not a route of the manifest.
    pub named: bool,
}

/// A pattern of paths: `/x` matches `/x` and all paths below it, `{name}` one segment, `/` only itself, `/*` all paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The segments of the path, in order.
    pub segments: Vec<Segment>,
    /// Whether paths below it match, too.
    pub below: bool,
}

/// A segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Matches itself.
    Name(String),
    /// Matches one segment, whatever it is. The name is for people.
    Parameter(String),
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// Unless it is `/` or `/*`, it must start with `/`, not end with one, and have no empty segment, dot segment, query,
    /// fragment or space.
    pub fn read(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("route `{text}`: write it like \"/users\" (that path and all below it), \"/users/{{id}}\" or \"/\"")
        };
        match text {
            "/" => return Ok(Self { segments: Vec::new(), below: false }),
            "/*" => return Ok(Self { segments: Vec::new(), below: true }),
            _ => {}
        }
        // In other routers `:id` is a parameter.
        let parameter = |segment: &str| segment.strip_prefix(':').filter(|name| !name.is_empty()).map(str::to_owned);
        if let Some(name) = text.split('/').find_map(parameter) {
            return Err(format!(
                "route `{text}`: `:{name}` would match only itself; write {{{name}}} for any segment, or %3A{name} for \
                 this one"
            ));
        }
        let segments = text.strip_prefix('/').ok_or_else(wrong)?.split('/').map(Segment::read);
        let segments = segments.collect::<Option<_>>().ok_or_else(wrong)?;
        Ok(Self { segments, below: true })
    }

    fn is_everything(&self) -> bool {
        self.segments.is_empty() && self.below
    }
}

impl Segment {
    pub(crate) fn read(text: &str) -> Option<Self> {
        let plain = |text: &str| {
            let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'*' | b'{' | b'}');
            !text.is_empty() && text.bytes().all(fits)
        };
        match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
            Some(name) => plain(name).then(|| Self::Parameter(name.to_owned())),
            None if !plain(text) => None,
            None => {
                let normal = canonical::normal(&format!("/{text}"))?;
                let name = canonical::comparable(normal.strip_prefix('/')?);
                // Requests are normalized before they are routed, so no path has a dot segment.
                (!name.is_empty() && !name.contains('/')).then_some(Self::Name(name))
            }
        }
    }
}

impl Route {
    /// Returns a route for every method of a path, at any host.
    pub fn of(path: Pattern) -> Self {
        let (cache, cors, headers, compress, errors) = (None, None, None, None, None);
        Self {
            host: None,
            path,
            methods: Vec::new(),
            strip_prefix: false,
            rewrite: None,
            cache,
            cors,
            headers,
            compress,
            errors,
            guarded: false,
            named: false,
        }
    }

    /// Whether some method is of both routes, as far as their paths go. `GET` is also `HEAD`.
    pub(crate) fn shares_methods(&self, other: &Self) -> bool {
        let has = |route: &Self, method: &Method| route.methods.is_empty() || route.methods.contains(method);
        let takes =
            |route: &Self, method: &Method| has(route, method) || (*method == Method::HEAD && has(route, &Method::GET));
        match (&*self.methods, &*other.methods) {
            ([], _) | (_, []) => true,
            (own, others) => {
                own.iter().any(|method| takes(other, method)) || others.iter().any(|method| takes(self, method))
            }
        }
    }

    /// Returns the route of the host `<name>.localhost`.
    pub fn host(host: String) -> Self {
        let path = Pattern { segments: Vec::new(), below: true };
        Self { host: Some(host), named: true, ..Self::of(path) }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Name(name) => write!(f, "/{name}")?,
                Segment::Parameter(name) => write!(f, "/{{{name}}}")?,
            }
        }
        match (self.segments.is_empty(), self.below) {
            (true, true) => f.write_str("/*"),
            (true, false) => f.write_str("/"),
            (false, _) => Ok(()),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, method) in self.methods.iter().enumerate() {
            write!(f, "{}{method}", if n == 0 { "" } else { "|" })?;
        }
        let space = if self.methods.is_empty() { "" } else { " " };
        match &self.host {
            Some(host) if self.path.is_everything() => write!(f, "{space}{host}"),
            host => write!(f, "{space}{}{}", host.as_deref().unwrap_or_default(), self.path),
        }
    }
}
