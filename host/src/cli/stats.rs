//! `lodge stats` and `lodge top`: show rates between two samples.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::client::AdminClient;
use super::out::{self, CliError};
use super::screen::{self, FullScreen, InPlace};
use super::table::Side::{Left, Right};
use super::table::TextTable;
use super::units::{bytes, millis, rate, seconds};
use crate::admin::contract::{HostStatus, ServiceStatus};

/// The interval between samples.
const PERIOD: Duration = Duration::from_secs(1);

/// The rates of a service.
#[derive(Debug, Serialize, PartialEq)]
struct ServiceRates {
    name: String,
    requests_per_second: f64,
    errors_per_second: f64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    /// In percent of one core.
    cpu_percent: f64,
    memory_bytes: u64,
    in_flight: usize,
    queued: usize,
}

struct Sample {
    at: Instant,
    services: Vec<ServiceStatus>,
}

impl Sample {
    fn take(client: &AdminClient, only: Option<&str>) -> Result<Self, CliError> {
        Ok(Self { services: client.services(only)?, at: Instant::now() })
    }
}

/// Redraws a table on a terminal; otherwise prints one sample over a second.
pub(super) fn stats(client: &AdminClient, only: Option<&str>, once: bool, json: bool) -> Result<(), CliError> {
    let mut before = Sample::take(client, only)?;
    if once || json || !screen::is_terminal() {
        screen::pause(PERIOD);
        return print(&rates(&before, &Sample::take(client, only)?), json);
    }
    let mut place = InPlace::default();
    place.draw(&table(&[]).lines())?;
    loop {
        screen::pause(PERIOD);
        let now = Sample::take(client, only)?;
        place.draw(&table(&rates(&before, &now)).lines())?;
        before = now;
    }
}

/// Shows all services on the whole screen, the busiest first, until the user quits.
pub(super) fn top(client: &AdminClient, json: bool) -> Result<(), CliError> {
    let (mut before, mut host) = (Sample::take(client, None)?, host(client)?);
    if json || !screen::is_terminal() {
        screen::pause(PERIOD);
        return print(&busiest_first(rates(&before, &Sample::take(client, None)?)), json);
    }
    let screen = FullScreen::take()?;
    screen.draw(&[headline(client, &host, &host, PERIOD)])?;
    while !screen.quit_within(PERIOD) {
        let (now, its_host) = (Sample::take(client, None)?, self::host(client)?);
        let mut lines = vec![headline(client, &host, &its_host, now.at - before.at), String::new()];
        lines.extend(table(&busiest_first(rates(&before, &now))).lines());
        screen.draw(&lines)?;
        (before, host) = (now, its_host);
    }
    Ok(())
}

fn host(client: &AdminClient) -> Result<HostStatus, CliError> {
    client.read(&client.get("/v1/host")?)
}

fn headline(client: &AdminClient, before: &HostStatus, now: &HostStatus, time: Duration) -> String {
    let cpu = percent(before.cpu_seconds, now.cpu_seconds, time);
    let line = format!(
        "lodge {} at {}   q quits   up {}   {} connections   CPU {cpu:.1} %   memory {}",
        now.version,
        client.url(),
        seconds(now.uptime_seconds.trunc()),
        now.connections,
        bytes(now.memory_bytes),
    );
    out::clean(&line).into_owned()
}

fn rates(before: &Sample, now: &Sample) -> Vec<ServiceRates> {
    let time = now.at - before.at;
    let of = |ServiceStatus { info, activity }: &ServiceStatus| {
        let was = before.services.iter().find(|was| was.info.name == info.name).map(|was| &was.activity);
        let (requests, errors, cpu) = was.map_or((0, 0, 0.0), |was| (was.requests, was.errors, was.cpu_seconds));
        // Counters of a restarted host begin at zero.
        let per_second = |was: u64, now: u64| now.saturating_sub(was) as f64 / time.as_secs_f64().max(0.001);
        ServiceRates {
            name: info.name.clone(),
            requests_per_second: per_second(requests, activity.requests),
            errors_per_second: per_second(errors, activity.errors),
            p50_ms: activity.p50_ms,
            p99_ms: activity.p99_ms,
            cpu_percent: percent(cpu, activity.cpu_seconds, time),
            memory_bytes: activity.memory_bytes,
            in_flight: activity.in_flight,
            queued: activity.queued,
        }
    };
    now.services.iter().map(of).collect()
}

fn percent(was: f64, now: f64, time: Duration) -> f64 {
    (now - was).max(0.0) * 100.0 / time.as_secs_f64().max(0.001)
}

fn busiest_first(mut rates: Vec<ServiceRates>) -> Vec<ServiceRates> {
    rates.sort_by(|a, b| {
        let by_requests = || b.requests_per_second.total_cmp(&a.requests_per_second);
        b.cpu_percent.total_cmp(&a.cpu_percent).then_with(by_requests)
    });
    rates
}

fn table(rates: &[ServiceRates]) -> TextTable {
    let mut table = TextTable::new(&[
        ("NAME", Left),
        ("REQ/S", Right),
        ("ERR/S", Right),
        ("P50", Right),
        ("P99", Right),
        ("CPU %", Right),
        ("MEM", Right),
        ("IN FLIGHT", Right),
        ("QUEUED", Right),
    ]);
    for service in rates {
        table.row([
            (&*service.name).into(),
            rate(service.requests_per_second).into(),
            rate(service.errors_per_second).into(),
            millis(service.p50_ms).into(),
            millis(service.p99_ms).into(),
            format!("{:.1}", service.cpu_percent).into(),
            bytes(service.memory_bytes).into(),
            service.in_flight.to_string().into(),
            service.queued.to_string().into(),
        ]);
    }
    table
}

fn print(rates: &[ServiceRates], json: bool) -> Result<(), CliError> {
    if json {
        return out::json(&serde_json::to_string_pretty(rates).unwrap_or_default());
    }
    out::print(&table(rates).text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::contract::{ServiceActivity, ServiceInfo};

    fn service(name: &str, requests: u64, cpu_seconds: f64) -> ServiceStatus {
        let info = ServiceInfo { name: name.into(), ..ServiceInfo::default() };
        let activity = ServiceActivity { requests, errors: requests / 10, cpu_seconds, ..ServiceActivity::default() };
        ServiceStatus { info, activity }
    }

    #[test]
    fn rates_between_two_samples() {
        let at = Instant::now();
        let before = Sample { at, services: vec![service("a", 100, 1.0), service("b", 500, 9.0)] };
        let services = vec![service("a", 300, 1.5), service("b", 20, 0.1), service("new", 10, 1.2)];
        let now = Sample { at: at + Duration::from_secs(2), services };
        let rates = busiest_first(rates(&before, &now));
        let seen: Vec<_> = rates.iter().map(|r| (&*r.name, r.requests_per_second, r.cpu_percent.round())).collect();
        assert_eq!(seen, [("new", 5.0, 60.0), ("a", 100.0, 25.0), ("b", 0.0, 0.0)]);
        assert_eq!(rates[1].errors_per_second, 10.0);
        let text = table(&rates).text();
        assert!(text.starts_with("NAME   REQ/S   ERR/S   P50   P99   CPU %   MEM   IN FLIGHT   QUEUED\n"), "{text}");
    }
}
