//! Metrics of a host, as a scraper reads them. The host writes many of them after the client has its response, so a test waits for
//! the value that it expects.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{PATIENCE, get};

/// All series of a text with their values.
pub(crate) fn series(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parts = lines.map(|line| line.rsplit_once(' ').expect("a series and its value"));
    parts.map(|(series, value)| (series.to_owned(), value.parse().expect("a number"))).collect()
}

/// All series of the host with this admin listener.
pub(crate) async fn scrape(admin: SocketAddr) -> BTreeMap<String, f64> {
    series(&get(admin, "/metrics").await.text())
}

/// The value of a series now; 0 if there is no such series.
pub(crate) async fn metric(admin: SocketAddr, name: &str) -> f64 {
    scrape(admin).await.get(name).copied().unwrap_or_default()
}

/// The sum of all series whose names with labels begin like this, now.
pub(crate) async fn sum(admin: SocketAddr, beginning: &str) -> f64 {
    scrape(admin).await.iter().filter(|(name, _)| name.starts_with(beginning)).map(|(_, value)| value).sum()
}

/// Waits until a series is there and has this value, at most for [`PATIENCE`].
pub(crate) async fn until_metric(admin: SocketAddr, name: &str, value: impl Into<f64>) {
    let (value, start) = (value.into(), Instant::now());
    loop {
        let all = scrape(admin).await;
        let now = all.get(name).copied();
        if now == Some(value) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{name} is {now:?} and does not become {value}: {all:#?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
