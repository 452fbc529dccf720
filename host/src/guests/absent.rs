//! Services that are in the directory but cannot serve: their routes and the reasons.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;

use super::ledger::Absent;
use lodge_manifest::route::{Pattern, Route};
use lodge_manifest::spec::{host_of, is_name};
use lodge_traffic::routing::router::Router;

/// The routes of services that cannot serve.
#[derive(Default)]
pub struct Absentees {
    entries: Vec<AbsentService>,
    /// Their routes, together with those of the services that serve (`None`).
    router: Router<Option<Arc<AbsenceReason>>>,
    hosts: HashMap<String, Arc<AbsenceReason>>,
}

#[derive(Clone, PartialEq)]
struct AbsentService {
    name: String,
    routes: Vec<Route>,
    host: Option<String>,
    why: AbsenceReason,
}

/// The reason why a service cannot serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AbsenceReason {
    /// It is being compiled, or is queued for that.
    Starting,
    /// Its files are refused, for this reason.
    Refused(String),
}

impl Absentees {
    /// Creates the value for these services.
    pub fn new<'a>(absent: impl Iterator<Item = Absent<'a>>) -> Self {
        let mut all = Self::default();
        for entry in absent.filter_map(AbsentService::of) {
            all.hosts.insert(host_of(&entry.name), Arc::new(entry.why.clone()));
            all.entries.push(entry);
        }
        all
    }

    /// Adds the routes of the services that serve, each with the host of its name. One router for both decides which of
    /// two routes is more specific.
    pub(super) fn beside<'a>(&mut self, served: impl Iterator<Item = (&'a [Route], Option<String>)>) {
        if self.is_empty() {
            return;
        }
        self.router = Router::default();
        let absent = self
            .entries
            .iter()
            .map(|entry| (&*entry.routes, entry.host.clone(), self.hosts.get(&host_of(&entry.name)).map(Arc::clone)));
        // Of two services with one route, one that serves comes first, and then the first by name.
        for (routes, host, why) in served.map(|(routes, host)| (routes, host, None)).chain(absent) {
            let hosted = host.map(Route::host);
            for route in routes.iter().chain(&hosted) {
                let route = Route { guarded: false, ..route.clone() };
                let _ = self.router.insert(std::iter::once(&route), &why, false);
            }
        }
    }

    /// Whether every service serves.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether `other` has the same services, with the same reasons.
    pub fn are(&self, other: &Self) -> bool {
        self.entries == other.entries
    }

    /// Returns why the service with the route of a client's request cannot serve; `None` if no such service has the route.
    /// `names` is whether the client may use the host names of services.
    pub fn at(&self, authority: &str, path: &str, method: &Method, names: bool) -> Option<&AbsenceReason> {
        self.router.find(authority, path, method, names).ok()?.target.as_deref()
    }

    /// Returns why the service with the host of a guest's call cannot serve; `None` if no such service has the host.
    pub fn called(&self, host: &str) -> Option<&AbsenceReason> {
        self.hosts.get(host).map(Arc::as_ref)
    }
}

impl AbsentService {
    /// `None` for a version beside its service, whose requests the service handles, and for an invalid name.
    fn of(absent: Absent<'_>) -> Option<Self> {
        if !is_name(absent.name) {
            return None;
        }
        let (routes, host) = match absent.spec {
            Some(spec) => (spec.manifest.routes.clone(), spec.host()),
            // The routes of an unreadable manifest are not known.
            None => {
                let path = Pattern::read(&format!("/{}", absent.name)).ok()?;
                (vec![Route::of(path)], Some(host_of(absent.name)))
            }
        };
        let why = absent.refusal.map_or(AbsenceReason::Starting, |refusal| {
            AbsenceReason::Refused(match &refusal.output {
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
    use lodge_manifest::refusal::Refusal;

    #[test]
    fn only_services_in_the_directory_are_absent() {
        let refusal = Refusal::new("b.wasm", "it is empty", "copy the component again");
        let absent = [("a", None), ("b", Some(&refusal)), ("b@2", Some(&refusal)), ("no name", Some(&refusal))];
        let mut all = Absentees::new(absent.map(|(name, refusal)| Absent { name, spec: None, refusal }).into_iter());
        all.beside(std::iter::empty());
        let refused = AbsenceReason::Refused("b.wasm: it is empty; copy the component again".into());
        for (authority, path, why) in [
            ("x", "/a", Some(&AbsenceReason::Starting)),
            ("x", "/a/below", Some(&AbsenceReason::Starting)),
            ("x", "/b", Some(&refused)),
            ("b.localhost:80", "/", Some(&refused)),
            ("x", "/", None),
            ("x", "/c", None),
            ("2.b.localhost", "/", None),
        ] {
            assert_eq!(all.at(authority, path, &Method::GET, true), why, "{authority}{path}");
        }
        assert_eq!(all.at("b.localhost", "/", &Method::GET, false), None);
        assert_eq!([all.called("a.localhost"), all.called("c.localhost")], [Some(&AbsenceReason::Starting), None]);
        assert!(all.are(&all) && !all.are(&Absentees::default()));
    }

    /// A route counts as specific whether or not its service can serve.
    #[test]
    fn the_more_specific_route_decides() {
        let mut all = Absentees::new(["a", "b"].map(|name| Absent { name, spec: None, refusal: None }).into_iter());
        let route = |text: &str| Route::of(Pattern::read(text).unwrap());
        let get = Route { methods: vec![Method::GET], ..route("/b") };
        let at_host = Route { host: Some("own.test".into()), ..route("/*") };
        let served = [route("/*"), route("/a/open"), get, at_host];
        all.beside([(&served[..], Some("c.localhost".to_owned()))].into_iter());
        let absent = |authority: &str, path: &str, method: &Method| all.at(authority, path, method, true).is_some();
        for (authority, path, expected) in [
            ("x", "/", false),
            ("x", "/other", false),
            ("x", "/a", true),
            ("x", "/a/below", true),
            ("x", "/a/open", false),
            ("x", "/a/open/below", false),
            ("x", "/b", false),
            ("own.test", "/a", false),
            ("a.localhost", "/other", true),
            ("c.localhost", "/a", false),
        ] {
            assert_eq!(absent(authority, path, &Method::GET), expected, "{authority}{path}");
        }
        all.beside(std::iter::empty());
        assert!(all.at("x", "/b", &Method::GET, true).is_some());
    }
}
