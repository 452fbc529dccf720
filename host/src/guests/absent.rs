//! Services that are in the directory but cannot serve: their routes and the reasons.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use http::Method;

use super::claims::{Claimant, ClaimantState, RouteClaims};
use super::ledger::Absent;
use lodge_manifest::guards::Openness;
use lodge_manifest::refusal::Refusal;
use lodge_manifest::route::{Pattern, Route};
use lodge_manifest::spec::{GuestSpec, ServiceRoutes, host_of, is_name};
use lodge_traffic::routing::router::{Missed, Router};

/// The routes of services that cannot serve.
#[derive(Default)]
pub struct Absentees {
    entries: Vec<AbsentService>,
    /// What is refused beside the services that serve.
    beside: Vec<AbsentService>,
    /// The hosts of all that has a file in the directory: also of what is disabled, or a manifest without a component.
    known: BTreeSet<String>,
    /// Their routes, together with those of the services that serve (`None`).
    router: Router<Option<Arc<AbsenceReason>>>,
    hosts: HashMap<String, Arc<AbsenceReason>>,
}

#[derive(Clone, PartialEq)]
struct AbsentService {
    name: String,
    routes: ServiceRoutes,
    why: AbsenceReason,
}

/// The reason why a service cannot serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AbsenceReason {
    /// It is being compiled, or is queued for that.
    Starting,
    /// Its files are refused, for this reason.
    Refused(String),
    /// Its manifest disables it.
    Disabled,
}

