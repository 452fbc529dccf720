//! The memory that the process may use.

/// The mount point of control groups.
const GROUPS: &str = "/sys/fs/cgroup";

/// Returns the bytes of memory that this process may use: the lowest limit of its control groups, or the machine's
/// memory if that is less.
pub(super) fn memory() -> Option<u64> {
    memory_by(|path| std::fs::read_to_string(path).ok())
}

fn memory_by(read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let machine = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    });
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let limits = groups.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        // Version 2 has one tree and no list of controllers.
        let (root, file) = match controllers {
            "" => (GROUPS.to_owned(), "memory.max"),
            list if list.split(',').any(|controller| controller == "memory") => {
                (format!("{GROUPS}/memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        limit(&root, path, file, &read)
    });
    limits.chain(machine).min()
}

/// Returns the lowest limit of a control group and its ancestors. In a container, the path may be that of the host,
/// while the group's own files are at the root.
fn limit(root: &str, path: &str, file: &str, read: &impl Fn(&str) -> Option<String>) -> Option<u64> {
    let mut path = path.trim_end_matches('/');
    let mut least = None;
    loop {
        // "max" means no limit.
        let own = read(&format!("{root}{path}/{file}")).and_then(|text| text.trim().parse::<u64>().ok());
        least = [least, own].into_iter().flatten().min();
        match path.rsplit_once('/') {
            Some((parent, _)) => path = parent,
            None => return least,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Option<u64> {
        memory_by(|path| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned()))
    }

    #[test]
    fn lowest_limit() {
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
}
