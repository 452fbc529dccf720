use std::sync::Arc;

use super::*;

fn line(service: &str, message: &str) -> Line {
    let service = Some(service.to_owned()).filter(|service| !service.is_empty());
    Line { service, message: message.into(), ..Line::new("INFO", LineKind::Guest) }
}

fn messages(lines: &[Arc<Line>]) -> Vec<&str> {
    lines.iter().map(|line| line.message.as_str()).collect()
}

/// A service that logs a lot evicts only its own lines.
#[test]
fn a_verbose_service_evicts_its_own_lines() {
    let tail = Tail::default();
    tail.push(line("quiet", "once"));
    for n in 0..10 * LINES {
        tail.push(line("loud", &n.to_string()));
    }
    assert_eq!(messages(&tail.lines(Some("quiet"), 100)), ["once"]);
    assert_eq!(tail.lines(Some("loud"), usize::MAX).len(), LINES);
    assert_eq!(messages(&tail.lines(None, 2)), ["1998", "1999"], "the last of all");
    for _ in 0..100 {
        tail.push(line("loud", &"x".repeat(8 << 10)));
    }
    let bytes: usize = tail.lines(Some("loud"), usize::MAX).iter().map(|line| line.bytes()).sum();
    assert!(bytes <= BYTES, "{bytes}");
}

/// The number of services is bounded; the least recent ones are removed.
#[test]
fn names_are_bounded() {
    let tail = Tail::default();
    for n in 0..SERVICES + 10 {
        tail.push(line(&format!("s{n}"), "hello"));
    }
    assert_eq!(lock(&tail.kept).of.len(), SERVICES);
    assert!(tail.lines(Some("s0"), 1).is_empty());
    assert_eq!(tail.lines(Some(&format!("s{}", SERVICES + 9)), 1).len(), 1);
}

/// A follower gets every line in order, or the number of lost lines. Without followers, nothing is sent.
#[tokio::test]
async fn followers_get_the_number_of_missed_lines() {
    let tail = Arc::new(Tail::default());
    assert!(!tail.is_followed());
    let mut follower = tail.follow();
    tail.push(line("a", "first"));
    let (first, lost) = follower.next().await.unwrap();
    assert_eq!((first.message.as_str(), lost), ("first", 0));
    for n in 0..BEHIND + 5 {
        tail.tell(line("a", &n.to_string()));
    }
    let (next, lost) = follower.next().await.unwrap();
    assert_eq!((next.message.as_str(), lost), ("5", 5));
    assert!(next.seq > first.seq);
    assert_eq!(messages(&tail.lines(None, 9)), ["first"], "what is only told is not kept");
    drop(follower);
    assert!(!tail.is_followed());
}

/// Every text of a line is cleaned at every depth, and values beyond the depth limit are replaced.
#[test]
fn nested_values_are_cleaned() {
    let evil = "a\u{1b}[2J\nb";
    let mut fields = serde_json::json!({ "list": [evil, { evil: [evil] }], "text": evil, "number": 1 });
    let mut deep = serde_json::json!(evil);
    for _ in 0..1_000 {
        deep = serde_json::json!([deep]);
    }
    fields["deep"] = deep;
    let serde_json::Value::Object(fields) = fields else { panic!("an object") };
    let tail = Tail::default();
    tail.push(Line { fields, ..line("a", evil) });
    let kept = tail.lines(None, 1).pop().unwrap();
    let shown = serde_json::to_string(&*kept).unwrap();
    assert_eq!(shown.matches("a\u{fffd}[2J\u{fffd}b").count(), 5, "{shown}");
    assert!(!shown.contains("\\u001b") && !shown.contains("\\n"), "{shown}");
    assert!(shown.contains("[[[[[[[[\"…\"]]]]]]]]"), "{shown}");
    assert!(kept.bytes() > 4 * evil.len(), "nested texts count: {}", kept.bytes());
}
