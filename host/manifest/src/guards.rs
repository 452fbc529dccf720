//! Which requests a manifest denies, and whether another manifest takes some of them.

use crate::Manifest;
use crate::auth::Auth;
use crate::policies::PolicySettings;
use crate::validate::Validation;

impl Manifest {
    /// Whether it denies requests that the manifest of a service need not deny: it is disabled, or has policies, hosts or methods
    /// of routes, no routes, or the digest of its component.
    pub fn denies(&self) -> bool {
        let policies = &self.policies;
        let mut all = policies.routes.iter().map(|(_, policies)| policies).chain([&policies.service]);
        !self.enabled
            || self.digest.is_some()
            || (self.routes.is_empty() && self.share.is_none())
            || self.routes.iter().any(|route| route.host.is_some() || !route.methods.is_empty())
            || all.any(PolicySettings::denies)
    }

    /// Whether it may take requests that `before` denied. What it says must be that of `before` or more: values are not weighed
    /// against each other, and of a route that was not there before it is not known what another service did with its requests.
    pub fn opens(&self, before: &Self) -> bool {
        let (policies, former) = (&self.policies, &before.policies);
        // The text of a route has its host, path and methods.
        let kept = |((text, own), (route, before)): (&(String, PolicySettings), &(String, PolicySettings))| {
            text == route && own.keep(before, (&policies.service, &former.service))
        };
        let routes =
            policies.routes.len() == former.routes.len() && policies.routes.iter().zip(&former.routes).all(kept);
        let none = PolicySettings::default();
        let service = policies.service.keep(&former.service, (&none, &none))
            // Without policies of routes every path is at a host of the service, too.
            && (policies.has_routes() || !former.has_routes());
        let component = before.digest.is_none() || self.digest.is_some();
        before.denies() && !(routes && service && component && (before.enabled || !self.enabled))
    }
}

impl PolicySettings {
    fn denies(&self) -> bool {
        !self.clients.admits_all()
            || !matches!(self.auth, None | Some(Auth::Anyone))
            || !self.rules.is_empty()
            || !matches!(self.validation, None | Some(Validation::Off))
            || self.rate.is_some()
    }

    /// Whether these policies deny what `before` denied. What routes do not say of credentials and bodies is that of their service,
    /// now and before.
    fn keep(&self, before: &Self, (service, former): (&Self, &Self)) -> bool {
        let auth =
            |own: &Self, of: &Self| own.auth.clone().or_else(|| of.auth.clone()).filter(|auth| *auth != Auth::Anyone);
        let bodies = |own: &Self, of: &Self| {
            own.validation.clone().or_else(|| of.validation.clone()).filter(|bodies| *bodies != Validation::Off)
        };
        let (former_auth, former_bodies) = (auth(before, former), bodies(before, former));
        let (allow, deny) = (&self.clients.allow, &self.clients.deny);
        (before.clients.allow.is_empty() || *allow == before.clients.allow)
            && before.clients.deny.iter().all(|net| deny.contains(net))
            && self.rules.starts_with(&before.rules)
            && (before.rate.is_none() || self.rate == before.rate)
            && (former_auth.is_none() || auth(self, service) == former_auth)
            && (former_bodies.is_none() || bodies(self, service) == former_bodies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lodge_base::config;

    fn read(text: &str) -> Manifest {
        let limits = config::resolve(&[]).unwrap().config.limits;
        Manifest::read("a", text, &limits, 1 << 30).unwrap_or_else(|problems| panic!("{text}: {problems:?}"))
    }

    /// Every part of what denies, each on a line that may not have been written yet.
    const PARTS: [&str; 15] = [
        "enabled = false",
        "digest = 'sha256:0000000000000000000000000000000000000000000000000000000000000000'",
        "routes = []",
        "routes = [{ path = '/a', methods = ['POST'] }]",
        "routes = [{ path = '/a', host = 'a.example' }]",
        "allow = ['10.0.0.0/8']",
        "deny = ['10.0.0.0/8']",
        "rate = '1/h'",
        "[validate]\nbody = 's.json'",
        "[auth]\napi_keys = 'k'",
        "[auth]\napi_keys = 'k'\nscopes = ['s']",
        "[auth.jwt]\nissuer = 'https://a.example'\naudience = 'a'\nkeys = 'k'\n[auth]\nclaims = { a = 'b' }",
        "[[rules]]\nwhen = 'true'\ndeny = 403\n[[rules]]\nwhen = 'true'\ndeny = 404",
        "[[routes]]\npath = '/a'\nhost = 'x.example'\nallow = ['10.0.0.0/8']\n[[routes]]\npath = '/a'\nallow = ['10.0.0.0/8']",
        "[[routes]]\npath = '/a'\n[routes.auth]\napi_keys = 'k'\nscopes = ['s']",
    ];

    /// Any first lines of a text, where these are a manifest, may take what the whole denies.
    #[test]
    fn the_first_part_of_a_manifest_opens_it() {
        for whole in PARTS {
            let before = read(whole);
            assert!(before.denies() && !before.opens(&before), "{whole}");
            assert!(!read(&format!("{whole}\n[env]\nN = '1'")).opens(&before), "{whole}");
            let lines: Vec<_> = whole.lines().collect();
            let limits = config::resolve(&[]).unwrap().config.limits;
            for part in (0..lines.len()).map(|end| lines[..end].join("\n")) {
                let Ok(manifest) = Manifest::read("a", &part, &limits, 1 << 30) else { continue };
                assert!(manifest.opens(&before), "{part}\n--\n{whole}");
            }
        }
    }

    #[test]
    fn more_than_before_denies_at_least_as_much() {
        for (before, after, opens) in [
            ("", "routes = ['/b']", false),
            ("routes = ['/a']", "", false),
            ("deny = ['10.0.0.0/8']", "deny = ['192.0.2.0/24', '10.0.0.0/8']", false),
            ("deny = ['10.0.0.0/8']", "deny = ['192.0.2.0/24']", true),
            ("deny = ['10.0.0.0/8']", "deny = ['10.0.0.0/8']\nallow = ['192.0.2.0/24']", false),
            ("allow = ['10.0.0.0/8']", "allow = ['10.0.0.0/8', '192.0.2.0/24']", true),
            ("allow = ['10.0.0.0/8']", "allow = ['10.0.0.0/8']\n[auth]\napi_keys = 'k'", false),
            (
                "[[rules]]\nwhen = 'true'\ndeny = 403",
                "[[rules]]\nwhen = 'true'\ndeny = 403\n[[rules]]\nwhen = 'true'\ndeny = 404",
                false,
            ),
            (
                "[[rules]]\nwhen = 'true'\ndeny = 403",
                "[[rules]]\nwhen = 'true'\ndeny = 404\n[[rules]]\nwhen = 'true'\ndeny = 403",
                true,
            ),
            ("[auth]\napi_keys = 'k'", "routes = [{ path = '/a', auth = false }]\n[auth]\napi_keys = 'k'", true),
            ("[auth]\napi_keys = 'k'", "[auth]\napi_keys = 'k'\npasswords = 'p'", true),
            ("[auth]\napi_keys = 'k'", "routes = ['/a', '/b']\n[auth]\napi_keys = 'k'", true),
            ("routes = [{ path = '/a', allow = ['10.0.0.0/8'] }, '/*']", "routes = ['/*']", true),
            ("enabled = false", "allow = ['10.0.0.0/8']", true),
        ] {
            assert_eq!(read(after).opens(&read(before)), opens, "{before}\n--\n{after}");
        }
    }
}
