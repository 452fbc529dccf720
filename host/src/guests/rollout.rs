//! Automatic rollback: compares each version with the service that it is to replace, and withdraws a version that does
//! worse. Only [judged](lodge_base::telemetry::metrics::judged) requests count: those that were assigned by chance, and
//! that the service itself has failed or was slow to handle. Clients that are slow, leave or are refused, and requests
//! that a rule assigned, do not count.

use lodge_base::telemetry::logs::CHANGE;
use lodge_base::telemetry::metrics::judged::{CERTAINTY, LastMinute};

use super::snapshot::Snapshot;
use lodge_manifest::share::Rollback;

/// A difference of less than this between two 99th percentiles, in seconds, is noise.
const NOISE: f64 = 0.001;

/// Withdraws the versions that do worse than their `rollback` allows. To be called about once per second.
pub fn review(snapshot: &Snapshot) {
    for service in &snapshot.targets {
        for (share, version) in service.split.iter().flat_map(|split| split.versions()) {
            let Some(rule) = &share.rollback else { continue };
            let (version, service) = (version.deployment(), service.deployment());
            if !version.is_in_rotation() {
                continue;
            }
            let (its, usual) = (version.window(), service.window());
            if !suffice(&its, &usual, rule) {
                continue;
            }
            version.count_comparison();
            if let Some(why) = worse(&its, &usual, rule)
                && version.withdraw(why.clone())
            {
                let name = &*version.name;
                tracing::error!(
                    target: CHANGE,
                    service = name,
                    "withdrew {name}: {why}; {} handles its requests until the files of {name} change",
                    service.name
                );
            }
        }
    }
}

/// Whether both have as many requests as a comparison needs.
fn suffice(version: &LastMinute, service: &LastMinute, rule: &Rollback) -> bool {
    version.requests >= rule.minimum && service.requests >= rule.minimum
}

/// Returns the measure by which a version is worse than its service, if the difference is statistically significant.
fn worse(version: &LastMinute, service: &LastMinute, rule: &Rollback) -> Option<String> {
    let usual = service.errors as f64 / service.requests as f64;
    if at_least(version.errors, version.requests) > usual + rule.errors.part() {
        let failed = 100.0 * version.errors as f64 / version.requests as f64;
        let (of, usual) = (version.requests, 100.0 * usual);
        return Some(format!(
            "{failed:.1} % of its {of} requests in the last minute failed, compared to {usual:.1} % of the service"
        ));
    }
    let (took, usual) = (version.p99_at_least?.as_secs_f64(), service.p99?.as_secs_f64());
    let most = (usual * f64::from(rule.p99) / 100.0).max(usual + NOISE);
    (took > most).then(|| {
        let (took, usual) = (took * 1e3, usual * 1e3);
        format!("its p99 of the last minute is {took:.1} ms or more, compared to {usual:.1} ms of the service")
    })
}

/// The lower bound of the true rate of `errors` in `requests` (Wilson's interval). Two failures of a hundred can be
/// chance; ten are not.
fn at_least(errors: u64, requests: u64) -> f64 {
    let (n, z) = (requests as f64, CERTAINTY);
    let rate = errors as f64 / n;
    let spread = z * (rate * (1.0 - rate) / n + z * z / (4.0 * n * n)).sqrt();
    ((rate + z * z / (2.0 * n) - spread) / (1.0 + z * z / n)).max(0.0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use lodge_manifest::percent::Percent;

    fn window(requests: u64, errors: u64, p99_ms: f64) -> LastMinute {
        let p99 = Some(Duration::from_secs_f64(p99_ms / 1e3));
        LastMinute { requests, errors, p99, p99_at_least: p99 }
    }

    #[test]
    fn few_requests_are_not_compared() {
        let rule = Rollback::default();
        assert!(!suffice(&window(99, 99, 1.0), &window(10_000, 0, 1.0), &rule));
        assert!(!suffice(&window(10_000, 9_999, 1.0), &window(99, 0, 1.0), &rule));
        assert!(suffice(&window(100, 2, 1.0), &window(100, 0, 1.0), &rule));
        // 2 % of a hundred is more than the 1 % that is allowed, but it can be chance.
        assert_eq!(worse(&window(100, 2, 1.0), &window(1_000, 0, 1.0), &rule), None);
    }

    #[test]
    fn failing_more_often_is_worse() {
        let rule = Rollback { errors: Percent(100), ..Rollback::default() };
        let why = worse(&window(100, 10, 1.0), &window(1_000, 0, 1.0), &rule).unwrap();
        assert_eq!(why, "10.0 % of its 100 requests in the last minute failed, compared to 0.0 % of the service");
        // As bad as its service.
        assert_eq!(worse(&window(1_000, 100, 1.0), &window(1_000, 100, 1.0), &rule), None);
        // More requests make a smaller difference certain.
        assert!(worse(&window(10_000, 200, 1.0), &window(10_000, 0, 1.0), &rule).is_some());
    }

    #[test]
    fn being_slower_is_worse() {
        let rule = Rollback { p99: 150, ..Rollback::default() };
        let service = window(1_000, 0, 20.0);
        let why = worse(&window(1_000, 0, 31.0), &service, &rule).unwrap();
        assert_eq!(why, "its p99 of the last minute is 31.0 ms or more, compared to 20.0 ms of the service");
        assert_eq!(worse(&window(1_000, 0, 29.0), &service, &rule), None);
        // 0.3 ms is three times 0.1 ms, but the difference does not matter.
        assert_eq!(worse(&window(1_000, 0, 0.3), &window(1_000, 0, 0.1), &rule), None);
        assert!(worse(&window(1_000, 0, 1.2), &window(1_000, 0, 0.1), &rule).is_some());
    }
}
