//! What requests for data have in common: their parameters, lines in the log, and failures.

use std::time::Duration;

use http::{Response, StatusCode};
use lodge_base::config::key::duration;
use lodge_base::telemetry::logs::{CHANGE, clean};
use lodge_state::{Error, limits};

use super::super::access::Requester;
use super::super::body::{Body, problem};
use super::super::parameters::QueryParameters;
use crate::data::DEFAULT_BUCKET;

/// The keys of a page by default.
const PAGE: usize = 100;

/// The parameters of a request.
pub(super) struct Query {
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) prefix: String,
    pub(super) after: String,
    pub(super) cursor: Option<String>,
    pub(super) limit: usize,
    pub(super) ttl: Option<Duration>,
    pub(super) absent: bool,
    /// A dead message.
    pub(super) id: Option<String>,
    /// All dead messages.
    pub(super) all: bool,
}

/// Notes what an operator does with the data of a service.
pub(super) struct AccessLog<'a> {
    pub(super) service: &'a str,
    pub(super) operator: &'a Requester,
}

impl AccessLog<'_> {
    /// Notes that data was read.
    pub(super) fn seen(&self, what: &str) {
        let Self { service, operator } = self;
        tracing::info!(service, "{service}: {}, by {}", clean(what), operator.shown());
    }

    /// Notes that data was changed.
    pub(super) fn changed(&self, what: &str) {
        let Self { service, operator } = self;
        tracing::info!(target: CHANGE, service, "{service}: {}, by {}", clean(what), operator.shown());
    }
}

impl Query {
    /// Where a page begins.
    pub(super) fn after(&self) -> Option<&str> {
        Some(self.after.as_str()).filter(|after| !after.is_empty())
    }

    /// # Errors
    /// What is wrong with a parameter.
    pub(super) fn of(parameters: &QueryParameters) -> Result<Self, String> {
        let text = |name: &str| parameters.get(name).map(str::to_owned);
        let limit = parameters.get("limit").map_or(Some(PAGE), |limit| limit.parse().ok());
        let limit = limit.filter(|limit| (1..=limits::MAX_PAGE).contains(limit));
        let range = Duration::from_millis(1)..=limits::MAX_TTL;
        let ttl = parameters.get("ttl").map(|ttl| duration(ttl, range)).transpose();
        Ok(Self {
            bucket: text("bucket").unwrap_or_else(|| DEFAULT_BUCKET.to_owned()),
            key: text("key").unwrap_or_default(),
            prefix: text("prefix").unwrap_or_default(),
            after: text("after").unwrap_or_default(),
            cursor: text("cursor"),
            limit: limit.ok_or_else(|| format!("`limit` must be from 1 to {}", limits::MAX_PAGE))?,
            ttl: ttl.map_err(|why| format!("`ttl`: {why}"))?,
            absent: parameters.flag("if_absent")?,
            id: text("id"),
            all: parameters.flag("all")?,
        })
    }
}

/// Responds with the reason of a failed operation.
pub(super) fn failed(error: &Error) -> Response<Body> {
    let (status, kind) = match error {
        Error::Invalid { .. } | Error::TooLarge { .. } => (StatusCode::BAD_REQUEST, "bad-data"),
        Error::QuotaExceeded { .. } => (StatusCode::CONFLICT, "quota"),
        Error::Conflict => (StatusCode::CONFLICT, "exists"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "store"),
    };
    problem(status, kind, &error.to_string())
}
