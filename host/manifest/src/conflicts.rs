//! Keys that have no effect in a manifest with `[upstream]` or `[files]`, and are therefore refused.

use crate::Manifest;
use crate::limits::OF_COMPONENTS;
use crate::section::{self, Subject};
use crate::written::{Problems, Written};

const ELSEWHERE: &str = "[upstream] says that the service is elsewhere; remove one of them";
const BOTH: &str =
    "[files] and [upstream] are in one manifest: a service is a directory or elsewhere; remove one of them";
const DIRECTORY: &str = "[files] says that the service is a directory; remove one of them";

/// Finds the keys of a file that conflict with its `[upstream]` or `[files]`. Only keys of the file itself count, because
/// inherited ones may be meant for other versions.
pub(super) fn find(keys: &[Written<'_>], manifest: &Manifest, problems: &mut Problems) {
    let why = match (&manifest.upstream, &manifest.files) {
        (None, None) => return,
        (Some(_), None) => ELSEWHERE,
        (None, Some(_)) => DIRECTORY,
        (Some(_), Some(_)) => {
            let both = keys.iter().filter(|key| key.name == "files");
            return both.for_each(|key| problems.push(key.at(BOTH)));
        }
    };
    let of_components = |key: &Written<'_>| {
        key.error(format!("applies to components only, and {why}, or write it in the manifest of a version"))
    };
    if manifest.files.is_some() && manifest.routes.iter().any(|route| route.rewrite.is_some()) {
        problems.push(
            "routes: `rewrite` has no effect for a directory of files; write `strip_prefix` and another `files.root`"
                .into(),
        );
    }
    for key in keys {
        match section::find(&key.name).map(|section| section.subject) {
            Some(Subject::File) => problems.push(key.error(format!("has no effect, because {why}"))),
            Some(Subject::Execution) => problems.push(of_components(key)),
            Some(Subject::Service) | None => {}
        }
        match (&*key.name, &manifest.files) {
            ("consume", Some(_)) => problems.push(key.error("a directory handles no messages")),
            ("schedule", Some(_)) => {
                problems.push(
                    key.error("a directory has nothing to call; write it in the manifest of a component or [upstream]"),
                );
            }
            _ => {}
        }
        for inner in key.table().iter().flatten() {
            if key.name == "limits" && OF_COMPONENTS.contains(&inner.inside(key)) {
                problems.push(of_components(inner));
            }
            let Some(spec) = manifest.upstream.as_ref().filter(|_| inner.name == "upstream.read") else { continue };
            let limits = &manifest.limits;
            if spec.retry.attempts > 0 && spec.read >= limits.wall {
                let wall = humantime::format_duration(limits.wall);
                problems.push(inner.error(format!(
                    "not less than limits.wall ({wall}), so no time would be left for another replica; lower it, raise \
                     limits.wall, or set retry.attempts = 0"
                )));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read;
    use lodge_base::config;

    const SOME: &str = "upstream.replicas = ['http://10.0.0.7:8080']\n";

    /// Every entry of the list is the name of a limit.
    #[test]
    fn limits_of_components_are_limits() {
        let named = |limit: &&str| config::limits::LIMITS.iter().any(|known| known.name == *limit);
        assert!(OF_COMPONENTS.iter().all(named));
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
    fn a_directory_is_sent_nothing_but_requests() {
        for (section, said) in [
            ("[consume]\nsubject = 'a'", "line 3: consume: a directory handles no messages"),
            ("[schedule]\ncron = '* * * * *'", "line 3: schedule: a directory has nothing to call"),
            ("[[schedule]]\ncron = '* * * * *'", "line 3: schedule: a directory has nothing to call"),
        ] {
            let problem = read(&format!("[files]\nroot = '/srv/site'\n{section}")).unwrap_err();
            assert!(problem.starts_with(said) && problem.lines().count() == 1, "{problem}");
        }
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
