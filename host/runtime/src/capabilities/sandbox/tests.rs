use super::*;
use lodge_base::config;
use lodge_base::cpu::scheduler::CpuScheduler;

/// The side that used most of the time is at fault, not the side that was waited for last.
#[test]
fn the_side_that_used_most_of_the_time_caused_the_timeout() {
    let limits = config::resolve(&[]).unwrap().config.limits;
    let clock = Clock::new(Duration::from_millis(1));
    let service = Arc::new(Service::new("users", Arc::new(CpuScheduler::new(1)).share()));
    let sandbox = Sandbox::new(service, Arc::default(), &limits, clock.clone(), None);
    // Ticks of guest work, of waiting for the body, and of guest work again; the flag says whether the wait continues
    // at the end.
    let blamed = |work: u64, wait: u64, more: u64, waits_on: bool| {
        clock.advance(17);
        sandbox.begin(RequestContext::new(Arc::from("1"), Instant::now()), false);
        clock.advance(work);
        sandbox.set_body_waiting(true);
        clock.advance(wait);
        if !waits_on {
            sandbox.set_body_waiting(false);
            clock.advance(more);
        }
        matches!(sandbox.attribute(RunError::WallTime), RunError::Body(BodyError::Late))
    };
    assert!(blamed(0, 100, 0, true), "the body never arrived");
    assert!(blamed(0, 95, 5, false), "the body arrived just before the time was up");
    assert!(blamed(45, 55, 0, true) && blamed(20, 60, 20, false));
    assert!(!blamed(95, 5, 0, true), "the guest read the body just before the time was up");
    assert!(!blamed(40, 20, 40, false) && !blamed(100, 0, 0, true));
    sandbox.begin(RequestContext::new(Arc::from("2"), Instant::now()), false);
    clock.advance(1);
    assert!(
        matches!(sandbox.attribute(RunError::WallTime), RunError::WallTime),
        "the wait of an earlier request does not count"
    );
}
