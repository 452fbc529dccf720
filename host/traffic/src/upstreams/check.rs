//! Health checks of the replicas, at the interval of the manifest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use tokio::task::JoinSet;

use super::Inner;
use super::transport::{ErrorKind, Pool, Target};
use crate::upstreams::transport::AnyBody;

/// The most bytes of a check's response that are read.
const MAX_BODY: usize = 64 << 10;

/// Checks all replicas periodically. Never returns; does nothing if the upstream has no checks.
pub(super) async fn run(inner: Arc<Inner>) {
    let Some(path) = inner.spec.health.path.clone() else { return std::future::pending().await };
    loop {
        let members = inner.members.load_full();
        let mut checks = JoinSet::new();
        for (index, ((replica, _), pool)) in members.replicas.iter().zip(&members.pools).enumerate() {
            let (pool, address, path) = (Arc::clone(pool), replica.address.clone(), path.clone());
            let (timeout, passes) = (inner.spec.health.timeout, inner.spec.health.status);
            checks.spawn(async move { (index, check_replica(&pool, &address, &path, timeout, passes).await) });
        }
        while let Some(checked) = checks.join_next().await {
            let Ok((index, Some(result))) = checked else { continue };
            let change = members.replicas.record_check(index, result.is_ok(), Instant::now());
            if let Some((replica, _)) = members.replicas.iter().nth(index) {
                inner.log_change(&replica.address, change, || result.err().unwrap_or_default());
            }
        }
        drop(members);
        tokio::time::sleep(inner.spec.health.interval).await;
    }
}

/// Returns whether the check passes, with the cause if it fails; `None` if requests occupy all connections to the
/// replica.
async fn check_replica(
    pool: &Pool<AnyBody>,
    address: &Target,
    path: &str,
    timeout: Duration,
    (lowest, highest): (u16, u16),
) -> Option<Result<(), String>> {
    let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::get(path).header(header::HOST, address.authority()).header(header::USER_AGENT, "lodge");
    let Ok(request) = request.body(body) else { return None };
    let status = tokio::time::timeout(timeout, async {
        let response = pool.send(request).await.map_err(|error| (error.kind, error.cause))?;
        let status = response.status();
        // Reads the body to its end so that the connection can be reused; a longer body closes it.
        let _ = Limited::new(response.into_body(), MAX_BODY).collect().await;
        Ok::<_, (ErrorKind, String)>(status)
    });
    Some(match status.await {
        Ok(Ok(status)) if (lowest..=highest).contains(&status.as_u16()) => Ok(()),
        Ok(Ok(status)) => Err(format!("GET {path} got {status}")),
        Ok(Err((ErrorKind::Overloaded, _))) => return None,
        Ok(Err((_, cause))) => Err(cause),
        Err(_) => Err(format!("GET {path} got no response within {}", humantime::format_duration(timeout))),
    })
}
