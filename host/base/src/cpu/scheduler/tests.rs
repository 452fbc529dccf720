use std::sync::Arc;

use tokio::sync::oneshot::Receiver;

use super::{CpuScheduler, CpuShare, CpuSlot, LongRunning, WEIGHT, workers_on};

/// Requests that compute without end, one tick per slot.
struct Busy {
    guests: Vec<(LongRunning, Receiver<CpuSlot>)>,
    share: Arc<CpuShare>,
}

impl Busy {
    fn new(scheduler: &Arc<CpuScheduler>, weight: u32, requests: usize) -> Self {
        let share = scheduler.share();
        share.set_weight(weight);
        let guests = (0..requests)
            .map(|_| share.long_running())
            .map(|guest| (guest.wait(), guest))
            .map(|(slot, guest)| (guest, slot));
        Self { guests: guests.collect(), share }
    }

    /// Every guest with a slot computes for a tick and queues again before it passes the slot on. Returns how many did.
    fn tick(&mut self) -> u64 {
        let mut ran = 0;
        for (guest, waiting) in &mut self.guests {
            if let Ok(slot) = waiting.try_recv() {
                ran += 1;
                self.share.charge(1_000_000);
                *waiting = guest.wait();
                drop(slot);
            }
        }
        ran
    }
}

/// Runs `ticks` ticks and returns the number of slots that each service got.
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

/// This holds on a single core, too.
#[test]
fn one_worker_stays_free() {
    for (cores, workers, places) in [(1, 2, 1), (2, 2, 1), (8, 8, 7)] {
        assert_eq!(workers_on(cores), workers);
        let scheduler = CpuScheduler::new(workers);
        let mut busy = Busy::new(&scheduler, WEIGHT, 20);
        let held: Vec<_> = busy.guests.iter_mut().filter_map(|(_, waiting)| waiting.try_recv().ok()).collect();
        assert_eq!(held.len(), places);
        drop(held);
        let held: Vec<_> = busy.guests.iter_mut().filter_map(|(_, waiting)| waiting.try_recv().ok()).collect();
        assert_eq!(held.len(), places, "the next guests get the slots");
    }
}

#[test]
fn services_share_not_requests() {
    let scheduler = CpuScheduler::new(2);
    let mut services = [Busy::new(&scheduler, WEIGHT, 1), Busy::new(&scheduler, WEIGHT, 50)];
    near(&run(&mut services, 1000), &[1, 1]);
    let longest: usize = services[1].guests.len();
    let mut slots_of = vec![0; longest];
    for _ in 0..1000 {
        services[0].tick();
        for (n, (guest, waiting)) in services[1].guests.iter_mut().enumerate() {
            if let Ok(_slot) = waiting.try_recv() {
                slots_of[n] += 1;
                services[1].share.charge(1_000_000);
                *waiting = guest.wait();
            }
        }
    }
    let (least, most) = (slots_of.iter().min().unwrap(), slots_of.iter().max().unwrap());
    assert!(most - least <= 1, "within a service, first come first served: {slots_of:?}");
}

#[test]
fn weights_divide_the_time() {
    let scheduler = CpuScheduler::new(3);
    let mut services = [
        Busy::new(&scheduler, 300, 4),
        Busy::new(&scheduler, WEIGHT, 9),
        Busy::new(&scheduler, 50, 4),
        Busy::new(&scheduler, 450, 4),
    ];
    near(&run(&mut services, 4000), &[6, 2, 1, 9]);
    // A new version changes the weight.
    services[0].share.set_weight(WEIGHT);
    near(&run(&mut services, 4000), &[2, 2, 1, 9]);
}

#[test]
fn a_new_service_gets_no_credit() {
    let scheduler = CpuScheduler::new(2);
    let mut early = [Busy::new(&scheduler, WEIGHT, 2)];
    assert_eq!(run(&mut early, 1000), [2000]);
    let [early] = early;
    near(&run(&mut [early, Busy::new(&scheduler, WEIGHT, 2)], 100), &[1, 1]);
}

#[test]
fn a_cancelled_wait_releases_its_slot() {
    let scheduler = CpuScheduler::new(2);
    let share = scheduler.share();
    let guest = share.long_running();
    let (first, second, mut third) = (guest.wait(), guest.wait(), guest.wait());
    drop(second);
    assert!(third.try_recv().is_err());
    drop(first);
    let slot = third.try_recv().unwrap();
    assert!(share.has_long_running());
    drop(guest);
    assert!(!share.has_long_running());
    drop(slot);
    let mut many: Vec<_> = std::iter::repeat_with(|| share.long_running().wait()).take(1000).collect();
    many.truncate(1);
    for _ in 0..1000 {
        drop(share.long_running().wait());
    }
    let waiting = scheduler.state.lock().unwrap().waiting.iter().map(|queue| queue.requests.len()).sum::<usize>();
    assert!(waiting <= 1024, "cancelled requests leave the queue: {waiting}");
}
