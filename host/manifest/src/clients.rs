//! Client address filters, `allow` and `deny`: `deny` is checked before `allow`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::schema;
use crate::section::{Owner, Section};
use crate::written::{Problems, Written};
use lodge_base::config::key::network;

/// The most networks of one list. Each of them is compared for every request.
const NETWORKS: usize = 1_000;

/// `allow`.
pub(crate) const ALLOW: Section = Section {
    name: "allow",
    page: "policies",
    schema: || networks_schema("networks and addresses of permitted clients, one or a list; all without it"),
    owner: Owner::Route(|settings, written, problems| settings.policies.clients.allow = networks(written, problems)),
    ..Section::DEFAULT
};

/// `deny`.
pub(crate) const DENY: Section = Section {
    name: "deny",
    page: "policies",
    schema: || networks_schema("networks and addresses of refused clients, one or a list"),
    owner: Owner::Route(|settings, written, problems| settings.policies.clients.deny = networks(written, problems)),
    ..Section::DEFAULT
};

fn networks_schema(help: &str) -> Value {
    schema::described(schema::texts(json!({ "type": "string" })), help)
}

fn networks(written: &Written<'_>, problems: &mut Problems) -> Vec<IpNet> {
    const FORM: &str = "write a network, like \"10.0.0.0/8\"";
    let Some(items) = problems.take(written.items("[\"10.0.0.0/8\"]")) else { return Vec::new() };
    if items.is_empty() && written.name == ALLOW.name {
        problems.push(written.error("it is empty, so no client would be allowed; list networks, or remove it"));
    }
    if items.len() > NETWORKS {
        problems.push(written.error(format!("{} networks are more than {NETWORKS}", items.len())));
    }
    let read = |item: &Written<'_>| network(item.string(FORM)?).map_err(|wrong| item.error(wrong));
    items.iter().filter_map(|item| problems.take(read(item))).collect()
}

/// Networks whose clients are allowed or denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    /// Allowed networks; if empty, all.
    pub allow: Vec<IpNet>,
    /// Denied networks. They take precedence over `allow`.
    pub deny: Vec<IpNet>,
}

impl Clients {
    /// Whether all clients are allowed, so that the client address is not needed.
    pub fn admits_all(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// Whether this client is allowed.
    pub fn admits(&self, client: IpAddr) -> bool {
        let among = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&client));
        !among(&self.deny) && (self.allow.is_empty() || among(&self.allow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_comes_first() {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
        let check = |allow: &[&str], deny: &[&str], client: &str, expected: bool| {
            let clients = Clients { allow: nets(allow), deny: nets(deny) };
            assert_eq!(clients.admits(client.parse().unwrap()), expected, "{allow:?} {deny:?} {client}");
        };
        check(&[], &[], "192.0.2.1", true);
        check(&["10.0.0.0/8"], &[], "10.1.2.3", true);
        check(&["10.0.0.0/8"], &[], "11.1.2.3", false);
        check(&["10.0.0.0/8"], &["10.1.0.0/16"], "10.1.2.3", false);
        check(&["10.0.0.0/8"], &["10.1.0.0/16"], "10.2.2.3", true);
        check(&[], &["2001:db8::/32"], "2001:db8::1", false);
        check(&[], &["2001:db8::/32"], "10.0.0.1", true);
        check(&["10.0.0.0/8"], &[], "::1", false);
    }
}
