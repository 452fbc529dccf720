//! Client address filters: `deny` is checked before `allow`.

use std::net::IpAddr;

use ipnet::IpNet;

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
