use proptest::prelude::*;

use super::*;
use lodge_manifest::route::Pattern;

/// The files of a service, as far as their claims go.
#[derive(Clone, Debug, PartialEq)]
struct Files {
    routes: Vec<(&'static str, &'static str, Openness)>,
    state: ClaimantState,
}

const NAMES: [&str; 4] = ["aa", "bb", "b-b", "b_b"];
const OPENNESS: [Openness; 3] = [Openness::Clients, Openness::Requests, Openness::Everybody];

fn claims(name: &str, files: &Files) -> RouteClaims {
    let methods = |text: &str| text.split(' ').filter_map(|word| word.parse().ok()).collect();
    let route = |(path, said, _): &(&str, &str, Openness)| Route {
        methods: if said.is_empty() { Vec::new() } else { methods(said) },
        ..Route::of(Pattern::read(path).unwrap())
    };
    let routes = files.routes.iter().map(route).collect();
    let openness = files.routes.iter().map(|(.., openness)| *openness).collect();
    RouteClaims::of(name, &ServiceRoutes { routes, openness, guarded: false })
}

/// A host: what it has, and what it serves by name.
#[derive(Default)]
struct Host {
    owners: RouteOwners,
    served: HashMap<&'static str, RouteClaims>,
}

impl Host {
    /// Applies the files of a directory. Returns what is served of each service.
    fn publish(&mut self, files: &[(&'static str, Files)]) -> Vec<(&'static str, Served)> {
        let claimant = |(name, files): &(&'static str, Files)| {
            let last_good = self.served.get(name).filter(|_| files.state == ClaimantState::Ready).cloned();
            Claimant { name, wanted: claims(name, files), last_good, state: files.state }
        };
        let claimants: Vec<_> = files.iter().map(claimant).collect();
        let (owners, served) = self.owners.assign(&claimants);
        let of = |(claimant, served): (&Claimant<'_>, &Served)| match served {
            Served::Wanted => Some(claimant.wanted.clone()),
            Served::LastGood(_) => claimant.last_good.clone(),
            Served::Nothing(_) => None,
        };
        let now = files.iter().zip(claimants.iter().zip(&served));
        let now = now.filter_map(|((name, _), one)| Some((*name, of(one)?))).collect();
        (self.owners, self.served) = (owners, now);
        files.iter().map(|(name, _)| *name).zip(served).collect()
    }

    /// The service that serves the requests of a claim, if one does.
    fn serving(&self, place: &RoutePlace, method: &Method) -> Option<(&'static str, Openness)> {
        let takes =
            |claim: &&RouteClaim| claim.place == *place && (claim.methods.is_empty() || claim.methods.contains(method));
        let mut found =
            self.served.iter().filter_map(|(name, claims)| Some((*name, claims.0.iter().find(takes)?.openness)));
        let first = found.next();
        assert_eq!(found.next(), None, "two services serve {place:?}");
        first
    }
}

/// All requests that these files are about.
fn requests(files: &[(&'static str, Files)]) -> Vec<(&'static str, RoutePlace, Method, Openness)> {
    let of = |(name, files): &(&'static str, Files)| {
        let claims = claims(name, files).0.into_iter();
        let methods = |claim: &RouteClaim| match claim.methods.is_empty() {
            true => vec![Method::GET, Method::POST, Method::PUT],
            false => claim.methods.clone(),
        };
        let each = |claim: RouteClaim| {
            methods(&claim).into_iter().map(move |method| (claim.place.clone(), method, claim.openness))
        };
        claims.flat_map(each).map(|(place, method, openness)| (*name, place, method, openness)).collect::<Vec<_>>()
    };
    files.iter().flat_map(of).collect()
}

fn any_files() -> impl Strategy<Value = Option<Files>> {
    let path = prop::sample::select(vec!["/a", "/b", "/{id}", "/{name}", "/*"]);
    let methods = prop::sample::select(vec!["", "", "GET", "GET POST", "POST PUT"]);
    let route = (path, methods, prop::sample::select(OPENNESS.to_vec()));
    let ready = ClaimantState::Ready;
    let state = prop::sample::select(vec![ready, ready, ready, ClaimantState::Waiting, ClaimantState::Refused]);
    let files = (prop::collection::vec(route, 1..3), state).prop_map(|(mut routes, state)| {
        // The routes of one manifest have different paths.
        routes.dedup_by_key(|(path, ..)| path.chars().next_back());
        Files { routes, state }
    });
    prop::option::weighted(0.85, files)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    /// In whatever order files come, change, fail and go: while the manifest of a service claims what the service has served, nothing else
    /// serves it; nor anything that takes more requests than a manifest that had it. Whatever is refused has lost a claim to another
    /// service, and a service that has served goes on until its files are gone or cannot be served.
    #[test]
    fn a_claim_is_kept(steps in prop::collection::vec((0..NAMES.len(), any_files(), any::<bool>()), 1..12)) {
        let mut directory: HashMap<&str, Files> = HashMap::new();
        let (mut host, mut before, mut restarted) = (Host::default(), Vec::new(), true);
        for (at, files, several) in steps {
            match files {
                Some(files) => directory.insert(NAMES[at], files),
                None => directory.remove(NAMES[at]),
            };
            // Several changes are published at once.
            if several {
                continue;
            }
            let mut now: Vec<_> = directory.iter().map(|(name, files)| (*name, files.clone())).collect();
            now.sort_by_key(|(name, _)| *name);
            let (had, asked) = (host.served.clone(), requests(&now));
            let all = host.publish(&now);
            for (name, place, method, openness) in &asked {
                let serving = host.serving(place, method).filter(|(other, _)| other != name);
                let was = |owner: &&RouteOwner| *owner.name == **name && owner.keeps && (owner.methods.is_empty() || owner.methods.contains(method));
                let Some((other, by)) = serving else { continue };
                let kept = before.iter().any(|(owners, place_before): &(Vec<RouteOwner>, RoutePlace)| place_before == place && owners.iter().any(|owner| was(&owner)));
                prop_assert!(!kept, "{other} has {method} {place:?} of {name}: {now:?}");
                // Of a start, also what nobody had.
                prop_assert!(!restarted || by <= *openness, "{other} opens {method} {place:?} of {name}: {now:?}");
            }
            for (name, served) in &all {
                let files = &directory[name];
                match served {
                    Served::Wanted => {}
                    Served::LastGood(lost) | Served::Nothing(Some(lost)) => {
                        prop_assert!(*lost.owner != **name && directory.contains_key(&*lost.owner));
                        let serves = had.contains_key(name);
                        prop_assert_eq!(serves, matches!(served, Served::LastGood(_)), "{} ended", name);
                    }
                    Served::Nothing(None) => prop_assert!(files.state != ClaimantState::Ready),
                }
            }
            // The same again changes nothing.
            let again = host.publish(&now);
            let kind = |all: &[(&str, Served)]| all.iter().map(|(_, served)| std::mem::discriminant(served)).collect::<Vec<_>>();
            prop_assert_eq!(kind(&all), kind(&again), "{:?}", now);
            before = host.owners.places.iter().map(|(place, owners)| (owners.clone(), place.clone())).collect();
            restarted = false;
        }
    }
}

fn files(routes: &[(&'static str, &'static str, Openness)], state: ClaimantState) -> Files {
    Files { routes: routes.to_vec(), state }
}

/// Each row of the table decides where those above it do not.
#[test]
fn the_first_row_that_differs_decides() {
    use ClaimantState::{Ready, Refused, Waiting};
    use Openness::{Clients, Everybody};
    let of = |openness, state| files(&[("/a", "", openness)], state);
    for (before, aa, zz, first) in [
        (Some("zz"), of(Clients, Ready), of(Everybody, Ready), "zz"),
        (Some("zz"), of(Clients, Ready), of(Everybody, Refused), "zz"),
        (None, of(Everybody, Ready), of(Clients, Refused), "zz"),
        (None, of(Everybody, Refused), of(Everybody, Ready), "zz"),
        (None, of(Everybody, Waiting), of(Everybody, Ready), "aa"),
        (None, of(Clients, Ready), of(Clients, Ready), "aa"),
        (Some("aa"), of(Everybody, Refused), of(Clients, Ready), "aa"),
    ] {
        let mut host = Host::default();
        before.into_iter().for_each(|name| drop(host.publish(&[(name, of(Everybody, Ready))])));
        host.publish(&[("aa", aa.clone()), ("zz", zz.clone())]);
        let wanted = claims("aa", &aa);
        let owners = host.owners.at(&wanted.0[0].place).filter(|owner| owner.has);
        let owners = owners.map(|owner| &*owner.name).collect::<Vec<_>>();
        assert_eq!(owners, [first], "{before:?} {aa:?} {zz:?}");
    }
}

/// Services exchange routes at once, and one that loses what it has won keeps nothing from another.
#[test]
fn only_what_another_service_gets_is_lost() {
    use ClaimantState::Ready;
    let open = |paths: &[&'static str]| {
        files(&paths.iter().map(|path| (*path, "", Openness::Everybody)).collect::<Vec<_>>(), Ready)
    };
    let mut host = Host::default();
    host.publish(&[("aa", open(&["/a"])), ("bb", open(&["/b"]))]);
    let all = host.publish(&[("aa", open(&["/b"])), ("bb", open(&["/a"]))]);
    assert!(all.iter().all(|(_, served)| *served == Served::Wanted), "{all:?}");
    // Not if only one of them has changed.
    let mut host = Host::default();
    host.publish(&[("aa", open(&["/a"])), ("bb", open(&["/b"]))]);
    let all = host.publish(&[("aa", open(&["/b"])), ("bb", open(&["/b"])), ("cc", open(&["/a"]))]);
    assert!(
        matches!(&all[..], [(_, Served::LastGood(_)), (_, Served::Wanted), (_, Served::Nothing(Some(_)))]),
        "{all:?}"
    );
    // `aa` loses to `zz`, so that `bb` gets what `aa` claims as well.
    let mut host = Host::default();
    host.publish(&[("zz", open(&["/z"]))]);
    let all = host.publish(&[("aa", open(&["/a", "/z"])), ("bb", open(&["/a"])), ("zz", open(&["/z"]))]);
    assert!(matches!(&all[..], [(_, Served::Nothing(Some(_))), (_, Served::Wanted), (_, Served::Wanted)]), "{all:?}");
}

/// What a refused service denies beside the methods of another one is not served by a third.
#[test]
fn the_other_methods_are_nobodys() {
    use Openness::{Clients, Everybody, Requests};
    let of = |methods: &'static str, openness| files(&[("/a", methods, openness)], ClaimantState::Ready);
    for (openness, is_free) in [(Clients, false), (Requests, true), (Everybody, true)] {
        let mut host = Host::default();
        let all =
            host.publish(&[("aa", of("POST PUT", Requests)), ("b-b", of("GET", Clients)), ("bb", of("", openness))]);
        let served = all.iter().map(|(_, served)| *served == Served::Wanted).collect::<Vec<_>>();
        assert_eq!(served, [is_free, true, false], "{openness:?}");
    }
    // One service may have them by several routes, and then by one.
    let mut host = Host::default();
    host.publish(&[("zz", files(&[("/a", "GET", Everybody), ("/a", "POST", Everybody)], ClaimantState::Ready))]);
    let all = host.publish(&[("aa", of("", Clients)), ("zz", of("GET POST", Everybody))]);
    assert!(matches!(&all[..], [(_, Served::Nothing(Some(_))), (_, Served::Wanted)]), "{all:?}");
}
