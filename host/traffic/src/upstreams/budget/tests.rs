use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::upstreams::lockstep::lockstep;
use lodge_manifest::percent::Percent;

fn retry(budget: u32, minimum: usize) -> Retry {
    Retry { attempts: 2, budget: Percent::whole(budget), minimum }
}

fn after(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

fn taken(budget: &RetryBudget, now: Instant, retry: &Retry) -> usize {
    (0..100_000).take_while(|_| budget.take_retry(now, retry)).count()
}

#[test]
fn a_share_of_the_requests() {
    let start = Instant::now();
    let (budget, retry) = (RetryBudget::new(start), retry(20, 0));
    assert_eq!(taken(&budget, start, &retry), 0, "there were no requests");
    (0..100).for_each(|_| budget.record_request(start));
    assert_eq!(taken(&budget, after(start, 3), &retry), 20);
    (0..50).for_each(|_| budget.record_request(after(start, 5)));
    assert_eq!(taken(&budget, after(start, 9), &retry), 10);
    assert_eq!(taken(&budget, after(start, 14), &retry), 0, "no request pays for two retries");
    assert_eq!(taken(&budget, after(start, 40), &retry), 0, "and then it is forgotten");
}

#[test]
fn a_minimum_per_second() {
    let start = Instant::now();
    let (budget, retry) = (RetryBudget::new(start), retry(20, 3));
    assert_eq!(taken(&budget, start, &retry), 30, "three a second, of ten seconds");
    assert_eq!(taken(&budget, after(start, 9), &retry), 0);
    assert_eq!(taken(&budget, after(start, 10), &retry), 30);
    assert_eq!(taken(&RetryBudget::new(start), start, &super::Retry { minimum: 0, ..retry }), 0);
}

/// A new manifest changes what is left, not what was taken.
#[test]
fn settings_can_change() {
    let start = Instant::now();
    let budget = RetryBudget::new(start);
    (0..100).for_each(|_| budget.record_request(start));
    assert_eq!(taken(&budget, start, &retry(20, 0)), 20);
    assert_eq!(taken(&budget, start, &retry(50, 0)), 30);
    assert_eq!(taken(&budget, start, &retry(10, 0)), 0);
}

#[test]
fn far_away_times() {
    let start = Instant::now();
    let (budget, retry) = (RetryBudget::new(start), retry(100, 0));
    for second in [0, 1, WRAP - 3, WRAP - 1, WRAP, WRAP + 7, 3 * WRAP + 5, 3 * WRAP + WRAP / 2 + 11] {
        let now = after(start, second);
        (0..5).for_each(|_| budget.record_request(now));
        assert!(taken(&budget, now, &retry) >= 5, "{second}");
        assert_eq!(taken(&budget, now, &retry), 0, "{second}");
    }
    // A clock value older than others is late, and changes no counts of another wrap.
    budget.record_request(after(start, 3 * WRAP));
    assert_eq!(taken(&budget, after(start, 3 * WRAP + WRAP / 2 + 11), &retry), 0);
}

#[test]
fn counts_do_not_overflow_into_each_other() {
    let start = Instant::now();
    let budget = RetryBudget::new(start);
    budget.slots[0].store(SecondCounts { second: 0, requests: REQUESTS, retries: RETRIES - 1 }.pack(), Relaxed);
    budget.record_request(start);
    let most = retry(100, 1000);
    assert!(budget.take_retry(start, &most) && !budget.take_retry(start, &most), "no more than can be counted");
    let slot = SecondCounts::unpack(budget.slots[0].load(Relaxed));
    assert_eq!((slot.second, slot.requests, slot.retries), (0, REQUESTS, RETRIES));
}

#[test]
fn two_at_once_take_no_more_than_one() {
    let (start, retry) = (Instant::now(), retry(20, 0));
    let budget = |_| {
        let budget = RetryBudget::new(start);
        (0..5).for_each(|_| budget.record_request(start));
        budget
    };
    let budgets: Vec<_> = (0..20_000).map(budget).collect();
    let took = lockstep(&budgets, |budget, _| budget.take_retry(start, &retry));
    assert!(took.iter().all(|took| *took == 1), "there is room for one");
}

#[test]
fn two_at_once_are_both_counted() {
    let start = Instant::now();
    let budgets: Vec<_> = (0..20_000).map(|_| RetryBudget::new(start)).collect();
    lockstep(&budgets, |budget, _| {
        budget.record_request(after(start, 5));
        true
    });
    let requests = |budget: &RetryBudget| SecondCounts::unpack(budget.slots[5].load(Relaxed)).requests;
    assert!(budgets.iter().all(|budget| requests(budget) == 2));
}

proptest! {
    /// Over any period and in every window, retries are at most the percentage of the requests plus the minimum.
    #[test]
    fn amplification_is_bounded(
        part in 0..=100u32,
        minimum in 0..3usize,
        steps in proptest::collection::vec((0..40u32, 0..30u32, 0..4u64), 1..60),
    ) {
        let start = Instant::now();
        let (budget, retry) = (RetryBudget::new(start), retry(part, minimum));
        let (mut second, mut requests, mut retries) = (0, Vec::new(), Vec::new());
        for (asked, tries, wait) in steps {
            for _ in 0..asked {
                budget.record_request(after(start, second));
                requests.push(second);
            }
            for _ in 0..tries {
                let recent = |at: &[u64]| at.iter().filter(|at| **at + WINDOW > second).count() as u64;
                let room = recent(&requests) * u64::from(part) / 100 + 10 * minimum as u64;
                let granted = budget.take_retry(after(start, second), &retry);
                prop_assert_eq!(granted, recent(&retries) < room);
                retries.extend(granted.then_some(second));
            }
            second += wait;
        }
        let most = requests.len() as f64 * f64::from(part) / 100.0 + (second / WINDOW + 1) as f64 * 10.0 * minimum as f64;
        prop_assert!(retries.len() as f64 <= most, "{} retries of {} requests", retries.len(), requests.len());
    }
}
