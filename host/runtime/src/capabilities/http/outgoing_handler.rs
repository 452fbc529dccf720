//! Outgoing requests of `wasi:http` 0.2: `outgoing-handler` and `future-incoming-response`.
//!
//! This replaces wasmtime's implementation, which starts two tasks per request and keeps a request's options for as
//! long as the sandbox lives, so that a reused guest runs out of handles.

use std::pin::Pin;

use http::header::CONTENT_LENGTH;
use http::uri::Scheme;
use http_body_util::{BodyExt, Empty};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi_http::p2::bindings::http::types::{self, ErrorCode, HostFutureIncomingResponse as _};
use wasmtime_wasi_http::p2::body::HostIncomingBody;
use wasmtime_wasi_http::p2::types::{HostFutureIncomingResponse, HostIncomingResponse, HostOutgoingRequest};
use wasmtime_wasi_http::{FieldMap, RequestOptions, WasiBody, WasiHttpHooks, WasiHttpView};

use super::TYPES;
use crate::capabilities::Ctx;
use crate::capabilities::handles::TOO_MANY_HANDLES;
use crate::capabilities::outbox::SendResult;

/// The newest name, as for [`TYPES`].
const HANDLER: &str = "wasi:http/outgoing-handler@0.2.12";

/// The response to an outgoing request.
enum FutureResponse {
    Waiting(Pin<Box<dyn Future<Output = SendResult> + Send>>),
    Ready(SendResult),
    /// The guest has taken the response.
    Taken,
}

#[async_trait]
impl Pollable for FutureResponse {
    async fn ready(&mut self) {
        if let Self::Waiting(response) = self {
            *self = Self::Ready(response.await);
        }
    }
}

/// The result of `get`: `None` while there is no response, an error when the guest has taken it, or the response.
type GetResult = Option<Result<Result<Resource<HostIncomingResponse>, ErrorCode>, ()>>;

/// Replaces these functions in the linker.
pub(super) fn link(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance(TYPES)?;
    types.resource(
        "future-incoming-response",
        ResourceType::host::<FutureResponse>(),
        |mut store: StoreContextMut<'_, Ctx>, rep| {
            store.data_mut().table.delete(Resource::<FutureResponse>::new_own(rep))?;
            Ok(())
        },
    )?;
    types.func_wrap(
        "[method]future-incoming-response.subscribe",
        |mut store, (future,): (Resource<FutureResponse>,)| {
            let pollable: Resource<DynPollable> = subscribe(&mut store.data_mut().table, future)?;
            Ok((pollable,))
        },
    )?;
    types.func_wrap("[method]future-incoming-response.get", |mut store, (future,): (Resource<FutureResponse>,)| {
        Ok((get(store.data_mut(), &future)?,))
    })?;
    linker.allow_shadowing(false);
    type HandleArgs = (Resource<HostOutgoingRequest>, Option<Resource<RequestOptions>>);
    linker.instance(HANDLER)?.func_wrap("handle", |mut store, (request, options): HandleArgs| {
        Ok((handle(store.data_mut(), request, options)?,))
    })
}

fn handle(
    ctx: &mut Ctx,
    request: Resource<HostOutgoingRequest>,
    options: Option<Resource<RequestOptions>>,
) -> wasmtime::Result<Result<Resource<FutureResponse>, ErrorCode>> {
    let options = options.map(|options| ctx.table.delete(options)).transpose()?;
    let request = match outgoing(ctx.table.delete(request)?) {
        Ok(request) => request,
        Err(code) => return Ok(Err(code)),
    };
    let whole = Box::new(std::future::ready(Ok(())));
    let sending = ctx.hooks.send_request(request, options, whole);
    // There is room: the handle of the request is gone.
    let pushed = ctx.table.push(FutureResponse::Waiting(Box::into_pin(sending)));
    Ok(pushed.map_err(|_| too_many_handles()))
}

/// Converts a guest's request to the type that the host uses. Header fields were checked when the guest set them.
fn outgoing(request: HostOutgoingRequest) -> Result<http::Request<WasiBody>, ErrorCode> {
    let HostOutgoingRequest { method, scheme, authority, path_with_query, headers, body } = request;
    let scheme = match scheme {
        Some(types::Scheme::Http) => Scheme::HTTP,
        Some(types::Scheme::Https) | None => Scheme::HTTPS,
        Some(types::Scheme::Other(_)) => return Err(ErrorCode::HttpProtocolError),
    };
    let (authority, path) = (authority.unwrap_or_default(), path_with_query.unwrap_or_else(|| "/".into()));
    let uri = http::Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build();
    let headers = http::HeaderMap::from(headers);
    let empty = headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0");
    let body = match body {
        Some(body) => body,
        None if empty => Empty::new().map_err(|never| match never {}).boxed_unsync(),
        None => return Err(ErrorCode::HttpRequestBodySize(Some(0))),
    };
    let mut request = http::Request::new(body);
    *request.method_mut() = method.try_into().map_err(|_| ErrorCode::HttpRequestMethodInvalid)?;
    *request.uri_mut() = uri.map_err(|_| ErrorCode::HttpRequestUriInvalid)?;
    *request.headers_mut() = headers;
    Ok(request)
}

fn get(ctx: &mut Ctx, future: &Resource<FutureResponse>) -> wasmtime::Result<GetResult> {
    let future = ctx.table.get_mut(future)?;
    let result = match std::mem::replace(future, FutureResponse::Taken) {
        FutureResponse::Ready(result) => result,
        FutureResponse::Taken => return Ok(Some(Err(()))),
        waiting => {
            *future = waiting;
            return Ok(None);
        }
    };
    let (response, _) = match result {
        Ok(result) => result,
        Err(error) => {
            // wasmtime's conversion from errors to codes is private, so it is reached through `get`.
            let failed = HostFutureIncomingResponse::Ready(Err(error));
            let Ok(failed) = ctx.table.push(failed) else { return Ok(Some(Ok(Err(too_many_handles())))) };
            let code = ctx.http().get(Resource::new_borrow(failed.rep()));
            ctx.table.delete(failed)?;
            return code;
        }
    };
    let (head, body) = response.into_parts();
    let headers = FieldMap::new_immutable(&mut ctx.hooks, head.headers);
    let body = Some(HostIncomingBody::new(body));
    let response = HostIncomingResponse { status: head.status.as_u16(), headers, body };
    Ok(Some(Ok(ctx.table.push(response).map_err(|_| too_many_handles()))))
}

fn too_many_handles() -> ErrorCode {
    ErrorCode::InternalError(Some(TOO_MANY_HANDLES.into()))
}
