//! The fuzz target of rules.

use std::net::IpAddr;
use std::time::SystemTime;

use http::{Method, StatusCode, Uri};

use super::RuleSet;
use super::input::RuleInput;
use crate::auth::RequestSender;
use lodge_base::fuzz::{header_lines, line};
use lodge_manifest::expression::{Expression, Purpose};
use lodge_manifest::policies::{Policies, PolicySettings};
use lodge_manifest::rules::{HeaderText, RequestRule, RuleEnd};

/// The target of a request on the first line, its headers up to an empty line, and an expression below: it is read the same way
/// twice, and its evaluation ends with the same result twice.
pub fn rule(bytes: &[u8]) {
    let (target, rest) = line(bytes);
    let at = rest.windows(2).position(|pair| pair == b"\n\n").unwrap_or(0);
    let (head, text) = rest.split_at_checked(at).unwrap_or_default();
    let (Ok(uri), Ok(text)) = (Uri::try_from(target), std::str::from_utf8(text)) else { return };
    let text = text.trim_start_matches('\n');
    let (when, set) = (Expression::read(text, Purpose::Condition), Expression::read(text, Purpose::Text));
    assert_eq!(when, Expression::read(text, Purpose::Condition));
    let of = |when, set, end| RequestRule { when, set, version: None, end };
    let computed = |expression| vec![(http::header::FROM, HeaderText::Computed(expression))];
    let deny = Some(RuleEnd::Deny(StatusCode::FORBIDDEN, None));
    let rules = set.into_iter().map(|set| of(None, computed(set), None));
    let rules: Vec<_> = rules.chain(when.into_iter().map(|when| of(Some(when), Vec::new(), deny.clone()))).collect();
    let service = PolicySettings { rules, ..PolicySettings::default() };
    let Some(rules) = RuleSet::new(&Policies { service, ..Policies::default() }) else { return };
    let (client, now) = (IpAddr::from([192, 0, 2, 7]), SystemTime::UNIX_EPOCH);
    let (sender, identity) = (RequestSender::Client(None), None);
    let (headers, method, size, claimed) = (header_lines(head), Method::GET, None, None);
    let input = RuleInput {
        method: &method,
        uri: &uri,
        path: uri.path(),
        headers: &headers,
        size,
        identity,
        sender,
        client,
        claimed,
        now,
    };
    assert_eq!(rules.decide(0, &input), rules.decide(0, &input));
}
