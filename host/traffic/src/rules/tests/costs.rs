//! What evaluations cost.

use super::*;
use crate::rules::evaluation::Evaluation;
use crate::rules::failure::STEPS;

/// Evaluates a condition for a request with this query, and with this value of the header `x-a`. Returns also the steps that it took.
fn evaluate(when: &str, query: &str, header: &str) -> (Result<bool, RuleFailure>, usize) {
    let (uri, mut headers) = (Uri::try_from(format!("http://h/?{query}")).unwrap(), HeaderMap::new());
    headers.insert("x-a", HeaderValue::from_str(header).unwrap());
    let (method, identity) = (Method::GET, identity());
    let input = RuleInput {
        method: &method,
        uri: &uri,
        path: uri.path(),
        headers: &headers,
        identity: Some(&identity),
        size: None,
        sender: RequestSender::Client(None),
        client: CLIENT,
        claimed: None,
        now: UNIX_EPOCH,
    };
    let expression = Expression::read(when, Purpose::Condition).unwrap();
    let mut evaluation = Evaluation::new(&input, CLIENT, STEPS);
    let result = evaluation.condition(&expression);
    (result, STEPS - evaluation.left())
}

/// What reads much takes steps before it does: the first line of a header, each pair of a query, and each state of a pattern.
#[test]
fn costs_are_charged() {
    let long = "a".repeat(60_000);
    let (result, steps) = evaluate("size(request.headers) == 1 && has(request.headers.b)", "", &long);
    assert!(result == Ok(false) && steps < 20, "{steps}");
    let (result, steps) = evaluate("request.headers['x-a'].startsWith('b')", "", &long);
    assert!(result == Ok(false) && steps > 2 * 60_000 / 16, "{steps}");
    for when in ["size(request.query) == 1", "'b' in request.query", "has(request.query.b)"] {
        let (result, steps) = evaluate(when, &"a&".repeat(2_000), "");
        assert!(result == Ok(false) && steps > 2_000 * 64 / 16, "{when}: {steps}");
    }
    // A small pattern is cheap for a small text, and a large one is too dear for a long text.
    let (result, steps) = evaluate("'/v1/users'.matches('^/v[0-9]+/')", "", "");
    assert!(result == Ok(true) && steps <= 4 * 9 + 5, "{steps}");
    for pattern in ["a[ab]{300}c", "(a|b|ab)*c"] {
        let (result, _) = evaluate(&format!("request.headers['x-a'].matches('{pattern}')"), "", &long);
        assert_eq!(result, Err(RuleFailure::Cost), "{pattern}");
    }
    assert!(Expression::read("request.path.matches('a[ab]{3500}c')", Purpose::Condition).is_err());
}

/// A request with two addresses has one budget.
#[test]
fn both_addresses_share_a_budget() {
    let many = format!("[{}].all(a, a < 201 && client.address != '::')", vec!["1"; 200].join(","));
    let rules = of((0..6).map(|_| denies(&format!("!({many})"))).collect(), Vec::new());
    assert!(decide(&rules, |_| {}).is_ok());
    let refusal = decide(&rules, |input| input.claimed = Some(CLIENT)).unwrap_err();
    assert_eq!(refusal.cause, RefusalCause::Failed(RuleFailure::Cost));
}
