//! Admission: waits until a routed request may run, then sends it, and its copy if it is mirrored.

use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response, Uri, header};

use super::dispatch::{Admitted, dispatch};
use super::mirror;
use super::record::Record;
use super::respond::Body;
use crate::guests::target::Target;
use crate::request::error::RequestError;
use crate::request::handler::{Caller, Handler};
use lodge_base::telemetry::traces::Phase;
use lodge_runtime::body::RequestBody;
use lodge_runtime::capabilities::sandbox::RequestContext;
use lodge_traffic::admission::{Permit, Refusal, RequestView};
use lodge_traffic::auth::identity::Identity;
use lodge_traffic::auth::login::browser::BrowserRequest;
use lodge_traffic::cache::CacheFill;
use lodge_traffic::proxy::body::BodyError;
use lodge_traffic::proxy::via::TooManyHops;

/// A request with the service and version that handle it.
pub(super) struct Routed<'a> {
    pub(super) handler: &'a Handler,
    pub(super) caller: &'a Caller<'a>,
    /// The version that responds.
    pub(super) target: Arc<Target>,
    /// The number of the service's route that matched.
    pub(super) route: usize,
    /// The version that receives a copy of the request, and the name of the route.
    pub(super) mirror: Option<(Arc<Target>, Arc<str>)>,
    /// Whether the result counts in the comparison of versions.
    pub(super) judged: bool,
    /// The number of calls between services that led to the request.
    pub(super) depth: usize,
    /// When the time is over that another host, which has forwarded the request, has for it.
    pub(super) until: Option<Instant>,
    /// Whose request it is, if its route needs credentials.
    pub(super) identity: Option<Arc<Identity>>,
    /// What a login needs of the request, if browsers can log in at its service.
    pub(super) browser: Option<Box<BrowserRequest>>,
    /// What the rules of its service need, until they are applied; `None` if it has none.
    pub(super) ruled: Option<Box<Ruled>>,
}

/// What the rules of a request's service need besides the request.
pub(super) struct Ruled {
    /// The service with the rules, and with the versions among which they choose.
    pub(super) service: Arc<Target>,
    /// The route, as metrics name it.
    pub(super) route: Arc<str>,
    /// The URI as it came to the service.
    pub(super) uri: Uri,
}

impl Ruled {
    /// Returns it for a request to this service; `None` if that has no rules.
    pub(super) fn of(service: &Arc<Target>, route: &Arc<str>, uri: &Uri) -> Option<Box<Self>> {
        service.deployment().rules.as_ref()?;
        Some(Box::new(Self { service: Arc::clone(service), route: Arc::clone(route), uri: uri.clone() }))
    }
}

/// Refuses a request at the end of too long a chain of calls, and one whose `Content-Length` is over the limit, before a sandbox is
/// made for it.
pub(super) fn check_limits<B: RequestBody>(
    routed: &Routed<'_>,
    headers: &http::HeaderMap,
    body: &B,
) -> Result<(), RequestError> {
    let limits = routed.target.deployment().limits();
    if routed.depth > limits.call_depth {
        return Err(TooManyHops.into());
    }
    let limit = limits.request_body as u64;
    let announced = body.size_hint().exact().filter(|_| headers.contains_key(header::CONTENT_LENGTH));
    if announced.is_some_and(|size| size > limit) { Err(BodyError::TooLarge.into()) } else { Ok(()) }
}

/// Admits a request and sends it to its service. If the request is mirrored, also sends a copy to another version.
#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice, and the request with them")]
pub(super) fn admit_and_dispatch<B: RequestBody>(
    routed: Routed<'_>,
    mut request: Request<B>,
    fill: Option<&mut CacheFill>,
    record: &mut Record,
) -> impl Future<Output = Result<Response<Body>, RequestError>> {
    async move {
        let admitted = admit(&routed, request.headers(), fill, record).await?;
        if let Some(front) = &admitted.record.front {
            front.change_request(request.headers_mut());
        }
        // In a box, here and below: the future of a request is moved several times before this, and would be twice as large.
        let Some((version, route)) = &routed.mirror else { return Box::pin(dispatch(admitted, request)).await };
        let (request, copy) = mirror::duplicate(request);
        let (version, route) = (Arc::clone(version), Arc::clone(route));
        let (client, context, unsent) = (admitted.client, admitted.context.clone(), Arc::clone(admitted.unsent));
        tokio::spawn(mirror::run((version, route, routed.judged), copy, client, context, unsent));
        Box::pin(dispatch(admitted, request)).await
    }
}

/// Waits until the request may run.
pub(super) async fn admit<'a>(
    routed: &'a Routed<'_>,
    headers: &http::HeaderMap,
    fill: Option<&mut CacheFill>,
    record: &'a mut Record,
) -> Result<Admitted<'a>, Refusal> {
    let (caller, target) = (routed.caller, &*routed.target);
    record.begin_phase(Phase::Queue);
    let mut permit = target.admission.admit(&routed.view(headers), record.start()).await?;
    if routed.judged {
        permit.judge(&target.deployment().service.metrics.judged, record.start());
    }
    let own = record.record_admission(&permit) + target.deployment().limits().wall;
    let deadline = caller.call.map_or(own, |call| own.min(call.deadline));
    let deadline = routed.until.map_or(deadline, |until| deadline.min(until));
    fill.into_iter().for_each(|fill| fill.begin(deadline));
    Ok(routed.admitted(permit, deadline, record))
}

impl Routed<'_> {
    /// Returns what the policies of the service see of the request with these headers.
    pub(super) fn view<'a>(&'a self, headers: &'a http::HeaderMap) -> RequestView<'a> {
        RequestView { identity: self.identity.as_deref(), ..self.caller.view(headers, self.route) }
    }

    /// Returns the input of [`dispatch`] for a request with this permit and deadline.
    pub(super) fn admitted<'a>(&'a self, permit: Permit, deadline: Instant, record: &'a mut Record) -> Admitted<'a> {
        let Handler { tracer, unsent, .. } = self.handler;
        let request_id = Arc::clone(record.request_id());
        let context = RequestContext { request_id, deadline, depth: self.depth, onward: None };
        Admitted { target: &self.target, permit, client: self.caller.client, context, tracer, unsent, record }
    }
}
