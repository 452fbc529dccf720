//! A call of a guest to another service of this host or, if that is in a cluster and has no such service, of another host. The callee has its own permit, limits, record and trace, as for a
//! client; no socket is involved on this host.
//!
//! The call is a future of its caller: when the caller drops its request, the callee is cancelled
//! (`capabilities/outbox.rs`).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{Request, Response};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;
use wasmtime_wasi::runtime::spawn;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use crate::guests::target::Target;
use crate::request::handler::{Call, Handler};
use crate::request::respond::Body;
use lodge_runtime::capabilities::outbox::{SendFuture, complete};
use lodge_runtime::capabilities::sandbox::{RequestContext, Sandbox};
use lodge_runtime::outgoing::timeouts::{PipedBody, TimedBody, within};
use lodge_runtime::outgoing::{Egress, LocalCalls, response_deadline};

/// Frames of a response that are buffered for the caller, besides the one that is being sent.
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
            egress.service.metrics.calls.fetch_add(1, Relaxed);
            let end = response_deadline(&context);
            // Pinned in this future: it has some kilobytes, which would be moved into the future of `within`.
            let elsewhere = self.elsewhere(&host).await;
            let responding = pin!(respond(self, egress, (host, elsewhere), context, request));
            let response = within(options.first_byte_timeout, Error::HttpResponseTimeout, responding).await??;
            complete(response.map(|body| {
                TimedBody::new(body, options.between_bytes_timeout, end, sandbox.hold_response_body()).boxed_unsync()
            }))
        })
    }
}

impl Handler {
    /// Returns the service of other hosts of the cluster to which a call goes; `None` if this host has files of this name, whether or
    /// not it serves them, is still looking at its files, or does not call other hosts.
    async fn elsewhere(&self, host: &str) -> Option<Arc<Target>> {
        let remote = self.remote.get()?;
        let is_here = {
            let snapshot = self.current.snapshot();
            snapshot.generation == 0 || snapshot.hosts.contains_key(host) || snapshot.absent.has(host)
        };
        // Most calls are to services of this host: their futures have no room for this one.
        if is_here { None } else { Box::pin(remote.target(host)).await }
    }
}

async fn respond(
    handler: Arc<Handler>,
    egress: Arc<Egress>,
    (host, elsewhere): (String, Option<Arc<Target>>),
    context: RequestContext,
    mut request: Request<WasiBody>,
) -> Result<Response<WasiBody>, Error> {
    let RequestContext { request_id, deadline, depth, onward } = context;
    if let Some(onward) = onward {
        onward.inject(request.headers_mut());
    }
    let (from, elsewhere) = (Some(&*egress.service.name), elsewhere.as_ref());
    let call = Call { host: &host, elsewhere, from, request_id, deadline, depth: depth + 1 };
    let response = handler.respond(&egress.peer, Some(&call), request).await;
    let (head, body) = response.into_parts();
    Ok(Response::from_parts(head, deliver(body).await?))
}

/// Converts the body of a callee's response. A complete body is handed over at once, which ends the callee; any other
/// is streamed by a task, at the pace of the caller.
async fn deliver(body: Body) -> Result<WasiBody, Error> {
    if body.size_hint().exact().is_some() {
        let whole = body.collect().await.map_err(|_| Error::HttpResponseIncomplete)?;
        return Ok(Full::new(whole.to_bytes()).map_err(|never| match never {}).boxed_unsync());
    }
    let (frames, taken) = mpsc::channel(FRAMES);
    let making = spawn(async move {
        let mut body = body;
        while let Some(frame) = body.frame().await {
            // The caller must see that the body is incomplete, as a client would.
            if frames.send(frame.map_err(|_| Error::HttpResponseIncomplete)).await.is_err() {
                return;
            }
        }
        // The callee is counted and its permit returned before the caller sees the end.
        drop(body);
    });
    Ok(PipedBody::new(taken, making).boxed_unsync())
}
