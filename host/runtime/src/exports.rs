//! What a component exports to handle requests: `wasi:http` of 0.2 or 0.3, and `wasmcloud:messaging/handler` for messages. It needs
//! one of them.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use wasmtime::Store;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, TypedFunc};
use wasmtime_wasi_http::handler::Proxy;
use wasmtime_wasi_http::{WasiBody, p2, p3};

use super::body::{LimitedBody, RequestBody};
use crate::capabilities::Ctx;
use crate::capabilities::messaging::{BrokerMessage, MessageDelivery};
use crate::capabilities::stdio::{self, Stream};
use lodge_base::lock::lock;

/// The interface of components that receive messages.
pub(crate) const MESSAGE_HANDLER: &str = "wasmcloud:messaging/handler@0.2.0";

/// The HTTP world that a component exports.
#[derive(Clone, Copy)]
pub(crate) enum HttpWorld {
    P2,
    P3,
}

/// A component that is linked, with the places of what it exports.
pub(crate) struct LinkedExports {
    pre: InstancePre<Ctx>,
    http: Option<HttpIndices>,
    message: Option<ComponentExportIndex>,
}

enum HttpIndices {
    P2(p2::bindings::ProxyIndices),
    P3(p3::bindings::ServiceIndices),
}

/// The exported functions of an instance.
pub(crate) struct Exports {
    pub(crate) http: Option<Proxy>,
    pub(crate) message: Option<MessageHandler>,
}

/// `handle-message`.
pub(crate) type MessageHandler = TypedFunc<(BrokerMessage,), (Result<(), String>,)>;

impl LinkedExports {
    /// Finds what a component of this world exports.
    ///
    /// # Errors
    /// If an export does not have the type of its interface.
    pub(crate) fn new(pre: InstancePre<Ctx>, world: Option<HttpWorld>) -> wasmtime::Result<Self> {
        let http = match world {
            Some(HttpWorld::P2) => Some(HttpIndices::P2(p2::bindings::ProxyIndices::new(&pre)?)),
            Some(HttpWorld::P3) => Some(HttpIndices::P3(p3::bindings::ServiceIndices::new(&pre)?)),
            None => None,
        };
        let message = message_handler(pre.component());
        Ok(Self { pre, http, message })
    }

    /// Creates an instance.
    ///
    /// # Errors
    /// If its start code traps, or an export does not have the type of its interface.
    pub(crate) async fn instantiate(&self, store: &mut Store<Ctx>) -> wasmtime::Result<Exports> {
        let instance = self.pre.instantiate_async(&mut *store).await?;
        let http = match &self.http {
            Some(HttpIndices::P2(indices)) => Some(Proxy::P2(indices.load(&mut *store, &instance)?)),
            Some(HttpIndices::P3(indices)) => Some(Proxy::P3(indices.load(&mut *store, &instance)?)),
            None => None,
        };
        let message = self.message.map(|index| instance.get_typed_func(&mut *store, index)).transpose()?;
        Ok(Exports { http, message })
    }
}

fn message_handler(component: &Component) -> Option<ComponentExportIndex> {
    let interface = component.get_export_index(None, MESSAGE_HANDLER)?;
    component.get_export_index(Some(&interface), "handle-message")
}

/// Passes a message to the guest, and makes a response of the result: 204, or 500 with the error, which is logged.
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
    let message = BrokerMessage::new(delivery, body.to_bytes().into());
    let (handled,) = handler.call_async(&mut *store, (message,)).await?;
    let sandbox = &store.data().sandbox;
    let (status, text) = match handled {
        Ok(()) => (StatusCode::NO_CONTENT, String::new()),
        Err(why) => {
            let line = format!("the message was not handled: {why}");
            stdio::log_message(sandbox, Stream::Log(tracing::Level::WARN), line.as_bytes());
            (StatusCode::INTERNAL_SERVER_ERROR, why)
        }
    };
    *lock(&sandbox.head) = Some(Ok(response(status, text)));
    Ok(())
}

/// Responds to a request to a component that only handles messages.
pub(crate) fn refuse_http(store: &Store<Ctx>) {
    let text = "this service handles messages only".to_owned();
    *lock(&store.data().sandbox.head) = Some(Ok(response(StatusCode::NOT_FOUND, text)));
}

fn response(status: StatusCode, text: String) -> Response<WasiBody> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}
