//! Sends an admitted request to its guest or to a replica, or finds its file.

use std::net::IpAddr;
use std::sync::Arc;

use http::{Request, Response};

use super::forward::{self, ForwardedSender};
use super::record::Record;
use super::respond::{self, Body, Exchange, Reserve};
use crate::guests::backend::BackendKind;
use crate::guests::target::Target;
use crate::request::error::RequestError;
use lodge_base::budget::Budget;
use lodge_base::telemetry::traces::{Phase, Tracer};
use lodge_runtime::body::RequestBody;
use lodge_runtime::capabilities::sandbox::RequestContext;
use lodge_traffic::admission::Permit;
use lodge_traffic::proxy::cluster_hop::CLUSTER_HOP;

/// An admitted request, without its head and body.
pub(super) struct Admitted<'a> {
    /// The version that responds.
    pub(super) target: &'a Target,
    /// The proof of admission.
    pub(super) permit: Permit,
    /// The client's address.
    pub(super) client: IpAddr,
    /// The service that calls, if it is a call.
    pub(super) from: Option<&'a str>,
    /// The context of the requests that its guest sends.
    pub(super) context: RequestContext,
    /// Makes the trace context of requests to the backend.
    pub(super) tracer: &'a Tracer,
    /// The budget of complete responses: `listener.unsent`.
    pub(super) unsent: &'a Arc<Budget>,
    /// The record of the request.
    pub(super) record: &'a mut Record,
}

/// Returns the response of the target to an admitted request.
///
/// # Errors
/// Every way in which the service fails to respond.
#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice, and the request with them")]
pub(super) fn dispatch<B: RequestBody>(
    mut admitted: Admitted<'_>,
    mut request: Request<B>,
) -> impl Future<Output = Result<Response<Body>, RequestError>> {
    // The block captures each field of `admitted` by itself, so none of them is stored twice.
    async move {
        let reserve = Reserve { version: request.version(), unsent: admitted.unsent };
        let exchange = Exchange { method: request.method().clone(), deadline: admitted.context.deadline, reserve };
        match &admitted.target.backend.kind {
            BackendKind::Guest(guest) => {
                // A guest that passes on all headers would have its own calls taken for forwarded ones.
                request.headers_mut().remove(CLUSTER_HOP);
                if guest.continues_trace() {
                    admitted.context.onward = admitted.tracer.onward(request.headers()).map(Arc::new);
                }
                admitted.record.begin_phase(Phase::Instantiate);
                let result = match guest.take(exchange.deadline).await {
                    Ok(instance) => {
                        admitted.record.begin_phase(Phase::Guest);
                        guest.call(instance, request, admitted.context).await
                    }
                    Err(error) => Err(error),
                };
                respond::holding(admitted.permit, result, &exchange)
            }
            BackendKind::Files(files) => {
                admitted.record.begin_phase(Phase::Guest);
                let (head, _) = request.into_parts();
                // Neither a disk that hangs nor a client that reads slowly takes sandboxes from other services.
                admitted.permit.return_sandbox();
                let result = Box::pin(files.respond(&head, exchange.deadline)).await;
                respond::sending(admitted.permit, result, &exchange)
            }
            BackendKind::Upstream(upstream) => {
                admitted.record.begin_phase(Phase::Guest);
                let traced = admitted.record.is_traced();
                let onward = if traced { admitted.tracer.onward(request.headers()) } else { None };
                let limit = admitted.permit.until(admitted.context.deadline);
                let (client, depth) = (admitted.client, admitted.context.depth);
                let sender = ForwardedSender { client, depth, service: admitted.from };
                let forwarding = forward::forward(upstream, request, sender, limit, onward);
                let result = Box::pin(forwarding).await;
                respond::relaying(admitted.permit, result, &exchange)
            }
        }
    }
}
