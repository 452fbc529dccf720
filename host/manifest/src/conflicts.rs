//! Keys that have no effect in a manifest with `[upstream]`, and are therefore refused.

use toml::de::DeTable;

use super::line_of;
use crate::upstream::Spec;
use lodge_base::config::limits::Limits;

/// Keys that select a component.
const COMPONENT: &[&str] = &["component", "digest"];

/// Keys about the execution of a component. A version that is a component sets them in its own manifest.
const RUN: &[&str] = &["isolation", "cpu_weight", "env", "ready", "calls", "http"];

/// Limits of sandboxes and of the output and requests of guests. The other limits also apply to upstreams.
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

/// Returns the keys of a file that conflict with its `[upstream]` under these limits. Only keys of the file itself
/// count, because inherited ones may be meant for other versions.
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
            problems.push(format!(
                "{line}{name}: has no effect, because [upstream] says that the service is elsewhere; remove one of \
                 them"
            ));
        } else if limit || RUN.contains(&&*name) {
            problems.push(format!(
                "{line}{name}: applies to components only, and [upstream] says that the service is elsewhere; remove one of \
                 them, or write it in the manifest of a version"
            ));
        } else if name == "upstream.read" && spec.retry.attempts > 0 && spec.read >= limits.wall {
            let wall = humantime::format_duration(limits.wall);
            problems.push(format!(
                "{line}upstream.read: not less than limits.wall ({wall}), so no time would be left for another \
                 replica; lower it, raise limits.wall, or set retry.attempts = 0"
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Manifest;
    use lodge_base::config;

    const SOME: &str = "upstream.replicas = ['http://10.0.0.7:8080']\n";

    fn read(text: &str) -> Result<Manifest, String> {
        let limits = config::resolve(&[]).unwrap().config.limits;
        Manifest::read("users", text, &limits, 1 << 30).map_err(|problems| problems.join("\n"))
    }

    /// Every entry of `LIMITS` is the name of a limit.
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
        assert!(problems.contains("line 6: component: has no effect, because [upstream] says"), "{problems}");
    }

    #[test]
    fn what_it_has_from_its_service_is_none() {
        let component = read("calls = ['a']\nisolation = 'service'\n[env]\nA = 'b'\n[limits]\ncpu = '1s'").unwrap();
        assert!(component.version(SOME, 1 << 30).is_ok(), "a version elsewhere");
        let problem = component.version(&format!("{SOME}env.A = 'c'"), 1 << 30).unwrap_err();
        assert!(problem[0].contains("line 2: env: applies to components only"), "{problem:?}");
        let elsewhere = read(SOME).unwrap();
        assert!(elsewhere.version("calls = ['a']\n[limits]\ncpu = '1s'", 1 << 30).is_ok(), "a version here");
        // Keys about requests are allowed.
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
