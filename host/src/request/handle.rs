//! The whole request path. Every step returns what the next one needs, or an error.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::HeaderValue;
use http::uri::Scheme;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};

use super::admit::{Routed, Ruled, admit_and_dispatch, check_limits};
use super::cached::{self, CacheUse};
use super::front::{self, ClientFront};
use super::identify::{self, Unidentified};
use super::login::{self, LoginRequest};
use super::record::Record;
use super::respond::{Body, moved};
use super::rules;
use super::validate::{self, Unvalidated};
use crate::certificates::acme::proofs;
use crate::guests::absent::AbsenceReason;
use crate::guests::snapshot::{Snapshot, Unserved};
use crate::guests::target::Target;
use crate::request::error::RequestError;
use crate::request::handler::{Caller, Handler};
use lodge_base::telemetry::traces::Phase;
use lodge_manifest::cache::Rules;
use lodge_runtime::body::RequestBody;
use lodge_traffic::auth::denial::AuthDenial;
use lodge_traffic::proxy::cluster_hop::{CLUSTER_HOP, ClusterHop};
use lodge_traffic::proxy::cors::{self, CorsRequest};
use lodge_traffic::proxy::headers;
use lodge_traffic::proxy::headers::Arrival;
use lodge_traffic::routing::router::{Match, Missed};
use lodge_traffic::routing::split::Split;
use lodge_traffic::static_files::BarePrefix;

/// The port of HTTPS that a URL need not name.
const HTTPS_PORT: u16 = 443;

/// The methods that services may handle. CONNECT is not among them: it is for proxies.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE";

