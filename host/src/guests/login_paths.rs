//! The paths of logins whose requests lead to other services.

use http::Method;

use super::snapshot::Snapshot;
use super::target::Target;
use lodge_manifest::auth::Auth;
use lodge_manifest::auth::login::Login;
use lodge_traffic::routing::router::Missed;

/// A path of a login that another service has taken.
#[derive(Debug, PartialEq, Eq)]
pub struct TakenPath {
    /// The service with the login.
    pub service: String,
    /// A line that says so.
    pub problem: String,
}

impl Snapshot {
    /// Returns the paths of logins that other services have taken by more specific routes. The provider sends browsers there, with codes
    /// and states.
    pub fn taken_paths(&self) -> Vec<TakenPath> {
        let services = self.targets.iter().filter(|target| target.of.is_none());
        services
            .filter_map(|target| Some((target, login(target)?)))
            .flat_map(|(target, login)| self.taken(target, login))
            .collect()
    }

    fn taken(&self, target: &Target, login: &Login) -> Vec<TakenPath> {
        let (own, authority) = (&target.deployment().name, login.authority());
        let taken = |(key, path, method): (&str, &str, Method)| {
            let found = match self.router.find(authority, path, &method, true) {
                // The best route is that of other methods.
                Err(Missed::Method(allowed)) => {
                    let other = allowed.split(", ").next().and_then(|name| Method::from_bytes(name.as_bytes()).ok())?;
                    self.router.find(authority, path, &other, true)
                }
                found => found,
            };
            let found = found.ok().filter(|found| found.target.deployment().name != *own)?;
            let (other, route) = (&found.target.deployment().name, found.route);
            Some(TakenPath {
                service: own.to_string(),
                problem: format!(
                    "{own}: auth.login.{key}: {method} {path} at {authority} leads to {other}, whose route {route} is more specific; write \
                     another path in the manifest of {own}, or other `routes` in that of {other}"
                ),
            })
        };
        login.paths().into_iter().filter_map(taken).collect()
    }
}

/// Returns the login of a service, if it has one.
fn login(target: &Target) -> Option<&Login> {
    match target.deployment().spec.manifest.policies.service.auth.as_ref()? {
        Auth::Identified(settings) => settings.login.as_deref(),
        Auth::Anyone => None,
    }
}
