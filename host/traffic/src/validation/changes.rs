//! What a manifest makes of the headers of a request: those that the service does not get as its client has sent them.

use http::header::HeaderName;

use crate::auth::Authentication;
use crate::rules::RuleSet;
use lodge_manifest::headers::HeaderChanges;

/// What the manifest makes of the headers of a request before its service gets them.
#[derive(Clone, Copy, Default)]
pub struct ManifestChanges<'a> {
    /// The checks of credentials, with the number of the route.
    pub auth: Option<(&'a Authentication, usize)>,
    /// The rules of the service, which have been applied.
    pub rules: Option<&'a RuleSet>,
    /// What `[headers]` does to the request, which is not done yet.
    pub headers: Option<&'a HeaderChanges>,
}

impl ManifestChanges<'_> {
    /// Whether the service gets a header from the manifest alone, or none.
    pub fn replace(&self, name: &HeaderName) -> bool {
        self.rules.is_some_and(|rules| rules.writes(name)) || self.headers.is_some_and(|changes| changes.replaces(name))
    }

    /// Whether the host may have removed a header that the client has sent.
    pub fn may_remove(&self, name: &HeaderName) -> bool {
        self.auth.is_some_and(|(auth, route)| auth.takes(route, name))
    }
}
