//! The operator's listener: `/healthz` (the process runs), `/readyz` (it may be sent requests) and `/v1/services` (what
//! became of every file, as JSON).
//!
//! `/readyz` is 200 once every file was loaded or refused, and 503 again from the moment the host is told to stop.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::drain::Told;
use crate::guests::report;
use crate::guests::snapshot::Current;
use crate::request::respond::{self, Body};

/// Connections of operators and probes at once.
const CONNECTIONS: usize = 64;

/// What the listener tells.
pub struct Admin {
    /// What is served.
    pub current: Current,
    /// Whether the host is stopping.
    pub told: Told,
}

/// Answers until it is dropped: probes ask until the very end.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("admin: accept: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&admin, &request))));
            let mut http = hyper::server::conn::http1::Builder::new();
            let http = http.timer(TokioTimer::new()).header_read_timeout(std::time::Duration::from_secs(10));
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!("admin: {error}");
            }
            drop(place);
        });
    }
}

fn answer(admin: &Admin, request: &Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/healthz" => respond::text(StatusCode::OK, "ok\n"),
        "/readyz" if admin.told.is_stopping() => respond::text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        "/readyz" if !admin.current.snapshot().complete => respond::text(StatusCode::SERVICE_UNAVAILABLE, "loading\n"),
        "/readyz" => respond::text(StatusCode::OK, "ready\n"),
        "/v1/services" => respond::json(&report::of(&admin.current.snapshot())),
        _ => respond::text(StatusCode::NOT_FOUND, "here are /healthz, /readyz and /v1/services\n"),
    }
}
