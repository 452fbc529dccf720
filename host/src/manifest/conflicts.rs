//! What a manifest with `[upstream]` must not say besides, because it would mean nothing.

use toml::de::DeTable;

use super::line_of;
use crate::config::limits::Limits;
use crate::manifest::upstream::Spec;

/// What says which component it is.
const COMPONENT: &[&str] = &["component", "digest"];

/// What says how a component is run, and which a version that is one has from its own manifest.
const RUN: &[&str] = &["isolation", "cpu_weight", "env", "ready", "calls", "http"];

/// Limits of sandboxes and of what guests write and send; the others are of requests, wherever those are answered.
const LIMITS: &[&str] = &[
    "cpu",
    "memory",
    "table_elements",
    "resources",
    "output",
    "output_rate",
    "warm_uses",
    "warm_idle",
    "outgoing",
    "outgoing_rate",
];

/// What is wrong with a file that has this `[upstream]`, under these limits. Only what is written there counts: what it
/// has from its service may be for other versions.
pub(super) fn find(text: &str, spec: &Spec, limits: &Limits) -> Vec<String> {
    let Ok(file) = DeTable::parse(text) else { return Vec::new() };
    let (mut written, mut problems) = (Vec::new(), Vec::new());
    for (key, value) in file.get_ref() {
        written.push((key.get_ref().to_string(), key.span().start));
        let inner = value.get_ref().as_table().into_iter().flatten();
        written.extend(inner.map(|(name, _)| (format!("{}.{}", key.get_ref(), name.get_ref()), name.span().start)));
    }
    written.sort_by_key(|(_, at)| *at);
    for (name, at) in written {
        let line = line_of(text, at);
        let limit = name.strip_prefix("limits.").is_some_and(|limit| LIMITS.contains(&limit));
        if COMPONENT.contains(&&*name) {
            problems.push(format!("{line}{name}: the service is elsewhere, by [upstream]; take one of them away"));
        } else if limit || RUN.contains(&&*name) {
            problems.push(format!(
                "{line}{name}: only components have it, and the service is elsewhere, by [upstream]; take one of them \
                 away, or write it in the manifest of a version"
            ));
        } else if name == "upstream.read" && spec.retry.attempts > 0 && spec.read >= limits.wall {
            let wall = humantime::format_duration(limits.wall);
            problems.push(format!(
                "{line}upstream.read: not less than limits.wall ({wall}), so no time would be left to ask another \
                 replica; lower it, raise limits.wall, or set retry.attempts = 0"
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::manifest::Manifest;

    const SOME: &str = "upstream.replicas = ['http://10.0.0.7:8080']\n";

    fn read(text: &str) -> Result<Manifest, String> {
        let limits = config::resolve(&[]).unwrap().config.limits;
        Manifest::read("users", text, &limits, 1 << 30).map_err(|problems| problems.join("\n"))
    }

    /// Every limit is one of both kinds, and named as it is written.
    #[test]
    fn limits_of_components_are_limits() {
        let named = |limit: &&str| config::limits::LIMITS.iter().any(|known| known.name == *limit);
        assert!(LIMITS.iter().all(named));
    }

    #[test]
    fn what_means_nothing_is_a_problem_each() {
        let text = "isolation = 'service'\ncalls = ['a']\nhttp = ['https://a']\ncpu_weight = 7\nready.path = '/x'\n\
                    component = 'x.wasm'\n[limits]\nmemory = '1MiB'\nwall = '20s'\n[env]\nA = 'b'\n[upstream]\n\
                    replicas = ['http://10.0.0.7:8080']";
        let problems = read(text).unwrap_err();
        let said: Vec<_> = problems.lines().filter_map(|line| line.split(": ").nth(1)).collect();
        let expected = ["isolation", "calls", "http", "cpu_weight", "ready", "component", "limits.memory", "env"];
        assert_eq!(said, expected, "{problems}");
        assert!(
            problems.contains("line 6: component: the service is elsewhere, by [upstream]; take one"),
            "{problems}"
        );
    }

    #[test]
    fn what_it_has_from_its_service_is_none() {
        let component = read("calls = ['a']\nisolation = 'service'\n[env]\nA = 'b'\n[limits]\ncpu = '1s'").unwrap();
        assert!(component.version(SOME, 1 << 30).is_ok(), "a version elsewhere");
        let problem = component.version(&format!("{SOME}env.A = 'c'"), 1 << 30).unwrap_err();
        assert!(problem[0].contains("line 2: env: only components have it"), "{problem:?}");
        let elsewhere = read(SOME).unwrap();
        assert!(elsewhere.version("calls = ['a']\n[limits]\ncpu = '1s'", 1 << 30).is_ok(), "a version here");
        // What is about requests stays.
        assert!(read(&format!("rate = '1/s'\ncache = true\nlimits.in_flight = 3\n{SOME}")).is_ok());
    }

    #[test]
    fn the_second_try_has_time() {
        let with = |more: &str| read(&format!("{SOME}{more}"));
        let problem = with("upstream.read = '5s'\nlimits.wall = '5s'").unwrap_err();
        assert!(problem.contains("line 2: upstream.read: not less than limits.wall (5s)"), "{problem}");
        for fine in [
            "limits.wall = '5s'",
            "upstream.read = '4s'\nlimits.wall = '5s'",
            "upstream.read = '5s'\nlimits.wall = '5s'\nupstream.retry.attempts = 0",
        ] {
            assert!(with(fine).is_ok(), "{fine}");
        }
    }
}
