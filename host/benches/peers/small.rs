//! The parts of Lodge alone: hyper, and wasmtime in hyper without limits or policies. The benchmark program runs each
//! as a server of its own.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{AsContextMut, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::handler::{Proxy, ProxyPre};
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView, p2, p3};

/// A hyper handler without WebAssembly: the lower bound.
pub(crate) fn hyper(address: SocketAddr) {
    serve(address, |_| async { Response::new(Full::new(Bytes::from_static(b"Hello, World!"))) });
}

/// Reads any request body.
pub(crate) fn collector(address: SocketAddr) {
    serve(address, |request| async {
        let _ = request.into_body().collect().await;
        Response::new(Full::new(Bytes::new()))
    });
}

/// Serves a component: with a new instance per request or with the `same` ones again, without limits, ids, timeouts,
/// admission and log. `concurrent` is for wasi:http 0.3, which needs an engine with that feature.
pub(crate) fn embedded(address: SocketAddr, wasm: &Path, same: bool, concurrent: bool) {
    let mut pool = PoolingAllocationConfig::new();
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Yes).linear_memory_keep_resident(2 << 20).table_keep_resident(100 << 10);
    }
    let mut config = wasmtime::Config::new();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config.wasm_component_model_async(concurrent).concurrency_support(concurrent);
    let engine = Engine::new(&config).expect("an engine");
    let component = Component::from_file(&engine, wasm).expect("a component");
    let mut linker = Linker::<State>::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("wasi");
    p2::add_only_http_to_linker_async(&mut linker).expect("wasi:http");
    if concurrent {
        wasmtime_wasi::p3::add_to_linker(&mut linker).expect("wasi");
        p3::add_to_linker(&mut linker).expect("wasi:http");
    }
    let pre = linker.instantiate_pre(&component).expect("a component whose imports are here");
    let pre = match concurrent {
        false => ProxyPre::P2(p2::bindings::ProxyPre::new(pre).expect("a service")),
        true => ProxyPre::P3(p3::bindings::ServicePre::new(pre).expect("a service")),
    };
    let pre = Arc::new(pre);
    let idle = same.then(Arc::default);
    serve(address, move |request| answer(Arc::clone(&pre), idle.clone(), request));
}

type Idle = Arc<Mutex<Vec<(Store<State>, Proxy)>>>;

type Head = Arc<Mutex<Option<Result<Response<WasiBody>, Error>>>>;

async fn answer(pre: Arc<ProxyPre<State>>, idle: Option<Idle>, request: Request<Incoming>) -> Response<Answer> {
    let head = Head::default();
    let answered = Arc::clone(&head);
    let mut work: Work = Box::pin(async move {
        let warm = idle.as_ref().and_then(|idle| idle.lock().expect("no panic").pop());
        let (mut store, proxy) = match warm {
            Some(warm) => warm,
            None => {
                let engine = match &*pre {
                    ProxyPre::P2(pre) => pre.engine(),
                    ProxyPre::P3(pre) => pre.engine(),
                };
                let mut store = Store::new(engine, State::default());
                let proxy = pre.instantiate_async(&mut store).await.expect("an instance");
                (store, proxy)
            }
        };
        let request = request.map(|body| body.map_err(Error::from));
        match &proxy {
            Proxy::P2(proxy) => call_02(&mut store, proxy, request, answered).await,
            Proxy::P3(proxy) => call_03(&mut store, proxy, request, answered).await,
        }
        .expect("an answer");
        if let Some(idle) = idle {
            idle.lock().expect("no panic").push((store, proxy));
        }
    });
    let (response, done) = poll_fn(|cx| {
        let done = work.as_mut().poll(cx).is_ready();
        match head.lock().expect("no panic").take() {
            Some(Ok(response)) => Poll::Ready((response, done)),
            Some(Err(code)) => panic!("{code:?}"),
            None => Poll::Pending,
        }
    })
    .await;
    response.map(|inner| Answer { inner, work: (!done).then_some(work) })
}

async fn call_02<B>(
    store: &mut Store<State>,
    proxy: &p2::bindings::Proxy,
    request: Request<B>,
    answered: Head,
) -> wasmtime::Result<()>
where
    B: Body<Data = Bytes, Error = Error> + Send + 'static,
{
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(Scheme::Http, request)?;
    let outparam = http.new_response_outparam_from_callback(move |answer| {
        *answered.lock().expect("no panic") = Some(answer.map_err(Into::into));
    })?;
    proxy.wasi_http_incoming_handler().call_handle(store, request, outparam).await
}

async fn call_03<B>(
    store: &mut Store<State>,
    proxy: &p3::bindings::Service,
    request: Request<B>,
    answered: Head,
) -> wasmtime::Result<()>
where
    B: Body<Data = Bytes, Error = Error> + Send + 'static,
{
    let (request, sent) = p3::Request::from_http(store.data_mut().http().hooks, request);
    let outcome = store.run_concurrent(async |accessor| {
        let answer = proxy.handle(accessor, request).await?.expect("an answer");
        let answer = accessor.with(|mut store| answer.into_http(store.as_context_mut(), sent))?;
        *answered.lock().expect("no panic") = Some(Ok(answer));
        poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
        wasmtime::Result::Ok(())
    });
    outcome.await?
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The body of a guest's response, and the guest that still writes it.
struct Answer {
    inner: WasiBody,
    work: Option<Work>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        this.work.take_if(|work| work.as_mut().poll(cx).is_ready());
        Pin::new(&mut this.inner).poll_frame(cx)
    }
}

#[derive(Default)]
struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks,
}

#[derive(Default)]
struct Hooks;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        _: Request<WasiBody>,
        _: Option<wasmtime_wasi_http::RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(std::future::ready(Err(Error::HttpRequestDenied)))
    }
}

type Sent = Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

fn serve<F, B>(address: SocketAddr, handler: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static)
where
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await.expect("a free address");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("a socket");
            let handler = handler.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = handler(request);
                    async { Ok::<_, Infallible>(answer.await) }
                });
                let connection = auto::Builder::new(TokioExecutor::new());
                let _ = connection.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
}
