//! The memory and the CPUs that the process may use.

use bytesize::ByteSize;
use lodge_base::cpu::scheduler;

/// The mount point of control groups.
const GROUPS: &str = "/sys/fs/cgroup";

/// Reads a file, if it is there.
type ReadFile<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// What a process may use of its machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Machine {
    /// Bytes of memory: the lowest limit of its control groups, or the machine's memory if that is less.
    pub(super) memory: Option<u64>,
    /// Whether a control group limits the memory.
    is_limited: bool,
    /// The lowest limit of its control groups on CPUs.
    cpus: Option<f64>,
}

/// A limit in files of control groups: of the only tree of version 2, and of a tree of version 1.
struct Limit<'a, T> {
    read: [fn(&ReadFile<'_>) -> Option<T>; 2],
    controller: &'a str,
}

impl Machine {
    /// Reads what this process may use.
    pub(super) fn read() -> Self {
        Self::read_by(&|path| std::fs::read_to_string(path).ok())
    }

    fn read_by(read: &ReadFile<'_>) -> Self {
        let machine = read("/proc/meminfo").and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
        });
        let memory = Limit { controller: "memory", read: [memory_v2, memory_v1] };
        let limit = memory.limits(read).into_iter().min();
        let cpus = Limit { controller: "cpu", read: [cpus_v2, cpus_v1] };
        Self {
            memory: limit.into_iter().chain(machine).min(),
            is_limited: limit.is_some_and(|limit| machine.is_none_or(|machine| limit < machine)),
            cpus: cpus.limits(read).into_iter().min_by(f64::total_cmp),
        }
    }

    /// Describes it for the log, with what `memory` says in `lodge.toml`, a variable or a flag, if something does.
    pub(super) fn describe(&self, set: Option<u64>) -> String {
        let shown = |bytes| ByteSize(bytes).display().iec();
        let memory = match (set, self.memory, self.is_limited) {
            (Some(bytes), ..) => format!("{} of memory (`memory`)", shown(bytes)),
            (None, Some(bytes), true) => format!("{} of memory (the limit of its cgroup)", shown(bytes)),
            (None, Some(bytes), false) => format!("{} of memory (that of the machine)", shown(bytes)),
            (None, None, _) => "an unknown amount of memory".to_owned(),
        };
        let cores = scheduler::cores();
        let cores = format!("{cores} core{}", if cores == 1 { "" } else { "s" });
        match self.cpus {
            Some(cpus) => format!("{memory} and {cores} (its cgroup allows the time of {cpus})"),
            None => format!("{memory} and {cores}"),
        }
    }
}

impl<T> Limit<'_, T> {
    /// Returns the limits of the control groups of this process and of their ancestors.
    fn limits(&self, read: &ReadFile<'_>) -> Vec<T> {
        let groups = read("/proc/self/cgroup").unwrap_or_default();
        let trees = groups.lines().filter_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            // Version 2 has one tree and no list of controllers.
            match controllers {
                "" => Some((GROUPS.to_owned(), path, self.read[0])),
                list if list.split(',').any(|controller| controller == self.controller) => {
                    Some((format!("{GROUPS}/{}", self.controller), path, self.read[1]))
                }
                _ => None,
            }
        });
        trees
            .flat_map(|(root, path, limit)| {
                ancestry(path).filter_map(move |path| limit(&|file| read(&format!("{root}{path}/{file}"))))
            })
            .collect()
    }
}

/// Returns the path of a control group and those of its ancestors. In a container, the path may be that of the host, while the
/// group's own files are at the root.
fn ancestry(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path.trim_end_matches('/')), |path| path.rsplit_once('/').map(|(parent, _)| parent))
}

fn number<T: std::str::FromStr>(text: Option<&str>) -> Option<T> {
    text?.trim().parse().ok()
}

/// "max" means no limit.
fn memory_v2(read: &ReadFile<'_>) -> Option<u64> {
    number(read("memory.max").as_deref())
}

fn memory_v1(read: &ReadFile<'_>) -> Option<u64> {
    number(read("memory.limit_in_bytes").as_deref())
}

