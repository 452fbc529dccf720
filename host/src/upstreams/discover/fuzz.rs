//! A fuzz target for the answers of name servers.

use hickory_resolver::proto::op::Message;

use super::resolver::targets;

/// A DNS message: its service records become targets in order of priority, none of which is the root.
pub(crate) fn message(bytes: &[u8]) {
    let Ok(message) = Message::from_vec(bytes) else { return };
    let targets = targets(&message.answers);
    assert!(targets.len() <= message.answers.len());
    assert!(targets.is_sorted_by_key(|target| target.priority));
    assert!(targets.iter().all(|target| !target.name.is_empty() && target.name != "."));
}