impl Absentees {
    /// Creates the value for these services, in a directory with files of these names.
    pub fn new<'a>(absent: impl Iterator<Item = Absent<'a>>, names: impl Iterator<Item = &'a str>) -> Self {
        let mut all = Self { known: names.map(host_of).collect(), ..Self::default() };
        for entry in absent.filter_map(AbsentService::of) {
            // Calls of guests may be for other hosts.
            if entry.why != AbsenceReason::Disabled {
                all.hosts.insert(host_of(&entry.name), Arc::new(entry.why.clone()));
            }
            all.entries.push(entry);
        }
        all
    }

    /// Adds a service that is refused beside those that serve.
    pub(super) fn refuse(&mut self, spec: &GuestSpec, refusal: &Refusal) {
        let absent = Absent { name: &spec.name, manifest: Some(&spec.manifest), refusal: Some(refusal) };
        if let Some(entry) = AbsentService::of(absent) {
            self.hosts.insert(host_of(&entry.name), Arc::new(entry.why.clone()));
            self.beside.push(entry);
        }
    }

    /// What the services in the directory claim that cannot serve.
    pub(super) fn claimants(&self) -> impl Iterator<Item = Claimant<'_>> {
        self.entries.iter().map(|AbsentService { name, routes, why }| {
            let state = match why {
                AbsenceReason::Refused(_) => ClaimantState::Refused,
                AbsenceReason::Starting | AbsenceReason::Disabled => ClaimantState::Waiting,
            };
            Claimant { name, wanted: RouteClaims::of(name, routes), last_good: None, state }
        })
    }

    /// Whether this service is in the directory, and is being compiled or waits for that.
    pub(super) fn is_starting(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name && entry.why == AbsenceReason::Starting)
    }

    /// Whether the manifest of this service disables it.
    pub(super) fn is_disabled(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name && entry.why == AbsenceReason::Disabled)
    }

    /// Adds the services that serve. One router for all of them decides which of two routes is more specific, and which paths are
    /// ambiguous: the restrictions of a service do not depend on whether it can serve. `owns` is whether a service that cannot serve has
    /// the route, which is nobody else's then.
    pub(super) fn beside<'a>(
        &mut self,
        served: impl Iterator<Item = &'a GuestSpec>,
        owns: impl Fn(&str, &Route) -> bool,
    ) {
        if self.is_empty() {
            return;
        }
        self.router = Router::default();
        for spec in served {
            let ServiceRoutes { routes, guarded, .. } = spec.all_routes();
            self.router.insert_free(&routes, &None, guarded);
        }
        for AbsentService { name, routes, why } in self.entries.iter().chain(&self.beside) {
            let why = self.hosts.get(&host_of(name)).map_or_else(|| Arc::new(why.clone()), Arc::clone);
            let own: Vec<_> = routes.routes.iter().filter(|route| owns(name, route)).cloned().collect();
            self.router.insert_free(&own, &Some(why), routes.guarded);
        }
    }

    /// Whether every service serves.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.beside.is_empty()
    }

    /// Whether `other` has the same services, with the same reasons, in a directory with the same names. What is refused beside other
    /// services follows from what is to serve.
    pub fn are(&self, other: &Self) -> bool {
        self.entries == other.entries && self.known == other.known
    }

    /// Returns why the service with the route of a client's request cannot serve; `None` if one with the route serves.
    /// `names` is whether the client may use the host names of services.
    ///
    /// # Errors
    /// When no route of any service matches, as [`Router::find`].
    pub(super) fn at(
        &self,
        authority: &str,
        path: &str,
        method: &Method,
        names: bool,
    ) -> Result<Option<&AbsenceReason>, Missed> {
        if self.is_empty() {
            return Ok(None);
        }
        self.router.find(authority, path, method, names).map(|found| found.target.as_deref())
    }

    /// Whether a service with the host of a guest's call has a file in the directory or is built for it, whatever its state is.
    pub fn has(&self, host: &str) -> bool {
        self.known.contains(host) || self.hosts.contains_key(host)
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
        let routes = match absent.manifest {
            Some(manifest) => ServiceRoutes::of(absent.name, manifest),
            // What an unreadable manifest says of routes and policies is not known. It may have some.
            None => {
                let path = Pattern::read(&format!("/{}", absent.name)).ok()?;
                let routes = vec![Route::of(path), Route::host(host_of(absent.name))];
                ServiceRoutes { routes, openness: vec![Openness::Nobody; 2], guarded: true }
            }
        };
        let is_disabled = absent.manifest.is_some_and(|manifest| !manifest.enabled);
        let other = if is_disabled { AbsenceReason::Disabled } else { AbsenceReason::Starting };
        let why = absent.refusal.map_or(other, |refusal| {
            AbsenceReason::Refused(match &refusal.output {
                Some(output) => format!("{refusal}\n\n{output}"),
                None => refusal.to_string(),
            })
        });
        Some(Self { name: absent.name.to_owned(), routes, why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lodge_manifest::Manifest;
    use lodge_manifest::digest::Digest;

    #[test]
    fn only_services_in_the_directory_are_absent() {
        let refusal = Refusal::new("b.wasm", "it is empty", "copy the component again");
        let absent = [("a", None), ("b", Some(&refusal)), ("b@2", Some(&refusal)), ("no name", Some(&refusal))];
        let mut all = Absentees::new(
            absent.map(|(name, refusal)| Absent { name, manifest: None, refusal }).into_iter(),
            ["a", "d_1"].into_iter(),
        );
        all.beside(std::iter::empty(), |_, _| true);
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
            let expected = why.map(Some).ok_or(Missed::Route);
            assert_eq!(all.at(authority, path, &Method::GET, true), expected, "{authority}{path}");
        }
        assert_eq!(all.at("b.localhost", "/", &Method::GET, false), Err(Missed::Route));
        assert_eq!([all.called("a.localhost"), all.called("c.localhost")], [Some(&AbsenceReason::Starting), None]);
        let has = ["a", "b", "c", "d-1"].map(|name| all.has(&host_of(name)));
        assert_eq!((has, all.called("d-1.localhost")), ([true, true, false, true], None));
        assert!(all.are(&all) && !all.are(&Absentees::default()));
        let named = |name| Absentees::new(std::iter::empty(), std::iter::once(name));
        assert!(named("a").is_empty() && named("a").are(&named("a")) && !named("a").are(&named("b")));
    }

    /// A service with this manifest, which is not served yet.
    fn spec(name: &str, manifest: &str) -> GuestSpec {
        let limits = lodge_base::config::resolve(&[]).unwrap().config.limits;
        let manifest = Manifest::read(name, manifest, &limits, 1 << 30).unwrap();
        let (path, digest) = (format!("{name}.toml").into(), Digest::of(b""));
        GuestSpec { name: name.into(), path, content: None, digest, size: 1, middleware: Vec::new(), manifest }
    }

    /// These services, of which the last one is absent.
    fn without_last(services: &[(&str, &str)]) -> Absentees {
        let specs: Vec<_> = services.iter().map(|(name, manifest)| spec(name, manifest)).collect();
        let (last, served) = specs.split_last().unwrap();
        let absent = Absent { name: &last.name, manifest: Some(&last.manifest), refusal: None };
        let mut all = Absentees::new(std::iter::once(absent), std::iter::empty());
        all.beside(served.iter(), |_, _| true);
        all
    }

    /// A route counts as specific whether or not its service can serve.
    #[test]
    fn the_more_specific_route_decides() {
        let mut all = Absentees::new(
            ["a", "b"].map(|name| Absent { name, manifest: None, refusal: None }).into_iter(),
            std::iter::empty(),
        );
        let text = "routes = ['/*', '/a/open', { path = '/b', methods = ['GET'] }, { path = '/*', host = 'own.test' }]";
        all.beside([spec("c", text)].iter(), |_, _| true);
        let absent = |authority: &str, path: &str, method: &Method| all.at(authority, path, method, true);
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
            assert_eq!(absent(authority, path, &Method::GET).unwrap().is_some(), expected, "{authority}{path}");
        }
        assert_eq!(absent("x", "/b", &Method::POST), Err(Missed::Method("GET, HEAD".into())));
        all.beside(std::iter::empty(), |_, _| true);
        assert!(all.at("x", "/b", &Method::GET, true).unwrap().is_some());
    }

    /// What restricts a service holds while it cannot serve: no spelling and no method leads to another service instead, as none would
    /// if it served.
    #[test]
    fn the_restrictions_of_an_absent_service_hold() {
        let (site, open) = (("site", "routes = ['/*']"), "routes = ['/api']");
        let key = "auth.api_keys = 'keys'";
        for (api, ambiguous) in [
            (format!("{open}\n{key}"), true),
            (format!("{open}\ndeny = ['192.0.2.1']"), true),
            (format!("routes = [{{ path = '/api', {key} }}]"), true),
            ("routes = [{ path = '/api', methods = ['GET'] }]".into(), true),
            (open.into(), false),
        ] {
            let all = without_last(&[site, ("api", &api)]);
            let at = |path: &str| all.at("x", path, &Method::GET, false).map(|why| why.is_some());
            assert_eq!((at("/api/secret"), at("/x/api")), (Ok(true), Ok(false)), "{api}");
            for path in ["/x/..%2Fapi/secret", "/api%2Fsecret", "//api/secret", "/api;a/secret", "/x%5C..%5Capi"] {
                let expected = if ambiguous { Err(Missed::Ambiguous) } else { Ok(false) };
                assert_eq!(at(path), expected, "{api} {path}");
            }
        }
        // A manifest that cannot be read may have restrictions.
        let absent = [Absent { name: "api", manifest: None, refusal: None }];
        let mut all = Absentees::new(absent.into_iter(), std::iter::empty());
        all.beside([spec(site.0, site.1)].iter(), |_, _| true);
        assert_eq!(all.at("x", "/x/..%2Fapi", &Method::GET, false), Err(Missed::Ambiguous));
        // Among its own routes, too.
        let methods = "routes = [{ path = '/api', methods = ['GET'] }, { path = '/api/in', allow = ['192.0.2.1'] }]";
        let all = without_last(&[site, ("api", methods)]);
        let at = |path: &str, method| all.at("x", path, &method, false).map(|why| why.is_some());
        assert_eq!(at("/api/x/..%2Fin", Method::GET), Err(Missed::Ambiguous));
        assert_eq!(at("/api/secret", Method::POST), Err(Missed::Method("GET, HEAD".into())));
        // Those of a service that serves hold as well.
        let all = without_last(&[site, ("api", &format!("{open}\n{key}")), ("z", "")]);
        assert_eq!(all.at("x", "/x/..%2Fapi", &Method::GET, false), Err(Missed::Ambiguous));
    }

    /// Of a route that two services have, the one that serves has it; the others of the absent one stay its own.
    #[test]
    fn free_routes_stay_absent() {
        let two = "routes = ['/one', '/two', { path = '/three', methods = ['GET'] }]\nauth.api_keys = 'keys'";
        let all = without_last(&[("site", "routes = ['/*']"), ("one", "routes = ['/one', '/three']"), ("two", two)]);
        let at = |path: &str| all.at("x", path, &Method::GET, false).map(|why| why.is_some());
        assert_eq!(["/one", "/two", "/three"].map(at), [Ok(false), Ok(true), Ok(false)]);
        assert_eq!(at("/x/..%2Ftwo"), Err(Missed::Ambiguous));
    }
}
