//! How much memory there is for a training.

use std::fs;
use std::path::{Path, PathBuf};

/// Of the memory that is free, the tenths that a training may take. The rest is for images, a copy of the weights for evaluation, and
/// whatever else the machine does.
const TENTHS: u64 = 8;

/// Bytes that a training may take unless its user says otherwise: four fifths of what is free, on the machine and in the control group of
/// the process, as of a container. `None` where the system does not say.
pub fn free_memory() -> Option<u64> {
    let on_machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text))?;
    let free =
        group().and_then(|group| free_in(&group)).map_or(on_machine, |in_group| in_group.min(on_machine));
    Some(free / 10 * TENTHS)
}

/// What a program can take without swapping, by `/proc/meminfo`.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.saturating_mul(1024))
}

/// The folder of the process's control group, of version 2.
fn group() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new("/sys/fs/cgroup").join(path))
}

/// What is left of the limits of a control group and of those around it.
fn free_in(group: &Path) -> Option<u64> {
    let left = |folder: &Path| {
        let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
        // Files that were read once are forgotten when memory is short.
        let statistics = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let files =
            statistics.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse::<u64>().ok());
        let used = number("memory.current")?.saturating_sub(files.unwrap_or(0));
        Some(number("memory.max")?.saturating_sub(used))
    };
    group.ancestors().take_while(|folder| folder.starts_with("/sys/fs/cgroup")).filter_map(left).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_read() {
        let text = "MemTotal:       24524408 kB\nMemFree:        13333420 kB\nMemAvailable:   23068672 kB\n";
        assert_eq!(available(text), Some(23_068_672 * 1024));
        assert_eq!(available("MemTotal: 24524408 kB"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_has_some() {
        assert!(free_memory().is_some_and(|bytes| bytes > 1_000_000), "{:?}", free_memory());
    }
}
