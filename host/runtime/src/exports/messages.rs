//! The interfaces by which components receive messages: `wasmcloud:messaging/handler`, and `inbound-redis` of Spin, which has the body of a
//! message alone.

use std::future::poll_fn;
use std::sync::Arc;

use http::StatusCode;
use http_body_util::BodyExt;
use wasmtime::Store;
use wasmtime::component::{Component, ComponentExportIndex, ComponentType, Instance, Lift, Lower, TypedFunc};

use super::response;
use crate::body::{LimitedBody, RequestBody};
use crate::capabilities::Ctx;
use crate::capabilities::messaging::{self, BrokerMessage, HandleError, MessageDelivery, StreamedMessage};
use crate::capabilities::sandbox::Sandbox;
use crate::capabilities::stdio::{self, Stream};
use lodge_base::lock::lock;

/// The interfaces. A component that has several gets messages by the first of them.
const HANDLERS: [(&str, HandlerKind); 4] = [
    ("wasmcloud:messaging/handler@0.3.0", HandlerKind::Streamed),
    ("wasmcloud:messaging/handler@0.2.0", HandlerKind::Whole),
    ("spin:redis/inbound-redis@3.0.0", HandlerKind::AsyncPayload),
    ("fermyon:spin/inbound-redis", HandlerKind::Payload),
];

#[derive(Clone, Copy)]
enum HandlerKind {
    Whole,
    Streamed,
    Payload,
    AsyncPayload,
}

/// The place of `handle-message`.
pub(super) struct HandlerIndex(HandlerKind, ComponentExportIndex);

/// `handle-message`.
pub(crate) enum MessageHandler {
    Whole(TypedFunc<(BrokerMessage,), (Result<(), String>,)>),
    Streamed(TypedFunc<(StreamedMessage,), (Result<(), HandleError>,)>),
    Payload(TypedFunc<(Vec<u8>,), (Result<(), RedisFault>,)>),
    AsyncPayload(TypedFunc<(Vec<u8>,), (Result<(), RedisError>,)>),
}

/// Why a guest has not handled a message, in Spin's interface without a version.
#[derive(Clone, Copy, Debug, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "only the engine makes these")]
pub(crate) enum RedisFault {
    #[component(name = "success")]
    Success,
    #[component(name = "error")]
    Error,
}

/// The same in version 3. The others are of the client of Redis in the same package.
#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
pub(crate) enum RedisError {
    #[component(name = "invalid-address")]
    InvalidAddress,
    #[component(name = "too-many-connections")]
    TooManyConnections,
    #[component(name = "type-error")]
    TypeError,
    #[component(name = "other")]
    Other(String),
}

/// Whether an export is an interface of components that receive messages, in a version that Lodge has.
pub(crate) fn is_message_handler(export: &str) -> bool {
    HANDLERS.iter().any(|(name, _)| *name == export)
}

impl HandlerIndex {
    /// Finds the function by which a component receives messages, if it does.
    pub(super) fn of(component: &Component) -> Option<Self> {
        HANDLERS.iter().find_map(|(interface, kind)| {
            let interface = component.get_export_index(None, interface)?;
            Some(Self(*kind, component.get_export_index(Some(&interface), "handle-message")?))
        })
    }

    /// Returns the function of an instance.
    ///
    /// # Errors
    /// If it does not have the type of its interface.
    pub(super) fn load(&self, store: &mut Store<Ctx>, instance: &Instance) -> wasmtime::Result<MessageHandler> {
        let Self(kind, index) = self;
        Ok(match kind {
            HandlerKind::Whole => MessageHandler::Whole(instance.get_typed_func(store, *index)?),
            HandlerKind::Streamed => MessageHandler::Streamed(instance.get_typed_func(store, *index)?),
            HandlerKind::Payload => MessageHandler::Payload(instance.get_typed_func(store, *index)?),
            HandlerKind::AsyncPayload => MessageHandler::AsyncPayload(instance.get_typed_func(store, *index)?),
        })
    }
}

/// A status with the reason for which a guest has not handled a message.
type Unhandled = (StatusCode, String);

fn retried(why: impl Into<String>) -> Unhandled {
    (StatusCode::INTERNAL_SERVER_ERROR, why.into())
}

fn of_handler(error: HandleError) -> Unhandled {
    match error {
        HandleError::Retry => retried("retry"),
        HandleError::Reject => (StatusCode::UNPROCESSABLE_ENTITY, "rejected".to_owned()),
        HandleError::Other(why) => (StatusCode::UNPROCESSABLE_ENTITY, why),
    }
}

fn of_redis(error: RedisError) -> Unhandled {
    match error {
        RedisError::Other(why) => retried(why),
        other => retried(format!("{other:?}")),
    }
}

/// Passes a message to the guest, and makes a response of the result: 204, 500 with an error after which it is delivered again, or 422
/// with one after which it is dead. Errors are logged.
///
/// # Errors
/// If the guest traps.
pub(crate) async fn handle_message<B: RequestBody>(
    store: &mut Store<Ctx>,
    handler: &MessageHandler,
    delivery: MessageDelivery,
    body: LimitedBody<B>,
) -> wasmtime::Result<()> {
    // A body that breaks off or is over the limit is reported by the sandbox.
    let Ok(body) = body.collect().await else { return Ok(()) };
    let sandbox = Arc::clone(&store.data().sandbox);
    let body = body.to_bytes();
    match handler {
        MessageHandler::Whole(handler) => {
            let message = BrokerMessage::new(delivery, body.into());
            let (handled,) = handler.call_async(&mut *store, (message,)).await?;
            settled(&sandbox, handled.map_err(retried));
            Ok(())
        }
        MessageHandler::Payload(handler) => {
            let (handled,) = handler.call_async(&mut *store, (body.into(),)).await?;
            settled(&sandbox, handled.map_err(|_| retried("error")));
            Ok(())
        }
        MessageHandler::Streamed(handler) => {
            let outcome = store.run_concurrent(async |accessor| {
                let message = StreamedMessage::new(delivery, messaging::delivered(accessor, body)?);
                let (handled,) = handler.call_concurrent(accessor, (message,)).await?;
                settled(&sandbox, handled.map_err(of_handler));
                poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
                Ok(())
            });
            outcome.await?
        }
        MessageHandler::AsyncPayload(handler) => {
            let outcome = store.run_concurrent(async |accessor| {
                let (handled,) = handler.call_concurrent(accessor, (body.into(),)).await?;
                settled(&sandbox, handled.map_err(of_redis));
                poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
                Ok(())
            });
            outcome.await?
        }
    }
}

/// Makes the response of what a guest has done with a message.
fn settled(sandbox: &Sandbox, handled: Result<(), Unhandled>) {
    let (status, text) = match handled {
        Ok(()) => (StatusCode::NO_CONTENT, String::new()),
        Err((status, why)) => {
            let line = format!("the message was not handled: {why}");
            stdio::log_message(sandbox, (Stream::Log(tracing::Level::WARN), 0), line.as_bytes());
            (status, why)
        }
    };
    *lock(&sandbox.head) = Some(Ok(response(status, text)));
}
