//! A call between services: the callee answers as it would a client, with a permit, limits, a record and a trace of its
//! own, and no socket is between them.
//!
//! The callee runs beside its caller, and ends with the request when the caller drops that (`capabilities/outbox.rs`).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{Request, Response};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;
use wasmtime_wasi::runtime::spawn;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use crate::request::handler::{Call, Handler};
use crate::request::respond::Body;
use lodge_runtime::capabilities::outbox::{SendFuture, complete};
use lodge_runtime::capabilities::sandbox::{RequestContext, Sandbox};
use lodge_runtime::outgoing::timeouts::{PipedBody, TimedBody, within};
use lodge_runtime::outgoing::{Egress, LocalCalls, response_deadline};

/// Frames of an answer that wait for the caller, besides the one that the callee has just made.
const FRAMES: usize = 1;

impl LocalCalls for Handler {
    fn call(
        self: Arc<Self>,
        egress: Arc<Egress>,
        host: String,
        (sandbox, context): (Arc<Sandbox>, RequestContext),
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> SendFuture {
        Box::new(async move {
            egress.service.figures.calls.fetch_add(1, Relaxed);
            let end = response_deadline(&context);
            // Pinned here: it is some kilobytes, and would be moved into the next future.
            let answering = pin!(answer(self, egress, host, context, request));
            let answered = within(options.first_byte_timeout, Error::HttpResponseTimeout, answering).await??;
            complete(answered.map(|body| {
                TimedBody::new(body, options.between_bytes_timeout, end, sandbox.hold_response_body()).boxed_unsync()
            }))
        })
    }
}

async fn answer(
    handler: Arc<Handler>,
    egress: Arc<Egress>,
    host: String,
    context: RequestContext,
    mut request: Request<WasiBody>,
) -> Result<Response<WasiBody>, Error> {
    let RequestContext { request_id, deadline, depth, onward } = context;
    if let Some(onward) = onward {
        onward.inject(request.headers_mut());
    }
    let call = Call { host: &host, request_id, deadline, depth: depth + 1 };
    let response = handler.answer(&egress.peer, Some(&call), request).await;
    let (head, body) = response.into_parts();
    Ok(Response::from_parts(head, deliver(body).await?))
}

/// An answer that is all here is handed over, and the callee is done with. Another is made as the caller takes it.
async fn deliver(body: Body) -> Result<WasiBody, Error> {
    if body.size_hint().exact().is_some() {
        let whole = body.collect().await.map_err(|_| Error::HttpResponseIncomplete)?;
        return Ok(Full::new(whole.to_bytes()).map_err(|never| match never {}).boxed_unsync());
    }
    let (frames, taken) = mpsc::channel(FRAMES);
    let making = spawn(async move {
        let mut body = body;
        while let Some(frame) = body.frame().await {
            // Cut short for a client, it is cut short for a caller: that it is not whole can be seen.
            if frames.send(frame.map_err(|_| Error::HttpResponseIncomplete)).await.is_err() {
                return;
            }
        }
        // Counted and let go before the caller sees its end.
        drop(body);
    });
    Ok(PipedBody::new(taken, making).boxed_unsync())
}
