//! (host, path, method) → target. A pure value: no clock, no lock, no I/O.
//!
//! Precedence is total: a route of the request's host before one of any host, then the one with more segments, then the
//! one whose first segment that differs is a name and not a `{parameter}`. The method comes last: where it is not
//! allowed, no other route is tried.
//!
//! Paths are compared in the form of [`canonical::comparable`]: `/a/%62` is `/a/b`, while `/a%2Fb` and `/a//b` are below
//! `/a` and nothing else. Services may read such a path otherwise than the router does, so a path that is not
//! [plain](canonical::is_plain) is looked up in each of its other readings as well (`readings`), and
//! [refused](Missed::Ambiguous) when one of them leads to a route with restrictions of its own.

mod readings;

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;

use self::readings::{AllRoutes, TargetRoutes};
use crate::base::canonical;
use crate::manifest::cache::Rules;
use crate::manifest::route::{Route, Segment};

/// Where requests can go. Two targets never own one route.
#[derive(Debug)]
pub struct Router<T> {
    hosts: HashMap<String, Node<T>>,
    any_host: Node<T>,
    merged: AllRoutes,
}

/// What is known of the paths that have the same segments so far.
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
    number: usize,
    cache: Option<Rules>,
    named: bool,
    target: T,
    owned: Arc<TargetRoutes>,
}

/// Who answers a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Match<'a, T> {
    /// Who.
    pub target: &'a T,
    /// By which path, as the manifest has it.
    pub route: &'a Arc<str>,
    /// Which of the routes that its target owns that is.
    pub number: usize,
    /// Bytes at the start of the path that the service is not to see.
    pub prefix: usize,
    /// Whether its answers are kept.
    pub cache: Option<Rules>,
}

/// Why nobody does.
#[derive(Debug, PartialEq, Eq)]
pub enum Missed {
    /// There is no such route.
    Route,
    /// There is one for other methods: these, as the `Allow` header has them.
    Method(String),
    /// A service may take the path for one that has another route, with restrictions of its own.
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
    /// Gives `routes` to `target`: all of them or none. `guarded` is whether all of its requests are under policies.
    ///
    /// # Errors
    /// The first route that somebody has already, and who that is.
    pub fn insert<'a>(
        &mut self,
        routes: impl Iterator<Item = &'a Route> + Clone,
        target: &T,
        guarded: bool,
    ) -> Result<(), (&'a Route, T)> {
        for route in routes.clone() {
            let taken = self.entries(route).iter().find(|entry| overlap(&entry.methods, &route.methods));
            if let Some(entry) = taken {
                return Err((route, entry.target.clone()));
            }
        }
        let owned = self.merged.add(routes.clone(), guarded);
        for (number, route) in routes.enumerate() {
            self.add(number, route, target, &owned);
        }
        Ok(())
    }

    fn add(&mut self, number: usize, route: &Route, target: &T, owned: &Arc<TargetRoutes>) {
        let Route { methods, strip_prefix, cache, named, .. } = route.clone();
        let (path, owned) = (Arc::from(route.path.to_string()), Arc::clone(owned));
        let target = target.clone();
        let entry = Entry { route: path, methods, strip_prefix, number, cache, named, target, owned };
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
    /// The target of a request, whose authority and path are in their canonical forms. `names` is whether the request may
    /// go by the hosts that services have by their names.
    ///
    /// Costs one look-up for the host and one per segment of the path, however many routes there are; more only
    /// where names and parameters compete for one segment, or where the path is not plain.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn find(&self, authority: &str, path: &str, method: &Method, names: bool) -> Result<Match<'_, T>, Missed> {
        let host = canonical::host(authority);
        if canonical::is_plain(path) {
            return self.lookup(host, path, method, names).map(|(found, _)| found);
        }
        let comparable = canonical::comparable(path);
        let (mut found, owned) = self.lookup(host, &comparable, method, names)?;
        if found.prefix > 0 {
            found.prefix = canonical::same_segments(path, &comparable, found.prefix);
        }
        let agree = self.merged.readings_agree(owned, found.number, (host, &comparable), method, names);
        if agree { Ok(found) } else { Err(Missed::Ambiguous) }
    }

    /// The target of a path as it is written here.
    fn lookup(
        &self,
        host: &str,
        path: &str,
        method: &Method,
        names: bool,
    ) -> Result<(Match<'_, T>, &Arc<TargetRoutes>), Missed> {
        let open = |(entries, _): &(&[Entry<T>], usize)| names || !entries.iter().any(|entry| entry.named);
        let own = self.hosts.get(host).and_then(|node| node.find(path)).filter(open);
        let (entries, matched) = own.or_else(|| self.any_host.find(path)).ok_or(Missed::Route)?;
        // A route for HEAD comes before one for GET, which has HEAD only where nothing else says so.
        let exact = entries.iter().find(|entry| entry.methods.contains(method));
        match exact.or_else(|| entries.iter().find(|entry| entry.allows(method))) {
            Some(entry) => {
                let prefix = if entry.strip_prefix { matched } else { 0 };
                let Entry { target, route, number, cache, owned, .. } = entry;
                Ok((Match { target, route, number: *number, prefix, cache: *cache }, owned))
            }
            None => Err(Missed::Method(allow(entries))),
        }
    }
}

/// The best of what was found so far: how many segments, who, and how many bytes of the path.
type Best<'a, T> = Option<(usize, &'a [Entry<T>], usize)>;

impl<T> Node<T> {
    /// Who owns the best pattern for `path`, and how many of its bytes that matches.
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
    /// Whether it takes requests of this method.
    fn allows(&self, method: &Method) -> bool {
        let asked = |method: &Method| self.methods.contains(method);
        self.methods.is_empty() || asked(method) || (*method == Method::HEAD && asked(&Method::GET))
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