/// Reads `max 100000`, which is no limit, or `150000 100000`.
fn cpus_v2(read: &ReadFile<'_>) -> Option<f64> {
    let text = read("cpu.max")?;
    let mut words = text.split_whitespace();
    cpus(number(words.next()), number(words.next()))
}

/// A quota of -1 means no limit.
fn cpus_v1(read: &ReadFile<'_>) -> Option<f64> {
    cpus(number(read("cpu.cfs_quota_us").as_deref()), number(read("cpu.cfs_period_us").as_deref()))
}

fn cpus(quota: Option<f64>, period: Option<f64>) -> Option<f64> {
    let (quota, period) = quota.zip(period).filter(|(quota, period)| *quota > 0.0 && *period > 0.0)?;
    Some((quota / period * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Machine {
        Machine::read_by(&|path| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned()))
    }

    #[test]
    fn lowest_limit() {
        let of = |files: &[(&str, &str)]| of(files).memory;
        let machine = ("/proc/meminfo", "MemFree: 5 kB\nMemTotal:  1000 kB\n");
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[machine]), Some(1_024_000));
        let group = ("/proc/self/cgroup", "0::/a/b\n");
        let own = ("/sys/fs/cgroup/a/b/memory.max", "max\n");
        let parent = ("/sys/fs/cgroup/a/memory.max", "4096\n");
        assert_eq!(of(&[machine, group, own, parent]), Some(4096));
        let inside = ("/sys/fs/cgroup/memory.max", "8192\n");
        assert_eq!(of(&[machine, group, inside]), Some(8192));
        let old = ("/proc/self/cgroup", "5:cpu:/x\n4:cpuset,memory:/y\n");
        let limit = ("/sys/fs/cgroup/memory/y/memory.limit_in_bytes", "12288\n");
        let unlimited = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(of(&[machine, old, limit, unlimited]), Some(12288));
        assert_eq!(of(&[machine, old, unlimited]), Some(1_024_000));
    }

    /// The lowest quota of a group and its ancestors, in both versions; none is no limit.
    #[test]
    fn limit_of_cpus() {
        let of = |files: &[(&str, &str)]| of(files).cpus;
        let group = ("/proc/self/cgroup", "0::/a/b\n");
        let own = ("/sys/fs/cgroup/a/b/cpu.max", "250000 100000\n");
        assert_eq!(of(&[group, own]), Some(2.5));
        assert_eq!(of(&[group, own, ("/sys/fs/cgroup/a/cpu.max", "50000 100000\n")]), Some(0.5));
        for none in ["max 100000\n", "", "0 100000", "1000", "1000 0", "x y"] {
            assert_eq!(of(&[group, ("/sys/fs/cgroup/a/b/cpu.max", none)]), None, "{none}");
        }
        let old = ("/proc/self/cgroup", "5:cpu,cpuacct:/x\n");
        let period = ("/sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n");
        assert_eq!(of(&[old, period, ("/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "150000\n")]), Some(1.5));
        assert_eq!(of(&[old, period, ("/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "-1\n")]), None);
    }

    #[test]
    fn what_the_log_says() {
        let machine = ("/proc/meminfo", "MemTotal: 4194304 kB\n");
        let groups = ("/proc/self/cgroup", "0::/\n");
        let (memory, cpu) =
            (("/sys/fs/cgroup/memory.max", "536870912\n"), ("/sys/fs/cgroup/cpu.max", "150000 100000\n"));
        let told = of(&[machine, groups, memory, cpu]).describe(None);
        assert!(told.starts_with("512.0 MiB of memory (the limit of its cgroup) and "), "{told}");
        assert!(told.ends_with(" (its cgroup allows the time of 1.5)"), "{told}");
        let told = of(&[machine]).describe(None);
        assert!(told.starts_with("4.0 GiB of memory (that of the machine) and ") && told.contains(" core"), "{told}");
        let told = of(&[machine, groups, memory]).describe(Some(64 << 20));
        assert!(told.starts_with("64.0 MiB of memory (`memory`) and "), "{told}");
    }
}
