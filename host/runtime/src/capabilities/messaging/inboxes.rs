//! Requests that wait for a reply. A reply is in the room of its receiver from when it comes until it is read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use lodge_base::lock::lock;
use lodge_state::Holder;
use lodge_state::messages::{MessageBody, Subject};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::BrokerMessage;
use super::failure::{MessageFailure, MessageFailureKind};
use super::unread::UnreadMessages;

/// The first token of inboxes. Their second one is random, so to know an inbox is the right to reply.
pub(super) const INBOX: &str = "_INBOX.";

/// Requests that wait for a reply, of all services.
const MOST_INBOXES: usize = 10_000;

/// A reply, with the room for it.
pub(super) struct Reply {
    pub(super) message: BrokerMessage,
    pub(super) room: OwnedSemaphorePermit,
}

impl Reply {
    /// Takes the room for a reply.
    ///
    /// # Errors
    /// If the receiver has too many replies that it has not read.
    pub(super) fn new(message: BrokerMessage, unread: &UnreadMessages) -> Result<Self, MessageFailure> {
        Ok(Self { room: unread.enter(message.body.len())?, message })
    }
}

/// The requests that wait for a reply, by their inbox.
#[derive(Default)]
pub struct Inboxes(Mutex<HashMap<Subject, Waiting>>);

/// A request that waits for a reply.
struct Waiting {
    reply: oneshot::Sender<Result<Reply, MessageFailure>>,
    unread: UnreadMessages,
}

/// Removes an inbox when its request ends, however it ends.
pub(super) struct Inbox {
    inboxes: Arc<Inboxes>,
    pub(super) subject: Subject,
    pub(super) reply: oneshot::Receiver<Result<Reply, MessageFailure>>,
    /// The room of the sandbox that has sent the request.
    pub(super) unread: UnreadMessages,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        lock(&self.inboxes.0).remove(&self.subject);
    }
}

impl Inboxes {
    pub(super) fn open(self: &Arc<Self>, unread: UnreadMessages) -> Result<Inbox, String> {
        let random = Holder::random().map_err(|error| error.to_string())?.bits();
        let subject = Subject::new(&format!("{INBOX}{random:032x}")).map_err(|error| error.to_string())?;
        let (sender, reply) = oneshot::channel();
        let mut waiting = lock(&self.0);
        if waiting.len() >= MOST_INBOXES {
            return Err(format!("{MOST_INBOXES} requests wait for a reply already: try again later"));
        }
        waiting.insert(subject.clone(), Waiting { reply: sender, unread: unread.clone() });
        Ok(Inbox { inboxes: Arc::clone(self), subject, reply, unread })
    }

    /// Passes a reply to the request that waits for it.
    ///
    /// # Errors
    /// If it is no message, if the request has ended, or if the service that has sent the request reads no replies.
    pub(super) fn reply(&self, subject: &Subject, message: BrokerMessage) -> Result<(), MessageFailure> {
        let BrokerMessage { subject: name, body, reply_to } = message;
        if let Some(reply_to) = &reply_to {
            Subject::new(reply_to)?;
        }
        let body = MessageBody::new(body)?.bytes().into();
        let message = BrokerMessage { subject: name, body, reply_to };
        let ended = "the request for this reply has ended";
        let Waiting { reply, unread } = lock(&self.0).remove(subject).ok_or(ended)?;
        let received = Reply::new(message, &unread);
        let room = received.is_ok();
        reply.send(received).map_err(|_| ended)?;
        if room {
            Ok(())
        } else {
            let text = "the service that has sent the request has too many replies that it has not read";
            Err(MessageFailure::new(MessageFailureKind::Quota, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lodge_state::limits::MAX_MESSAGE;

    fn message(size: usize, reply_to: Option<String>) -> BrokerMessage {
        BrokerMessage { subject: "reply".to_owned(), body: vec![b'x'; size], reply_to }
    }

    fn kind<T>(result: Result<T, MessageFailure>) -> Option<MessageFailureKind> {
        result.err().map(|failure| failure.kind)
    }

    #[test]
    fn a_reply_is_no_larger_than_a_message() {
        let inboxes = Arc::new(Inboxes::default());
        let mut inbox = inboxes.open(UnreadMessages::default()).unwrap();
        let large = inboxes.reply(&inbox.subject, message(MAX_MESSAGE + 1, None));
        assert_eq!(kind(large), Some(MessageFailureKind::TooLarge));
        let long = inboxes.reply(&inbox.subject, message(1, Some("a".repeat(256))));
        assert_eq!(kind(long), Some(MessageFailureKind::Other));
        assert!(inbox.reply.try_recv().is_err(), "the request still waits");
        assert_eq!(kind(inboxes.reply(&inbox.subject, message(MAX_MESSAGE, None))), None);
        let reply = inbox.reply.try_recv().unwrap().ok().unwrap();
        assert_eq!(reply.message.body.len(), MAX_MESSAGE);
    }

    /// Four of the largest replies, or 260 small ones.
    #[test]
    fn replies_that_are_not_read_are_bounded() {
        for (size, most) in [(MAX_MESSAGE, 4), (0, 260)] {
            let (inboxes, unread) = (Arc::new(Inboxes::default()), UnreadMessages::default());
            let exchange = || {
                let mut inbox = inboxes.open(unread.clone()).unwrap();
                let sent = inboxes.reply(&inbox.subject, message(size, None));
                (kind(sent), inbox.reply.try_recv().unwrap())
            };
            let mut kept: Vec<_> = (0..most).map(|_| exchange().1.ok().unwrap()).collect();
            let (sent, received) = exchange();
            assert_eq!((sent, kind(received)), (Some(MessageFailureKind::Quota), Some(MessageFailureKind::Quota)));
            kept.pop();
            assert_eq!(exchange().0, None, "a reply that is read makes room");
        }
    }
}
