use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// Every duration counts in the first bucket whose bound is not below it, and in the sum.
#[test]
fn durations_fall_into_their_buckets() {
    let histogram = Histogram::default();
    for micros in [0, 25, 26, 1_000, 30_000_000, 30_000_001] {
        histogram.record(Duration::from_micros(micros));
    }
    let (seconds, buckets) = histogram.read();
    assert!((seconds - 60.001_052).abs() < 1e-9);
    let filled: Vec<_> = buckets.into_iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(filled, [(25e-6, 2), (50e-6, 1), (1e-3, 1), (30.0, 1), (f64::INFINITY, 1)]);
}

/// Quantiles cover the last minute: durations before the oldest sample do not count.
#[test]
fn quantiles_forget() {
    let metrics = ServiceMetrics::default();
    assert_eq!(metrics.quantile(0.5), None);
    let response = |ms| metrics.record_response(http::StatusCode::OK, Duration::from_millis(ms), 0);
    (0..100).for_each(|_| response(400));
    assert!(metrics.quantile(0.5).unwrap() > Duration::from_millis(250));
    for _ in 0..SAMPLES {
        metrics.sample();
    }
    (0..100).for_each(|_| response(2));
    assert!(metrics.quantile(0.99).unwrap() <= Duration::from_micros(2_500));
    assert_eq!((metrics.requests(), metrics.errors()), (200, 0));
}

proptest! {
    /// A quantile lies in its bucket and increases with its rank.
    #[test]
    fn quantiles_are_accurate(mut micros in prop::collection::vec(0..40_000_000_u64, 1..200)) {
        let histogram = Histogram::default();
        micros.iter().for_each(|took| histogram.record(Duration::from_micros(*took)));
        micros.sort_unstable();
        let mut last = Duration::ZERO;
        for part in [0.01, 0.5, 0.9, 0.99, 1.0] {
            let exact = micros[((part * micros.len() as f64).ceil() as usize).max(1) - 1];
            let is = quantile(&histogram.counts(), part).unwrap();
            let bucket = BOUNDS.partition_point(|bound| *bound < exact);
            let lower = if bucket == 0 { 0 } else { BOUNDS[bucket - 1] };
            let upper = BOUNDS.get(bucket).copied().unwrap_or(lower);
            prop_assert!((lower..=upper).contains(&(is.as_micros() as u64)), "{part}: {is:?} for {exact} µs");
            prop_assert!(is >= last);
            last = is;
        }
    }
}

/// Of a hundred requests, one or two slow ones can be chance; three cannot. With more requests, a lower share can.
#[test]
fn one_slow_request_is_not_a_percentile() {
    for (requests, slow, certain) in [(100, 2, false), (100, 4, true), (10_000, 100, false), (10_000, 130, true)] {
        let judged = VersionStats::default();
        for n in 0..requests {
            judged.count(false, Duration::from_millis(if n < slow { 900 } else { 1 }));
        }
        let window = judged.window(&judged::JudgedCounts::default());
        let at_least = window.p99_at_least.unwrap();
        assert_eq!(at_least > Duration::from_millis(100), certain, "{slow} of {requests}: {at_least:?}");
    }
}

/// The window of a version covers the last minute, but nothing before the version was active.
#[test]
fn judged_requests_of_the_last_minute() {
    let metrics = ServiceMetrics::default();
    let count = |failed, ms, times| (0..times).for_each(|_| metrics.judged.count(failed, Duration::from_millis(ms)));
    count(true, 900, 100);
    let since = metrics.judged.counts();
    count(false, 1, 50);
    metrics.judged.mark_failed();
    let window = metrics.judged.window(&since);
    assert_eq!((window.requests, window.errors), (50, 1));
    assert!(window.p99.unwrap() <= Duration::from_millis(1));
    for _ in 0..SAMPLES {
        metrics.sample();
    }
    assert_eq!(metrics.judged.window(&since).requests, 0);
}
