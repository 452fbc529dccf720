//! The page: one file in the binary. What it may run and look like is only what it brings itself.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::Response;
use http::header::{self, HeaderValue};
use sha2::{Digest, Sha256};

use super::body::{Body, typed};

const PAGE: &str = include_str!("page.html");

/// The page, with a policy that lets a browser run its script and its style and nothing else.
pub(super) fn page() -> Response<Body> {
    let mut response = typed("text/html; charset=utf-8", PAGE);
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style")
    );
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// The hash of what is in the page's only element of this name, as a policy has it.
fn hash(element: &str) -> String {
    let text = PAGE.split_once(&format!("<{element}>")).and_then(|(_, rest)| rest.split_once(&format!("</{element}>")));
    let digest = Sha256::digest(text.map_or("", |(text, _)| text));
    format!("'sha256-{}'", BASE64_STANDARD.encode(digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One script and one style: what else there were, the browser would refuse.
    #[test]
    fn the_page_is_one_script_and_one_style() {
        for element in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1);
            assert!(PAGE.contains(&format!("<{element}>")), "{element}");
        }
    }
}
