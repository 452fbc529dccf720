//! An admitted request, answered by a guest or by a replica.

use std::net::IpAddr;
use std::sync::Arc;

use http::{Request, Response};

use super::forward;
use super::record::Record;
use super::respond::{self, Body, Exchange, Reserve};
use crate::guests::backend::Backend;
use crate::guests::target::Target;
use lodge_base::budget::Budget;
use lodge_base::telemetry::traces::{Phase, Tracer};
use lodge_runtime::body::RequestBody;
use lodge_runtime::capabilities::sandbox::RequestContext;
use lodge_traffic::admission::Permit;
use lodge_traffic::error::RequestError;

/// Has `target` answer an admitted request.
///
/// # Errors
/// Every way in which the service fails to answer.
#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice, and the request with them")]
pub(super) fn dispatch<B: RequestBody>(
    (tracer, unsent): (&Tracer, &Arc<Budget>),
    target: &Target,
    permit: Permit,
    request: Request<B>,
    client: IpAddr,
    mut context: RequestContext,
    record: &mut Record,
) -> impl Future<Output = Result<Response<Body>, RequestError>> {
    async move {
        let (method, version, deadline) = (request.method().clone(), request.version(), context.deadline);
        let exchange = Exchange { method, deadline, reserve: Reserve { version, unsent } };
        match &target.backend {
            Backend::Guest(guest) => {
                if guest.sends() {
                    context.onward = tracer.onward(request.headers());
                }
                record.begins(Phase::Instantiate);
                let answer = match guest.take(deadline).await {
                    Ok(instance) => {
                        record.begins(Phase::Guest);
                        guest.call(instance, request, context).await
                    }
                    Err(error) => Err(error),
                };
                respond::holding(permit, answer, &exchange)
            }
            Backend::Upstream(upstream) => {
                record.begins(Phase::Guest);
                let onward = if record.is_traced() { tracer.onward(request.headers()) } else { None };
                let answer = Box::pin(forward::forward(upstream, request, client, &context, onward)).await;
                respond::relaying(permit, answer, &exchange)
            }
        }
    }
}
