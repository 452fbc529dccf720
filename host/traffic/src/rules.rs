//! The `[[rules]]` of a service: evaluates each in order, once the identity of the request is known.
//!
//! * [`input`]: what conditions can name.
//! * `evaluation` evaluates an expression within a budget; [`failure`] says why it has no value.
//! * `value`: the values of expressions, and `operations` on them.
//!
//! A condition that cannot be evaluated denies the request, whatever its rule says. Pure: the time is an input.

mod evaluation;
pub mod failure;
#[doc(hidden)]
pub mod fuzz;
pub mod input;
mod operations;
mod value;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use self::evaluation::Evaluation;
use self::failure::{RuleFailure, STEPS};
use self::input::RuleInput;
use self::value::Value;
use crate::auth::identity;
use lodge_base::headers::{is_same, remove_where};
use lodge_manifest::expression::{Expression, Uses};
use lodge_manifest::policies::Policies;
use lodge_manifest::rules::{HeaderText, RequestRule, RuleEnd};

/// The most bytes of a header that a rule computes.
const HEADER: usize = 4 << 10;

/// The seconds between two log lines about conditions of a service that cannot be evaluated.
const LOG_INTERVAL: u64 = 60;

/// The rules of a service and of its routes.
#[derive(Debug)]
pub struct RuleSet {
    service: Vec<RequestRule>,
    /// By the number of the route.
    routes: Vec<Vec<RequestRule>>,
    /// The headers that any rule sets. Nobody else may write them.
    written: Vec<HeaderName>,
    /// What the conditions of any rule need.
    uses: Uses,
    /// The second in which the log last said that a condition could not be evaluated.
    logged: AtomicU64,
}

/// What follows from the rules for a request that is not denied.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RuleDecision<'a> {
    /// The headers that it gets.
    pub set: Vec<(&'a HeaderName, HeaderValue)>,
    /// The label of the version that handles it.
    pub version: Option<&'a str>,
}

/// Why a request is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRefusal {
    /// The rule.
    pub place: RulePlace,
    /// The cause.
    pub cause: RefusalCause,
}

/// A rule, by its place in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RulePlace {
    /// Whether it is one of the route, not of the service.
    pub of_route: bool,
    /// Its number, from 1.
    pub number: usize,
}

/// The cause of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalCause {
    /// The rule denies the request, with this status and message.
    Denied(StatusCode, Option<Arc<str>>),
    /// The rule could not be evaluated.
    Failed(RuleFailure),
}

impl RuleDecision<'_> {
    /// Whether the response may differ from that to another request, in a way that the cache does not know of.
    pub fn is_personal(&self) -> bool {
        !self.set.is_empty() || self.version.is_some()
    }
}

impl RuleSet {
    /// Returns the rules of a service; `None` if it has none.
    pub fn new(policies: &Policies) -> Option<Self> {
        let (service, routes) = (policies.service.rules.clone(), policies.routes.iter());
        let routes: Vec<_> = routes.map(|(_, policies)| policies.rules.clone()).collect();
        let all = || routes.iter().flatten().chain(&service);
        all().next()?;
        let uses = all().fold(Uses::default(), |uses, rule| uses.and(rule.uses()));
        let mut written: Vec<_> = all().flat_map(|rule| &rule.set).map(|(name, _)| name.clone()).collect();
        written.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        written.dedup();
        Some(Self { service, routes, written, uses, logged: AtomicU64::new(0) })
    }

    /// Returns what the rules need.
    pub fn uses(&self) -> Uses {
        self.uses
    }

    /// Whether only rules may write a header, which a client may spell with `_` or `.` in place of `-`.
    pub fn writes(&self, name: &HeaderName) -> bool {
        self.written.iter().any(|written| is_same(name.as_str(), written.as_str()))
    }

    /// Removes the headers that only rules may write, also with `_` or `.` in place of `-`, which some interfaces cannot distinguish.
    pub fn remove_forged(&self, headers: &mut HeaderMap) {
        if !self.written.is_empty() {
            remove_where(headers, |name| self.writes(name));
        }
    }

