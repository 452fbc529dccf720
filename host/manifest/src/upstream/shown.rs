//! Formats an `[upstream]` in the form of a manifest.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::keys::{HOSTS, POLICIES, PROTOCOLS};
use super::{Policy, Spec};

impl Spec {
    /// Returns where the requests of clients go: the replicas, or what lists them.
    pub(crate) fn reached(&self) -> Value {
        let sources: Vec<_> = self.replicas.iter().map(ToString::to_string).chain(self.replicas_file.clone()).collect();
        sources.into()
    }

    /// Returns the effective keys and their values, including defaults. Omits the keys of health checks without a path,
    /// and `hash` with another policy.
    pub fn shown(&self) -> BTreeMap<&'static str, String> {
        let time = |time: Duration| humantime::format_duration(time).to_string();
        let Self { health, ejection, retry, .. } = self;
        let mut shown = BTreeMap::from([
            ("policy", word(&POLICIES, self.policy)),
            ("protocol", word(&PROTOCOLS, self.protocol)),
            ("connect", time(self.connect)),
            ("read", time(self.read)),
            ("idle", time(self.idle)),
            ("connections", self.connections.to_string()),
            ("host", word(&HOSTS, self.host)),
            ("ejection.failures", ejection.failures.to_string()),
            ("ejection.base", time(ejection.base)),
            ("ejection.max", time(ejection.max)),
            ("ejection.share", ejection.share.to_string()),
            ("slow_start", time(self.slow_start)),
            ("panic", self.panic.to_string()),
            ("retry.attempts", retry.attempts.to_string()),
            ("retry.budget", retry.budget.to_string()),
            ("retry.minimum", retry.minimum.to_string()),
            ("hedge", self.hedge.map_or_else(|| "off".to_owned(), time)),
            ("upgrade", self.upgrade.to_string()),
            ("tunnels", self.tunnels.to_string()),
        ]);
        shown.extend(self.replicas_file.iter().map(|file| ("replicas_file", file.clone())));
        let tls = [("tls.ca", &self.tls.ca), ("tls.certificate", &self.tls.certificate), ("tls.key", &self.tls.key)];
        shown.extend(tls.into_iter().filter_map(|(key, file)| Some((key, file.as_ref()?.display().to_string()))));
        shown.extend(self.tls.names_text().map(|names| ("tls.names", names)));
        if self.policy == Policy::Hash {
            shown.insert("hash", self.hash.to_string());
        }
        if let Some(path) = &health.path {
            let (low, high) = health.status;
            shown.extend([
                ("health.path", path.clone()),
                ("health.interval", time(health.interval)),
                ("health.timeout", time(health.timeout)),
                ("health.healthy", health.healthy.to_string()),
                ("health.unhealthy", health.unhealthy.to_string()),
                ("health.status", format!("{low}-{high}")),
            ]);
        }
        shown
    }
}

fn word<T: PartialEq>(words: &[(&str, T)], value: T) -> String {
    words.iter().find(|(_, meant)| *meant == value).map_or_else(String::new, |(word, _)| (*word).to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::keys::KEYS;
    use super::*;
    use crate::Manifest;
    use lodge_base::config;

    fn read(text: &str) -> Spec {
        let limits = config::resolve(&[]).unwrap().config.limits;
        Spec::clone(&Manifest::read("users", text, &limits, 1 << 30).unwrap().upstream.unwrap())
    }

    /// Parsing the output gives the same upstream, and the output has every key.
    #[test]
    fn reads_as_what_it_shows() {
        for more in [
            "",
            "policy = 'hash'\nhash = 'cookie:sid'\nprotocol = 'h2c'\nhost = 'replica'\nhealth.path = '/h'\nhedge = '50ms'\n\
             replicas_file = 'a.list'\nread = '90s'\nretry.attempts = 0\npanic = '0%'\nhealth.status = 204\n\
             tls = { ca = 'ca.pem', certificate = '/c.pem', key = 'k', names = ['spiffe://a.test/b'] }",
        ] {
            let replicas = "[upstream]\nreplicas = ['https://10.0.0.7']\n";
            let spec = read(&format!("limits.wall = '1h'\n{replicas}{more}"));
            let shown = spec.shown();
            let again = shown.iter().map(|(key, value)| format!("{key} = '{value}'\n")).collect::<String>();
            assert_eq!(read(&format!("limits.wall = '1h'\n{replicas}{again}")), spec, "{again}");
            assert!(more.is_empty() || KEYS.iter().all(|key| shown.contains_key(key.name)), "{shown:?}");
        }
    }
}
