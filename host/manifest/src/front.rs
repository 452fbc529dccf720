//! What the host does for the clients of a route besides its policies: the sections of a manifest about responses.

use std::sync::Arc;

use crate::compress::CompressionRules;
use crate::cors::Cors;
use crate::headers::HeaderRules;
use crate::route::Route;
use lodge_base::config::errors::PageFiles;

/// What the host does for the clients of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Front {
    /// The pages of other origins that may use it.
    pub cors: Option<Arc<Cors>>,
    /// The changes to heads.
    pub headers: Option<Arc<HeaderRules>>,
    /// Which responses are compressed.
    pub compress: Option<Arc<CompressionRules>>,
    /// The pages for errors; those of the host if it is `None`.
    pub errors: Option<Arc<PageFiles>>,
}

impl Front {
    /// Returns what the manifest says for a route; `None` if it says nothing, so that its requests pay nothing.
    pub fn of(route: &Route) -> Option<Arc<Self>> {
        let Route { cors, headers, compress, errors, .. } = route.clone();
        let any = cors.is_some() || headers.is_some() || compress.is_some() || errors.is_some();
        any.then(|| Arc::new(Self { cors, headers, compress, errors }))
    }
}
