//! The page of operators: one file in the binary, which may use no other script and style than its own.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::Response;
use http::header::{self, HeaderValue};
use sha2::{Digest, Sha256};

use super::body::{Body, typed};

const PAGE: &str = include_str!("page.html");

/// Responds with the page, under a policy by which a browser runs its script and style and nothing else.
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

/// Returns the hash of the only element of this name, in the format of a content security policy.
fn hash(element: &str) -> String {
    let text = PAGE.split_once(&format!("<{element}>")).and_then(|(_, rest)| rest.split_once(&format!("</{element}>")));
    let digest = Sha256::digest(text.map_or("", |(text, _)| text));
    format!("'sha256-{}'", BASE64_STANDARD.encode(digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The browser would refuse a second script or style.
    #[test]
    fn page_has_one_script_and_one_style() {
        for element in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1);
            assert!(PAGE.contains(&format!("<{element}>")), "{element}");
        }
    }
}
