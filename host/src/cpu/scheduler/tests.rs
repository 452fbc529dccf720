use std::sync::Arc;

use tokio::sync::oneshot::Receiver;

use super::{CpuScheduler, CpuShare, CpuSlot, LongRunning, WEIGHT, workers_on};

/// Requests that compute for ever, one tick a turn.
struct Busy {
    hogs: Vec<(LongRunning, Receiver<CpuSlot>)>,
    share: Arc<CpuShare>,
}

impl Busy {
    fn new(turns: &Arc<CpuScheduler>, weight: u32, requests: usize) -> Self {
        let share = turns.share();
        share.set_weight(weight);
        let hogs =
            (0..requests).map(|_| share.long_running()).map(|hog| (hog.wait(), hog)).map(|(turn, hog)| (hog, turn));
        Self { hogs: hogs.collect(), share }
    }

    /// Everybody who has a turn computes for a tick, and asks again before passing it on. Returns how many did.
    fn tick(&mut self) -> u64 {
        let mut ran = 0;
        for (hog, waiting) in &mut self.hogs {
            if let Ok(turn) = waiting.try_recv() {
                ran += 1;
                self.share.charge(1_000_000);
                *waiting = hog.wait();
                drop(turn);
            }
        }
        ran
    }
}

/// So many turns to each of these.
fn run<const N: usize>(services: &mut [Busy; N], ticks: usize) -> [u64; N] {
    let mut ran = [0; N];
    for _ in 0..ticks {
        for (service, ran) in services.iter_mut().zip(&mut ran) {
            *ran += service.tick();
        }
    }
    ran
}

fn near(counts: &[u64], parts: &[u64]) {
    let (all, whole) = (counts.iter().sum::<u64>() as f64, parts.iter().sum::<u64>() as f64);
    for (count, part) in counts.iter().zip(parts) {
        let (is, should) = (*count as f64 / all, *part as f64 / whole);
        assert!((is - should).abs() < 0.02, "{counts:?} is not {parts:?}");
    }
}

/// Also on a single core.
#[test]
fn all_workers_but_one() {
    for (cores, workers, places) in [(1, 2, 1), (2, 2, 1), (8, 8, 7)] {
        assert_eq!(workers_on(cores), workers);
        let turns = CpuScheduler::new(workers);
        let mut busy = Busy::new(&turns, WEIGHT, 20);
        let held: Vec<_> = busy.hogs.iter_mut().filter_map(|(_, waiting)| waiting.try_recv().ok()).collect();
        assert_eq!(held.len(), places);
        drop(held);
        let held: Vec<_> = busy.hogs.iter_mut().filter_map(|(_, waiting)| waiting.try_recv().ok()).collect();
        assert_eq!(held.len(), places, "the next ones have them");
    }
}

#[test]
fn the_share_is_of_services_not_of_requests() {
    let turns = CpuScheduler::new(2);
    let mut services = [Busy::new(&turns, WEIGHT, 1), Busy::new(&turns, WEIGHT, 50)];
    near(&run(&mut services, 1000), &[1, 1]);
    let longest: usize = services[1].hogs.len();
    let mut turns_of = vec![0; longest];
    for _ in 0..1000 {
        services[0].tick();
        for (n, (hog, waiting)) in services[1].hogs.iter_mut().enumerate() {
            if let Ok(_turn) = waiting.try_recv() {
                turns_of[n] += 1;
                services[1].share.charge(1_000_000);
                *waiting = hog.wait();
            }
        }
    }
    let (least, most) = (turns_of.iter().min().unwrap(), turns_of.iter().max().unwrap());
    assert!(most - least <= 1, "within a service, first come first served: {turns_of:?}");
}

#[test]
fn weights_divide_it() {
    let turns = CpuScheduler::new(3);
    let mut services =
        [Busy::new(&turns, 300, 4), Busy::new(&turns, WEIGHT, 9), Busy::new(&turns, 50, 4), Busy::new(&turns, 450, 4)];
    near(&run(&mut services, 4000), &[6, 2, 1, 9]);
    // Another version of it has another weight.
    services[0].share.set_weight(WEIGHT);
    near(&run(&mut services, 4000), &[2, 2, 1, 9]);
}

#[test]
fn who_comes_later_catches_nothing_up() {
    let turns = CpuScheduler::new(2);
    let mut early = [Busy::new(&turns, WEIGHT, 2)];
    assert_eq!(run(&mut early, 1000), [2000]);
    let [early] = early;
    near(&run(&mut [early, Busy::new(&turns, WEIGHT, 2)], 100), &[1, 1]);
}

#[test]
fn who_leaves_keeps_nothing() {
    let turns = CpuScheduler::new(2);
    let share = turns.share();
    let hog = share.long_running();
    let (first, second, mut third) = (hog.wait(), hog.wait(), hog.wait());
    drop(second);
    assert!(third.try_recv().is_err());
    drop(first);
    let turn = third.try_recv().unwrap();
    assert!(share.has_long_running());
    drop(hog);
    assert!(!share.has_long_running());
    drop(turn);
    let mut many: Vec<_> = std::iter::repeat_with(|| share.long_running().wait()).take(1000).collect();
    many.truncate(1);
    for _ in 0..1000 {
        drop(share.long_running().wait());
    }
    let waiting = turns.state.lock().unwrap().waiting.iter().map(|queue| queue.requests.len()).sum::<usize>();
    assert!(waiting <= 1024, "those who left are forgotten: {waiting}");
}