/// A request in canonical form.
enum Arrived<'a, B> {
    /// For the host itself: its response.
    Host(Response<Body>),
    /// For a service. The response is neither stored nor read from the cache.
    Direct(Routed<'a>, Request<B>),
    /// For a service, through the cache.
    Cached(Routed<'a>, Request<B>, CacheUse<'a>),
    /// For a service, as soon as it is known whose it is.
    Unidentified(Box<Unidentified<'a, B>>),
    /// For the login of a service.
    Login(Box<LoginRequest<'a>>),
    /// For a service, once its body is read and found valid.
    Unvalidated(Box<Unvalidated<'a, B>>),
}

/// What the routes say of a request.
enum RouteOutcome<'a> {
    /// It is redirected: the response.
    Redirect(Response<Body>),
    /// It is for a service, with the cache rules of its route and the URI that they apply to.
    Service(Routed<'a>, Option<(Rules, Uri)>),
}

/// Returns the response to a request, with the first frames of its body.
///
/// # Errors
/// Every way in which a request fails before the head of its response is sent.
pub fn handle<'a, B: RequestBody>(
    handler: &'a Handler,
    caller: &'a Caller<'a>,
    request: Request<B>,
    record: &mut Record,
) -> impl Future<Output = Result<Response<Body>, RequestError>> {
    // Computed before the future exists, and matched without `?`: a future stores every value that is borrowed or
    // partly moved before it waits, and this one is moved for each request. It has 3.1 KB this way, and 4.7 KB
    // otherwise.
    let arrived = arrive(handler, caller, request, record);
    async move {
        match arrived {
            Ok(Arrived::Host(response)) => Ok(response),
            Ok(Arrived::Direct(routed, request)) => admit_and_dispatch(routed, request, None, record).await,
            // What only some requests need is in a box, or the future of every request would have room for it.
            Ok(Arrived::Cached(routed, request, cache)) => {
                Box::pin(cached::handle(routed, request, cache, record)).await
            }
            Ok(Arrived::Unidentified(request)) => Box::pin(request.handle(record)).await,
            Ok(Arrived::Login(request)) => Box::pin(request.handle(record)).await,
            Ok(Arrived::Unvalidated(request)) => Box::pin(request.handle(record)).await,
            Err(error) => Err(error),
        }
    }
}

/// Brings the head of a request into canonical form and finds its service.
fn arrive<'a, B: RequestBody>(
    handler: &'a Handler,
    caller: &'a Caller<'a>,
    request: Request<B>,
    record: &mut Record,
) -> Result<Arrived<'a, B>, RequestError> {
    let (mut head, body) = request.into_parts();
    // Before anything writes or shows headers: it may have a key.
    let forwarded = forwarded(handler, caller, &mut head.headers);
    if handler.logs.requests.wanted() {
        record.set_details(&handler.logs, caller.peer.address(), &head);
    }
    record.begin_phase(Phase::Route);
    let arrival = headers::normalize(&mut head, caller.peer);
    record.set_request(&head, caller.peer.address());
    let arrival = arrival?;
    if head.extensions.get::<headers::TooManyFields>().is_some() {
        return Err(RequestError::TooManyFields);
    }
    // Its connection ends then, but a client of HTTP/2 may send requests until it takes notice.
    if caller.peer.valid_until().is_some_and(|end| end <= SystemTime::now()) {
        return Err(AuthDenial::expired_certificate().into());
    }
    if head.uri.path() == "*" {
        return Ok(Arrived::Host(options(handler, record)));
    }
    if let Some(response) = proof(handler, caller, &head, record) {
        return Ok(Arrived::Host(response));
    }
    if let Some(port) = handler.redirect.filter(|_| caller.call.is_none())
        && let Some(location) = secure_location(&head.uri, port)
    {
        return Ok(Arrived::Host(redirect(handler, &location, record)));
    }
    if let Some(response) = preflight(handler, caller, arrival, &head, record) {
        return Ok(Arrived::Host(response));
    }
    let (mut routed, rules) = match route(handler, caller, (arrival, forwarded), &mut head, record)? {
        RouteOutcome::Redirect(response) => return Ok(Arrived::Host(response)),
        RouteOutcome::Service(routed, rules) => (routed, rules),
    };
    check_limits(&routed, &head.headers, &body)?;
    if let Some(path) = login::path(&routed, &head.method)? {
        return Ok(Arrived::Login(Box::new(LoginRequest::new(path, routed, head.headers))));
    }
    let mut request = Request::from_parts(head, body);
    // A call gets no stored response, but it may invalidate some.
    let responses = handler.responses.as_ref().filter(|_| rules.is_some() || caller.call.is_some());
    let mut cache = responses.map(|responses| CacheUse { responses, rules });
    if let Err(error) = identify::identify(&mut routed, request.headers_mut(), record) {
        let pending = identify::may_change(&routed, request.headers(), error, record)?;
        return Ok(Arrived::Unidentified(Box::new(Unidentified { pending, routed, request, cache })));
    }
    rules::apply(&mut routed, &mut request, &mut cache, record)?;
    Ok(match (validate::expected(&routed, &request, record)?, cache) {
        (Some(expected), cache) => Arrived::Unvalidated(Box::new(Unvalidated { expected, routed, request, cache })),
        (None, Some(cache)) => Arrived::Cached(routed, request, cache),
        (None, None) => Arrived::Direct(routed, request),
    })
}

