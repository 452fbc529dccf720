//! Admission: waits until a routed request may run, then sends it, and its copy if it is mirrored.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response, Uri, header};

use super::dispatch::{Admitted, dispatch};
use super::mirror;
use super::record::Record;
use super::respond::{Body, ResponseCheck};
use super::trailers::GuardedBody;
use crate::guests::target::Target;
use crate::request::error::RequestError;
use crate::request::handler::{Caller, Handler, HostWord};
use lodge_base::telemetry::traces::Phase;
use lodge_runtime::body::RequestBody;
use lodge_runtime::capabilities::sandbox::RequestContext;
use lodge_traffic::admission::{Permit, Refusal, RequestView, TimeLimit};
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
    /// What another host of the cluster says, if one has forwarded the request.
    pub(super) word: Option<Box<HostWord>>,
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
    request: Request<B>,
    fill: Option<&mut CacheFill>,
    record: &mut Record,
) -> impl Future<Output = Result<Response<Body>, RequestError>> {
    async move {
        let check = ResponseCheck::of(&routed.target, routed.route, &request, record.request_id());
        let admitted = admit(&routed, request.headers(), fill, record).await?;
        let response = send(&routed, admitted, request).await?;
        Ok(match check {
            Some(check) => check.begin(response),
            None => response,
        })
    }
}

/// Sends an admitted request to its service, and a copy to another version if it is mirrored.
///
/// The rest is in a box: the future of a request is moved several times before this, and would be twice as large. This is no
/// `async fn`, so that it does not store `admitted` and the request beside it.
fn send<'a, B: RequestBody>(
    routed: &Routed<'_>,
    admitted: Admitted<'a>,
    mut request: Request<B>,
) -> Pin<Box<dyn Future<Output = Result<Response<Body>, RequestError>> + Send + 'a>> {
    if let Some(front) = &admitted.record.front {
        front.change_request(request.headers_mut());
    }
    let front = admitted.record.front.as_deref();
    let request = request.map(|body| GuardedBody::new(body, &routed.target, routed.route, front));
    let Some((version, route)) = &routed.mirror else { return Box::pin(dispatch(admitted, request)) };
    let (request, copy) = mirror::duplicate(request);
    let (version, route) = (Arc::clone(version), Arc::clone(route));
    let (client, context, unsent) = (admitted.client, admitted.context.clone(), Arc::clone(admitted.unsent));
    tokio::spawn(mirror::run((version, route, routed.judged), copy, client, context, unsent));
    Box::pin(dispatch(admitted, request))
}

/// Waits until the request may run.
pub(super) async fn admit<'a>(
    routed: &'a Routed<'_>,
    headers: &http::HeaderMap,
    fill: Option<&mut CacheFill>,
    record: &'a mut Record,
) -> Result<Admitted<'a>, Refusal> {
    let target = &*routed.target;
    record.begin_phase(Phase::Queue);
    let mut permit = target.admission.admit(&routed.view(headers), record.start()).await?;
    if routed.judged {
        permit.judge(&target.deployment().service.metrics.judged, record.start());
    }
    let deadline = routed.limit(&mut permit, record).deadline;
    fill.into_iter().for_each(|fill| fill.begin(deadline));
    Ok(routed.admitted(permit, deadline, record))
}

impl Routed<'_> {
    /// Returns what the policies of the service see of the request with these headers.
    pub(super) fn view<'a>(&'a self, headers: &'a http::HeaderMap) -> RequestView<'a> {
        let calling = self.calling();
        RequestView { identity: self.identity.as_deref(), calling, ..self.caller.view(headers, self.route) }
    }

    /// Returns the service of another host that calls, if that forwards the request.
    pub(super) fn calling(&self) -> Option<&str> {
        self.word.as_ref()?.calling.as_deref()
    }

    /// Returns the time of an admitted request, which begins now, and sets it for the permit.
    pub(super) fn limit(&self, permit: &mut Permit, record: &mut Record) -> TimeLimit {
        let until = self
            .caller
            .call
            .map(|call| call.deadline)
            .into_iter()
            .chain(self.word.as_ref().map(|word| word.until))
            .min();
        let limit = TimeLimit::new(record.record_admission(permit), self.target.deployment().limits().wall, until);
        permit.limit(limit, record.start());
        limit
    }

    /// Returns the input of [`dispatch`] for a request with this permit and deadline.
    pub(super) fn admitted<'a>(&'a self, permit: Permit, deadline: Instant, record: &'a mut Record) -> Admitted<'a> {
        let Handler { tracer, unsent, .. } = self.handler;
        let request_id = Arc::clone(record.request_id());
        let context = RequestContext { request_id, deadline, depth: self.depth, onward: None };
        let (client, from) = (self.caller.client, self.caller.call.and_then(|call| call.from));
        Admitted { target: &self.target, permit, client, from, context, tracer, unsent, record }
    }
}
