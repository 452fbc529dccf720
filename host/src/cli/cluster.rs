//! `lodge cluster`: lists the hosts of a cluster with their load, and what is served where.

use std::collections::BTreeMap;

use super::client::AdminClient;
use super::out::{self, CliError, clean};
use super::table::Side::{Left, Right};
use super::table::TextTable;
use super::units::{UNKNOWN, count, millis, seconds};
use crate::admin::contract::{ClusterCall, ClusterMember, ClusterStatus};

/// The most hosts that are listed for a service.
const HOSTS: usize = 6;

/// Requests the cluster and prints it.
pub(super) fn run(client: &AdminClient, json: bool) -> Result<(), CliError> {
    let json_text = client.get("/v1/cluster")?;
    let status: ClusterStatus = client.read(&json_text)?;
    if json {
        return out::json(&json_text);
    }
    if status.cluster.is_none() {
        return Err(CliError::new("the host is in no cluster; `cluster.name` in its lodge.toml is not set"));
    }
    out::print(&text(&status))
}

/// Returns a line about the cluster of a host; `None` if it is in none.
pub(super) fn summary(status: &ClusterStatus) -> Option<String> {
    let cluster = status.cluster.as_ref()?;
    let hosts = count(status.members.len() as u64, "host");
    let more = if status.truncated { " and more" } else { "" };
    let leader = status.leader.as_ref().map_or("no leader is known".into(), |leader| format!("{leader} leads"));
    let problem = status.problem.as_ref().map_or(String::new(), |problem| format!("; {problem}"));
    Some(format!("cluster {cluster}: {hosts}{more}, {leader}; this is {}: {}{problem}", status.host, status.state))
}

fn text(status: &ClusterStatus) -> String {
    let mut text = summary(status).map_or(String::new(), |line| format!("{}\n", clean(&line)));
    if status.ignored > 0 {
        let records = count(status.ignored as u64, "record");
        text.push_str(&format!("{records} could not be read, and are ignored\n"));
    }
    text.push_str(&format!("\n{}", hosts(status).text()));
    let services = services(&status.members);
    if !services.is_empty() {
        let mut table = TextTable::new(&[("SERVICE", Left), ("VERSION", Left), ("HOSTS", Left)]);
        for ((service, version), hosts) in services {
            let shown = hosts.iter().take(HOSTS).copied().collect::<Vec<_>>().join(", ");
            let more = hosts.len().saturating_sub(HOSTS);
            let hosts = if more == 0 { shown } else { format!("{shown} and {more} more") };
            table.row([service.into(), version.into(), hosts.into()]);
        }
        text.push_str(&format!("\n{}", table.text()));
    }
    if !status.calls.is_empty() {
        text.push_str(&format!("\n{}", calls(&status.calls).text()));
    }
    text
}

/// What the host has sent to services of others.
fn calls(calls: &[ClusterCall]) -> TextTable {
    let mut table = TextTable::new(&[
        ("CALLED THERE", Left),
        ("HOST", Left),
        ("SENT", Right),
        ("RETRIES", Right),
        ("FAILED", Right),
        ("AVERAGE", Right),
    ]);
    for call in calls {
        let host = call.host.clone().unwrap_or_else(|| call.address.clone());
        let [sent, retried, failed] = [call.sent, call.retried, call.failed].map(|count| count.to_string());
        table.row([
            call.service.clone().into(),
            host.into(),
            sent.into(),
            retried.into(),
            failed.into(),
            millis(Some(call.mean_seconds * 1e3)).into(),
        ]);
    }
    table
}

fn hosts(status: &ClusterStatus) -> TextTable {
    let mut table = TextTable::new(&[
        ("HOST", Left),
        ("ADDRESS", Left),
        ("ZONE", Left),
        ("LODGE", Left),
        ("IN FLIGHT", Right),
        ("SLOTS", Right),
        ("KNOWN FOR", Right),
        ("RENEWED", Right),
    ]);
    for member in &status.members {
        let name = if member.this { format!("{} (this)", member.name) } else { member.name.clone() };
        let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| UNKNOWN.into());
        table.row([
            name.into(),
            or_unknown(&member.address).into(),
            or_unknown(&member.zone).into(),
            (&*member.version).into(),
            member.in_flight.to_string().into(),
            member.slots.to_string().into(),
            seconds(member.known_seconds).into(),
            member.renewed_seconds.map_or("never".into(), |ago| format!("{} ago", seconds(ago))).into(),
        ]);
    }
    table
}

/// Returns the hosts of each service and version.
fn services(members: &[ClusterMember]) -> BTreeMap<(&str, &str), Vec<&str>> {
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for member in members {
        for (service, version) in &member.services {
            all.entry((service.as_str(), version.as_str())).or_default().push(member.name.as_str());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_services_are_listed() {
        let json = r#"{"cluster":"shop","host":"a","state":"away","problem":"the store\u001b[2J is away","leader":"b","ignored":2,
            "calls":[{"service":"orders","address":"https://10.0.0.4:8443","host":"b","sent":12,"retried":2,"failed":1,"mean_seconds":0.25},
             {"service":"users","address":"https://10.0.0.9:8443","sent":3,"mean_seconds":0.0005}],
            "new":1,"members":[
            {"name":"a","this":true,"version":"1.0.0","in_flight":3,"slots":1000,"known_seconds":61.0,"renewed_seconds":0.5,
             "services":{"users":"0123456789ab"}},
            {"name":"b","address":"https://10.0.0.4:8443","zone":"eu-1a","version":"1.1.0","slots":500,
             "services":{"users":"0123456789ab","users@2":"00"}}]}"#;
        let status: ClusterStatus = serde_json::from_str(json).unwrap();
        let expected = r"cluster shop: 2 hosts, b leads; this is a: away; the store\u{1b}[2J is away
2 records could not be read, and are ignored

HOST       ADDRESS                 ZONE    LODGE   IN FLIGHT   SLOTS   KNOWN FOR     RENEWED
a (this)   -                       -       1.0.0           3    1000       1m 1s   0.50s ago
b          https://10.0.0.4:8443   eu-1a   1.1.0           0     500       0.00s       never

SERVICE   VERSION        HOSTS
users     0123456789ab   a, b
users@2   00             b

CALLED THERE   HOST                    SENT   RETRIES   FAILED   AVERAGE
orders         b                         12         2        1     250ms
users          https://10.0.0.9:8443      3         0        0    0.50ms
";
        assert_eq!(text(&status), expected);
        assert_eq!(summary(&ClusterStatus::default()), None);
        let none = ClusterStatus { cluster: Some("c".into()), ..status };
        assert!(
            summary(&ClusterStatus { leader: None, truncated: true, ..none })
                .unwrap()
                .contains("2 hosts and more, no leader")
        );
    }
}