/// Finds the service and the version for a request, and the cache rules of its route with the URI that they apply to.
/// Reads one snapshot, and releases it before the first wait: a slow guest must not keep an old snapshot in memory.
fn route<'a>(
    handler: &'a Handler,
    caller: &'a Caller<'a>,
    (arrival, forwarded): (Arrival, Option<ClusterHop>),
    head: &mut http::request::Parts,
    record: &mut Record,
) -> Result<RouteOutcome<'a>, RequestError> {
    let snapshot = handler.current.snapshot();
    let names = handler.service_hosts.admits(arrival.local);
    match find(&snapshot, caller, head, names) {
        Ok(found) => {
            let name = &found.target.deployment().name;
            if forwarded.as_ref().is_some_and(|hop| *hop.service != **name) {
                return Err(Missed::Route.into());
            }
            let pages = found.target.pages(found.number);
            record.front = found.front.map(|front| Box::new(ClientFront::new(front, pages, head)));
            let redirect = front::redirect(found.target, caller, head);
            let rules = found.cache.map(|rules| (rules, head.uri.clone()));
            let (service, route) = (found.target, found.number);
            let split = service.split.as_ref();
            let choose = |split: &Split<Target>| {
                let choice = split.choose(&head.headers, caller.client, record.start());
                (choice.version.cloned(), choice.judged)
            };
            let (version, judged) = split.map_or((None, false), choose);
            let target = version.unwrap_or_else(|| Arc::clone(service));
            record.set_route(target.deployment(), found.route);
            if let Some(audit) = &handler.audit
                && service.deployment().spec.manifest.policies.audits(route)
            {
                record.set_audit(audit, caller.client, head, found.route);
            }
            let browser = login::browser(&target, caller, head, record.front.as_deref());
            // After the record has the path that the client sent.
            if let Some(path) = found.rewrite {
                headers::rewrite(head, found.prefix, path)?;
            } else if found.prefix > 0 {
                // What is found relative to this path depends on it.
                if found.prefix == head.uri.path().len() && service.backend.is_files() {
                    head.extensions.insert(BarePrefix);
                }
                headers::strip_prefix(head, found.prefix)?;
            }
            // Rules see the path that the service sees, which is the same on every way to it.
            let ruled = Ruled::of(service, found.route, &head.uri);
            if service.is_disabled() {
                return Err(RequestError::Disabled);
            }
            if let Some((status, location)) = redirect {
                return Ok(RouteOutcome::Redirect(moved(status, location)));
            }
            let mirror = split.and_then(Split::mirror).filter(|version| !Arc::ptr_eq(version, &target));
            let mirror = mirror.map(|version| (Arc::clone(version), Arc::clone(found.route)));
            // The depth includes the passes through this host that `Via` shows, for requests that return over the
            // network.
            let depth = caller.call.map_or(0, |call| call.depth).max(handler.via.count(&head.headers));
            let word = forwarded.as_ref().and_then(|hop| handler.word_of(hop, record.start())).map(Box::new);
            let depth = forwarded.map_or(depth, |hop| depth.max(hop.calls));
            let identity = None;
            let routed =
                Routed { handler, caller, target, route, mirror, judged, depth, word, identity, browser, ruled };
            Ok(RouteOutcome::Service(routed, rules))
        }
        // Before the first scan of the directory.
        Err(Unserved::Missed(Missed::Route)) if snapshot.generation == 0 => Err(RequestError::Starting),
        Err(Unserved::Missed(missed)) => Err(missed.into()),
        Err(Unserved::Absent(AbsenceReason::Starting)) => Err(RequestError::Starting),
        Err(Unserved::Absent(AbsenceReason::Disabled)) => Err(RequestError::Disabled),
        Err(Unserved::Absent(AbsenceReason::Refused(why))) => Err(RequestError::Refused(why.clone(), handler.explains)),
    }
}

/// Returns what another host of the cluster says of a request that it forwards. Elsewhere the header means nothing: neither on a host
/// in no cluster, nor in a call inside the host, whose guest may write what it wants.
fn forwarded(handler: &Handler, caller: &Caller<'_>, headers: &mut HeaderMap) -> Option<ClusterHop> {
    if handler.cluster.is_none() || caller.call.is_some() {
        headers.remove(CLUSTER_HOP);
    }
    ClusterHop::take(headers)
}

