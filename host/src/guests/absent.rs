//! Services that are in the directory and do not answer: which requests would be theirs, and why they are not answered.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;

use super::ledger::Absent;
use crate::manifest::route::{Pattern, Route};
use crate::manifest::spec::{host_of, is_name};
use crate::routing::router::Router;

/// Where services would answer that do not.
#[derive(Default)]
pub struct Absentees {
    entries: Vec<Entry>,
    router: Router<Arc<Why>>,
    hosts: HashMap<String, Arc<Why>>,
}

#[derive(Clone, PartialEq)]
struct Entry {
    name: String,
    routes: Vec<Route>,
    host: Option<String>,
    why: Why,
}

/// Why a service does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is being compiled, or waits for its turn.
    Starting,
    /// Its files are refused, for this reason.
    Refused(String),
}

impl Absentees {
    /// These services.
    pub fn new<'a>(absent: impl Iterator<Item = Absent<'a>>) -> Self {
        let mut all = Self::default();
        for entry in absent.filter_map(Entry::of) {
            let why = Arc::new(entry.why.clone());
            let hosted = entry.host.clone().map(Route::host);
            for route in entry.routes.iter().chain(&hosted) {
                // Whatever the method is, and however the path is spelt. Of two that want one route the first by name is told of.
                let route = Route { methods: Vec::new(), guarded: false, ..route.clone() };
                let _ = all.router.own(std::iter::once(&route), &why, false);
            }
            all.hosts.insert(host_of(&entry.name), why);
            all.entries.push(entry);
        }
        all
    }

    /// Whether these are the same services, with the same reasons.
    pub fn are(&self, other: &Self) -> bool {
        self.entries == other.entries
    }

    /// Why nobody answers a client here, if somebody should. `names` is whether it may go by the names of services.
    pub fn at(&self, authority: &str, path: &str, method: &Method, names: bool) -> Option<&Why> {
        self.router.find(authority, path, method, names).ok().map(|found| &**found.target)
    }

    /// Why nobody answers a guest that calls this host, if somebody should.
    pub fn called(&self, host: &str) -> Option<&Why> {
        self.hosts.get(host).map(Arc::as_ref)
    }
}

impl Entry {
    /// A version beside a service has no requests of its own that anybody would miss, and a name that cannot be one has none.
    fn of(absent: Absent<'_>) -> Option<Self> {
        if !is_name(absent.name) {
            return None;
        }
        let (routes, host) = match absent.spec {
            Some(spec) => (spec.manifest.routes.clone(), spec.host()),
            // What its manifest says is not known.
            None => {
                let path = Pattern::read(&format!("/{}", absent.name)).ok()?;
                (vec![Route::of(path)], Some(host_of(absent.name)))
            }
        };
        let why = absent.refusal.map_or(Why::Starting, |refusal| {
            Why::Refused(match &refusal.output {
                Some(output) => format!("{refusal}\n\n{output}"),
                None => refusal.to_string(),
            })
        });
        Some(Self { name: absent.name.to_owned(), routes, host, why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::refusal::Refusal;

    #[test]
    fn only_what_is_in_the_directory_is_missed() {
        let refusal = Refusal::new("b.wasm", "it is empty", "copy the component again");
        let absent = [("a", None), ("b", Some(&refusal)), ("b@2", Some(&refusal)), ("no name", Some(&refusal))];
        let all = Absentees::new(absent.map(|(name, refusal)| Absent { name, spec: None, refusal }).into_iter());
        let refused = Why::Refused("b.wasm: it is empty; copy the component again".into());
        for (authority, path, why) in [
            ("x", "/a", Some(&Why::Starting)),
            ("x", "/a/below", Some(&Why::Starting)),
            ("x", "/b", Some(&refused)),
            ("b.localhost:80", "/", Some(&refused)),
            ("x", "/", None),
            ("x", "/c", None),
            ("2.b.localhost", "/", None),
        ] {
            assert_eq!(all.at(authority, path, &Method::GET, true), why, "{authority}{path}");
        }
        assert_eq!(all.at("b.localhost", "/", &Method::GET, false), None);
        assert_eq!([all.called("a.localhost"), all.called("c.localhost")], [Some(&Why::Starting), None]);
        assert!(all.are(&all) && !all.are(&Absentees::default()));
    }
}
