//! What a component exports to handle requests: `wasi:http` of 0.2 or 0.3, or an interface for messages. It needs one of them.

mod messages;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use wasmtime::Store;
use wasmtime::component::InstancePre;
use wasmtime_wasi_http::handler::Proxy;
use wasmtime_wasi_http::{WasiBody, p2, p3};

use crate::capabilities::Ctx;
use lodge_base::lock::lock;

use messages::HandlerIndex;
pub(crate) use messages::{MessageHandler, handle_message, is_message_handler};

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
    message: Option<HandlerIndex>,
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
        let message = HandlerIndex::of(pre.component());
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
        let message = match &self.message {
            Some(index) => Some(index.load(&mut *store, &instance)?),
            None => None,
        };
        Ok(Exports { http, message })
    }
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
