//! Promise: no rule overlooks a header whose name a service takes for the one that the rule reads.

use http::HeaderName;

use super::*;

/// Why a rule that denies if `when` holds refuses a request with this header, if it does.
fn refused(when: &str, name: &'static str) -> Option<RefusalCause> {
    let headers = HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static("1"))]);
    let headers: &'static HeaderMap = Box::leak(Box::new(headers));
    decide(&of(vec![denies(when)], Vec::new()), |input| input.headers = headers).err().map(|refusal| refusal.cause)
}

#[test]
fn another_spelling_of_a_header_is_a_failure() {
    for when in [
        "has(request.headers.debug_on)",
        "'debug-on' in request.headers",
        "request.headers['debug-on'] == '1'",
        "request.headers['debug-on'].contains('1')",
        "!('debug-on' in request.headers)",
    ] {
        let failed = |name| matches!(refused(when, name), Some(RefusalCause::Failed(RuleFailure::Spelling)));
        assert!(failed("debug.on"), "{when}");
        assert_eq!(failed("debug_on"), !when.contains("debug_on"), "{when}");
        assert!(!failed("debug-onx") && !failed("debugon"), "{when}");
    }
    assert!(refused("'debug-on' in request.headers", "other_name").is_none());
}
