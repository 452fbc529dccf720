use proptest::prelude::*;

use super::*;
use crate::upstreams::transport::Target;
use lodge_manifest::upstream::protocol::Scheme;

fn pace() -> Pace {
    Pace { grace: Duration::from_secs(60), ..Pace::default() }
}

fn endpoints(numbers: &[u8]) -> Vec<Endpoint> {
    let endpoint = |n: &u8| {
        let address = ([10, 0, 0, *n], 80).into();
        let target = Target { scheme: Scheme::Http, host: "users".into(), address, other: None };
        Endpoint { target, weight: 1, is_far: false }
    };
    numbers.iter().map(endpoint).collect()
}

fn good(numbers: &[u8], seconds: u64) -> Resolution<Vec<Endpoint>> {
    Resolution::Good(endpoints(numbers), Duration::from_secs(seconds))
}

fn says(update: &Update) -> &str {
    update.message.as_ref().map_or("", |(text, _)| text)
}

#[test]
fn follows_the_source() {
    let (mut state, now) = (SourceState::default(), Instant::now());
    let update = state.apply(good(&[1, 2], 30), now, &pace(), 0);
    assert_eq!((update.changed, update.next), (true, Duration::from_secs(30)));
    assert_eq!(says(&update), "2 replicas: +10.0.0.1:80 +10.0.0.2:80");
    let update = state.apply(good(&[1, 2], 0), now, &pace(), 0);
    assert_eq!(update, Update { changed: false, next: Duration::from_secs(1), message: None });
    let update = state.apply(good(&[2, 3], 86_400), now, &pace(), 0);
    assert_eq!((says(&update), update.next), ("2 replicas: +10.0.0.3:80 -10.0.0.1:80", Duration::from_secs(300)));
    // Earlier, never later, and by at most a fifth.
    let jittered = state.apply(good(&[2, 3], 100), now, &pace(), 1023).next;
    assert!(jittered > Duration::from_secs(80) && jittered < Duration::from_secs(81), "{jittered:?}");
    let many: Vec<u8> = (1..=20).collect();
    assert!(says(&state.apply(good(&many, 1), now, &pace(), 0)).ends_with(" and 10 more"));
}

#[test]
fn a_failing_source_changes_nothing_and_is_logged_once() {
    let (mut state, mut now) = (SourceState::default(), Instant::now());
    let failed = || Resolution::Failed("timed out".into());
    let update = state.apply(failed(), now, &pace(), 0);
    assert_eq!(update.message, Some(("timed out; no replicas are known".into(), true)));
    state.apply(good(&[1], 30), now, &pace(), 0);
    let mut pauses = Vec::new();
    for round in 0..100 {
        now += Duration::from_secs(600);
        let update = state.apply(failed(), now, &pace(), 0);
        assert_eq!(says(&update), if round == 0 { "timed out; 1 replica stays in use" } else { "" });
        pauses.push(update.next.as_secs());
        assert_eq!(state.known(), endpoints(&[1]));
    }
    assert_eq!(pauses[..7], [1, 2, 4, 8, 16, 32, 32]);
    let update = state.apply(good(&[1], 30), now, &pace(), 0);
    assert_eq!((update.changed, says(&update)), (false, "resolves again: 1 replica"));
}

#[test]
fn empty_results_are_accepted_after_a_while() {
    let (mut state, mut now) = (SourceState::default(), Instant::now());
    let empty = || Resolution::Empty("no such name".into());
    state.apply(good(&[1, 2], 30), now, &pace(), 0);
    let begin = now;
    let update = state.apply(empty(), now, &pace(), 0);
    assert_eq!(says(&update), "no such name; 2 replicas stay in use for up to 1m");
    let mut looks = 0;
    while !state.known().is_empty() {
        assert!(now - begin <= Duration::from_secs(61));
        let update = state.apply(empty(), now, &pace(), 0);
        assert_eq!(update.changed, state.known().is_empty());
        assert_eq!(update.changed, says(&update) == "no such name for 1m: no replica is left");
        now += update.next;
        looks += 1;
    }
    assert!(now - begin >= Duration::from_secs(60) && looks >= 4, "{:?} {looks}", now - begin);
    assert!(state.apply(good(&[1], 30), now, &pace(), 0).changed);
}

proptest! {
    /// Replicas are removed only by a good result, or after a grace period of empty results.
    #[test]
    fn flapping(answers in proptest::collection::vec((0..4u8, 0..20u64), 1..200)) {
        let (mut state, mut now) = (SourceState::default(), Instant::now());
        let mut silent_since = None;
        for (kind, seconds) in answers {
            now += Duration::from_secs(seconds);
            let before = state.known().to_vec();
            let answer = match kind {
                0 => good(&[1, 2], seconds),
                1 => good(&[3], seconds),
                2 => Resolution::Empty("none".into()),
                _ => Resolution::Failed("broken".into()),
            };
            silent_since = (kind == 2).then(|| silent_since.unwrap_or(now));
            let update = state.apply(answer, now, &pace(), 77);
            prop_assert_eq!(update.changed, before != state.known());
            prop_assert!(update.next >= pace().least && update.next <= pace().most);
            match kind {
                0 => prop_assert_eq!(state.known(), endpoints(&[1, 2])),
                1 => prop_assert_eq!(state.known(), endpoints(&[3])),
                2 if silent_since.is_some_and(|since| now - since >= pace().grace) => prop_assert!(state.known().is_empty()),
                _ => prop_assert_eq!(state.known(), before),
            }
        }
    }
}
