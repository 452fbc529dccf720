//! The path that a service sees in place of that of the client.

use http::header::HeaderValue;
use http::{Uri, request};

use super::{BAD_TARGET, Malformed, PREFIX};

/// Removes the first `length` bytes of the path, and adds them to `X-Forwarded-Prefix` for the guest.
///
/// # Errors
/// Never for a length that a route has matched.
pub fn strip_prefix(head: &mut request::Parts, length: usize) -> Result<(), Malformed> {
    const BAD: Malformed = BAD_TARGET;
    let (prefix, rest) = head.uri.path().split_at_checked(length).ok_or(BAD)?;
    let outer = head.headers.get(PREFIX).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let forwarded = HeaderValue::try_from(format!("{outer}{prefix}")).map_err(|_| BAD)?;
    let slash = if rest.starts_with('/') { "" } else { "/" };
    let query = head.uri.query().map_or(String::new(), |query| format!("?{query}"));
    let path = format!("{slash}{rest}{query}");
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.path_and_query = Some(path.parse().map_err(|_| BAD)?);
    head.uri = Uri::from_parts(parts).map_err(|_| BAD)?;
    head.headers.insert(PREFIX, forwarded);
    Ok(())
}

/// Replaces the first `length` bytes of the path by this plain one.
///
/// # Errors
/// Never for a length that a route has matched, unless the target is too long then.
pub fn rewrite(head: &mut request::Parts, length: usize, path: &str) -> Result<(), Malformed> {
    const BAD: Malformed = BAD_TARGET;
    let (_, rest) = head.uri.path().split_at_checked(length).ok_or(BAD)?;
    let path = if rest.is_empty() { path } else { path.trim_end_matches('/') };
    let query = head.uri.query().map_or(String::new(), |query| format!("?{query}"));
    let target = format!("{path}{rest}{query}");
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.path_and_query = Some(target.parse().map_err(|_| BAD)?);
    head.uri = Uri::from_parts(parts).map_err(|_| BAD)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Request;
    use lodge_base::canonical;
    use proptest::prelude::*;

    use super::*;

    fn rewritten(target: &str, length: usize, path: &str) -> Uri {
        let (mut head, ()) = Request::get(format!("http://shop.test{target}")).body(()).unwrap().into_parts();
        rewrite(&mut head, length, path).unwrap();
        assert!(head.headers.is_empty());
        head.uri
    }

    #[test]
    fn paths_are_replaced() {
        for (target, length, path, expected) in [
            ("/api/users?a=1&b=/api", 4, "/v1", "/v1/users?a=1&b=/api"),
            ("/api", 4, "/v1", "/v1"),
            ("/api?", 4, "/v1", "/v1?"),
            ("/api/", 4, "/v1", "/v1/"),
            ("/api/users", 4, "/", "/users"),
            ("/api", 4, "/", "/"),
            ("/users", 0, "/v1/x", "/v1/x/users"),
            ("/", 0, "/v1", "/v1/"),
            ("/api/%2Fa/caf%C3%A9", 4, "/v1", "/v1/%2Fa/caf%C3%A9"),
        ] {
            let uri = rewritten(target, length, path);
            assert_eq!(uri.path_and_query().unwrap(), expected, "{target}");
            assert_eq!(uri.authority().unwrap(), "shop.test");
        }
    }

    proptest! {
        /// A path in normal form stays in that form, below the new one, and the query is not changed.
        #[test]
        fn the_new_path_is_in_normal_form(
            prefix in "(/[a-z]{1,3}){0,2}",
            rest in "(/[a-z.%;:@2Ff/-]{0,6}){0,3}",
            new in "(/[a-z]{1,3}){1,3}|/",
            query in "(\\?[a-z=/%&]{0,6})?",
        ) {
            let Some(path) = canonical::normal(&format!("{prefix}{rest}")) else { return Ok(()) };
            prop_assume!(path.starts_with(&prefix) && !path.is_empty());
            let rest = &path[prefix.len()..];
            prop_assume!(rest.is_empty() || rest.starts_with('/'));
            let uri = rewritten(&format!("{path}{query}"), prefix.len(), &new);
            let inner = uri.path();
            prop_assert_eq!(canonical::normal(inner), Some(inner.to_owned()));
            prop_assert!(inner.starts_with(&new) && inner.ends_with(rest), "{}", inner);
            prop_assert_eq!(uri.query(), query.strip_prefix('?'));
        }
    }
}
