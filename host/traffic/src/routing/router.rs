//! Routes (host, path, method) to a target. A pure value: no clock, no lock, no I/O.
//!
//! Precedence is total: a route of the request's host before one for any host, then the route with more segments, then
//! the one that has a name at the first segment in which they differ, not a `{parameter}`. The method is checked last:
//! when the best route does not allow it, no other route is tried.
//!
//! Paths are compared in the form of [`canonical::comparable`]: `/a/%62` equals `/a/b`, while `/a%2Fb` and `/a//b`
//! match only routes for everything below `/a`. A service may read such a path differently from the router. So a path
//! that is not [plain](canonical::is_plain) is also looked up in each of its other readings (`readings`), and
//! [refused](Missed::Ambiguous) when one of them leads to a route with restrictions of its own.

mod readings;

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;

use self::readings::{AllRoutes, TargetRoutes};
use lodge_base::canonical;
use lodge_manifest::cache::Rules;
use lodge_manifest::front::Front;
use lodge_manifest::route::{Route, Segment};

/// The routing table. No two targets own the same route.
#[derive(Debug)]
pub struct Router<T> {
    hosts: HashMap<String, Node<T>>,
    any_host: Node<T>,
    merged: AllRoutes,
}

/// A node of the routing tree, for all paths with the same segments so far.
#[derive(Debug)]
struct Node<T> {
    names: HashMap<String, Node<T>>,
    parameter: Option<Box<Node<T>>>,
    below: Vec<Entry<T>>,
    exact: Vec<Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    /// The path as metrics and traces show it.
    route: Arc<str>,
    methods: Vec<Method>,
    strip_prefix: bool,
    rewrite: Option<Arc<str>>,
    number: usize,
    cache: Option<Rules>,
    front: Option<Arc<Front>>,
    named: bool,
    target: T,
    owned: Arc<TargetRoutes>,
}

/// The route that matched a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Match<'a, T> {
    /// The route's target.
    pub target: &'a T,
    /// The route's path as the manifest has it.
    pub route: &'a Arc<str>,
    /// The route's number among the routes of its target.
    pub number: usize,
    /// The number of bytes at the start of the path that are removed before the service sees the path.
    pub prefix: usize,
    /// What the service sees in place of these bytes.
    pub rewrite: Option<&'a Arc<str>>,
    /// The route's cache rules; `None` when its responses are not cached.
    pub cache: Option<Rules>,
    /// What the host does for the clients of the route.
    pub front: Option<&'a Arc<Front>>,
}

/// The reason why no route matched.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missed {
    /// No route matches the host and path.
    #[error("no service has a route for this host and path")]
    Route,
    /// The route allows other methods: these, in the form of the `Allow` header.
    #[error("the service does not allow this method for this path")]
    Method(String),
    /// A service may read the path as one of another route, which has restrictions of its own.
    #[error("the path has another spelling, under which other rules hold: write it without `//`, `;`, `%2F` and `\\`")]
    Ambiguous,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { names: HashMap::new(), parameter: None, below: Vec::new(), exact: Vec::new() }
    }
}

impl<T> Default for Router<T> {
    fn default() -> Self {
        Self { hosts: HashMap::new(), any_host: Node::default(), merged: AllRoutes::default() }
    }
}

impl<T: Clone> Router<T> {
    /// Adds all of `routes` for `target`, or none. `guarded` says that every request of the target is under policies.
    ///
    /// # Errors
    /// The first route that another target owns, and that target.
    pub fn insert<'a>(
        &mut self,
        routes: impl Iterator<Item = &'a Route> + Clone,
        target: &T,
        guarded: bool,
    ) -> Result<(), (&'a Route, T)> {
        for route in routes.clone() {
            if let Some(owner) = self.owner(route) {
                return Err((route, owner));
            }
        }
        let owned = self.merged.add(routes.clone(), guarded);
        for (number, route) in routes.enumerate() {
            self.add(number, route, target, &owned);
        }
        Ok(())
    }

    /// Adds those of `routes` for `target` that no other target owns.
    pub fn insert_free(&mut self, routes: &[Route], target: &T, guarded: bool) {
        let free: Vec<_> = routes.iter().filter(|route| self.owner(route).is_none()).collect();
        let owned = self.merged.add(free.iter().copied(), guarded);
        for (number, route) in free.into_iter().enumerate() {
            self.add(number, route, target, &owned);
        }
    }

    /// Returns the target that owns a route, or one that some requests of the route would also match.
    fn owner(&mut self, route: &Route) -> Option<T> {
        let taken = self.entries(route).iter().find(|entry| overlap(&entry.methods, &route.methods));
        taken.map(|entry| entry.target.clone())
    }

    fn add(&mut self, number: usize, route: &Route, target: &T, owned: &Arc<TargetRoutes>) {
        let Route { methods, strip_prefix, rewrite, cache, named, .. } = route.clone();
        let (path, owned, front) = (Arc::from(route.path.to_string()), Arc::clone(owned), Front::of(route));
        let target = target.clone();
        let entry = Entry { route: path, methods, strip_prefix, rewrite, number, cache, front, named, target, owned };
        self.entries(route).push(entry);
    }

    fn entries(&mut self, route: &Route) -> &mut Vec<Entry<T>> {
        let mut node = match &route.host {
            Some(host) => self.hosts.entry(host.clone()).or_default(),
            None => &mut self.any_host,
        };
        for segment in &route.path.segments {
            node = match segment {
                Segment::Name(name) => node.names.entry(name.clone()).or_default(),
                Segment::Parameter(_) => node.parameter.get_or_insert_default(),
            };
        }
        if route.path.below { &mut node.below } else { &mut node.exact }
    }
}

