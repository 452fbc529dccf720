//! How the memory of a sandbox is reset for the next request.
//!
//! Where the kernel has `PAGEMAP_SCAN` (Linux 6.7), wasmtime asks it for the dirty pages and resets only those, which
//! is several times faster than unmapping all. wasmtime 48.0.8 asks for pages that are dirty *and present*: a dirty
//! page in swap is not found, and the next request reads what the last one wrote. So this method is only used where
//! nothing can be swapped out. (Fixed in wasmtime 50.0.1 by pull request 14357.)

use std::fmt;
use std::path::Path;

use wasmtime::PoolingAllocationConfig;

/// The swap devices in use: a line of headings, then one line for each.
const SWAPS: &str = "/proc/swaps";
/// The conventional mount point of control groups, version 2.
const CGROUPS: &str = "/sys/fs/cgroup";

/// How the memory of a sandbox is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// The kernel lists the dirty pages, and only those are reset.
    PagemapScan,
    /// All pages are unmapped, because dirty ones may be in swap.
    Swap,
    /// All pages are unmapped, because the kernel does not list the dirty ones.
    Kernel,
}

impl Reset {
    /// The fastest method that is safe on this machine at this moment.
    pub fn detect() -> Self {
        Self::of(PoolingAllocationConfig::is_pagemap_scan_available(), may_swap())
    }

    fn of(scans: bool, swaps: bool) -> Self {
        match (scans, swaps) {
            (false, _) => Self::Kernel,
            (true, true) => Self::Swap,
            (true, false) => Self::PagemapScan,
        }
    }

    /// Whether the method has become unsafe since it was chosen, because swap was turned on.
    pub fn is_unsafe(self) -> bool {
        self == Self::PagemapScan && may_swap()
    }
}

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PagemapScan => "by PAGEMAP_SCAN, the fast method",
            Self::Swap => {
                "by madvise, because this process may swap; for the faster way turn swap off, or set \
                 memory.swap.max of its cgroup to 0 (docker run: --memory-swap equal to --memory), and restart"
            }
            Self::Kernel => "by madvise; Linux 6.7 or later would be faster",
        })
    }
}

/// Whether memory of this process may be in swap. Unreadable files count as yes.
fn may_swap() -> bool {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    swaps(read(Path::new(SWAPS)).as_deref()) && !is_barred(read(Path::new("/proc/self/cgroup")).as_deref(), read)
}

/// Whether the system has swap, by the text of `/proc/swaps`.
fn swaps(text: Option<&str>) -> bool {
    text.is_none_or(|text| text.lines().skip(1).any(|line| !line.trim().is_empty()))
}

/// Whether the control group of a process in these groups, or one above it, allows no swap (`memory.swap.max` of
/// version 2). Version 1 has no limit that excludes swap.
fn is_barred(groups: Option<&str>, read: impl Fn(&Path) -> Option<String>) -> bool {
    let own = groups.and_then(|groups| groups.lines().find_map(|line| line.strip_prefix("0::/")));
    // A group outside of this process's namespace has a path that leads up.
    let Some(own) = own.filter(|own| !own.split('/').any(|part| part == "..")) else { return false };
    let (root, own) = (Path::new(CGROUPS), Path::new(CGROUPS).join(own));
    let groups = own.ancestors().take_while(|group| group.starts_with(root));
    groups.filter_map(|group| read(&group.join("memory.swap.max"))).any(|most| most.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADINGS: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

    #[test]
    fn a_device_or_an_unreadable_file_counts_as_swap() {
        assert!(!swaps(Some(HEADINGS)));
        assert!(!swaps(Some("")));
        assert!(swaps(Some(&format!("{HEADINGS}/dev/zram0 partition 8388604 0 100\n"))));
        assert!(swaps(None));
    }

    #[test]
    fn a_control_group_can_exclude_swap() {
        let limited =
            |at: &'static str, most: &'static str| move |path: &Path| (path == Path::new(at)).then(|| most.to_owned());
        let in_pod = Some("0::/kubepods/pod1/c1\n");
        for at in ["kubepods/pod1/c1/", "kubepods/pod1/", "kubepods/", ""] {
            let at: &'static str = format!("/sys/fs/cgroup/{at}memory.swap.max").leak();
            assert!(is_barred(in_pod, limited(at, "0\n")), "{at}");
            assert!(!is_barred(in_pod, limited(at, "max\n")), "{at}");
            assert!(!is_barred(in_pod, limited(at, "1048576\n")), "{at}");
        }
        let of_another = limited("/sys/fs/cgroup/kubepods/pod2/memory.swap.max", "0");
        assert!(!is_barred(in_pod, of_another));
        let own = limited("/sys/fs/cgroup/memory.swap.max", "0");
        assert!(
            is_barred(Some("9:name=systemd:/\n4:memory:/a\n0::/\n"), own),
            "a container is the root of its namespace"
        );
        assert!(!is_barred(Some("0::/../other\n"), own), "a group outside of the namespace");
        assert!(!is_barred(Some("4:memory:/a\n"), own), "version 1");
        assert!(!is_barred(None, own));
    }

    #[test]
    fn the_fast_method_needs_a_machine_without_swap() {
        assert_eq!(Reset::of(true, false), Reset::PagemapScan);
        assert_eq!(Reset::of(true, true), Reset::Swap);
        assert_eq!([Reset::of(false, true), Reset::of(false, false)], [Reset::Kernel; 2]);
    }
}
