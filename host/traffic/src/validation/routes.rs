//! Whether documents of OpenAPI have operations for the routes of their services.

use std::collections::BTreeSet;

use super::api::ApiCheck;
use super::{RequestCheck, RequestChecks};
use lodge_manifest::route::{Pattern, Route};

impl RequestChecks {
    /// Returns the documents that have no operation for the requests of a route, a line each.
    pub fn unused(&self, routes: &[Route]) -> Vec<String> {
        let mut all = BTreeSet::new();
        for (number, route) in routes.iter().enumerate() {
            let check = self.routes.get(number).and_then(Option::as_ref).unwrap_or(&self.service);
            let RequestCheck::Api(ApiCheck { settings, api: Some(api), .. }) = check else { continue };
            let seen = match &route.rewrite {
                Some(path) => Pattern::read(path).map(|pattern| pattern.segments).unwrap_or_default(),
                None if route.strip_prefix => Vec::new(),
                None => route.path.segments.clone(),
            };
            if !api.load().reaches(&settings.base, &seen) {
                let file = settings.file.display();
                all.insert(format!(
                    "api.openapi: {file}: no operation of it is below the route {route}, so that every request there is refused; `base` \
                     or `strip_prefix` may be missing"
                ));
            }
        }
        all.into_iter().collect()
    }
}