impl<T> Router<T> {
    /// Returns the route of a request, whose authority and path are in canonical form. `by_name` says whether the
    /// request may use the hosts that services have by their names.
    ///
    /// Costs one lookup for the host and one per segment of the path, independent of the number of routes; more only
    /// where names and parameters compete for one segment, or where the path is not plain.
    ///
    /// # Errors
    /// When no route matches.
    pub fn find(&self, authority: &str, path: &str, method: &Method, by_name: bool) -> Result<Match<'_, T>, Missed> {
        let host = canonical::host(authority);
        if canonical::is_plain(path) {
            return self.lookup(host, path, method, by_name).map(|(found, _)| found);
        }
        let comparable = canonical::comparable(path);
        let (mut found, owned) = self.lookup(host, &comparable, method, by_name)?;
        if found.prefix > 0 {
            found.prefix = canonical::same_segments(path, &comparable, found.prefix);
        }
        // The service reads the path among those that its rewritten routes lead to, which are not the paths of any route here.
        if owned.rewrites && canonical::has_readings(&comparable) {
            return Err(Missed::Ambiguous);
        }
        let agree = self.merged.readings_agree(owned, found.number, (host, &comparable), method, by_name);
        if agree { Ok(found) } else { Err(Missed::Ambiguous) }
    }

    /// Looks up a path in exactly this spelling.
    fn lookup(
        &self,
        host: &str,
        path: &str,
        method: &Method,
        by_name: bool,
    ) -> Result<(Match<'_, T>, &Arc<TargetRoutes>), Missed> {
        let open = |(entries, _): &(&[Entry<T>], usize)| by_name || !entries.iter().any(|entry| entry.named);
        let own = self.hosts.get(host).and_then(|node| node.find(path)).filter(open);
        let (entries, matched) = own.or_else(|| self.any_host.find(path)).ok_or(Missed::Route)?;
        // A route for HEAD comes before one for GET, which serves HEAD only where no other route does.
        let exact = entries.iter().find(|entry| entry.methods.contains(method));
        match exact.or_else(|| entries.iter().find(|entry| entry.allows(method))) {
            Some(entry) => {
                let rewrite = entry.rewrite.as_ref();
                let prefix = if entry.strip_prefix || rewrite.is_some() { matched } else { 0 };
                let Entry { target, route, number, cache, front, owned, .. } = entry;
                let (number, cache, front) = (*number, *cache, front.as_ref());
                Ok((Match { target, route, number, prefix, rewrite, cache, front }, owned))
            }
            None => Err(Missed::Method(allow(entries))),
        }
    }
}

/// The best match so far: its number of segments, its entries, and the number of bytes of the path that it matched.
type Best<'a, T> = Option<(usize, &'a [Entry<T>], usize)>;

impl<T> Node<T> {
    /// Returns the entries of the best pattern for `path`, and how many bytes of the path the pattern matched.
    fn find(&self, path: &str) -> Option<(&[Entry<T>], usize)> {
        if path == "/" && !self.exact.is_empty() {
            return Some((&self.exact, 0));
        }
        if !path.starts_with('/') {
            return None;
        }
        let mut best = None;
        self.walk(path, path.len(), 0, &mut best);
        best.map(|(_, entries, matched)| (entries, matched))
    }

    fn walk<'a>(&'a self, rest: &str, length: usize, depth: usize, best: &mut Best<'a, T>) {
        if !self.below.is_empty() && best.as_ref().is_none_or(|(deepest, ..)| depth > *deepest) {
            *best = Some((depth, &self.below, length - rest.len()));
        }
        let Some(tail) = rest.strip_prefix('/') else { return };
        let (segment, _) = tail.split_once('/').unwrap_or((tail, ""));
        let Some(after) = tail.get(segment.len()..).filter(|_| !segment.is_empty()) else { return };
        for next in self.names.get(segment).into_iter().chain(self.parameter.as_deref()) {
            next.walk(after, length, depth + 1, best);
        }
    }
}

impl<T> Entry<T> {
    /// Whether this route serves requests with this method.
    fn allows(&self, method: &Method) -> bool {
        let has = |method: &Method| self.methods.contains(method);
        self.methods.is_empty() || has(method) || (*method == Method::HEAD && has(&Method::GET))
    }
}

fn overlap(some: &[Method], others: &[Method]) -> bool {
    some.is_empty() || others.is_empty() || some.iter().any(|method| others.contains(method))
}

fn allow<T>(entries: &[Entry<T>]) -> String {
    let mut methods: Vec<_> = entries.iter().flat_map(|entry| &entry.methods).map(Method::as_str).collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.sort_unstable();
    methods.dedup();
    methods.join(", ")
}

#[cfg(test)]
mod tests;