/// Returns the route for a request. Clients use the routes, or the name of a service if `names` allows it; guests of this host
/// use the name, which may be that of a service of other hosts.
fn find<'a>(
    snapshot: &'a Snapshot,
    caller: &Caller<'a>,
    head: &http::request::Parts,
    names: bool,
) -> Result<Match<'a, Arc<Target>>, Unserved<'a>> {
    let Some(call) = caller.call else {
        let authority = head.uri.authority().map_or("", |authority| authority.as_str());
        return snapshot.find(authority, head.uri.path(), &head.method, names);
    };
    let target = snapshot.hosts.get(call.host).or(call.elsewhere);
    let unserved = || snapshot.absent.called(call.host).map_or(Unserved::Missed(Missed::Route), Unserved::Absent);
    let target = target.ok_or_else(unserved)?;
    // No cache rules: a service may respond to a guest differently, and no `Vary` expresses that.
    Ok(Match {
        target,
        route: &snapshot.everywhere,
        number: usize::MAX,
        prefix: 0,
        rewrite: None,
        cache: None,
        front: None,
    })
}

/// Returns the response to `OPTIONS *`, which is about the server and not about a service (RFC 9110 9.3.7).
fn options(handler: &Handler, record: &mut Record) -> Response<Body> {
    record.set_host_response(&handler.unmatched);
    let mut response = Response::new(Body::text(None));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(METHODS));
    response
}

/// Returns the response to a preflight (CORS), if the route for the method that it asks for has rules for pages of other
/// origins. A preflight has no credentials, so none are needed.
fn preflight(
    handler: &Handler,
    caller: &Caller<'_>,
    arrival: Arrival,
    head: &http::request::Parts,
    record: &mut Record,
) -> Option<Response<Body>> {
    let method = cors::preflight(head).filter(|_| caller.call.is_none())?;
    let snapshot = handler.current.snapshot();
    let authority = head.uri.authority().map_or("", |authority| authority.as_str());
    let names = handler.service_hosts.admits(arrival.local);
    let found = snapshot.find(authority, head.uri.path(), &method, names).ok()?;
    let rules = CorsRequest::new(found.front?.cors.as_ref()?, &head.headers);
    record.set_route(found.target.deployment(), found.route);
    let mut response = Response::new(Body::text(None));
    *response.status_mut() = StatusCode::NO_CONTENT;
    rules.write_preflight(&method, response.headers_mut());
    Some(response)
}

/// Returns the response to an authority of certificates that looks for the proof of an order in progress. Other requests below this
/// path are for services, one of which may give proofs of its own.
fn proof(
    handler: &Handler,
    caller: &Caller<'_>,
    head: &http::request::Parts,
    record: &mut Record,
) -> Option<Response<Body>> {
    let reads = caller.call.is_none() && matches!(head.method, Method::GET | Method::HEAD);
    let proof = handler.proofs.as_ref().filter(|_| reads)?.response(head.uri.path())?;
    record.set_host_response(&handler.unmatched);
    let length = HeaderValue::from(proof.len());
    let mut response = Response::new(Body::text(Some(proof).filter(|_| head.method == Method::GET)));
    response.headers_mut().insert(header::CONTENT_LENGTH, length);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Some(response)
}

/// Returns the URL of a request over HTTPS at this port; `None` if it came over TLS, or must not be redirected.
fn secure_location(uri: &Uri, port: u16) -> Option<String> {
    if uri.scheme() == Some(&Scheme::HTTPS) || uri.path().starts_with(proofs::PATH) {
        return None;
    }
    let port = if port == HTTPS_PORT { String::new() } else { format!(":{port}") };
    Some(format!("https://{}{port}{}", uri.host()?, uri.path_and_query()?))
}

/// Returns the response that redirects to HTTPS, with the same method and body (RFC 9110 15.4.9).
fn redirect(handler: &Handler, location: &str, record: &mut Record) -> Response<Body> {
    record.set_host_response(&handler.unmatched);
    // The parts of a URI are valid in a header.
    moved(StatusCode::PERMANENT_REDIRECT, HeaderValue::try_from(location).unwrap_or(HeaderValue::from_static("/")))
}
