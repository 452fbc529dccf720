//! Messages that a guest sends at once, and whose reply it waits for.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;

use super::delivery;
use crate::request::handler::Handler;
use crate::request::message::{Handled, MessageSender};
use lodge_manifest::spec::host_of;
use lodge_runtime::capabilities::messaging::{MessageRequests, NO_REPLY, Requested};
use lodge_runtime::capabilities::sandbox::RequestContext;
use lodge_state::limits::MAX_MESSAGE;
use lodge_state::messages::{Message, Pattern};
use lodge_traffic::proxy::headers::Peer;

impl MessageRequests for Handler {
    fn request(self: Arc<Self>, message: Message, context: RequestContext) -> Requested {
        Box::pin(async move {
            let subject = &message.subject;
            let Some((name, path)) = self.consumer_of(&message) else {
                return Err(format!("no service consumes {subject}: deploy one with [consume]"));
            };
            let (host, peer) = (host_of(&name), Peer::service("@messages"));
            let request = delivery::request(&host, path.as_deref(), &message).map_err(|error| error.to_string())?;
            let RequestContext { request_id, deadline, depth, .. } = context;
            let sender = MessageSender { peer: &peer, request_id: Some(request_id), depth: depth + 1, deadline };
            match self.send_message(&host, sender, request, MAX_MESSAGE).await {
                Handled { status, complete: true, body: Some(body), .. } if status.is_success() => {
                    Ok(Some(body).filter(|body| !body.is_empty()))
                }
                Handled { status, .. } if status.is_success() => {
                    Err(format!("the reply of {name} broke off, or is larger than {MAX_MESSAGE} bytes"))
                }
                Handled { status: StatusCode::LOOP_DETECTED, .. } => {
                    Err("the request came back to its sender too often".to_owned())
                }
                // The consumer has the deadline of the sender, so both notice it at about the same time.
                Handled { status: StatusCode::GATEWAY_TIMEOUT, .. } if Instant::now() >= deadline => {
                    Err(NO_REPLY.to_owned())
                }
                Handled { status, .. } => Err(format!("{name} responded with {status}")),
            }
        })
    }
}

impl Handler {
    /// Returns the name of a service that consumes the subject of a message, and the path that it receives messages at.
    fn consumer_of(&self, message: &Message) -> Option<(Arc<str>, Option<String>)> {
        let snapshot = self.current.snapshot();
        snapshot.targets.iter().filter(|target| target.of.is_none()).find_map(|target| {
            let consume = target.deployment().spec.manifest.consume.as_ref()?;
            let matches = |text: &String| Pattern::new(text).is_ok_and(|pattern| pattern.matches(&message.subject));
            let consumes = consume.subjects.iter().any(matches);
            consumes.then(|| (Arc::clone(&target.deployment().name), consume.path.clone()))
        })
    }
}
