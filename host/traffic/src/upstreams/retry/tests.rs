use std::time::Duration;

use super::*;
use lodge_manifest::upstream::Spec;

fn responded(status: u16) -> TryOutcome {
    TryOutcome::Responded(StatusCode::from_u16(status).unwrap())
}

/// Returns whether a first attempt may be followed by another one.
fn again(method: &Method, replayable: bool, last: TryOutcome) -> bool {
    let now = Instant::now();
    let deadline = now + Duration::from_secs(1);
    Repeatable::new(method, replayable).again(1, last, now, deadline, &Spec::defaults().retry)
}

#[test]
fn by_method_body_and_outcome() {
    let idempotent = [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE];
    let others = [Method::POST, Method::PATCH, Method::CONNECT, Method::from_bytes(b"MOVE").unwrap()];
    let hopeful =
        [TryOutcome::Reset, TryOutcome::Closed, TryOutcome::TimedOut, responded(502), responded(503), responded(504)];
    let final_ones = [responded(200), responded(404), responded(429), responded(500), responded(501)];
    for method in idempotent.iter().chain(&others) {
        for replayable in [true, false] {
            let repeatable = idempotent.contains(method) && replayable;
            assert_eq!(Repeatable::new(method, replayable).always(), repeatable);
            // A PUT or DELETE that continues after the response could undo a later request.
            let hedges = repeatable && ![Method::PUT, Method::DELETE].contains(method);
            assert_eq!(Repeatable::new(method, replayable).hedges(), hedges, "{method}");
            for untouched in [TryOutcome::Unconnected, TryOutcome::Unsent] {
                assert!(again(method, replayable, untouched), "{method}: it was not processed");
            }
            for last in hopeful {
                assert_eq!(again(method, replayable, last), repeatable, "{method} {replayable} {last:?}");
            }
            for last in final_ones {
                assert!(!again(method, replayable, last), "{method} {replayable} {last:?}");
            }
        }
    }
}

#[test]
fn within_attempts_and_deadline() {
    let (start, retry) = (Instant::now(), Spec::defaults().retry);
    let get = Repeatable::new(&Method::GET, true);
    let later = start + Duration::from_secs(1);
    let tries = |tries| get.again(tries, TryOutcome::Unconnected, start, later, &retry);
    assert_eq!([1, 2, 3].map(tries), [true, true, false], "two after the first");
    let late = |tries| get.again(tries, TryOutcome::TimedOut, start, later, &retry);
    assert_eq!([1, 2].map(late), [true, false], "a second timeout is not the replica's fault");
    assert!(!get.again(1, TryOutcome::Unconnected, later, later, &retry), "the deadline has passed");
    assert!(!get.again(1, TryOutcome::Unconnected, start, later, &Retry { attempts: 0, ..retry }));
}

#[test]
fn outcomes_for_health() {
    for failure in [
        TryOutcome::Unconnected,
        TryOutcome::Reset,
        TryOutcome::TimedOut,
        responded(502),
        responded(503),
        responded(504),
    ] {
        assert_eq!(failure.verdict(), Some(false), "{failure:?}");
    }
    for fine in [responded(200), responded(101), responded(404), responded(429), responded(500), responded(501)] {
        assert_eq!(fine.verdict(), Some(true), "{fine:?}");
    }
    assert_eq!([TryOutcome::Unsent, TryOutcome::Closed].map(TryOutcome::verdict), [None, None]);
}