    /// Returns what follows for a request on the route with this number. A request with a second address, which headers claim that
    /// are not trusted, must not be denied with either of them.
    ///
    /// # Errors
    /// If a rule denies the request, or a condition cannot be evaluated.
    pub fn decide(&self, route: usize, input: &RuleInput<'_>) -> Result<RuleDecision<'_>, RuleRefusal> {
        let mut steps = STEPS;
        let decision = self.evaluate(route, input, input.client, &mut steps)?;
        if let Some(claimed) = input.claimed.filter(|_| self.uses.address) {
            self.evaluate(route, input, claimed, &mut steps)?;
        }
        Ok(decision)
    }

    fn evaluate(
        &self,
        route: usize,
        input: &RuleInput<'_>,
        client: IpAddr,
        steps: &mut usize,
    ) -> Result<RuleDecision<'_>, RuleRefusal> {
        let place = |of_route| move |(at, rule)| (RulePlace { of_route, number: at + 1 }, rule);
        let of_route = self.routes.get(route).into_iter().flatten().enumerate().map(place(true));
        let rules = of_route.chain(self.service.iter().enumerate().map(place(false)));
        let (mut decision, mut evaluation) = (RuleDecision::default(), Evaluation::new(input, client, *steps));
        for (place, rule) in rules {
            let failed = |failure| RuleRefusal { place, cause: RefusalCause::Failed(failure) };
            if !rule.when.as_ref().map_or(Ok(true), |when| evaluation.condition(when)).map_err(failed)? {
                continue;
            }
            for (name, text) in &rule.set {
                if decision.set.iter().all(|(known, _)| *known != name) {
                    let value = match text {
                        HeaderText::Fixed(value) => value.clone(),
                        HeaderText::Computed(expression) => header(&mut evaluation, expression).map_err(failed)?,
                    };
                    decision.set.push((name, value));
                }
            }
            decision.version = decision.version.or(rule.version.as_deref());
            match &rule.end {
                None => {}
                Some(RuleEnd::Allow) => break,
                Some(RuleEnd::Deny(status, message)) => {
                    return Err(RuleRefusal { place, cause: RefusalCause::Denied(*status, message.clone()) });
                }
            }
        }
        *steps = evaluation.left();
        Ok(decision)
    }

    /// Whether the log may say now that a condition could not be evaluated: once a minute.
    pub fn may_log(&self, now: SystemTime) -> bool {
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let free = |last: u64| (second.saturating_sub(last) >= LOG_INTERVAL).then_some(second);
        self.logged.fetch_update(Relaxed, Relaxed, free).is_ok()
    }
}

/// Returns the value of a header that a rule computes, encoded as in the headers about identities.
fn header<'a>(evaluation: &mut Evaluation<'a>, expression: &'a Expression) -> Result<HeaderValue, RuleFailure> {
    let text = match evaluation.value(expression)? {
        Value::Text(text) => identity::escaped(&text),
        Value::Int(number) => number.to_string(),
        Value::Large(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        _ => return Err(RuleFailure::Type),
    };
    HeaderValue::try_from(text).ok().filter(|value| value.len() <= HEADER).ok_or(RuleFailure::TooLarge)
}

impl RuleRefusal {
    /// Returns the status of the response.
    pub fn status(&self) -> StatusCode {
        if let RefusalCause::Denied(status, _) = &self.cause { *status } else { StatusCode::FORBIDDEN }
    }

    /// Returns what the manifest says to clients.
    pub fn message(&self) -> Option<&str> {
        if let RefusalCause::Denied(_, message) = &self.cause { message.as_deref() } else { None }
    }

    /// Returns which rule it was and why, for operators.
    pub fn detail(&self) -> String {
        match &self.cause {
            RefusalCause::Denied(..) => self.place.to_string(),
            RefusalCause::Failed(failure) => format!("{}: {failure}", self.place),
        }
    }
}

impl std::error::Error for RuleRefusal {}

impl fmt::Display for RuleRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.cause {
            RefusalCause::Denied(..) => "a rule of the service does not allow this request",
            RefusalCause::Failed(_) => "a rule of the service cannot be applied to this request",
        })
    }
}

impl fmt::Display for RulePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}{}", self.number, if self.of_route { " of the route" } else { "" })
    }
}

#[cfg(test)]
mod tests;
