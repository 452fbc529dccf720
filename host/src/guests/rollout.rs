//! Whether a version does worse than the service that it is to replace, and what then. Compared is what is
//! [judged](lodge_base::telemetry::metrics::judged): requests that went to one or the other by chance, and that the service itself has
//! failed or was slow to answer. Clients that are slow, leave or are refused, and requests that were aimed at one of
//! them, decide nothing.

use lodge_base::telemetry::logs::CHANGE;
use lodge_base::telemetry::metrics::judged::{CERTAINTY, LastMinute};

use super::snapshot::Snapshot;
use lodge_manifest::share::Rollback;

/// A 99th percentile that is longer by less than this, in seconds, is noise, however short the other's is.
const NOISE: f64 = 0.001;

/// Takes out the versions that do worse than they may. To be called every second or so.
pub fn review(snapshot: &Snapshot) {
    for service in &snapshot.targets {
        for (share, version) in service.split.iter().flat_map(|split| split.versions()) {
            let Some(rule) = &share.rollback else { continue };
            let (version, service) = (&version.backend, &service.backend);
            if !version.is_in_rotation() {
                continue;
            }
            if let Some(why) = worse(&version.window(), &service.window(), rule)
                && version.withdraw(why.clone())
            {
                let name = &*version.name;
                tracing::error!(
                    target: CHANGE,
                    service = name,
                    "{name} is taken out: {why}; {} answers what it did, until {name}'s files change",
                    service.name
                );
            }
        }
    }
}

/// In what a version is worse than the service beside it, if that is certain enough.
fn worse(version: &LastMinute, service: &LastMinute, rule: &Rollback) -> Option<String> {
    if version.requests < rule.minimum || service.requests < rule.minimum {
        return None;
    }
    let usual = service.errors as f64 / service.requests as f64;
    if at_least(version.errors, version.requests) > usual + rule.errors.part() {
        let failed = 100.0 * version.errors as f64 / version.requests as f64;
        let (of, usual) = (version.requests, 100.0 * usual);
        return Some(format!(
            "{failed:.1} % of its {of} requests in the last minute failed, the service's {usual:.1} %"
        ));
    }
    let (took, usual) = (version.p99_at_least?.as_secs_f64(), service.p99?.as_secs_f64());
    let most = (usual * f64::from(rule.p99) / 100.0).max(usual + NOISE);
    (took > most).then(|| {
        let (took, usual) = (took * 1e3, usual * 1e3);
        format!("its 99th percentile of the last minute is {took:.1} ms or more, the service's {usual:.1} ms")
    })
}

/// What the true rate of `errors` in `requests` is at least: the lower bound of Wilson's interval. Two failures of a
/// hundred may be chance, and ten are not.
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
    use lodge_manifest::share::Percent;

    fn window(requests: u64, errors: u64, p99_ms: f64) -> LastMinute {
        let p99 = Some(Duration::from_secs_f64(p99_ms / 1e3));
        LastMinute { requests, errors, p99, p99_at_least: p99 }
    }

    #[test]
    fn nothing_is_concluded_from_little() {
        let rule = Rollback::default();
        assert_eq!(worse(&window(99, 99, 1.0), &window(10_000, 0, 1.0), &rule), None);
        assert_eq!(worse(&window(10_000, 9_999, 1.0), &window(99, 0, 1.0), &rule), None);
        // Two of a hundred is 2 %, and more than the 1 % that is allowed, but it may be chance.
        assert_eq!(worse(&window(100, 2, 1.0), &window(1_000, 0, 1.0), &rule), None);
    }

    #[test]
    fn failing_more_often_is_worse() {
        let rule = Rollback { errors: Percent(100), ..Rollback::default() };
        let why = worse(&window(100, 10, 1.0), &window(1_000, 0, 1.0), &rule).unwrap();
        assert_eq!(why, "10.0 % of its 100 requests in the last minute failed, the service's 0.0 %");
        // As bad as what it is to replace.
        assert_eq!(worse(&window(1_000, 100, 1.0), &window(1_000, 100, 1.0), &rule), None);
        // More requests make a smaller difference certain.
        assert!(worse(&window(10_000, 200, 1.0), &window(10_000, 0, 1.0), &rule).is_some());
    }

    #[test]
    fn being_slower_is_worse() {
        let rule = Rollback { p99: 150, ..Rollback::default() };
        let service = window(1_000, 0, 20.0);
        let why = worse(&window(1_000, 0, 31.0), &service, &rule).unwrap();
        assert_eq!(why, "its 99th percentile of the last minute is 31.0 ms or more, the service's 20.0 ms");
        assert_eq!(worse(&window(1_000, 0, 29.0), &service, &rule), None);
        // 0.3 ms instead of 0.1 is three times as long, and nobody's loss.
        assert_eq!(worse(&window(1_000, 0, 0.3), &window(1_000, 0, 0.1), &rule), None);
        assert!(worse(&window(1_000, 0, 1.2), &window(1_000, 0, 0.1), &rule).is_some());
    }
}
