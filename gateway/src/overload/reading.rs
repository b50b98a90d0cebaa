//! What the system says of the process.

use std::fs;
use std::path::Path;

use eastgate_config::bootstrap::Limits;
use rustix::process::{Resource, getrlimit};

/// How much is used, and of how much.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Bytes of memory: of the cgroup where it sets the limit, else of the process.
    pub memory: u64,
    /// How many there may be.
    pub memory_limit: Option<u64>,
    /// Open file descriptors.
    pub files: u64,
    /// How many there may be.
    pub files_limit: u64,
}

impl Reading {
    /// What it is now. What cannot be read counts as not used.
    pub fn take(limits: &Limits) -> Self {
        let (memory, memory_limit) = match limits.memory_bytes {
            0 => cgroup().map_or((resident(), None), |(used, limit)| (used, Some(limit))),
            limit => (resident(), Some(limit)),
        };
        let files_limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self { memory, memory_limit, files: files(), files_limit }
    }
}

/// Linux 6.2 and later tell the number of entries as the directory's size.
fn files() -> u64 {
    const DIRECTORY: &str = "/proc/self/fd";
    match fs::metadata(DIRECTORY).map_or(0, |directory| directory.len()) {
        0 => fs::read_dir(DIRECTORY).map_or(0, |entries| entries.count() as u64),
        count => count,
    }
}

/// The process's resident bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"));
    kilobytes.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or_default() * 1024
}

/// One of the two ways in which Linux limits a group's memory.
struct Cgroup {
    /// What stands between the colons of its line in `/proc/self/cgroup`.
    controllers: &'static str,
    root: &'static str,
    limit: &'static str,
    used: &'static str,
    /// What of that the kernel can take back at any time, in `memory.stat`.
    forgettable: &'static str,
}

/// <https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files> and
/// <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>.
const CGROUPS: [Cgroup; 2] = [
    Cgroup {
        controllers: "",
        root: "/sys/fs/cgroup",
        limit: "memory.max",
        used: "memory.current",
        forgettable: "inactive_file ",
    },
    Cgroup {
        controllers: "memory",
        root: "/sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        used: "memory.usage_in_bytes",
        forgettable: "total_inactive_file ",
    },
];
/// The first kind says "no limit" with a number of about 2^63.
const NO_LIMIT: u64 = 1 << 60;

/// Used bytes and limit of this process's cgroup, or of the next one above that has a limit. Files that the kernel can
/// take back do not count as used, as Kubernetes sees it, too.
fn cgroup() -> Option<(u64, u64)> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    CGROUPS.iter().find_map(|kind| {
        let mut lines = groups.lines().map(|line| line.splitn(3, ':').skip(1));
        let own = lines.find_map(|mut line| (line.next()? == kind.controllers).then(|| line.next())?)?;
        let directory = Path::new(kind.root).join(own.trim_start_matches('/'));
        let above = directory.ancestors().take_while(|directory| directory.starts_with(kind.root));
        above.into_iter().find_map(|directory| kind.read(directory))
    })
}

impl Cgroup {
    fn read(&self, directory: &Path) -> Option<(u64, u64)> {
        let text = |name| fs::read_to_string(directory.join(name)).ok();
        let number = |name| text(name)?.trim().parse::<u64>().ok();
        let limit = number(self.limit).filter(|limit| *limit < NO_LIMIT)?;
        let stat = text("memory.stat").unwrap_or_default();
        let forgettable = stat.lines().find_map(|line| line.strip_prefix(self.forgettable)?.parse().ok());
        Some((number(self.used)?.saturating_sub(forgettable.unwrap_or_default()), limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_seen_to_use_memory_and_files() {
        let limits = Limits { memory_bytes: 1 << 40, ..Limits::default() };
        let before = Reading::take(&limits);
        let held: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let after = Reading::take(&limits);
        assert!(before.memory > 1 << 20 && before.memory_limit == Some(1 << 40));
        // Other tests open and close files meanwhile.
        assert!(after.files >= held.len() as u64 && after.files <= after.files_limit, "{after:?}");
    }
}
