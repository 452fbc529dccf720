//! A fuzz target for DNS responses.

use hickory_resolver::proto::op::Message;

use super::resolver::targets;

/// Parses a DNS message: targets come in order of priority, and none is the root.
pub fn message(bytes: &[u8]) {
    let Ok(message) = Message::from_vec(bytes) else { return };
    let targets = targets(&message.answers);
    assert!(targets.len() <= message.answers.len());
    assert!(targets.is_sorted_by_key(|target| target.priority));
    assert!(targets.iter().all(|target| !target.name.is_empty() && target.name != "."));
}
